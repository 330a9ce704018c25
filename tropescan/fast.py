"""The fast tier: a linear model on a passage's words and what stands near its machines, and a small network on the words' vectors.

All values lie on binary grids, so that sums and products are exact in floating point and no order of summing, hence no batch, changes a score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from tropescan.lexicon import Known, Lexicon, gather, spelling
from tropescan.schema import Bytes, Floats, Ints

IDF_GRID = 16  # inverse document frequencies times this are whole numbers in the sums of vectors
IDF_MOST = 190  # of those: 680 words, as many as a passage may have, of vectors up to 127 sum to less than 2**24
_BLOCK = 256  # passages that go through the network at a time: the work arrays stay in the cache


class FastTier:
    """Logits of passages, the mean of those of two models, from the arrays of fast.safetensors (made by fastfit.fit_fast):

    keys (k,) and anchors (a,) of the lexicon; idf (k,), weights (k, outputs), bias (outputs,) of the linear model on l2-normalised TF-IDF values
    with logarithmic counts; vectors (v, dimensions) int8, the place (k,) of a word's vector among them (-1: none), and hidden
    (3 * dimensions, h), hidden_bias (h,), out (h, outputs), out_bias (outputs,) of the network on their normalised idf-weighted sums over all
    words, those near an anchor and those next to one.
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        _require_fitting(arrays)
        self._lexicon = Lexicon(arrays["keys"], arrays["anchors"])
        self._idf = arrays["idf"].astype(np.float32).astype(np.float64)
        self._linear = Dense(arrays["weights"], arrays["bias"])
        self._share = np.minimum(np.round(self._idf * IDF_GRID), IDF_MOST).astype(np.float32)
        self._bytes = arrays["vectors"].astype(np.int8)
        self._vectors = self._bytes.astype(np.float32)
        self._place = np.append(arrays["place"].astype(np.int64), -1)  # the last is for unknown words
        self._hidden = Dense(arrays["hidden"], arrays["hidden_bias"])
        self._out = Dense(arrays["out"], arrays["out_bias"])
        self._blas = ThreadpoolController()
        self._sums: Callable[[Bytes, Ints, Ints], tuple[Floats, Floats]] = self._slowly

    def logits(self, values: Bytes, starts: Ints, ends: Ints) -> Floats:
        """The outputs (n, outputs) of the passages at these byte spans of `values`."""
        linear, pooled = self._sums(values, starts, ends)
        return np.asarray(0.5 * (linear + self.network(pooled)))

    def compile(self, values: Bytes) -> None:
        """Has the sums made by compiled loops from now on; the outputs stay the same. Raises what Numba raises where it cannot make them (of bytes like
        `values`), or ImportError where there is none: the sums stay as they were then."""
        # takes 0.2 s, and as much at its first call; some seconds where nothing is compiled yet
        from tropescan import kernels

        words, slots = spelling(), kernels.table(self._lexicon.known)
        told = self._idf, self._share, self._place[:-1], self._lexicon.anchor[:-1]
        # all that is told of a word in one row of the memory; single precision holds each value as it is
        rows = np.concatenate([np.stack(told, axis=1), self._linear.weights], axis=1).astype(np.float32)
        model = (rows, self._linear.bias, self._bytes)

        def sums(values: Bytes, starts: Ints, ends: Ints) -> tuple[Floats, Floats]:
            return kernels.sums(values, starts, ends, words, slots, model)

        sums(values, np.zeros(1, np.int64), np.zeros(1, np.int64))
        self._sums = sums

    def _slowly(self, values: Bytes, starts: Ints, ends: Ints) -> tuple[Floats, Floats]:
        known = self._lexicon.read(*gather(values, starts, ends))
        return self.linear(known), self.pooled(known)

    def linear(self, known: Known) -> Floats:
        """The linear model's outputs (n, outputs)."""
        owner, number, value = features(known, self._idf)
        norm = np.sqrt(np.bincount(owner, value**2, known.n))
        norm[norm == 0] = 1.0
        sums = _sums(known.n, owner, number, value, self._linear.weights)
        return np.asarray(sums / norm[:, None] + self._linear.bias)

    def pooled(self, known: Known) -> Floats:
        """The network's input (n, 3 * dimensions)."""
        place = self._place[known.number]
        sums: Floats = np.zeros((known.n, self._vectors.shape[1]))
        parts: list[Floats] = []
        for level in (2, 1, 0):  # what is next to an anchor is near it, too: every word is summed once
            some = np.flatnonzero((place >= 0) & (known.near == level))
            share = self._share[known.number[some]]
            sums = sums + _sums(known.n, known.owner[some], place[some], share, self._vectors).astype(np.float64)
            whole = sums.astype(np.int64)  # as floating point, squares of large sums would not be exact
            norm = np.sqrt((whole * whole).sum(axis=1).astype(np.float64))
            norm[norm == 0] = 1.0
            parts.insert(0, _grid(sums / norm[:, None] * np.sqrt(sums.shape[1]), 1024))
        return np.concatenate(parts, axis=1)

    def network(self, pooled: Floats) -> Floats:
        """The network's outputs (n, outputs)."""
        outputs = []
        # hosts have a process a core: more threads than cores halve the speed
        with self._blas.limit(limits=1, user_api="blas"):
            for i in range(0, len(pooled), _BLOCK):
                hidden = np.maximum(self._hidden.of(pooled[i : i + _BLOCK]), 0.0)
                outputs.append(self._out.of(_grid(hidden, 1024)))
        return np.concatenate(outputs) if outputs else np.zeros((0, len(self._out.bias)))


def _require_fitting(arrays: dict[str, Any]) -> None:
    """Compiled loops look up without asking whether what they look for is there. Raises KeyError, ValueError."""
    (words, outputs), (vectors, dimensions), hidden = (arrays[n].shape for n in ("weights", "vectors", "hidden_bias"))
    wanted = {
        **{name: (words,) for name in ("keys", "idf", "place")},
        **{name: (outputs,) for name in ("bias", "out_bias")},
        "hidden": (3 * dimensions, *hidden),
        "out": (*hidden, outputs),
    }
    wrong = [name for name, shape in wanted.items() if arrays[name].shape != shape]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}, which other shapes belie")
    if ((arrays["place"] < -1) | (arrays["place"] >= vectors)).any():
        raise ValueError("place, which names vectors that are not there")


class Dense:
    """Weights (inputs, outputs) and bias (outputs,) on a binary grid: products with inputs on one are exact."""

    def __init__(self, weights: Any, bias: Any) -> None:
        self.weights, self.bias = _grid(weights.astype(np.float64), 65536), _grid(bias.astype(np.float64), 65536)

    def of(self, inputs: Floats) -> Floats:
        """(n, inputs) -> (n, outputs)."""
        return inputs @ self.weights + self.bias


def features(known: Known, idf: Floats) -> tuple[Ints, Ints, Floats]:
    """The known words and mentions of each passage: (passage, number, value), ordered by passage, value idf * (1 + ln count)."""
    owner, number = np.concatenate([known.owner, known.mention_owner]), np.concatenate([known.number, known.mention])
    hit = number >= 0
    cell, times = np.unique(owner[hit] * len(idf) + number[hit], return_counts=True)
    number = cell % len(idf)
    return cell // len(idf), number, _grid(idf[number] * (1.0 + np.log(times)), 1024)


def _grid(values: Floats, steps: int) -> Floats:
    return np.asarray(np.round(values * steps) / steps)


def _sums(n: int, owner: Ints, number: Ints, value: Any, rows: Any) -> Any:
    """The sums (n, width) of value * rows[number] by owner, who ascends."""
    from scipy.sparse import csr_array  # takes 0.1 s: a shard of which nothing passes the gate does without

    return csr_array((value, number, np.searchsorted(owner, np.arange(n + 1))), shape=(n, len(rows))) @ rows
