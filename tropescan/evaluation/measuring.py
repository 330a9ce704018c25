"""The report on one score of labelled passages: figures, errors by register, frame and source, frames, facets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from tropescan.corpus import Passage
from tropescan.detector import LEVELS
from tropescan.evaluation.figures import (
    Estimate,
    average_precision,
    bootstrap,
    calibration_error,
    chance_calibration_error,
    f1,
    ratio,
    recall_at,
    reliability,
    spell,
)
from tropescan.evaluation.mistakes import Errors, errors_by_group
from tropescan.schema import FACETS, FRAMES, Floats, Ints

PRECISIONS = (0.8, 0.9)
NO_FRAME = "none"
"""Stands in the confusion counts for the frame of a passage that no tier judged."""


@dataclass(frozen=True)
class Report:
    """What was measured; `f1`, `precision` and `recall` at each stored threshold.

    What rests on the other heads is None or empty where only a score was given.
    """

    passages: int
    positives: int
    sources: int
    average_precision: Estimate
    f1: dict[str, Estimate]
    precision: dict[str, Estimate]
    recall: dict[str, Estimate]
    recall_at_precision: dict[str, Estimate]
    brier: Estimate
    calibration_error: Estimate
    chance_calibration_error: Estimate
    reliability: list[tuple[float, float, int]]
    frame_accuracy: Estimate | None
    frame_confusion: dict[str, dict[str, int]]
    facets: dict[str, Estimate]
    admirable: Estimate | None
    errors: dict[str, dict[str, Errors]]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values (nan stands for null)."""
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


def measure(
    passages: list[Passage], score: Floats, thresholds: dict[str, Any], outputs: Floats | None = None
) -> Report:
    """The report on these scores (n,); `outputs` (n, detector.OUTPUTS), where given, are the logits of all heads.

    A row of `outputs` whose frames are nan is that of a passage without a frame.
    """
    positive = np.array([int(p.positive) for p in passages])
    sources = [p.source for p in passages]
    over = partial(bootstrap, sources)
    levels = {name: float(t["threshold"]) for name, t in thresholds.items()}
    frames, confusion = (None, {}) if outputs is None else _frames(passages, outputs)
    return Report(
        passages=len(passages),
        positives=int(positive.sum()),
        sources=len(set(sources)),
        average_precision=over(lambda i: average_precision(positive[i], score[i])),
        f1={n: over(partial(_f1_at, positive, score, t)) for n, t in levels.items()},
        precision={
            n: ratio(sources, positive * (score >= t), (score >= t).astype(np.int64)) for n, t in levels.items()
        },
        recall={n: ratio(sources, positive * (score >= t), positive) for n, t in levels.items()},
        recall_at_precision=recalls(positive, score, over),
        brier=over(lambda i: float(np.mean((positive[i] - score[i]) ** 2))),
        calibration_error=over(lambda i: calibration_error(positive[i], score[i]), centred=True),
        chance_calibration_error=chance_calibration_error(score),
        reliability=reliability(positive, score),
        frame_accuracy=frames,
        frame_confusion=confusion,
        facets={} if outputs is None else _facets(passages, outputs, over),
        admirable=None if outputs is None else _admirable(passages, outputs, over),
        errors=errors_by_group(passages, positive, score >= levels["default"]),
    )


Over = Callable[[Callable[[Ints], float]], Estimate]


def recalls(positive: Ints, score: Floats, over: Over) -> dict[str, Estimate]:
    """The largest recall at each of PRECISIONS, with its interval by `over`."""
    return {str(p): over(partial(_recall_of, positive, score, p)) for p in PRECISIONS}


def _f1_at(positive: Ints, score: Floats, threshold: float, i: Ints) -> float:
    return f1(positive[i], score[i] >= threshold)


def _recall_of(positive: Ints, score: Floats, precision: float, i: Ints) -> float:
    return recall_at(positive[i], score[i], precision)[0]


def _precision_of(shown: Ints, output: Floats, i: Ints) -> float:
    return average_precision(shown[i], output[i])


def _facets(passages: list[Passage], outputs: Floats, over: Over) -> dict[str, Estimate]:
    shown = {f: np.array([int(f in p.facets) for p in passages]) for f in FACETS}
    return {f: over(partial(_precision_of, shown[f], outputs[:, len(LEVELS) + k])) for k, f in enumerate(FACETS)}


def _admirable(passages: list[Passage], outputs: Floats, over: Over) -> Estimate:
    return over(partial(_precision_of, np.array([p.admirable for p in passages]), outputs[:, -1]))


def _frames(passages: list[Passage], outputs: Floats) -> tuple[Estimate, dict[str, dict[str, int]]]:
    """Accuracy on positives, and there the counts gold frame -> frame given."""
    at = len(LEVELS) + len(FACETS)
    columns = outputs[:, at : at + len(FRAMES)]
    best = np.argmax(columns, axis=1)
    guess = [NO_FRAME if np.isnan(row).any() else FRAMES[b] for row, b in zip(columns, best, strict=True)]
    shown = [(p, g) for p, g in zip(passages, guess, strict=True) if p.positive]
    right = np.array([int(p.frame == g) for p, g in shown], np.int64)
    counts = Counter((p.frame, g) for p, g in shown)
    confusion = {f: {g: counts[f, g] for g in (*FRAMES, NO_FRAME)} for f in FRAMES}
    return ratio([p.source for p, _ in shown], right, np.ones(len(shown), np.int64)), confusion
