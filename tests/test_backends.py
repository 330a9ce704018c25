"""Every backend of the encoder gives the reference's scores, and says which it is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import EVIL, PLAIN, contents, python, sample_documents, write_shard
from tropescan import persistence
from tropescan.detector import Calibration, Heads
from tropescan.embedding import BACKENDS, Embedding, SentenceEncoder, backends, deltas, encoder, files, require_encoder
from tropescan.embedding.pooling import Pooling
from tropescan.errors import DamagedModel, InputError, MissingExtra, ModelError
from tropescan.passages import cut
from tropescan.runners.plain import scan_texts
from tropescan.schema import Floats
from tropescan.store import Store

MODEL = persistence.load("evil-ai")
REFERENCE, TENSORS = MODEL.config["encoder"], MODEL.encoder
HERE = [
    "torch",
    *["bf16"] * backends.processor_has_bf16(),
    *["openvino"] * (importlib.util.find_spec("openvino") is not None),
]
ODD = [
    f"[PAD] {'x' * 9} [PAD][SEP]. {'[PAD] ' * 40}end",
    "",
    " ",
    "word",
    "\x00\ufffd",
    "Ünïcode ÅI – “quoted” 人工智能 🤖",
    EVIL,
    PLAIN * 40,
    "x" * 3000,
]


@cache
def made(backend: str) -> Embedding:
    return encoder(REFERENCE, TENSORS, backend, threads=1)


@cache
def real() -> tuple[str, ...]:
    """Passages of the sample's documents that pass the gate."""
    texts = [d["text"] for d in sample_documents()]
    gated = scan_texts(texts, depth="fast")["candidates"].to_numpy() > 0
    return tuple(t[a:b] for t, g in zip(texts, gated, strict=True) if g for a, b in cut(t))[:220]


@cache
def vectors(backend: str) -> Floats:
    return made(backend).encode(list(real()))


def logits(found: Floats) -> Floats:
    return Heads(TENSORS["weights"].astype(np.float64), TENSORS["bias"].astype(np.float64)).logits(found)


def score(found: Floats) -> Floats:
    z = logits(found)
    return Calibration(**MODEL.config["calibration"]["full"]).score(np.zeros(z.shape), z)


@pytest.mark.parametrize("backend", HERE[1:])
def test_scores_are_those_of_the_reference(backend: str) -> None:
    assert len(real()) >= 200
    wanted, found = vectors("torch"), vectors(backend)
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    assert ((wanted * found).sum(axis=1) / lengths).min() >= 0.995
    assert np.abs(score(found) - score(wanted)).max() <= 0.01
    chance = [1 / (1 + np.exp(-logits(v))) for v in (wanted, found)]
    assert np.abs(chance[0] - chance[1]).max() <= 0.03  # of all outputs: facets, frames, admirable


@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_openvino_in_float32_is_the_reference() -> None:
    from tropescan.embedding.compiled import CompiledEncoder

    one = CompiledEncoder(REFERENCE, TENSORS, threads=1, bf16=False)
    texts = [*real()[:20], *ODD]
    assert one.backend == "openvino-f32" and one.dimensions == made("torch").dimensions
    assert np.abs(one.encode(texts) - made("torch").encode(texts)).max() < 1e-4


@pytest.mark.parametrize("backend", HERE)
def test_a_vector_depends_on_its_own_text_alone(backend: str) -> None:
    texts = [*real()[:6], *ODD]
    together = made(backend).encode(texts)
    assert made(backend).encode(texts[::-1])[::-1].tobytes() == together.tobytes()
    assert all(made(backend).encode([t]).tobytes() == together[i].tobytes() for i, t in enumerate(texts))


@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_threads_change_nothing() -> None:
    two = encoder(REFERENCE, TENSORS, "openvino", threads=2)
    texts = [*real()[:12], *ODD]
    assert two.encode(texts).tobytes() == made("openvino").encode(texts).tobytes()


@pytest.mark.parametrize(("bf16", "most"), [(False, 1e-3), (True, 0.01)])
def test_padded_batches_give_the_same_scores(bf16: bool, most: float) -> None:
    """What a GPU does, on this processor."""
    texts = [*real()[:18], *ODD]
    batched = SentenceEncoder(REFERENCE, TENSORS, threads=1, bf16=bf16, batch=16).encode(texts)
    assert np.abs(score(batched) - score(made("torch").encode(texts))).max() <= most


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_windows_are_the_tokens_of_transformers(text: str) -> None:
    one = made("torch")
    assert isinstance(one, SentenceEncoder)
    pooling: Pooling = one._pooling
    for t in (text, *ODD[:5]):
        assert [w for w, _ in pooling.windows(t)] == [one.tokenizer(t, verbose=False)["input_ids"]]


def test_the_fastest_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    real_find, gone = importlib.util.find_spec, set[str]()
    monkeypatch.setattr(
        backends.importlib.util, "find_spec", lambda n, *more: None if n in gone else real_find(n, *more)
    )
    assert require_encoder() == ("openvino" if "openvino" in HERE else HERE[-1])
    gone.add("openvino")
    for has, wanted in ((True, "bf16"), (False, "torch")):
        monkeypatch.setattr(backends, "processor_has_bf16", lambda has=has: has)
        assert require_encoder() == wanted and require_encoder(device="cuda") == "bf16"
        assert require_encoder(device="mps") == "torch" == require_encoder("torch")
    with pytest.raises(InputError, match="no bf16 arithmetic"):
        require_encoder("bf16")
    with pytest.raises(MissingExtra, match=r"pip install 'tropescan\[openvino\]'"):
        require_encoder("openvino")
    gone.add("torch")
    with pytest.raises(MissingExtra, match=r"pip install 'tropescan\[encoder\]'"):
        require_encoder()


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 1e-6, 0.01, 3.0]))
def test_a_tuned_matrix_comes_back_within_half_a_step(seed: int, rows: int, columns: int, moved: float) -> None:
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(rows, columns)).astype(np.float32)
    change = (moved * rng.normal(size=own.shape)).astype(np.float32)
    tensors = {"layer.2.a.weight": own + change, "layer.2.a.bias": change[0], "queries": own}
    kept = deltas.narrowed(tensors, {"encoder.layer.2.a.weight": own})
    assert kept["layer.2.a.weight"].dtype == np.int8 and set(kept) == {*tensors, "layer.2.a.weight.scale"}
    whole = deltas.widened(kept, {"encoder.layer.2.a.weight": own, "encoder.layer.2.a.bias": change[0]})
    assert set(whole) == {"layer.2.a.weight", "layer.2.a.bias"} and (whole["layer.2.a.bias"] == change[0]).all()
    step = np.abs(own + change - own).max(axis=1, keepdims=True) / 127
    assert (np.abs(whole["layer.2.a.weight"] - (own + change)) <= 0.51 * step + 2e-6).all()
    if not moved:
        assert (whole["layer.2.a.weight"] == own).all()


@pytest.mark.parametrize("backend", [b for b in HERE if b != "bf16"])
def test_layers_kept_as_changes_give_the_vectors_of_whole_ones(backend: str) -> None:
    weights = deltas.base(files.verified(REFERENCE))
    whole = {**TENSORS, **deltas.widened(TENSORS, weights)}
    kept = deltas.narrowed(whole, weights)
    assert sum(v.nbytes for v in kept.values()) < 0.27 * sum(np.float32(v).nbytes for v in whole.values())
    texts = [*ODD[:5], *real()[:12]]
    one, other = (encoder(REFERENCE, tensors, backend, threads=1).encode(texts) for tensors in (whole, kept))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > (0.999998 if backend == "torch" else 0.9995) and np.abs(one - other).max() > 0


def test_a_change_without_its_scale_is_told() -> None:
    weights = deltas.base(files.verified(REFERENCE))
    kept = deltas.narrowed({**TENSORS, **deltas.widened(TENSORS, weights)}, weights)
    name = next(k for k in kept if k.endswith(".scale"))
    for bad in ({k: v for k, v in kept.items() if k != name}, {**kept, name: kept[name][:-1]}):
        with pytest.raises(DamagedModel, match="lacks its scale"):
            encoder(REFERENCE, bad, "torch", threads=1)


@pytest.mark.parametrize("backend", HERE)
def test_no_tensor_of_the_encoders_own_stands_for_one_that_lacks(backend: str) -> None:
    name = next(k for k in TENSORS if k.startswith("layer.3.") and not k.endswith(".scale"))
    with pytest.raises(DamagedModel, match=f"the tuned {name} is not there"):
        encoder(REFERENCE, {k: v for k, v in TENSORS.items() if k != name}, backend, threads=1)


@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_what_cannot_be_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such backend"):
        require_encoder("onnx")
    with pytest.raises(InputError, match="on the processor"):
        require_encoder("openvino", "cuda")
    # by name: the order in which safetensors gives tensors is not the same in every process
    layer = "layer.0.output.dense.weight"
    for bad in ({layer: TENSORS[layer][:-1]}, {"layer.99.attention": TENSORS[layer]}):
        with pytest.raises(DamagedModel, match="does not fit"):
            encoder(REFERENCE, {**TENSORS, **bad}, "openvino")
    from tropescan.embedding import compiled, graph

    openvino, there = compiled._silent(), files.verified(REFERENCE)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((there / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(ModelError, match="hidden_act relu"):
        graph.graph(openvino, tmp_path, TENSORS)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
    with pytest.raises(DamagedModel, match=r"lacks 'encoder\.layer\.6"):
        graph.graph(openvino, tmp_path, TENSORS)


@pytest.mark.skipif("openvino" not in HERE, reason="openvino is not installed")
def test_openvino_needs_no_torch_and_reports_to_nobody() -> None:
    done = python(
        "import sys\nfrom tropescan.scanner import Scanner\nimport pyarrow as pa\n"
        f"s = Scanner(backend='openvino', audit=0.0)\nassert s.backend is None\ns.scan(pa.record_batch({{'text': [{EVIL!r}]}}))\n"
        "print(s.backend, [m for m in ('torch', 'transformers', 'sentence_transformers', 'openvino_telemetry') if m in sys.modules])"
    )
    assert done.stdout in ("openvino-bf16 []\n", "openvino-f32 []\n"), done.stderr


def test_the_backend_is_told_and_stored(
    tmp_path: Path, tropescan: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "in").mkdir()
    write_shard(tmp_path / "in" / "evil.parquet", [EVIL, PLAIN])
    write_shard(tmp_path / "in" / "plain.parquet", [PLAIN])
    found: dict[str, Any] = {}
    for backend in HERE:
        db = tmp_path / f"{backend}.duckdb"
        done = tropescan("scan", tmp_path / "in", "--db", db, "--backend", backend, "--audit", "0", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)["backend"]
        assert told.split("-")[0] == backend
        # no passage of the plain shard reached the encoder
        stored = {r["backend"] for r in Store(db).rows("SELECT backend FROM units")}
        assert stored == {told, None}
        found[backend] = Store(db).rows("SELECT score FROM documents")[0]["score"]
    assert max(found.values()) - min(found.values()) <= 0.01
    again = tropescan("scan", tmp_path / "in", "--db", tmp_path / "torch.duckdb")
    assert "encoder" not in again.stdout  # nothing was left to do
    said = tropescan("scan", tmp_path / "in", "--db", tmp_path / "auto.duckdb", "--audit", "0")
    assert f"encoder {HERE[-1]}" in said.stdout.splitlines()[-1]
    fast = tropescan("scan", tmp_path / "in", "--db", tmp_path / "fast.duckdb", "--depth", "fast", "--json")
    assert json.loads(fast.stdout)["backend"] is None
    assert contents(tmp_path / "fast.duckdb")["units"] and "openvino" not in repr(contents(tmp_path / "fast.duckdb"))


def test_the_command_line_knows_the_backends() -> None:
    from tropescan.cli.arguments import parser

    for backend in BACKENDS:
        assert parser().parse_args(["scan", "x", "--db", "y", "--backend", backend]).backend == backend
    with pytest.raises(SystemExit):
        parser().parse_args(["scan", "x", "--db", "y", "--backend", "onnx"])


def test_hosts_take_a_backend() -> None:
    scores = [scan_texts([EVIL], backend=b, threads=1)["score"][0].as_py() for b in HERE]
    assert max(scores) - min(scores) <= 0.01 and min(scores) > 0.5
