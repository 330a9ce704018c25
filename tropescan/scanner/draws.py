"""Which documents, and which refused passages, an audit draws: by hashes of their own bytes, so that no batch, worker or order changes the draw."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tropescan.lexicon import gather
from tropescan.passages import count
from tropescan.schema import Bytes, Floats, Ints

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def documents(values: Bytes, offsets: Ints, audit: float) -> tuple[Ints, Ints, Floats]:
    """One passage each of the documents whose hash falls under the share `audit`: row, number of the passage, and the passages it stands for."""
    lengths = np.diff(offsets)
    hashes = _hash(values, offsets)
    row = np.flatnonzero((_share(hashes) < audit) & (lengths > 0))
    n = count(lengths[row])
    number = (_mixed(hashes[row]) % np.maximum(n, 1).astype(np.uint64)).astype(np.int64)
    return row, number, n / max(audit, 1e-300)


def shares(values: Bytes, starts: Ints, ends: Ints) -> Floats:
    """A number (n,) in [0, 1) for each of the passages at these byte spans: one below the audit share is drawn."""
    return _share(_mixed(_hash(*gather(values, starts, ends))))


def _share(hashes: npt.NDArray[np.uint64]) -> Floats:
    return np.asarray((hashes >> np.uint64(11)).astype(np.float64) / 2.0**53)


def _mixed(h: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    h = (h ^ (h >> np.uint64(30))) * _MIX[0]
    h = (h ^ (h >> np.uint64(27))) * _MIX[1]
    return np.asarray(h ^ (h >> np.uint64(31)))


def _hash(values: Bytes, offsets: Ints) -> npt.NDArray[np.uint64]:
    """A hash (uint64) of each document's length and of 8 bytes each at its beginning, middle and end: cheap, and no function of its place."""
    begin, n = offsets[:-1], np.diff(offsets)
    h = _mixed(n.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    if not len(values):
        return h
    for at in (np.zeros_like(n), n // 2, n - 8):
        column = np.clip(at[:, None] + np.arange(8), 0, np.maximum(n - 1, 0)[:, None])
        eight = values[np.minimum(begin[:, None] + column, len(values) - 1)]
        eight[n == 0] = 0
        h = _mixed(h ^ np.ascontiguousarray(eight).view(np.uint64)[:, 0])
    return h
