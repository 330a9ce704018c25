"""Figures of a score against labels, and their bootstrap intervals over sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tropescan.corpus import confidence, numbered
from tropescan.schema import Floats, Ints

RESAMPLES = 300
# of F1, whose curve is flat: a default that flags less is better where positives are rarer than among labels
SLACK = 0.02
_MARKUP = str.maketrans({"<": "&lt;", "&": "&amp;"} | {c: "\\" + c for c in "\\|[]"})
Estimate = tuple[float, float, float]
"""A value with the ends of its 95 % interval; nan where there is none."""


def spell(e: Estimate) -> str:
    """An estimate as text; a dash where there is no value, a dash in brackets where there is no interval."""
    if np.isnan(e[0]):
        return "-"
    return f"{e[0]:.3f} (-)" if np.isnan(e[1]) else f"{e[0]:.3f} ({e[1]:.3f}-{e[2]:.3f})"


def cell(text: str) -> str:
    """Any text as a cell of a Markdown table, on one line and without markup of its own."""
    return " ".join(text.translate(_MARKUP).split())


def average_precision(positive: Ints, score: Floats) -> float:
    """The area under the precision-recall curve as a step function, ties taken together; nan without a positive."""
    if not positive.any():
        return float("nan")
    _, flagged, right = _cuts(positive, score)
    return float(np.sum(np.diff(right / right[-1], prepend=0.0) * right / flagged))


def _cuts(positive: Ints, score: Floats) -> tuple[Floats, Ints, Ints]:
    """The distinct scores from the highest down, and how many passages have that or more: all of them, and the positive ones."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    return ranked[last], last + 1, np.cumsum(positive[order])[last]


def f1(positive: Ints, flagged: np.ndarray) -> float:
    """The harmonic mean of precision and recall; 0 where nothing is right, nan without a positive."""
    right = int((positive.astype(bool) & flagged).sum())
    return 2.0 * right / (int(positive.sum()) + int(flagged.sum())) if positive.any() else float("nan")


def recall_at(positive: Ints, score: Floats, precision: float) -> tuple[float, float]:
    """The largest recall at which precision is at least as asked, with its threshold; (0, inf) where none reaches it, nan without a positive.

    A score of 0 is that of what the tiers refuse: no threshold flags it.
    """
    if not positive.any():
        return float("nan"), float("nan")
    cuts, flagged, right = _cuts(positive, score)
    good = np.flatnonzero((right / flagged >= precision) & (cuts > 0))
    if not len(good):
        return 0.0, float("inf")
    return float(right[good[-1]] / right[-1]), float(cuts[good[-1]])


def calibration_error(positive: Ints, score: Floats, bins: int = 15) -> float:
    """Expected calibration error over equally filled bins (Nixon et al. 2019, adaptive calibration error of the positive class)."""
    return float(sum(n * abs(share - mean) for mean, share, n in reliability(positive, score, bins)) / len(score))


def chance_calibration_error(score: Floats, bins: int = 15) -> Estimate:
    """The calibration error that a perfectly calibrated score has on as many passages with these scores (n,), for labels fall as chance has it: mean,
    and the range of 95 % of RESAMPLES draws (Broecker and Smith 2007, consistency resampling)."""
    rng = np.random.default_rng(0)
    drawn = [
        calibration_error((rng.random(len(score)) < score).astype(np.int64), score, bins) for _ in range(RESAMPLES)
    ]
    return (float(np.mean(drawn)), *confidence(np.array(drawn)))


def reliability(positive: Ints, score: Floats, bins: int = 15) -> list[tuple[float, float, int]]:
    """Equally filled bins in the order of the score: mean score, share of positives, passages. Passages of one score count alike, whatever their order."""
    tied = np.unique(score, return_inverse=True)[1]
    share = (np.bincount(tied, positive) / np.bincount(tied))[tied]
    parts = [p for p in np.array_split(np.argsort(score, kind="stable"), bins) if len(p)]
    return [(float(score[p].mean()), float(share[p].mean()), len(p)) for p in parts]


def curve(positive: Ints, score: Floats) -> list[tuple[float, float]]:
    """The precision-recall curve, (recall, precision) at every distinct score from the highest down to 0, which is what the tiers refuse and not in it;
    empty without a positive."""
    if not positive.any():
        return []
    cuts, flagged, right = _cuts(positive, score)
    some = cuts > 0
    return list(zip((right / right[-1])[some].tolist(), (right / flagged)[some].tolist(), strict=True))


def bootstrap(sources: list[str], statistic: Callable[[Ints], float], centred: bool = False) -> Estimate:
    """A statistic of passage indices with its 95 % percentile interval over resampled sources (whole sources are drawn, seed fixed).

    `centred` is for what is 0 at best and grows with noise, as distances do: resampling adds to it, and what it adds on average is taken off again
    (Efron and Tibshirani 1993, bias correction). No interval from a single source, nor where all resamples agree: it would be one point.
    """
    member = numbered(sources)
    groups = [np.flatnonzero(member == i) for i in range(len(set(sources)))]
    if len(groups) < 2:
        return statistic(np.arange(len(sources))), float("nan"), float("nan")
    rng = np.random.default_rng(0)
    draws = [
        statistic(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]))
        for _ in range(RESAMPLES)
    ]
    value, found = statistic(np.arange(len(sources))), np.array(draws)
    if centred:
        found = np.maximum(0.0, found - np.nanmean(found) + value)
    return (value, *confidence(found))


def ratio(sources: list[str], part: Ints, whole: Ints) -> Estimate:
    """sum(part) / sum(whole) over passages (n,) with its interval over sources; no value where whole is 0, no interval where a single source has any of
    it, or where all resamples agree."""
    if not whole.sum():
        return float("nan"), float("nan"), float("nan")
    value = float(part.sum() / whole.sum())
    member = numbered(sources)
    parts, wholes = np.bincount(member, part), np.bincount(member, whole)
    if np.count_nonzero(wholes) < 2:
        return value, float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(0, len(wholes), (RESAMPLES, len(wholes)))
    over, under = parts[drawn].sum(1), wholes[drawn].sum(1)
    return (value, *confidence(np.where(under > 0, over / np.maximum(under, 1), np.nan)))


def best_threshold(positive: Ints, score: Floats, slack: float = 0.0) -> float:
    """The highest score at or above which flagging gives the best F1 on these passages, or one at most `slack` below it; nan without a positive that
    can be flagged (a score above 0)."""
    cuts, flagged, right = _cuts(positive, score)
    some = cuts > 0
    if not right[some].any():
        return float("nan")
    every = 2.0 * right[some] / (flagged[some] + right[-1])
    return float(cuts[some][np.argmax(every >= every.max() - slack)])


def choose_thresholds(positive: Ints, score: Floats, sources: list[str]) -> dict[str, Any]:
    """Thresholds for the best F1 less SLACK (the default), for the best F1, for precision 0.8 and 0.9 and for recall 0.95, with 95 % intervals
    over sources.

    The ends `low` and `high` are None where there is no interval. Where the tiers refuse more than 5 % of the positives (score 0) no
    threshold has recall 0.95, and there is none of that name.
    """

    def end(t: float) -> float | None:
        return None if np.isnan(t) else round(t, 4)

    def finite(t: float) -> float:
        return 1.0 if np.isinf(t) else t

    rules: dict[str, Callable[[Ints], float]] = {
        "default": lambda i: best_threshold(positive[i], score[i], SLACK),
        "best_f1": lambda i: best_threshold(positive[i], score[i]),
        "precision_0.8": lambda i: finite(recall_at(positive[i], score[i], 0.8)[1]),
        "precision_0.9": lambda i: finite(recall_at(positive[i], score[i], 0.9)[1]),
        "recall_0.95": lambda i: (
            float(np.quantile(score[i][positive[i] == 1], 0.05, method="lower")) if positive[i].any() else float("nan")
        ),
    }
    chosen = {}
    for name, rule in rules.items():
        value, low, high = bootstrap(sources, rule)
        if name == "recall_0.95" and value <= 0:
            continue
        chosen[name] = {"threshold": round(value, 4), "low": end(low), "high": end(high)}
    return chosen
