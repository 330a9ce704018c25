"""Who the mistakes fall on: error rates at one threshold by register, by gold frame and by source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tropescan.corpus import Passage
from tropescan.evaluation.figures import Estimate, ratio
from tropescan.schema import Ints

LARGEST = 15
"""Sources told one by one; the rest are summed."""


@dataclass(frozen=True)
class Errors:
    """Counts at the default threshold; rates are of the negatives (false positives) and of the positives (false negatives)."""

    passages: int
    positives: int
    flagged: int
    false_positives: int
    false_negatives: int
    false_positive_rate: Estimate
    false_negative_rate: Estimate


def errors_by_group(passages: list[Passage], positive: Ints, flagged: np.ndarray) -> dict[str, dict[str, Errors]]:
    """The errors of these verdicts (n,) in all, by register, by gold frame and by source (the LARGEST, then the rest as one)."""
    large = [s for s, _ in sorted(Counter(p.source for p in passages).items(), key=lambda x: (-x[1], x[0]))[:LARGEST]]
    rest = f"other sources ({len({p.source for p in passages}) - len(large)})"
    groups = {
        "all": ["all"] * len(passages),
        "register": [p.register for p in passages],
        "frame": [p.frame for p in passages],
        "source": [p.source if p.source in large else rest for p in passages],
    }
    found: dict[str, dict[str, Errors]] = {}
    for by, names in groups.items():
        order = sorted(set(names)) if by != "source" else [n for n in (*large, rest) if n in names]
        found[by] = {name: _error(passages, positive, flagged, np.array([n == name for n in names])) for name in order}
    return found


def _error(passages: list[Passage], positive: Ints, flagged: np.ndarray, inside: np.ndarray) -> Errors:
    right, given = positive[inside], flagged[inside].astype(np.int64)
    sources = [passages[i].source for i in np.flatnonzero(inside)]
    false_positive, false_negative = given * (1 - right), (1 - given) * right
    return Errors(
        passages=len(right),
        positives=int(right.sum()),
        flagged=int(given.sum()),
        false_positives=int(false_positive.sum()),
        false_negatives=int(false_negative.sum()),
        false_positive_rate=ratio(sources, false_positive, 1 - right),
        false_negative_rate=ratio(sources, false_negative, right),
    )
