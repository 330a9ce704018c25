"""Figures are those of scikit-learn, intervals resample whole sources, folds keep sources apart."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    precision_recall_curve,
)

from tropescan import corpus, evaluation
from tropescan.errors import LabelError
from tropescan.quality import report_sheets
from tropescan.schema import FACETS, FRAMES

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
    every = zip(*precision_recall_curve(positive, score), strict=False)  # the last has no threshold
    best = max([r for p, r, t in every if p >= 0.8 and t > 0], default=0.0)
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
    best = evaluation.f1(positive, score >= chosen["best_f1"]["threshold"])
    assert best >= max(evaluation.f1(positive, score >= t) for t in np.linspace(0.02, 0.98, 97))
    assert 0 <= best - evaluation.f1(positive, score >= chosen["default"]["threshold"]) <= evaluation.SLACK + 0.001
    assert all(t["low"] <= t["high"] for t in chosen.values())


def test_the_default_threshold_gives_up_a_little_for_flagging_less() -> None:
    positive = np.array([1] * 50 + [0] * 2 + [1] + [0] * 47)
    score = np.linspace(1.0, 0.01, 100)
    assert evaluation.best_threshold(positive, score) == score[49]  # 50 of 51 found, none wrong
    assert evaluation.best_threshold(positive, score, 0.02) == score[48]  # F1 0.98 for 0.99
    assert evaluation.best_threshold(positive, score, 0.0001) == score[49]
    chosen = evaluation.choose_thresholds(positive, score, ["s"] * 100)
    assert chosen["default"]["threshold"] == round(evaluation.best_threshold(positive, score, evaluation.SLACK), 4)


def test_the_interval_of_a_calibration_error_holds_it() -> None:
    for seed in range(20):  # well calibrated: by percentiles alone a fifth of them would lie below their own interval
        rng = np.random.default_rng(seed)
        score = rng.beta(0.5, 2, 1500)
        positive = (rng.random(1500) < score).astype(np.int64)
        sources = [f"{i % 60}" for i in range(1500)]
        error = evaluation.figures.calibration_error
        value, low, high = evaluation.figures.bootstrap(sources, lambda i: error(positive[i], score[i]), centred=True)  # noqa: B023
        assert 0 <= low <= value <= high


def test_a_single_source_has_no_interval() -> None:
    positive, score = np.array([0, 1, 1, 0]), np.array([0.1, 0.4, 0.9, 0.6])
    alone = evaluation.bootstrap(["s"] * 4, lambda i: float(positive[i].mean()))
    assert alone[0] == 0.5 and np.isnan(alone[1:]).all()
    chosen = evaluation.choose_thresholds(positive, score, ["s"] * 4)
    assert all((t["low"], t["high"]) == (None, None) for t in chosen.values())
    assert chosen["default"]["threshold"] == 0.4 and json.loads(json.dumps(chosen, allow_nan=False)) == chosen
    two = evaluation.choose_thresholds(positive, score, ["s", "s", "t", "t"])
    assert all(isinstance(t["low"], float) for t in two.values())


def test_what_no_resample_changes_has_no_interval() -> None:
    sources = [f"s{i // 4}" for i in range(120)]
    one = (np.array(sources) == "s7").astype(np.int64)  # positives in a single source of thirty
    share = evaluation.ratio(sources, one * np.array([1, 0] * 60), one)
    assert share[0] == 0.5 and np.isnan(share[1:]).all()
    none = evaluation.ratio(sources, np.zeros(120, np.int64), np.ones(120, np.int64))
    assert none[0] == 0 and np.isnan(none[1:]).all()
    constant = evaluation.bootstrap(sources, lambda i: 1.0)
    assert constant[0] == 1 and np.isnan(constant[1:]).all()


@given(SCORED, st.randoms(use_true_random=False))
def test_calibration_error_does_not_hang_on_the_order(rows: list[tuple[int, int]], random: Any) -> None:
    found = []
    for _ in range(2):
        random.shuffle(rows)
        positive, score = np.array([y for y, _ in rows]), np.array([s / 6 for _, s in rows])
        found.append(evaluation.calibration_error(positive, score))
    assert found[0] == pytest.approx(found[1])
    assert evaluation.calibration_error(np.array([1] + [0] * 9), np.full(10, 0.1)) == pytest.approx(0.0)


def test_a_calibrated_score_has_the_calibration_error_of_chance_and_another_has_more() -> None:
    rng = np.random.default_rng(3)
    score = rng.beta(0.4, 1.6, 900)
    mean, low, high = evaluation.chance_calibration_error(score)
    inside = [
        low <= evaluation.calibration_error((rng.random(900) < score).astype(int), score) <= high for _ in range(200)
    ]
    assert 0.88 <= np.mean(inside) <= 1 and low < mean < high
    assert evaluation.calibration_error((rng.random(900) < score**0.7).astype(int), score) > high
    assert (
        evaluation.chance_calibration_error(np.tile(score, 9))[0] < 0.5 * mean
    )  # it falls as the root of the passages
    assert evaluation.chance_calibration_error(np.array([0.0, 1.0] * 50))[0] == 0


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60, unique=True), st.integers(0, 5))
def test_recall_at_its_threshold_is_what_its_name_says(scores: list[int], refused: int) -> None:
    score = np.array([*scores, *[0] * refused]) / 10**6
    chosen = evaluation.choose_thresholds(np.ones(len(score), np.int64), score, ["s"] * len(score))
    if 0.05 * (len(score) - 1) < refused:
        assert "recall_0.95" not in chosen  # what the tiers refuse no threshold brings back
    else:
        assert (score >= chosen["recall_0.95"]["threshold"] - 5e-5).mean() >= 0.95


def test_no_threshold_flags_what_the_tiers_refuse() -> None:
    positive, score = np.array([1] * 36 + [0] * 6), np.array([0.0] * 24 + [0.6] * 12 + [0.1] * 6)
    sources = [f"s{i % 6}" for i in range(42)]
    chosen = evaluation.choose_thresholds(positive, score, sources)
    assert {chosen[n]["threshold"] for n in ("default", "precision_0.8", "precision_0.9")} == {0.6}
    assert evaluation.recall_at(positive, score, 0.8) == (12 / 36, 0.6)
    assert evaluation.curve(positive, score) == [(12 / 36, 1.0), (12 / 36, 12 / 18)]
    assert evaluation.curve(positive, np.zeros(42)) == [] and np.isnan(evaluation.best_threshold(positive, score * 0))


def test_a_resample_without_positives_is_left_out() -> None:
    positive = np.array([1, 0, 0, 0] * 2 + [0] * 32)  # in two sources of ten
    score, sources = np.where(positive, 0.9, 0.1), [f"s{i // 4}" for i in range(40)]
    found = evaluation.measure(
        [passage(i, 3 * y, s) for i, (y, s) in enumerate(zip(positive, sources, strict=True))],
        score,
        evaluation.choose_thresholds(positive, score, sources),
    )
    for figure in (found.average_precision, *found.f1.values(), *found.recall_at_precision.values()):
        assert figure[0] == 1 and np.isnan(figure[1:]).all()
    assert evaluation.choose_thresholds(positive, score, sources)["precision_0.8"]["high"] is None
    none = evaluation.measure([passage(0, 0, "s"), passage(1, 1, "t")], score[:2], {"default": {"threshold": 0.5}})
    assert all(np.isnan(f).all() for f in (none.f1["default"], none.recall_at_precision["0.8"], none.recall["default"]))


def test_an_estimate_is_spelled_with_what_it_lacks() -> None:
    nan = float("nan")
    assert evaluation.spell((0.5, 0.25, 0.75)) == "0.500 (0.250-0.750)"
    assert evaluation.spell((0.5, nan, nan)) == "0.500 (-)" and evaluation.spell((nan, nan, nan)) == "-"


def test_a_report_on_a_single_source_is_told_without_intervals() -> None:
    passages = [passage(i, i % 5, "s", readings=(i % 5, i % 4)) for i in range(20)]
    outputs = np.random.default_rng(0).normal(0, 1, corpus.targets(passages).shape)
    score = np.linspace(0, 1, 20)
    report = evaluation.measure(passages, score, evaluation.choose_thresholds(*some(passages, score)), outputs)
    raw = orjson.loads(orjson.dumps(report.as_dict()))
    for figure in (raw["average_precision"], raw["brier"], *raw["f1"].values(), *raw["recall_at_precision"].values()):
        assert figure[0] is not None and figure[1:] == [None, None]
    cells = [cell for sheet in report_sheets({"full": report}) for row in sheet.rows for cell in row]
    assert any(cell.endswith(" (-)") for cell in cells) and not any("nan" in cell for cell in cells)
    assert "(-)" in report.markdown_row("full") and "nan" not in report.markdown_row("full")
    read = evaluation.agreement(passages)
    assert read.f1 and np.isnan(read.f1[1]) and "nan" not in evaluation.spell(read.f1)


def some(passages: list[corpus.Passage], score: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    return np.array([int(p.positive) for p in passages]), score, [p.source for p in passages]


def test_names_of_sources_are_told_apart_to_the_last_character() -> None:
    fold = corpus.folds(["a", "a\0", "a\0\0"], 3)
    assert sorted(fold.tolist()) == [0, 1, 2]


def test_a_name_is_no_markup_in_a_table() -> None:
    assert evaluation.cell("<b>&|\\|\r\n![x](y)") == "&lt;b>&amp;\\|\\\\\\| !\\[x\\](y)"


def passage(i: int, intensity: int, source: str, frame: str = "fiction", **other: Any) -> corpus.Passage:
    parts = {"facets": (), "admirable": 0, "register": "r", "readings": ()} | other
    return corpus.Passage(str(i), "t", intensity, frame=frame, source=source, **parts)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40))
def test_agreement_is_that_of_scikit_learn(read: list[tuple[int, int]]) -> None:
    found = evaluation.agreement([passage(i, 0, f"s{i % 4}", readings=r) for i, r in enumerate(read)])
    first, second = np.array(read).T
    assert found.passages == len(read) and found.f1 and found.kappa_positive and found.quadratic_kappa_intensity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = cohen_kappa_score(first >= 3, second >= 3)
        quadratic = cohen_kappa_score(first, second, weights="quadratic", labels=range(5))
        f1 = f1_score(second >= 3, first >= 3, zero_division=0) if (second >= 3).any() else float("nan")
    assert found.kappa_positive[0] == pytest.approx(kappa, nan_ok=True)
    assert found.quadratic_kappa_intensity[0] == pytest.approx(quadratic, nan_ok=True)
    assert found.f1[0] == pytest.approx(f1, nan_ok=True)


def test_agreement_counts_only_passages_read_twice() -> None:
    one = evaluation.agreement([passage(0, 0, "s", readings=(1,)), passage(1, 0, "s", readings=(3, 3))])
    assert (one.passages, one.kappa_positive) == (1, None)


def test_a_report_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    passages = [
        passage(
            i,
            int(rng.integers(0, 5)),
            f"s{min(i % 30, 19)}",
            str(rng.choice(FRAMES)),
            register=f"r{i % 3}",
            admirable=int(rng.integers(0, 2)),
            facets=tuple(f for f in FACETS if rng.random() < 0.3),
        )
        for i in range(300)
    ]
    target = corpus.targets(passages)
    positive = target[:, 2]
    score = np.clip(0.4 * positive + rng.random(300) * 0.6, 0, 1)
    outputs = target + rng.normal(0, 1, target.shape)
    outputs[0, 10:16] = np.nan
    r = evaluation.measure(passages, score, {"default": {"threshold": 0.5}, "high": {"threshold": 0.8}}, outputs)
    assert r.average_precision[0] == pytest.approx(average_precision_score(positive, score))
    assert r.f1["high"][0] == pytest.approx(f1_score(positive, score >= 0.8))
    assert r.brier[0] == pytest.approx(brier_score_loss(positive, score))
    assert r.facets["escape"][0] == pytest.approx(average_precision_score(target[:, 7], outputs[:, 7]))
    assert r.admirable and r.admirable[0] == pytest.approx(average_precision_score(target[:, 16], outputs[:, 16]))
    assert all(low <= value <= high for value, low, high in (r.average_precision, r.brier, *r.f1.values()))
    guess = np.argmax(outputs[:, 10:16], axis=1)
    right = (guess == np.argmax(target[:, 10:16], axis=1)) & ~np.isnan(outputs[:, 10])
    assert r.frame_accuracy and r.frame_accuracy[0] == pytest.approx(right[positive == 1].mean())
    assert sum(sum(row.values()) for row in r.frame_confusion.values()) == r.positives
    flagged = score >= 0.5
    for by in ("register", "frame", "source", "all"):
        groups = r.errors[by].values()
        assert sum(g.passages for g in groups) == 300 and sum(g.positives for g in groups) == positive.sum()
        assert sum(g.false_positives for g in groups) == (flagged & (positive == 0)).sum()
        assert sum(g.false_negatives for g in groups) == (~flagged & (positive == 1)).sum()
    assert len(r.errors["source"]) == 16 and "other sources (5)" in r.errors["source"]
    whole = r.errors["all"]["all"]
    assert whole.false_positive_rate[0] == pytest.approx(flagged[positive == 0].mean())
    assert whole.false_negative_rate[0] == pytest.approx((~flagged)[positive == 1].mean())
    assert whole.false_positive_rate[1] < whole.false_positive_rate[0] < whole.false_positive_rate[2]
    assert sum(n for _, _, n in r.reliability) == 300


def test_a_curve_ends_at_the_share_of_positives() -> None:
    positive, score = np.array([1, 0, 1, 0]), np.array([0.9, 0.9, 0.4, 0.1])
    assert evaluation.curve(positive, score) == [(0.5, 0.5), (1.0, 2 / 3), (1.0, 0.5)]
    assert evaluation.curve(np.zeros(2, int), np.ones(2)) == []


def test_labels_are_checked_against_the_codebook(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    changes: list[dict[str, Any]] = [
        *[{"intensity": i} for i in (5, -1, 3.0, True, "3", None, [3])],
        *[
            {"readings": r}
            for r in ([{"intensity": 5}], [{"intensity": -1}], [{"intensity": "3"}], [{"intensity": 1.5}])
        ],
        *[{"readings": r} for r in ([{}], [[]], ["r"], [3], None, {"intensity": 3}, 3, [{"intensity": [3]}])],
        *[{"admirable": a} for a in (2, -1, 0.5, "1", True, None, [])],
        *[{"facets": f} for f in (["evil"], "escape", [["escape"]], [{}], {"escape": 1}, None, [None], 3)],
        {"facets": ["escape"], "intensity": 1},
        {"text": "x" * (corpus.LONGEST + 1)},
        *[{"frame": f} for f in ("poem", ["fiction"], {}, None)],
        *[{"text": t} for t in (3, None, ["t"])],
        *[
            {"deciding": d}
            for d in ([3], [[1]], [[2, 1]], [["1", "2"]], [[0, 1.5]], "ab", None, [None], {"a": 1}, [1, "x"])
        ],
    ]
    for change in changes:
        path.write_text(json.dumps(LABEL) + "\n" + json.dumps(LABEL | {"id": "b"} | change))
        with pytest.raises(LabelError, match=r"labels\.jsonl line 2") as raised:
            corpus.load([path])
        assert "tells the id" not in str(raised.value) and "\n" not in str(raised.value), change
    path.write_text(json.dumps(LABEL | {"readings": [{"intensity": 0}, {"intensity": 4}], "admirable": 1}))
    (whole,) = corpus.load([path])
    assert (whole.readings, whole.admirable) == ((0, 4), 1)
    path.write_text(json.dumps(LABEL | {"source": None}))
    assert corpus.load([path])[0].source == "a"
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
