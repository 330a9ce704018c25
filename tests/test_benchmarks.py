"""The speed benchmarks run and account for what they measured; the figures themselves are no business of a test."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, SAMPLE


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/corpus.py, which is no package."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("corpus")


def texts(path: Path | str) -> list[str]:
    """The texts of a shard."""
    found: list[str] = pq.read_table(path, columns=["text"])["text"].to_pylist()
    return found


def test_the_corpus_repeats_every_document_with_its_paragraphs_in_another_order(
    corpus: ModuleType, tmp_path: Path
) -> None:
    originals = {i: t for p in SAMPLE.glob("[!_]*.parquet") for i, t in zip(*columns(p), strict=True)}
    size = sum(len(t.encode()) for t in originals.values())
    made = corpus.make(SAMPLE, tmp_path, 2 * size / 1e9, one_group=True)
    rows = [row for s in made.shards for row in zip(*columns(s.path), strict=True)]
    assert Counter(i.rsplit("-", 1)[0] for i, _ in rows) == dict.fromkeys(originals, 2)
    assert len({i for i, _ in rows}) == len(rows)
    moved = 0
    for i, text in rows:
        original = originals[i.rsplit("-", 1)[0]]
        parting = "\n\n" if "\n\n" in original else "\n"
        assert sorted(text.split(parting)) == sorted(original.split(parting))
        moved += text != original
    assert moved > len(rows) / 2
    assert made.copies == pytest.approx(2)
    assert pq.ParquetFile(made.one_group.path).num_row_groups == 1
    assert texts(made.one_group.path) == [t for _, t in rows]


def test_a_larger_corpus_begins_with_the_smaller_one_and_a_second_make_changes_nothing(
    corpus: ModuleType, tmp_path: Path
) -> None:
    small = corpus.make(SAMPLE, tmp_path / "a", 0.001, shard=500_000)
    large = corpus.make(SAMPLE, tmp_path / "b", 0.0025, shard=500_000)
    assert [len(c.shards) for c in (small, large)] == [2, 5]
    for one, other in zip(small.shards, large.shards, strict=False):
        assert Path(one.path).read_bytes() == Path(other.path).read_bytes()
        assert one.bytes == pc.sum(pc.binary_length(pq.read_table(one.path)["text"])).as_py()
    before = {p: p.stat().st_mtime_ns for p in small.folder.iterdir()}
    assert corpus.make(SAMPLE, tmp_path / "a", 0.001, shard=500_000) == small
    assert before == {p: p.stat().st_mtime_ns for p in small.folder.iterdir()}
    assert [t for p in large.pieces for t in texts(p.path)] == texts(large.shards[0].path)[
        : sum(p.rows for p in large.pieces)
    ]


def test_scan_py_runs_end_to_end_and_writes_its_section_and_no_other(tmp_path: Path) -> None:
    report = tmp_path / "speed.md"
    report.write_text("# Speed\n\n## Scan\n\nold\n\n## Scaling\n\nkept\n")
    options = ["--only", "read", "gate", "fast", "--cores", "1", "--gb", "0.002", "--repeat", "1", "--no-one-group"]
    command = [sys.executable, ROOT / "benchmarks" / "scan.py", "--source", SAMPLE, "--report", report, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for row in ("read limit", "read + gate", "tropescan scan --depth fast", "tropescan --help", "ordinary row groups"):
        assert row in done.stdout
    assert "| fast over the read limit, one core | 0.40 | " in done.stdout
    assert "| full over datatrove + fastText, one core | 3 times | - | - |" in done.stdout
    told = report.read_text()
    assert "old" not in told and told.endswith("## Scaling\n\nkept\n") and told.count("## Scan\n") == 1
    assert report.with_suffix(".svg").read_text().count('class="ours"') == 1


def test_what_an_audit_estimates_has_an_interval_that_few_hits_allow(corpus: ModuleType) -> None:
    interval = importlib.import_module("base_rate").interval
    assert interval(np.zeros(100), 5000) == (0.0, pytest.approx(3.69 * 50, rel=1e-3))
    random, inside = np.random.default_rng(0), 0
    for _ in range(200):  # 1,000 of 400,000 audited, 0.4 % of them missed: 4 hits to be expected
        low, high = interval(np.where(random.random(1000) < 0.004, 400.0, 0.0), 400_000)
        inside += low <= 1600 <= high
    assert inside >= 190


def test_scan_py_tells_in_one_line_what_is_missing(tmp_path: Path) -> None:
    scan = [sys.executable, str(ROOT / "benchmarks" / "scan.py"), "--only", "read", "--gb", "0.002"]
    done = subprocess.run([*scan, "--source", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "give a folder of shards with --source" in done.stderr
    assert "Traceback" not in done.stderr


def columns(path: Path | str) -> tuple[list[str], list[str]]:
    """The ids and the texts of a shard."""
    table = pq.read_table(path, columns=["id", "text"])
    return table["id"].to_pylist(), table["text"].to_pylist()
