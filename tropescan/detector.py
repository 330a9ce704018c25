"""Turns the tiers' linear outputs into calibrated probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tropescan.schema import DECIMALS, FACETS, FRAMES, Floats

LEVELS = ("intensity>=1", "intensity>=2", "intensity>=3", "intensity>=4")
OUTPUTS = (*LEVELS, *FACETS, *[f"frame={f}" for f in FRAMES], "admirable")
"""The linear outputs of a tier, in this order: four ordinal levels, six facets, six frames, admirable."""

POSITIVE = LEVELS.index("intensity>=3")
_FACET = slice(len(LEVELS), len(LEVELS) + len(FACETS))
_FRAME = slice(len(LEVELS) + len(FACETS), len(LEVELS) + len(FACETS) + len(FRAMES))


def sigmoid(z: Floats) -> Floats:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)))


def probabilities(logits: Floats) -> Floats:
    """The outputs (n, outputs) as probabilities: each by itself, but the frames together, for a passage has one."""
    out = sigmoid(logits)
    frames = np.exp(logits[:, _FRAME] - logits[:, _FRAME].max(axis=1, keepdims=True))
    out[:, _FRAME] = frames / frames.sum(axis=1, keepdims=True)
    return out


@dataclass(frozen=True)
class Heads:
    """Linear outputs over an embedding, in float64: `weights` (dimensions, outputs), `bias` (outputs,)."""

    weights: Floats
    bias: Floats

    def logits(self, vectors: Floats) -> Floats:
        """(n, dimensions) -> (n, outputs). Rows are multiplied one by one: a matrix product's rounding depends on the batch."""
        return np.array([v @ self.weights for v in vectors]).reshape(len(vectors), len(self.bias)) + self.bias


@dataclass(frozen=True)
class Calibration:
    """Platt scaling (Platt 1999) of several logits at once, fitted on out-of-source predictions: P(intensity >= 3) is the logistic function of
    `shift` and the weighted logits of the outputs named in `fast` and in `encoder`."""

    fast: dict[str, float]
    encoder: dict[str, float]
    shift: float

    def score(self, fast: Floats, encoder: Floats | None = None) -> Floats:
        """The calibrated probability (n,) from the logits (n, outputs) of the tiers that ran, rounded to DECIMALS."""
        z = np.full(len(fast), self.shift)
        for weights, logits in ((self.fast, fast), (self.encoder, encoder)):
            if logits is None:
                continue
            for name in sorted(weights, key=OUTPUTS.index):
                # column by column: a matrix product's rounding depends on the batch
                z = z + weights[name] * logits[:, OUTPUTS.index(name)]
        return np.round(sigmoid(z), DECIMALS)


def judgement(logits: Floats, score: Floats) -> dict[str, Floats | list[str]]:
    """The other columns that go with a calibrated score: expected intensity (0 to 4), admirable, the facets, and the likeliest frame.

    `logits` is (n, outputs), `score` (n,). The ordinal levels are made consistent with the score: P(>=1) >= P(>=2) >= score >= P(>=4).
    Facets and admirable are probabilities of the passage as a whole; they are not calibrated at the base rate of a corpus.
    """
    levels = sigmoid(logits[:, : len(LEVELS)])
    two = np.maximum(levels[:, 1], score)
    one = np.maximum(levels[:, 0], two)
    four = np.minimum(levels[:, 3], score)
    out: dict[str, Floats | list[str]] = {
        "intensity": np.round(one + two + score + four, DECIMALS),
        "admirable": np.round(sigmoid(logits[:, -1]), DECIMALS),
        "frame": [FRAMES[i] for i in np.argmax(logits[:, _FRAME], axis=1)],
    }
    for name, column in zip(FACETS, sigmoid(logits[:, _FACET]).T, strict=True):
        out[name] = np.round(column, DECIMALS)
    return out
