"""Detector and baselines by the same few figures, each at a threshold that its own passages did not choose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from tropescan.baselines.fitted import split
from tropescan.corpus import Passage
from tropescan.evaluation import Estimate, average_precision, best_threshold, bootstrap, f1
from tropescan.evaluation.measuring import recalls
from tropescan.schema import Floats


@dataclass(frozen=True)
class Comparison:
    """`f1_other_folds` flags each fold at the threshold that was best on the others; a verdict of 0 or 1 is taken as it is."""

    average_precision: Estimate
    f1_other_folds: Estimate
    f1_half: Estimate
    recall_at_precision: dict[str, Estimate]


def compare(passages: list[Passage], score: Floats, fixed: bool = False) -> Comparison:
    """The figures of these scores (n,) with intervals over sources; `fixed` where they are verdicts."""
    positive = np.array([int(p.positive) for p in passages])
    sources = [p.source for p in passages]
    over = partial(bootstrap, sources)
    fold = split(sources)
    flagged = score >= 0.5
    if not fixed:
        flagged = flagged.copy()
        for f in range(int(fold.max()) + 1):
            # nan (no positive elsewhere) flags nothing
            flagged[fold == f] = score[fold == f] >= best_threshold(positive[fold != f], score[fold != f])
    return Comparison(
        average_precision=over(lambda i: average_precision(positive[i], score[i])),
        f1_other_folds=over(lambda i: f1(positive[i], flagged[i])),
        f1_half=over(lambda i: f1(positive[i], score[i] >= 0.5)),
        recall_at_precision=recalls(positive, score, over),
    )
