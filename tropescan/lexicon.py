"""Turns passages into their known words by hashing whole byte buffers with numpy: no Python object a word.

A word is a run of letters, digits and whatever is not ASCII, but for curly quotes, dashes and the like; ASCII case is folded. A word's key is a
polynomial hash of its bytes modulo 2**64. What stands near an anchor (a word that names a machine: "robot", "AI") counts once more, by its first
PREFIX bytes, for there a passage says what its machine does: the key of such a mention mixes those bytes with how near it is. A model knows some
tens of thousands of keys; they are looked up in a table of 2**19 slots and compared whole, so that an unknown word is never taken for a known
one except where all 64 bits agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tropescan.schema import Bytes, Ints

Keys = npt.NDArray[np.uint64]

_BLOCK = 1 << 18  # bytes hashed at a time: the work arrays stay in the cache
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, hence invertible modulo 2**64
_NEAR = (
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
)  # mixed into the key of a mention, by how near it is
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SLOT_BITS = 19

PREFIX = 5
REACH = ((10, 25), (2, 7))
"""How many words before and after an anchor are near it, and how many are next to it (chosen out of source, reports/log.md)."""

_FOLD = np.zeros(256, np.uint8)
_FOLD[128:] = np.arange(128, 256)
for _c in range(128):
    if chr(_c).isalnum():
        _FOLD[_c] = ord(chr(_c).lower())


def _powers() -> tuple[Keys, Keys]:
    inverse = np.uint64(pow(int(_PRIME), -1, 1 << 64))
    ups = np.full(_BLOCK, _PRIME, np.uint64)
    downs = np.full(_BLOCK, inverse, np.uint64)
    ups[0] = downs[0] = 1
    return np.cumprod(ups, dtype=np.uint64), np.cumprod(downs, dtype=np.uint64)


_UP, _DOWN = _powers()


def _mixed(h: Keys) -> Keys:
    h = (h ^ (h >> np.uint64(33))) * _MIX
    return h ^ (h >> np.uint64(29))


@dataclass(frozen=True)
class Words:
    """The words (w,) of passages in their order: key, key of the first PREFIX bytes, and the passage (0 to n - 1) of each."""

    key: Keys
    prefix: Keys
    owner: Ints


def _marks(values: Bytes) -> list[Ints]:
    """Where the bytes lie of U+0080 to U+00BF and U+2000 to U+207F: curly quotes, dashes and the like, which are of no word."""
    two, three = np.flatnonzero(values == 0xC2), np.flatnonzero(values == 0xE2)
    two, three = two[two + 1 < len(values)], three[three + 2 < len(values)]
    three = three[(values[three + 1] & 0xFE) == 0x80]
    return [two, two + 1, three, three + 1, three + 2]


def words(values: Bytes) -> tuple[Keys, Keys, Ints]:
    """The words in a stretch of bytes shorter than the block: their keys, those of their first PREFIX bytes, and where each begins."""
    folded = _FOLD[values]
    for at in _marks(values):
        folded[at] = 0
    inside = folded != 0
    step = np.diff(inside.view(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(step == 1), np.flatnonzero(step == -1)
    total = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(folded.astype(np.uint64) * _UP[: len(values)], out=total[1:])
    before, down = total[starts], _DOWN[starts]
    return _mixed((total[ends] - before) * down), (total[np.minimum(ends, starts + PREFIX)] - before) * down, starts


def keys(values: Bytes, offsets: Ints) -> Words:
    """The words of the passages that lie at `offsets` (n + 1) in `values`.

    Each passage must end with a byte that is in no word (`gather` puts a line end there): words are found without regard to passages.
    """
    parts: list[tuple[Keys, Keys, Ints]] = []
    for first, last in _blocks(offsets):
        base = int(offsets[first])
        key, prefix, starts = words(values[base : int(offsets[last])])
        owner = np.searchsorted(offsets[first : last + 1] - base, starts, side="right") - 1
        parts.append((key, prefix, owner + first))
    if not parts:
        return Words(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))
    return Words(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def nearness(owner: Ints, anchor: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """How near an anchor of its own passage each word (w,) stands: 0 not, 1 near, 2 next to it; an anchor is next to itself."""
    near = np.zeros(len(owner), np.int8)
    at = np.flatnonzero(anchor)
    if not len(at):
        return near
    here = np.arange(len(owner))
    following = at[np.minimum(np.searchsorted(at, here), len(at) - 1)]
    preceding = at[np.maximum(np.searchsorted(at, here, side="right") - 1, 0)]
    for level, (before, after) in enumerate(REACH, 1):
        for found, gap, most in ((following, following - here, before), (preceding, here - preceding, after)):
            near[(gap >= 0) & (gap <= most) & (owner[found] == owner)] = level
    return near


def mentions(words: Words, near: npt.NDArray[np.int8]) -> tuple[Keys, Ints]:
    """The keys of what stands near anchors, and the passage of each; what is next to one is near it, too."""
    key, owner = [], []
    for level, mark in enumerate(_NEAR, 1):
        inside = np.flatnonzero(near >= level)
        key.append(_mixed(words.prefix[inside] * mark))
        owner.append(words.owner[inside])
    return np.concatenate(key), np.concatenate(owner)


def gather(values: Bytes, starts: Ints, ends: Ints) -> tuple[Bytes, Ints]:
    """The passages at these byte spans of `values`, each followed by a line end, in one buffer with its n + 1 offsets."""
    offsets = np.concatenate([[0], np.cumsum(ends - starts + 1)])
    out = np.full(int(offsets[-1]), 10, np.uint8)
    for at, start, end in zip(offsets.tolist(), starts.tolist(), ends.tolist(), strict=False):
        out[at : at + end - start] = values[start:end]
    return out, offsets


def _blocks(offsets: Ints) -> list[tuple[int, int]]:
    """Runs of whole passages of less than a block together. A passage is far shorter than a block; its words never cross its ends."""
    runs, first = [], 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="left")) - 1)
        runs.append((first, last))
        first = last
    return runs


def _slot(key: Keys) -> Keys:
    return key >> np.uint64(64 - _SLOT_BITS)


def _second_slot(key: Keys) -> Keys:
    return key & np.uint64((1 << _SLOT_BITS) - 1)


def placeable(known: Keys) -> npt.NDArray[np.bool_]:
    """Which of these keys a Lexicon can hold: those that share a slot must differ in their second slot (a handful in 50,000 do not)."""
    _, owner = np.unique(_slot(known)[::-1], return_index=True)
    first = np.zeros(len(known), bool)
    first[len(known) - 1 - owner] = True
    rest = np.flatnonzero(~first)
    _, keep = np.unique(_second_slot(known[rest]), return_index=True)
    first[rest[keep]] = True
    return first


def spelling() -> tuple[Any, ...]:
    """How words are told from bytes, for kernels.sums."""
    return _FOLD, _PRIME, _MIX, PREFIX, np.array(_NEAR), np.array(REACH)


class Lexicon:
    """The keys a model knows, and which of them are anchors."""

    def __init__(self, known: Keys, anchors: Keys) -> None:
        self.known = known
        self._table = np.full(1 << _SLOT_BITS, -1, np.int32)
        self._second = np.full(1 << _SLOT_BITS, -1, np.int32)
        number = np.arange(len(known), dtype=np.int32)
        self._table[_slot(known)] = number
        shadowed = self._table[_slot(known)] != number
        self._second[_second_slot(known[shadowed])] = number[shadowed]
        self._shared = np.zeros(len(known) + 1, bool)  # the last is for an empty slot
        self._shared[self._table[_slot(known[shadowed])]] = True
        if (self.find(known) != number).any():
            raise ValueError("two of the lexicon's keys share both their slots: keep those that placeable() admits")
        self.anchor = np.zeros(len(known) + 1, bool)  # the last is for unknown words
        self.anchor[self.find(anchors)] = True
        self.anchor[-1] = False

    def find(self, key: Keys) -> Ints:
        """The number of each key, -1 where it is not known."""
        number = self._table[_slot(key)].astype(np.int64)
        same = self.known[number] == key
        other = np.flatnonzero(~same & self._shared[number])
        number[~same] = -1
        second = self._second[_second_slot(key[other])]
        number[other] = np.where(self.known[second] == key[other], second, -1)
        return number

    def read(self, values: Bytes, offsets: Ints) -> Known:
        """What is known of the passages that lie at `offsets` (n + 1) in `values`, as `gather` gives them."""
        found = keys(values, offsets)
        number = self.find(found.key)
        near = nearness(found.owner, self.anchor[number])
        mention, owner = mentions(found, near)
        return Known(len(offsets) - 1, found.owner, number, near, owner, self.find(mention))


@dataclass(frozen=True)
class Known:
    """The words (w,) of `n` passages with their numbers in a lexicon (-1: unknown) and nearness, and the mentions near anchors (m,) with theirs."""

    n: int
    owner: Ints
    number: Ints
    near: npt.NDArray[np.int8]
    mention_owner: Ints
    mention: Ints
