"""Measures a detector on labelled passages: figures with bootstrap intervals over sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from tropescan.corpus import Passage, confidence
from tropescan.detector import LEVELS
from tropescan.scanner import Scanner
from tropescan.schema import FACETS, FRAMES, Floats, Ints

RESAMPLES = 300
Estimate = tuple[float, float, float]
"""A value with the ends of its 95 % interval."""


@dataclass(frozen=True)
class Report:
    """What was measured: counts, estimates, and error rates by register."""

    passages: int
    positives: int
    sources: int
    average_precision: Estimate
    f1: dict[str, Estimate]
    recall_at_precision: dict[str, Estimate]
    brier: Estimate
    calibration_error: Estimate
    frame_accuracy: Estimate | None
    facets: dict[str, Estimate]
    by_register: dict[str, dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return asdict(self)

    def markdown_row(self, name: str) -> str:
        """One row of a Markdown table: name, average precision, F1 at the default threshold, recall at precision 0.8, Brier, calibration error."""
        cells = [
            self.average_precision,
            self.f1["default"],
            self.recall_at_precision["0.8"],
            self.brier,
            self.calibration_error,
        ]
        return f"| {name} | " + " | ".join(spell(c) for c in cells) + " |"


def spell(e: Estimate) -> str:
    """An estimate as text."""
    return f"{e[0]:.3f} ({e[1]:.3f}-{e[2]:.3f})"


def average_precision(positive: Ints, score: Floats) -> float:
    """The area under the precision-recall curve as a step function, ties taken together; nan without a positive."""
    if not positive.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def f1(positive: Ints, flagged: np.ndarray) -> float:
    """The harmonic mean of precision and recall; 0 where nothing is right."""
    right = int((positive.astype(bool) & flagged).sum())
    return 2.0 * right / max(1, int(positive.sum()) + int(flagged.sum()))


def recall_at(positive: Ints, score: Floats, precision: float) -> tuple[float, float]:
    """The largest recall at which precision is at least as asked, with its threshold; (0, inf) where none reaches it."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    good = last[hits[last] / (last + 1) >= precision]
    if not len(good) or not positive.any():
        return 0.0, float("inf")
    return float(hits[good[-1]] / hits[-1]), float(score[order][good[-1]])


def calibration_error(positive: Ints, score: Floats, bins: int = 15) -> float:
    """Expected calibration error over equally filled bins (Nixon et al. 2019, adaptive calibration error of the positive class)."""
    parts = [p for p in np.array_split(np.argsort(score, kind="stable"), bins) if len(p)]
    return float(sum(len(p) * abs(positive[p].mean() - score[p].mean()) for p in parts) / len(score))


def bootstrap(sources: list[str], statistic: Callable[[Ints], float]) -> Estimate:
    """A statistic of passage indices with its 95 % percentile interval over resampled sources (whole sources are drawn, seed fixed)."""
    name, member = np.unique(np.array(sources), return_inverse=True)
    groups = [np.flatnonzero(member == i) for i in range(len(name))]
    rng = np.random.default_rng(0)
    draws = [
        statistic(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]))
        for _ in range(RESAMPLES)
    ]
    return (statistic(np.arange(len(sources))), *confidence(np.array(draws)))


def choose_thresholds(positive: Ints, score: Floats, sources: list[str]) -> dict[str, Any]:
    """Thresholds for the best F1 (the default), for precision 0.8 and 0.9 and for recall 0.95, with 95 % intervals over sources."""

    def best_f1(i: Ints) -> float:
        order = np.argsort(-score[i], kind="stable")
        ranked, hits = score[i][order], np.cumsum(positive[i][order])
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        return float(ranked[last[np.argmax(2.0 * hits[last] / (last + 1 + hits[-1]))]]) if hits[-1] else float("nan")

    def finite(t: float) -> float:
        return t if np.isfinite(t) else 1.0

    rules: dict[str, Callable[[Ints], float]] = {
        "default": best_f1,
        "precision_0.8": lambda i: finite(recall_at(positive[i], score[i], 0.8)[1]),
        "precision_0.9": lambda i: finite(recall_at(positive[i], score[i], 0.9)[1]),
        "recall_0.95": lambda i: (
            float(np.quantile(score[i][positive[i] == 1], 0.05)) if positive[i].any() else float("nan")
        ),
    }
    chosen = {}
    for name, rule in rules.items():
        value, low, high = bootstrap(sources, rule)
        chosen[name] = {"threshold": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    return chosen


def measure(
    passages: list[Passage], score: Floats, thresholds: dict[str, Any], outputs: Floats | None = None
) -> Report:
    """The report on these scores (n,); `outputs` (n, detector.OUTPUTS), where given, are the logits or probabilities of the other heads."""
    positive = np.array([int(p.positive) for p in passages])
    sources = [p.source for p in passages]
    over = partial(bootstrap, sources)
    levels = {name: float(t["threshold"]) for name, t in thresholds.items()}
    default = score >= levels["default"]
    by_register: dict[str, dict[str, int]] = {}
    for register in sorted({p.register for p in passages}):
        i = np.array([p.register == register for p in passages])
        by_register[register] = {
            "passages": int(i.sum()),
            "positives": int(positive[i].sum()),
            "flagged": int(default[i].sum()),
            "right": int((positive[i].astype(bool) & default[i]).sum()),
        }
    frames = facets = None
    if outputs is not None:
        frame = np.array([FRAMES.index(p.frame) for p in passages])
        at = len(LEVELS) + len(FACETS)
        guess = np.argmax(outputs[:, at : at + len(FRAMES)], axis=1)
        shown = np.flatnonzero(positive)
        frames = bootstrap([sources[i] for i in shown], lambda i: float(np.mean((guess == frame)[shown[i]])))
        facets = {f: over(partial(_facet_precision, passages, outputs, f)) for f in FACETS}
    return Report(
        passages=len(passages),
        positives=int(positive.sum()),
        sources=len(set(sources)),
        average_precision=over(lambda i: average_precision(positive[i], score[i])),
        f1={n: over(partial(_f1_at, positive, score, t)) for n, t in levels.items()},
        recall_at_precision={str(p): over(partial(_recall_of, positive, score, p)) for p in (0.8, 0.9)},
        brier=over(lambda i: float(np.mean((positive[i] - score[i]) ** 2))),
        calibration_error=over(lambda i: calibration_error(positive[i], score[i])),
        frame_accuracy=frames,
        facets=facets or {},
        by_register=by_register,
    )


def _f1_at(positive: Ints, score: Floats, threshold: float, i: Ints) -> float:
    return f1(positive[i], score[i] >= threshold)


def _recall_of(positive: Ints, score: Floats, precision: float, i: Ints) -> float:
    return recall_at(positive[i], score[i], precision)[0]


def _facet_precision(passages: list[Passage], outputs: Floats, facet: str, i: Ints) -> float:
    shown = np.array([int(facet in p.facets) for p in passages])
    return average_precision(shown[i], outputs[i, len(LEVELS) + FACETS.index(facet)])


def score_passages(scanner: Scanner, passages: list[Passage]) -> Floats:
    """Each passage scored as a document of its own by the whole cascade; what no tier let through counts as 0 here (it cannot be flagged)."""
    table = scanner.scan(pa.record_batch({"text": pa.array([p.text for p in passages], pa.large_string())}))
    return np.asarray(np.nan_to_num(table["score"].to_numpy(), nan=0.0))
