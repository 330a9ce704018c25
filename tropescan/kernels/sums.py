"""From a passage's bytes to its words, their numbers in the lexicon, and the sums over them: lexicon.py and fast.py, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tropescan.kernels.compiling import njit
from tropescan.schema import Bytes, Floats, Ints

IDF, ANCHOR, FIRST = 0, 1, 2
"""What a row of the model tells of a word: its idf, whether it is an anchor, and its weights."""

_ZERO, _ONE, _33, _29 = np.uint64(0), np.uint64(1), np.uint64(33), np.uint64(29)


def sums(
    values: Bytes,
    starts: Ints,
    ends: Ints,
    words: tuple[Any, ...],
    slots: npt.NDArray[np.uint64],
    model: tuple[Any, ...],
) -> Floats:
    """The linear model's outputs (n, outputs) of the passages at these byte spans of `values`.

    `words` tells words from bytes (lexicon.spelling), `slots` finds their numbers (`table`), `model` is made by fast.FastTier.compile.
    """
    longest = int((ends - starts).max(initial=0)) // 2 + 1
    times = np.append(
        0.0, 1.0 + np.log(np.arange(1, longest + 1))
    )  # numpy's logarithm: another's may differ in the last bit
    linear: Floats = _sums(values, starts, ends, words, slots, model, times)
    return linear


def table(known: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Where keys (k,) lie with their numbers from 1, 0 for an empty slot: (slots, 2), a third full at most, searched from a key's last bits on."""
    slots = np.zeros((1 << (3 * len(known) + 1).bit_length(), 2), np.uint64)
    _place(known, slots)
    return slots


@njit
def _place(known: Any, slots: Any) -> Any:
    mask = np.uint64(len(slots) - 1)
    for number in range(len(known)):
        at = known[number] & mask
        while slots[at, 1] != _ZERO:
            at = (at + _ONE) & mask
        slots[at, 0], slots[at, 1] = known[number], np.uint64(number + 1)


@njit
def _mixed(h: Any, mix: Any) -> Any:
    h = (h ^ (h >> _33)) * mix
    return h ^ (h >> _29)


@njit
def _find(key: Any, slots: Any) -> Any:
    mask = np.uint64(len(slots) - 1)
    at = key & mask
    while slots[at, 1] != _ZERO:
        if slots[at, 0] == key:
            return np.int32(slots[at, 1]) - np.int32(1)
        at = (at + _ONE) & mask
    return np.int32(-1)


@njit
def _read(text: Any, words: Any, key: Any, prefix: Any) -> Any:
    """The keys of a passage's words and of their first bytes; returns how many words there are."""
    fold, prime, mix, length, _, _ = words
    found, i, n = 0, 0, len(text)
    while i < n:
        h, head, power, size = _ZERO, _ZERO, _ONE, 0
        while i < n:
            byte = text[i]
            if byte == 0xC2:  # curly quotes and the like, as lexicon._marks has them
                i += 1
                break
            if byte == 0xE2 and i + 2 < n and (text[i + 1] & 0xFE) == 0x80:
                i += 2
                break
            folded = fold[byte]
            if folded == 0:
                break
            h += np.uint64(folded) * power
            power *= prime
            i += 1
            size += 1
            if size <= length:
                head = h
        i += 1
        if size:
            key[found], prefix[found] = _mixed(h, mix), head
            found += 1
    return found


@njit
def _look(found: Any, key: Any, slots: Any, rows: Any, number: Any, anchors: Any) -> Any:
    """The numbers of a passage's words, and which of them are anchors; returns how many are. All at once: the processor then waits for many together."""
    for w in range(found):
        number[w] = _find(key[w], slots)
    marks = 0
    for w in range(found):
        if number[w] >= 0 and rows[number[w], ANCHOR] > 0:
            anchors[marks] = w
            marks += 1
    return marks


@njit
def _count(number: Any, count: Any, distinct: Any, kinds: Any) -> Any:
    """Counts a number; `distinct` lists those that were met, `kinds` many."""
    if number < 0:
        return kinds
    if count[number] == 0:
        distinct[kinds] = number
        kinds += 1
    count[number] += 1
    return kinds


@njit
def _features(
    found: Any, number: Any, prefix: Any, near: Any, words: Any, slots: Any, count: Any, distinct: Any
) -> Any:
    """Counts the words of a passage and its mentions; returns how many different ones there are."""
    _, _, mix, _, marks, _ = words
    kinds = 0
    for w in range(found):
        kinds = _count(number[w], count, distinct, kinds)
    for level in range(len(marks)):
        for w in range(found):
            if near[w] > level:
                kinds = _count(_find(_mixed(prefix[w] * marks[level], mix), slots), count, distinct, kinds)
    return kinds


@njit
def _weigh(kinds: Any, count: Any, distinct: Any, model: Any, times: Any, total: Any) -> Any:
    """The sums of a passage's TF-IDF values by their weights, l2-normalised; leaves `count` empty."""
    rows, bias = model
    total[:] = 0.0
    square = 0.0
    for t in range(kinds):
        number = distinct[t]
        value = np.rint(np.float64(rows[number, IDF]) * times[count[number]] * 1024.0) / 1024.0
        count[number] = 0
        square += value * value
        for o in range(len(bias)):
            total[o] += value * rows[number, FIRST + o]
    norm = np.sqrt(square) if square > 0 else 1.0
    for o in range(len(bias)):
        total[o] = total[o] / norm + bias[o]


@njit
def _sums(values: Any, starts: Any, ends: Any, words: Any, slots: Any, model: Any, times: Any) -> Any:
    (rows, bias), reach, longest = model, words[5], len(times)
    key, prefix = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    number, anchors = np.empty(longest, np.int32), np.empty(longest, np.int32)
    near, distinct = np.empty(longest, np.int8), np.empty(3 * longest, np.int32)
    count, linear = np.zeros(len(rows), np.int32), np.empty((len(starts), len(bias)))
    for p in range(len(starts)):
        found = _read(values[starts[p] : ends[p]], words, key, prefix)
        marks = _look(found, key, slots, rows, number, anchors)
        near[:found] = 0
        for level in range(len(reach)):
            for m in range(marks):
                at = anchors[m]
                near[max(0, at - reach[level, 0]) : min(found, at + reach[level, 1] + 1)] = level + 1
        kinds = _features(found, number, prefix, near, words, slots, count, distinct)
        _weigh(kinds, count, distinct, model, times, linear[p])
    return linear
