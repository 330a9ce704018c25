"""The fast tier: a linear model on a passage's words and what stands near its machines.

All values lie on binary grids, so that sums and products are exact in floating point and no order of summing, hence no batch, changes a score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tropescan.lexicon import Known, Lexicon, gather, spelling
from tropescan.schema import Bytes, Floats, Ints


class FastTier:
    """Logits of passages from the arrays of fast.safetensors (made by fastfit.fit_fast):

    keys (k,) and anchors (a,) of the lexicon; idf (k,), weights (k, outputs), bias (outputs,) of the linear model on l2-normalised TF-IDF values
    with logarithmic counts.
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        _require_fitting(arrays)
        self._lexicon = Lexicon(arrays["keys"], arrays["anchors"])
        self._idf = arrays["idf"].astype(np.float32).astype(np.float64)
        self._weights, self._bias = (_grid(arrays[name].astype(np.float64), 65536) for name in ("weights", "bias"))
        self._sums: Callable[[Bytes, Ints, Ints], Floats] = self._slowly

    def logits(self, values: Bytes, starts: Ints, ends: Ints) -> Floats:
        """The outputs (n, outputs) of the passages at these byte spans of `values`."""
        return self._sums(values, starts, ends)

    def compile(self, values: Bytes) -> None:
        """Has the sums made by compiled loops from now on; the outputs stay the same. Raises what Numba raises where it cannot make them (of bytes like
        `values`), or ImportError where there is none: the sums stay as they were then."""
        # takes 0.2 s, and as much at its first call; some seconds where nothing is compiled yet
        from tropescan import kernels

        words, slots = spelling(), kernels.table(self._lexicon.known)
        told = np.stack([self._idf, self._lexicon.anchor[:-1]], axis=1)
        # all that is told of a word in one row of the memory; single precision holds each value as it is
        model = (np.concatenate([told, self._weights], axis=1).astype(np.float32), self._bias)

        def sums(values: Bytes, starts: Ints, ends: Ints) -> Floats:
            return kernels.sums(values, starts, ends, words, slots, model)

        sums(values, np.zeros(1, np.int64), np.zeros(1, np.int64))
        self._sums = sums

    def _slowly(self, values: Bytes, starts: Ints, ends: Ints) -> Floats:
        from scipy.sparse import csr_array  # takes 0.1 s: a shard of which nothing passes the gate does without

        known = self._lexicon.read(*gather(values, starts, ends))
        owner, number, value = features(known, self._idf)
        norm = np.sqrt(np.bincount(owner, value**2, known.n))
        norm[norm == 0] = 1.0
        rows = np.searchsorted(owner, np.arange(known.n + 1))
        sums = csr_array((value, number, rows), shape=(known.n, len(self._idf))) @ self._weights
        return np.asarray(sums / norm[:, None] + self._bias)


def _require_fitting(arrays: dict[str, Any]) -> None:
    """Compiled loops look up without asking whether what they look for is there. Raises KeyError, ValueError."""
    words, outputs = arrays["weights"].shape
    wanted = {"keys": (words,), "idf": (words,), "bias": (outputs,)}
    wrong = [name for name, shape in wanted.items() if arrays[name].shape != shape]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}, which other shapes belie")


def features(known: Known, idf: Floats) -> tuple[Ints, Ints, Floats]:
    """The known words and mentions of each passage: (passage, number, value), ordered by passage, value idf * (1 + ln count)."""
    owner, number = np.concatenate([known.owner, known.mention_owner]), np.concatenate([known.number, known.mention])
    hit = number >= 0
    cell, times = np.unique(owner[hit] * len(idf) + number[hit], return_counts=True)
    number = cell % len(idf)
    return cell // len(idf), number, _grid(idf[number] * (1.0 + np.log(times)), 1024)


def _grid(values: Floats, steps: int) -> Floats:
    return np.asarray(np.round(values * steps) / steps)
