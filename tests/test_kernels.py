"""The compiled loops give what numpy gives, to the last bit; the scanner's rows are the same with them, without them and where they come in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import EVIL, sample_documents
from tests.test_lexicon import TEXTS as SHORT
from tests.test_lexicon import gathered, laid, tier
from tests.test_passages import TEXTS
from tropescan import kernels, lexicon, passages
from tropescan.scanner import Scanner, scan

SAMPLE = [d["text"] for d in sample_documents()]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(TEXTS, st.sampled_from(SAMPLE), st.just("x" * 4000), st.just("漢" * 2000)), min_size=1, max_size=4
    )
)
def test_documents_are_cut_and_counted_alike(texts: list[str]) -> None:
    values, starts, ends = laid(texts)
    offsets, sizes = np.append(0, ends), ends - starts
    assert kernels.lengths(values, offsets).tolist() == [len(t) for t in texts]
    number = passages.count(sizes)
    row = np.repeat(np.arange(len(texts)), number + 1)
    k = np.concatenate([np.arange(n + 1) for n in number])
    wanted = passages.cuts(values, starts[row], sizes[row], k)
    assert (kernels.cuts(values, starts[row], sizes[row], k) == wanted).all()
    assert (kernels.characters(values, starts[row], wanted) == passages.characters(values, starts[row], wanted)).all()
    row = np.repeat(np.arange(len(texts)), sizes)
    place = np.arange(len(values))
    held = kernels.holding(values, starts[row], sizes[row], place)
    assert (held == passages.holding(values, starts[row], sizes[row], place)).all()


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(SHORT, st.lists(st.sampled_from(SAMPLE).map(lambda t: t[:1500]), min_size=1, max_size=6)),
    st.integers(0, 2**32 - 1),
)
def test_the_fast_tier_sums_alike(texts: list[str], seed: int) -> None:
    found = lexicon.keys(*gathered(texts))
    mention, _ = lexicon.mentions(found, np.full(len(found.key), 2, np.int8))
    known = np.unique(np.concatenate([found.key, mention]))
    known = known[np.random.default_rng(seed).random(len(known)) < 0.8]  # some words are unknown
    model = tier(known[lexicon.placeable(known)], seed)
    slowly = model.logits(*laid(texts))
    model.compile(np.zeros(0, np.uint8))
    assert model.logits(*laid(texts)).tobytes() == slowly.tobytes()
    assert model.logits(*laid([])).shape == (0, 3)


def test_a_scan_is_the_same_before_and_after_the_loops_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [EVIL, "", *SAMPLE]
    batches = [pa.record_batch({"text": pa.array(texts[i : i + 40])}) for i in range(0, len(texts), 40)]
    plain = Scanner(depth="fast", audit=0.2)
    slowly = [plain.scan(b) for b in batches]
    assert plain._cutter is passages
    monkeypatch.setattr(scan, "_WORTH", 100_000)
    midway = Scanner(depth="fast", audit=0.2)
    assert [midway.scan(b).equals(s) for b, s in zip(batches, slowly, strict=True)] == [True] * len(batches)
    assert midway._cutter is kernels
    assert all(midway.scan(b).equals(s) for b, s in zip(batches, slowly, strict=True))


def test_without_numba_a_scan_goes_on_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("tropescan.kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("tropescan.kernels")
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(scan, "_WORTH", 0)
    alone = Scanner(depth="fast")
    batch = pa.record_batch({"text": pa.array([EVIL, *SAMPLE[:20]])})
    assert alone.scan(batch).equals(alone.scan(batch)) and alone._cutter is passages


def test_with_a_damaged_cache_a_scan_goes_on_in_numpy(tmp_path: Path) -> None:
    code = (
        "import pyarrow as pa; from tropescan.scanner import Scanner, scan; scan._WORTH = 0; s = Scanner(depth='fast')\n"
        f"print(s.scan(pa.record_batch({{'text': [{EVIL!r}]}}))['score'].to_pylist(), s._cutter.__name__)"
    )
    told = []
    for _ in range(3):  # compiled, from the cache, and from what a power cut left of it
        if len(told) == 2:
            for index in tmp_path.rglob("*.nbi"):
                index.write_bytes(b"")
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(ran.stdout.split())
    assert [name for _, name in told] == ["tropescan.kernels"] * 2 + ["tropescan.passages"]
    assert len({score for score, _ in told}) == 1


def test_where_numba_may_not_compile_a_scan_goes_on_in_numpy() -> None:
    code = (
        "import pyarrow as pa; from tropescan.scanner import Scanner, scan; scan._WORTH = 0; s = Scanner(depth='fast')\n"
        f"print(s.scan(pa.record_batch({{'text': [{EVIL!r}]}}))['passages'].to_pylist(), s._cutter.__name__)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["[1]", "tropescan.passages"]


def test_loops_are_compiled_where_no_cache_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shutil.copytree(
        Path(kernels.__file__).parents[1],
        tmp_path / "tropescan",
        ignore=shutil.ignore_patterns("__pycache__", "models"),
    )
    (tmp_path / "tropescan" / "kernels" / "__pycache__").touch()  # a file where the folder would be
    code = (
        "import numpy as np; from tropescan import kernels\n"
        "print(kernels.__file__, kernels.lengths(np.frombuffer('é!'.encode(), np.uint8), np.array([0, 3])))"
    )
    nowhere = {"HOME": str(tmp_path / "file" / "home"), "XDG_CACHE_HOME": str(tmp_path / "file" / "cache")}
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | nowhere | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(tmp_path / "tropescan" / "kernels" / "__init__.py"), "[2]"]
