"""Turns passages into their known words and word pairs, by hashing whole byte buffers with numpy: no Python object a word.

A word is a run of ASCII letters and digits, apostrophes inside left out, or of non-ASCII bytes; ASCII case is folded. A word's key is a
polynomial hash of its bytes modulo 2**64, a pair's key mixes those of two neighbours within the passage. A model knows some
tens of thousands of keys; they are looked up in a table of 2**19 slots and compared whole, so that an unknown word is never taken for a
known one except where all 64 bits agree.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tropescan.schema import Bytes, Floats, Ints

Keys = npt.NDArray[np.uint64]

_BLOCK = 1 << 18  # bytes hashed at a time: the work arrays stay in the cache
_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, hence invertible modulo 2**64
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SLOT_BITS = 19

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


def words(values: Bytes) -> tuple[Keys, Ints, Ints]:
    """The keys of the words in a stretch of bytes shorter than the block, with where each begins and ends."""
    folded = _FOLD[values]
    inside = folded != 0
    step = np.diff(inside.view(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(step == 1), np.flatnonzero(step == -1)
    total = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(folded.astype(np.uint64) * _UP[: len(values)], out=total[1:])
    return _mixed((total[ends] - total[starts]) * _DOWN[starts]), starts, ends


def keys(values: Bytes, offsets: Ints) -> tuple[Keys, Ints]:
    """All word and pair keys of the passages that lie at `offsets` (n + 1) in `values`, and the passage (0 to n - 1) of each key.

    Each passage must end with a byte that is in no word (`gather` puts a line end there): words are found without regard to passages.
    """
    key_parts: list[Keys] = []
    owner_parts: list[Ints] = []
    for first, last in _blocks(offsets):
        base = int(offsets[first])
        key, starts, _ = words(values[base : int(offsets[last])])
        owner = np.searchsorted(offsets[first : last + 1] - base, starts, side="right") - 1
        pair = np.flatnonzero(owner[1:] == owner[:-1])
        key_parts += [key, _mixed(key[pair] * _PAIR + key[pair + 1])]
        owner_parts += [owner + first, owner[pair] + first]
    if not key_parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    return np.concatenate(key_parts), np.concatenate(owner_parts)


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


class Lexicon:
    """The words and pairs a model knows, with their inverse document frequencies (features,) and weights (features, outputs)."""

    def __init__(self, known: Keys, idf: Floats, weights: npt.NDArray[np.float32], bias: Floats) -> None:
        self.known, self.idf, self.bias = known, idf, bias
        # values and weights lie on a binary grid, so that their sums in float64 are exact and no order of summing changes a score
        self.weights = np.round(weights.astype(np.float64) * 65536) / 65536
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

    def find(self, key: Keys) -> Ints:
        """The feature number of each key, -1 where the key is not known."""
        number = self._table[_slot(key)].astype(np.int64)
        same = self.known[number] == key
        other = np.flatnonzero(~same & self._shared[number])
        number[~same] = -1
        second = self._second[_second_slot(key[other])]
        number[other] = np.where(self.known[second] == key[other], second, -1)
        return number

    def features(self, values: Bytes, offsets: Ints) -> tuple[Ints, Ints, Floats]:
        """The known words and pairs of each passage: (passage, feature number, value), ordered by passage, value idf * (1 + ln count)."""
        key, owner = keys(values, offsets)
        number = self.find(key)
        hit = number >= 0
        cell, times = np.unique(owner[hit] * len(self.known) + number[hit], return_counts=True)
        number = cell % len(self.known)
        value = np.round(self.idf[number] * (1.0 + np.log(times)) * 1024) / 1024
        return cell // len(self.known), number, value

    def logits(self, values: Bytes, offsets: Ints) -> Floats:
        """Linear outputs (n passages, outputs) on the passages' l2-normalised TF-IDF values with logarithmic counts."""
        from scipy.sparse import csr_array  # takes 0.1 s: a shard of which nothing passes the gate does without

        n = len(offsets) - 1
        owner, number, value = self.features(values, offsets)
        norm = np.sqrt(np.bincount(owner, value**2, n))
        norm[norm == 0] = 1.0
        rows = csr_array((value, number, np.searchsorted(owner, np.arange(n + 1))), shape=(n, len(self.known)))
        return np.asarray(rows @ self.weights) / norm[:, None] + self.bias
