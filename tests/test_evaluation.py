"""Figures are those of scikit-learn, intervals resample whole sources, folds keep sources apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from tropescan import corpus, evaluation
from tropescan.errors import LabelError

SCORED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=60).filter(
    lambda x: any(y for y, _ in x)
)
LABEL = {
    "id": "a",
    "text": "t",
    "intensity": 3,
    "facets": ["escape"],
    "frame": "fiction",
    "admirable": 0,
    "source": "s",
}


@settings(max_examples=100, deadline=None)
@given(SCORED)
def test_figures_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    positive, score = np.array([y for y, _ in rows]), np.array([s / 6 for _, s in rows])
    assert evaluation.average_precision(positive, score) == pytest.approx(average_precision_score(positive, score))
    assert evaluation.f1(positive, score >= 0.5) == pytest.approx(f1_score(positive, score >= 0.5, zero_division=0))
    precision, recall, _ = precision_recall_curve(positive, score)
    best = max([r for p, r in zip(precision[:-1], recall[:-1], strict=True) if p >= 0.8], default=0.0)
    found, threshold = evaluation.recall_at(positive, score, 0.8)
    assert found == pytest.approx(best)
    if found:
        flagged = score >= threshold
        assert positive[flagged].mean() >= 0.8 and positive[flagged].sum() / positive.sum() == pytest.approx(found)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=80), st.integers(2, 5))
def test_no_source_is_in_two_folds(sources: list[str], n: int) -> None:
    fold = corpus.folds(sources, n)
    assert all(len(set(fold[np.array(sources) == s].tolist())) == 1 for s in set(sources))
    assert set(fold.tolist()) <= set(range(n))


def test_intervals_resample_sources_not_passages() -> None:
    rng = np.random.default_rng(1)
    value = np.repeat(rng.random(8), 50)
    sources = [f"s{i // 50}" for i in range(400)]
    _, low, high = evaluation.bootstrap(sources, lambda i: float(value[i].mean()))
    _, narrow_low, narrow_high = evaluation.bootstrap([str(i) for i in range(400)], lambda i: float(value[i].mean()))
    assert high - low > 4 * (narrow_high - narrow_low)


def test_thresholds_do_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    positive = (rng.random(2000) < 0.3).astype(int)
    score = np.clip(0.35 * positive + rng.normal(0.3, 0.15, 2000), 0, 1)
    chosen = evaluation.choose_thresholds(positive, score, [str(i % 40) for i in range(2000)])
    for name, wanted in (("precision_0.8", 0.8), ("precision_0.9", 0.9)):
        assert positive[score >= chosen[name]["threshold"]].mean() == pytest.approx(wanted, abs=0.02)
    assert (score[positive == 1] >= chosen["recall_0.95"]["threshold"]).mean() == pytest.approx(0.95, abs=0.01)
    assert all(t["low"] <= t["high"] for t in chosen.values())


def test_labels_are_checked_against_the_codebook(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    for change in ({"intensity": 5}, {"facets": ["evil"]}, {"frame": "poem"}, {"text": 3}):
        path.write_text(json.dumps(LABEL) + "\n" + json.dumps(LABEL | change))
        with pytest.raises(LabelError, match="line 2"):
            corpus.load([path])
    path.write_text(json.dumps({k: v for k, v in LABEL.items() if k != "frame"}))
    with pytest.raises(LabelError, match="frame"):
        corpus.load([path])
    path.write_text("{")
    with pytest.raises(LabelError, match="no JSON"):
        corpus.load([path])


def test_near_duplicates_are_found() -> None:
    base = "the quick brown fox jumps over the lazy dog and runs away from the farm before the old farmer wakes up again this morning"
    texts = [
        base,
        base + " indeed",
        "an entirely different sentence about planting beans in the month of may with some care and patience and water",
    ]
    passages = [corpus.Passage(str(i), t, 0, (), "other", 0, "s", "r", ()) for i, t in enumerate(texts)]
    assert corpus.near_duplicates(passages) == [("0", "1")]
