"""The shipped model does not fall below its floors (reports/baseline.json) on the sample corpus, which no model was trained on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import numpy as np
import pytest

from tests.conftest import ROOT, SAMPLE, sample_documents, sample_labels
from tropescan import persistence
from tropescan.corpus import Passage, near_duplicates
from tropescan.corpus import load as load_labels
from tropescan.evaluation import average_precision

BASELINE = json.loads((ROOT / "reports" / "baseline.json").read_text())


def test_the_floors_are_for_this_corpus() -> None:
    digest = hashlib.sha256(
        b"".join(p.read_bytes() for p in sorted([*SAMPLE.glob("*.parquet"), SAMPLE / "_labels.jsonl"]))
    ).hexdigest()
    assert digest == BASELINE["sample_sha256"]


@pytest.fixture(scope="module")
def measured(sample_db: Path) -> dict[str, float]:
    """The figures that have floors."""
    labels = sample_labels()
    with duckdb.connect(str(sample_db), read_only=True) as c:
        found = {
            i: (s, f)
            for i, s, f in c.execute(
                "SELECT id, score, fast_score FROM documents WHERE fast_score IS NOT NULL"
            ).fetchall()
        }
    positive = np.array([int(r["intensity"] >= 3) for r in labels.values()])
    full = np.array([found.get(i, (0, 0))[0] or 0.0 for i in labels])
    fast = np.array([found.get(i, (0, 0))[1] or 0.0 for i in labels])
    passed = np.array([i in found for i in labels])
    held = persistence.out_of_source(persistence.load("evil-ai"))
    drawn = [json.loads(line) for line in (ROOT / "corpora" / "public" / "drawn.jsonl").read_text().splitlines()]
    known = np.array([held.row[r["id"]] for r in drawn])
    shown = np.array([int(r["intensity"] >= 3) for r in drawn])
    figures = {
        "drawn_full_average_precision": average_precision(shown, held.full[known]),
        "drawn_fast_average_precision": average_precision(shown, held.fast[known]),
        "full_average_precision": average_precision(positive, full),
        "fast_average_precision": average_precision(positive, fast),
        "gate_recall": float(passed[positive == 1].mean()),
    }
    print(json.dumps(figures))
    return figures


@pytest.mark.parametrize("name", sorted(BASELINE["floors"]))
def test_no_figure_is_below_its_floor(measured: dict[str, float], name: str) -> None:
    assert measured[name] >= BASELINE["floors"][name]


def test_no_training_passage_is_in_the_sample() -> None:
    written = load_labels(sorted((ROOT / "corpora" / "written").rglob("*.jsonl")))
    sample = [Passage(f"sample/{d['id']}", d["text"], 0, (), "other", 0, "sample", "", ()) for d in sample_documents()]
    ids = {d.id for d in sample}
    assert not [pair for pair in near_duplicates([*written, *sample], 0.5) if ids & set(pair)]
