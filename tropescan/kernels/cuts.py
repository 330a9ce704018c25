"""Where passages begin and end, and how many characters documents hold: passages.py, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from tropescan import passages
from tropescan.kernels.compiling import njit
from tropescan.schema import Bytes, Ints

_STOP, _CLOSE, _SPACE = 1, 2, 4


_KINDS = np.asarray(passages.STOP * _STOP + passages.CLOSE * _CLOSE + passages.SPACE * _SPACE, np.uint8)
_SHAPE = (passages.TARGET, passages.REACH, _KINDS)


def cuts(values: Bytes, starts: Ints, lengths: Ints, k: Ints) -> Ints:
    """passages.cuts, compiled."""
    found: Ints = _cuts(values, starts, lengths, k, _SHAPE)
    return found


def holding(values: Bytes, starts: Ints, lengths: Ints, positions: Ints) -> Ints:
    """passages.holding, compiled."""
    found: Ints = _holding(values, starts, lengths, positions, _SHAPE)
    return found


def characters(values: Bytes, starts: Ints, positions: Ints) -> Ints:
    """passages.characters, compiled."""
    found: Ints = _characters(values.view(np.int8), starts, positions)
    return found


def lengths(values: Bytes, offsets: Ints) -> Ints:
    """passages.lengths, compiled."""
    found: Ints = _lengths(values.view(np.int8), offsets)
    return found


def load(values: Bytes, offsets: Ints) -> None:
    """Runs every loop once on the first document of a string column, so that what cannot be compiled, or read from the cache, fails here."""
    start, first = offsets[[0]], np.zeros(1, np.int64)
    cuts(values, start, first, first)
    holding(values, start, first, start)
    characters(values, start, start)
    lengths(values, offsets[:2])


@njit
def _count(length: Any, target: Any) -> Any:
    return max(1, (2 * length + target) // (2 * target))


@njit
def _cut(values: Any, start: Any, length: Any, k: Any, n: Any, shape: Any) -> Any:
    """Where passage k of n begins."""
    even = start + (length * k) // n
    return even + _best(values, even, shape) if 0 < k < n else even


@njit
def _best(values: Any, centre: Any, shape: Any) -> Any:
    """The offset of the best cut round a place: the highest rank, then the nearest, then the earlier."""
    _, reach, kinds = shape
    most, best = 0, 0
    for offset in range(-reach, reach + 1):
        here = centre + offset
        b1 = values[here - 1]
        space = b1 != 0x82
        if space and not (kinds[b1] & _SPACE and not kinds[values[here]] & _SPACE):
            continue
        rank, b2 = int(space), values[here - 2]
        if space:
            kind = kinds[b2]
            if b1 == 10 and (b2 == 10 or (b2 == 13 and values[here - 3] == 10)):
                rank = 3
            elif kind & _STOP or (kind & _CLOSE and (kinds[values[here - 3]] | kinds[values[here - 5]]) & _STOP):
                rank = 2
        elif b2 == 0x80 and values[here - 3] == 0xE3:  # the ideographic full stop
            rank = 2
        merit = rank * 4 * reach - 2 * abs(offset) - int(offset > 0)
        if rank > 0 and merit > most:
            most, best = merit, offset
    if most == 0:  # nothing of the kind near: before the nearest character
        for offset in (0, -1, 1, -2, 2, -3, 3):
            if values[centre + offset] & 0xC0 != 0x80:
                return offset
    return best


@njit
def _cuts(values: Any, starts: Any, lengths: Any, k: Any, shape: Any) -> Any:
    out = np.empty(len(k), np.int64)
    for i in range(len(k)):
        out[i] = _cut(values, starts[i], lengths[i], k[i], _count(lengths[i], shape[0]), shape)
    return out


@njit
def _holding(values: Any, starts: Any, lengths: Any, positions: Any, shape: Any) -> Any:
    out = np.empty(len(positions), np.int64)
    target, reach, _ = shape
    for i in range(len(positions)):
        start, length, position = starts[i], lengths[i], positions[i]
        n = _count(length, target)
        k = min(((position - start) * n) // max(length, 1), n - 1)
        out[i] = k
        # only near an even place does it matter where the cut itself lies
        if k > 0 and position < start + (length * k) // n + reach:
            out[i] -= position < _cut(values, start, length, k, n, shape)
        if k + 1 < n and position >= start + (length * (k + 1)) // n - reach:
            out[i] += position >= _cut(values, start, length, k + 1, n, shape)
    return out


@njit
def _between(signed: Any, start: Any, end: Any) -> Any:
    """The characters in a stretch of bytes: those that continue none (0x80 to 0xBF do)."""
    stretch = signed[start:end]  # counted from its own 0: a place that might be negative is not vectorised
    characters = np.int64(0)
    for i in range(len(stretch)):
        characters += stretch[i] >= -64
    return characters


@njit
def _lengths(signed: Any, offsets: Any) -> Any:
    out = np.empty(len(offsets) - 1, np.int64)
    for row in range(len(out)):
        out[row] = _between(signed, offsets[row], offsets[row + 1])
    return out


@njit
def _characters(signed: Any, starts: Any, positions: Any) -> Any:
    out = np.empty(len(positions), np.int64)
    for i in range(len(positions)):
        on = i > 0 and starts[i] == starts[i - 1]
        out[i] = _between(signed, positions[i - 1] if on else starts[i], positions[i]) + (out[i - 1] if on else 0)
    return out
