"""A model folder is verified before use: damage to any file, or a tensor that lacks, is told with the file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import EVIL, python
from tropescan import passages, persistence
from tropescan.detector import OUTPUTS
from tropescan.errors import DamagedModel, ModelError
from tropescan.fastfit import packed
from tropescan.lexicon import keys
from tropescan.scanner import Scanner

WIDTH, QUERIES = 6, 2


def encoder(change: dict[str, Any] | None = None) -> dict[str, Any]:
    """The tensors of an encoder tier of WIDTH dimensions, QUERIES queries and one tuned layer; None takes one away."""
    tensors = {
        "weights": np.zeros((WIDTH * (1 + QUERIES), len(OUTPUTS))),
        "bias": np.zeros(len(OUTPUTS)),
        "queries": np.ones((QUERIES, WIDTH)),
        "layer.5.output.dense.bias": np.zeros(WIDTH),
    } | (change or {})
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def small(folder: Path, **change: Any) -> Path:
    """A small model folder: the gate passes texts with a robot or an artificial intelligence, and "crew" makes a passage positive."""
    known = np.unique(keys(*packed(["crew"])).key)
    level = "intensity>=3"
    levels = {n: {"threshold": 0.5, "low": 0.4, "high": 0.6} for n in ("default", "precision_0.8")}
    parts: dict[str, Any] = {
        "config": {
            "audit": 0.0,
            "calibration": {
                depth: {"fast": {level: 1.0}, "encoder": {level: 1.0} if depth == "full" else {}, "shift": 0.0}
                for depth in ("fast", "full")
            },
            "encoder": {"dimensions": WIDTH, "tuned_layers": 1},
            "fast_floor": {"full": 0.1, "lean": 0.3},
            "hit_floor": 0.05,
            "outputs": list(OUTPUTS),
            "passage": {"target": passages.TARGET, "reach": passages.REACH},
            "training_sources": [],
        },
        "thresholds": {depth: levels for depth in persistence.DEPTHS},
        "gate": "[strong]\nrobot(s)\nartificial intelligence\n",
        "fast": {
            "keys": known,
            "anchors": known[:0],
            "idf": np.ones(1, np.float32),
            "weights": np.full((1, len(OUTPUTS)), 6.0, np.float16),
            "bias": np.full(len(OUTPUTS), -2.0),
        },
        "encoder": encoder(),
        "card": "card",
    }
    persistence.save(folder, "mine", **(parts | change))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small(tmp_path / "mine")


@pytest.mark.parametrize("name", [*persistence.SCORING, *persistence.BESIDE])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_to_any_file_is_told(folder: Path, name: str, damage: str) -> None:
    raw = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    else:
        raw[len(raw) // 2] ^= 1
        (folder / name).write_bytes(raw if damage == "flip" else raw[:-1])
    with pytest.raises(DamagedModel, match=name):
        persistence.load(folder)


def test_arrays_come_back_as_they_were_however_their_memory_lies(tmp_path: Path) -> None:
    whole = np.arange(WIDTH * (1 + QUERIES) * len(OUTPUTS), dtype=np.float64)
    transposed = whole.reshape(len(OUTPUTS), -1).T
    every_other = np.arange(2 * QUERIES * WIDTH, dtype=np.float32).reshape(-1, WIDTH)[::2]
    small(tmp_path / "mine", encoder=encoder({"weights": transposed, "queries": every_other}))
    kept = persistence.load(tmp_path / "mine").encoder
    assert (kept["weights"] == transposed).all() and (kept["queries"] == every_other).all()


@pytest.mark.parametrize(
    "manifest", [b"", b"{", b"[]", b'{"format": %d, "name": "x", "files": {}}' % persistence.FORMAT]
)
def test_a_damaged_manifest_is_told(folder: Path, manifest: bytes) -> None:
    (folder / "manifest.json").write_bytes(manifest)
    with pytest.raises(DamagedModel, match=r"manifest\.json"):
        persistence.load(folder)


def test_a_name_that_is_not_utf_8_costs_no_model(folder: Path) -> None:
    model = persistence.load(folder)
    name = os.fsdecode(b"caf\xe9")
    assert saved(folder, {"card": f"# {name}"}, model) == model.fingerprint
    assert (folder / "README.md").read_text() == "# caf\\udce9"


def test_another_format_is_refused(folder: Path) -> None:
    for other in (1, persistence.FORMAT - 1, 99):  # 1: encoder tensors of another meaning
        manifest = json.loads((folder / "manifest.json").read_text()) | {"format": other}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ModelError, match=f"format {other}; this tropescan reads format {persistence.FORMAT}"):
            persistence.load(folder)


def resealed(folder: Path, name: str, raw: bytes) -> None:
    """Other bytes in a file, and a manifest that agrees with them: what no checksum tells."""
    (folder / name).write_bytes(raw)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


NOT = float("nan")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", {"calibration": None}, "lacks or garbles calibration"),
        ("config.json", {"calibration": {"fast": {}}}, "calibration of depth fast"),
        ("config.json", {"hit_floor": None}, "hit_floor is no finite number"),
        ("config.json", {"audit": NOT}, "audit is no finite number"),
        ("config.json", {"fast_floor": {"full": "much", "lean": 0.3}}, "fast_floor, full is no finite number"),
        ("config.json", {"encoder": {"dimensions": True}}, "encoder, dimensions is no finite number"),
        ("config.json", {"audit": 5}, "audit is not between 0 and 1"),
        ("config.json", {"hit_floor": -1}, "hit_floor is not between 0 and 1"),
        ("config.json", {"fast_floor": {"full": 10**400, "lean": 0.3}}, "fast_floor, full is no finite number"),
        ("config.json", {"training_sources": None}, "garbles training_sources"),
        ("config.json", {"training_sources": [["s"]]}, "garbles training_sources"),
        ("thresholds.json", {"full": {"default": {"threshold": 7}}}, "threshold is not between 0 and 1"),
        ("thresholds.json", {"full": {"default": {"threshold": 0}}}, "threshold is 0"),
        ("config.json", "[" * 100_000, "no JSON"),
        ("thresholds.json", {"fast": {}}, "no default threshold of depth fast"),
        ("thresholds.json", {"full": {"default": {"threshold": NOT}}}, "full, default, threshold is no finite number"),
        ("gate.txt", b"[strong]\n\xff", "no UTF-8"),
        ("fast.safetensors", b"\0" * 7, "cannot be read"),
        ("encoder.safetensors", b"", "cannot be read"),
    ],
)
def test_a_resealed_folder_is_read_as_a_strangers(folder: Path, name: str, change: Any, said: str) -> None:
    raw = change if isinstance(change, bytes) else change.encode() if isinstance(change, str) else b""
    if isinstance(change, dict):
        raw = json.dumps(json.loads((folder / name).read_text()) | change).encode()
    resealed(folder, name, raw)
    with pytest.raises(DamagedModel, match=said) as raised:
        persistence.load(folder)
    assert str(folder / name) in str(raised.value)


@pytest.mark.parametrize("tier", ["fast", "encoder"])
def test_weights_that_are_no_numbers_are_told(tmp_path: Path, tier: str) -> None:
    bias = np.full(len(OUTPUTS), NOT)
    fast = persistence.load(small(tmp_path / "whole")).fast
    with pytest.raises(DamagedModel, match=rf"{tier}\.safetensors: bias holds what is no finite number"):
        small(tmp_path / "mine", **{tier: fast | {"bias": bias} if tier == "fast" else encoder({"bias": bias})})


@pytest.mark.parametrize("files", [[], {"config.json": 1}, {}])
def test_a_manifest_of_other_kinds_is_told(folder: Path, files: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    with pytest.raises(DamagedModel, match="does not list config.json"):
        persistence.load(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "gate.txt").unlink()
    os.mkfifo(folder / "gate.txt")
    with pytest.raises(DamagedModel, match=r"gate\.txt cannot be read"):
        persistence.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": None}, "lacks weights"),
        ({"bias": None}, "lacks bias"),
        ({"queries": None}, "lacks queries"),
        ({"queries": np.ones((QUERIES + 1, WIDTH))}, r"weights is of shape \(18, 17\), not \(24, 17\)"),
        ({"queries": np.ones((QUERIES, WIDTH + 1))}, r"queries is of shape \(2, 7\), not \(2, 6\)"),
        ({"queries": np.ones(())}, "queries is of shape"),
        ({"weights": np.zeros((WIDTH * (1 + QUERIES), 16))}, "weights is of shape"),
        ({"bias": np.zeros(16)}, "bias is of shape"),
        ({"layer.5.output.dense.bias": None}, "0 tuned layers, not 1"),
        ({"layer.4.output.dense.bias": np.zeros(WIDTH)}, "2 tuned layers, not 1"),
    ],
)
def test_an_encoder_tier_that_is_not_whole_is_told(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    made = small(tmp_path / "mine", encoder=encoder(change))
    for depth in persistence.DEPTHS:
        with pytest.raises(DamagedModel, match=said) as raised:
            Scanner(made, depth=depth)
        assert str(made / "encoder.safetensors") in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"idf": np.ones(2, np.float32)}, "idf"),
        ({"weights": np.zeros((2, len(OUTPUTS)), np.float16)}, "keys, idf"),
        ({"bias": np.zeros(3)}, "bias"),
        ({"weights": np.zeros(4, np.float16)}, "weights"),
        ({"weights": np.zeros((1, 5), np.float16), "bias": np.zeros(5)}, "weights"),
        ({"keys": np.zeros(1, np.int64)}, "keys"),
        ({"idf": np.ones(1, np.int32)}, "idf"),
    ],
)
def test_a_fast_tier_that_does_not_fit_together_is_told(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    fast = persistence.load(small(tmp_path / "whole")).fast
    made = small(tmp_path / "mine", fast=fast | change)
    with pytest.raises(DamagedModel, match=said) as raised:  # compiled loops would read what lies beside
        Scanner(made, depth="fast")
    assert str(made / "fast.safetensors") in str(raised.value) and "\n" not in str(raised.value)


def test_outputs_in_another_order_are_told(tmp_path: Path) -> None:
    config = persistence.load(small(tmp_path / "whole")).config
    made = small(tmp_path / "mine", config=config | {"outputs": list(OUTPUTS)[::-1]})
    with pytest.raises(DamagedModel, match="outputs are not those"):
        Scanner(made, depth="fast")


def test_an_entry_of_out_of_source_scores_that_is_none_is_told(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["out-of-source.jsonl"] = "there"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedModel, match=r"garbles out-of-source\.jsonl"):
        persistence.load(folder)


def test_a_calibration_of_outputs_that_no_tier_has_is_told(tmp_path: Path) -> None:
    config = persistence.load(small(tmp_path / "whole")).config
    config["calibration"]["full"]["fast"]["intensity>=9"] = 1.0
    with pytest.raises(DamagedModel, match=r"config\.json: the calibration of depth full .* \(intensity>=9\)"):
        Scanner(small(tmp_path / "mine", config=config), depth="fast")


def test_no_fast_floor_is_taken_for_granted(tmp_path: Path) -> None:
    model = persistence.load(small(tmp_path / "mine"))
    config = model.config | {"fast_floor": {"full": 0.1}}
    persistence.save(
        tmp_path / "mine",
        "mine",
        config=config,
        card="",
        thresholds=model.thresholds,
        gate=model.gate,
        fast=model.fast,
        encoder=model.encoder,
    )
    assert Scanner(tmp_path / "mine", depth="full").depth == "full"
    with pytest.raises(DamagedModel, match="no fast_floor for depth lean"):
        Scanner(tmp_path / "mine", depth="lean")


def test_a_whole_one_scans_at_depth_fast_without_torch(folder: Path) -> None:
    code = (
        "import sys, pyarrow as pa; from tropescan.scanner import Scanner\n"
        f"found = Scanner({str(folder)!r}, depth='fast').scan(pa.record_batch({{'text': [{EVIL!r}]}}))\n"
        "print(found['score'].to_pylist(), 'torch' in sys.modules)"
    )
    done = python(code)
    assert done.stdout == "[0.982] False\n", done.stderr


def lines(ids: str = "ab") -> bytes:
    """Out-of-source lines of these passages, whose texts are their ids."""
    half, logits = np.full(len(ids), 0.5), np.zeros((len(ids), len(OUTPUTS)))
    return persistence.format_out_of_source(list(ids), list(ids), half, half, logits, logits)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_out_of_source_scores_are_verified_where_they_are_read_and_not_before(tmp_path: Path, damage: str) -> None:
    made = small(tmp_path / "mine", held=lines())
    held = persistence.out_of_source(persistence.load(made))
    assert held.row == {"a": 0, "b": 1} and held.digest == [persistence.text_key(t) for t in "ab"]
    raw = bytearray((made / persistence.OUT_OF_SOURCE).read_bytes())
    if damage == "gone":
        (made / persistence.OUT_OF_SOURCE).unlink()
    else:
        raw[raw.index(b"0.5")] ^= 1  # a score that is one still
        (made / persistence.OUT_OF_SOURCE).write_bytes(raw if damage == "flip" else raw[:-1])
    model = persistence.load(made)  # a scan neither reads nor hashes them
    assert Scanner(made, depth="fast").model.fingerprint == model.fingerprint
    with pytest.raises(DamagedModel, match="out-of-source"):
        persistence.out_of_source(model)


def test_a_line_keeps_the_hash_of_its_text_and_no_text() -> None:
    written = json.loads(lines("é"))
    assert written["sha256"] == hashlib.sha256("é".encode()).hexdigest()[:12] == persistence.text_key("é")
    assert set(written) == {"id", "sha256", "fast", "full", "outputs", "fast_outputs"}


def saved(folder: Path, change: dict[str, object], model: persistence.Model) -> str:
    parts = {
        "config": model.config,
        "thresholds": model.thresholds,
        "gate": model.gate,
        "fast": model.fast,
        "encoder": model.encoder,
        "card": "card",
    }
    return persistence.save(folder, "mine", **(parts | change))  # type: ignore[arg-type]


def test_what_changes_a_score_changes_the_fingerprint_and_a_threshold_does_not(folder: Path) -> None:
    model = persistence.load(folder)
    first = saved(folder, {}, model)
    assert persistence.load(folder).config == model.config
    thresholds = json.loads(json.dumps(model.thresholds))
    thresholds["fast"]["default"]["threshold"] = 0.5
    assert saved(folder, {"thresholds": thresholds, "card": "another"}, model) == first
    assert saved(folder, {"gate": model.gate + "\nzyx\n"}, model) != first
    assert saved(folder, {"config": model.config | {"fast_floor": {"full": 0.9, "lean": 0.9}}}, model) != first
    assert saved(folder, {"fast": model.fast | {"bias": model.fast["bias"] + 1}}, model) != first
    assert model.key("fast") != model.key("full")
