"""How far two readers of the same passages agree: what a detector's figures are to be held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tropescan.corpus import POSITIVE_FROM, Passage
from tropescan.evaluation.figures import Estimate, bootstrap, f1
from tropescan.schema import Ints


@dataclass(frozen=True)
class Agreement:
    """The first reader against the second; the estimates are None where fewer than two passages have two readings."""

    passages: int
    kappa_positive: Estimate | None
    quadratic_kappa_intensity: Estimate | None
    f1: Estimate | None


def kappa(first: Ints, second: Ints, levels: int, power: int = 0) -> float:
    """Cohen's kappa (1960) of two readings (n,) with values 0 to levels - 1; `power` 2 weighs a difference by its square (Cohen 1968).

    nan where chance alone would agree wholly (both readers use one and the same value throughout).
    """
    seen = np.zeros((levels, levels))
    np.add.at(seen, (first, second), 1.0 / len(first))
    chance = np.outer(seen.sum(1), seen.sum(0))
    apart = np.abs(np.subtract.outer(np.arange(levels), np.arange(levels)))
    cost = (apart > 0).astype(float) if power == 0 else apart.astype(float) ** power
    expected = float((cost * chance).sum())
    return 1.0 - float((cost * seen).sum()) / expected if expected else float("nan")


def agreement(passages: list[Passage]) -> Agreement:
    """Kappa on positive, quadratic kappa on intensity, and F1 of reader 1 against reader 2, over the passages with two or more readings."""
    read = [p for p in passages if len(p.readings) > 1]
    if len(read) < 2:
        return Agreement(len(read), None, None, None)
    first, second = (np.array([p.readings[k] for p in read], np.int64) for k in (0, 1))
    one, two = (x >= POSITIVE_FROM for x in (first, second))
    sources = [p.source for p in read]
    return Agreement(
        passages=len(read),
        kappa_positive=bootstrap(sources, lambda i: kappa(one[i].astype(int), two[i].astype(int), 2)),
        quadratic_kappa_intensity=bootstrap(sources, lambda i: kappa(first[i], second[i], 5, 2)),
        f1=bootstrap(sources, lambda i: f1(two[i].astype(int), one[i])),
    )
