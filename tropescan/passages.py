"""Cuts documents into passages with half-open spans that cover the document without gap or overlap.

A document of n bytes has max(1, round(n / TARGET)) passages. The cut between passages k - 1 and k lies within REACH bytes of
k * n / passages, at the best place there: after a blank line, else after the end of a sentence, else after white space, else
between two characters. So every cut depends on the text next to it and on the length of the document alone, any passage
can be found without cutting those before it, and only passages that hold something of interest are ever materialised.
Passages are measured in bytes because the encoder's window is: about four bytes a token in English, fewer elsewhere.
"""

from __future__ import annotations

import itertools

import numpy as np

from tropescan.schema import Bytes, Ints

TARGET = 1000
"""Mean length of a passage in bytes of UTF-8; the labelled passages are of 250 to 1,500 characters."""
REACH = 180
"""How far in bytes a cut may move from its even place; 2 * REACH < 2/3 * TARGET keeps the cuts in order."""

_STRETCH = 4 << 20
"""Bytes whose characters are counted at a time: a place for each would take eight times a document's size."""
_CHUNK = 2048  # cuts judged at a time: the work arrays stay in the cache

SPACE = np.zeros(256, bool)
SPACE[[9, 10, 11, 12, 13, 32]] = True
STOP = np.zeros(256, bool)
STOP[[ord(c) for c in ".!?:;"]] = True
CLOSE = np.zeros(256, bool)
CLOSE[[ord(c) for c in "\"')]*_"] + [0x9D, 0x99]] = True  # with the last bytes of the curly quotes

_END = STOP | CLOSE
_END[[10, 13, 0x80]] = True  # what may stand two bytes before a cut that is better than white space


def count(lengths: Ints) -> Ints:
    """The number of passages of documents of these lengths in bytes; an empty document has none."""
    return np.asarray(np.where(lengths > 0, np.maximum(1, (2 * lengths + TARGET) // (2 * TARGET)), 0), np.int64)


def cuts(values: Bytes, starts: Ints, lengths: Ints, k: Ints) -> Ints:
    """Where passage k of each document begins, as byte positions in `values`.

    `starts`, `lengths` and `k` are arrays of one shape (m,): where the document begins in `values`, its length in bytes, and the number of
    the passage, 0 <= k <= count(length); k = count gives the document's end.
    """
    n = np.maximum(count(lengths), 1)
    even = starts + (lengths * k) // n
    inner = np.flatnonzero((k > 0) & (k < n))
    for i in range(0, len(inner), _CHUNK):
        some = inner[i : i + _CHUNK]
        even[some] += _best(values, even[some])
    return even


def _best(values: Bytes, centres: Ints) -> Ints:
    """The offset in [-REACH, REACH] of the best cut round each centre: the highest rank, then the nearest, then the earlier."""
    wide = 2 * REACH + 1
    # even places are far from the document's ends; a cut lies before the byte `here`
    window = np.lib.stride_tricks.sliding_window_view(values, wide + 1)[centres - REACH - 1]
    free = (window - np.uint8(9) < 5) | (window == 32)  # white space, by comparisons: a table costs ten times as much
    # only where white space or an ideographic full stop ends can a cut be better than at any other character: some sixty in a window
    flat = np.flatnonzero((free[:, :-1] & ~free[:, 1:]) | (window[:, :-1] == 0x82))
    row = flat // wide
    offset = flat - row * wide - REACH
    here = centres[row] + offset
    b1, b2 = values[here - 1], values[here - 2]
    rank = (b1 != 0x82).astype(np.int64)
    # of white space most follows a letter; the other places need a closer look
    odd = np.flatnonzero(_END[b2])
    o1, o2, o3, o5 = b1[odd], b2[odd], values[here[odd] - 3], values[here[odd] - 5]
    space = o1 != 0x82
    sentence = space & (STOP[o2] | (CLOSE[o2] & (STOP[o3] | STOP[o5])))
    sentence |= ~space & (o2 == 0x80) & (o3 == 0xE3)  # the ideographic full stop
    blank = space & (o1 == 10) & ((o2 == 10) | ((o2 == 13) & (o3 == 10)))
    rank[odd] = np.where(blank, 3, np.where(sentence, 2, rank[odd]))
    merit = rank * (4 * REACH) - 2 * np.abs(offset) - (offset > 0)
    best = np.zeros(len(centres), np.int64)  # no cut of a rank comes to less than 1
    np.maximum.at(best, row, merit)
    out = np.zeros(len(centres), np.int64)
    first = np.flatnonzero((merit == best[row]) & (rank > 0))
    out[row[first]] = offset[first]
    for i in np.flatnonzero(best == 0).tolist():  # nothing of the kind near: before the nearest character
        out[i] = next((o for o in (0, -1, 1, -2, 2, -3, 3) if values[centres[i] + o] & 0xC0 != 0x80), 0)
    return out


def holding(values: Bytes, starts: Ints, lengths: Ints, positions: Ints) -> Ints:
    """The number of the passage that holds the byte at each position; all arrays of shape (m,), one entry a position."""
    n = np.maximum(count(lengths), 1)
    k = np.minimum(((positions - starts) * n) // np.maximum(lengths, 1), n - 1)
    # only near an even place does it matter where the cut itself lies
    early = np.flatnonzero((k > 0) & (positions < starts + (lengths * k) // n + REACH))
    late = np.flatnonzero((k + 1 < n) & (positions >= starts + (lengths * (k + 1)) // n - REACH))
    out = k.copy()
    out[early] -= positions[early] < cuts(values, starts[early], lengths[early], k[early])
    out[late] += positions[late] >= cuts(values, starts[late], lengths[late], k[late] + 1)
    return np.asarray(out, np.int64)


def lengths(values: Bytes, offsets: Ints) -> Ints:
    """How many characters (code points) each document (n,) holds: its bytes less those that continue a character."""
    out = np.diff(offsets).astype(np.int64)
    for at in range(0, len(values), _STRETCH):
        continuing = np.flatnonzero(values[at : at + _STRETCH].view(np.int8) < -64)  # 0x80 to 0xBF
        out -= np.diff(np.searchsorted(continuing, offsets - at))
    return out


def characters(values: Bytes, starts: Ints, positions: Ints) -> Ints:
    """How many characters (code points) lie between the document's start and each byte position, both arrays of shape (m,).

    Positions of one document must stand together and ascend; each stretch of bytes is then counted once, and no array as long as the
    document is made more than once.
    """
    out = np.empty(len(positions), np.int64)
    last_start, last_position, total = -1, 0, 0
    for i, (start, position) in enumerate(zip(starts.tolist(), positions.tolist(), strict=True)):
        if start != last_start:
            last_start, last_position, total = start, start, 0
        # continuation bytes 0x80-0xBF are the signed bytes below -64
        total += int(np.count_nonzero(values[last_position:position].view(np.int8) >= -64))
        last_position = position
        out[i] = total
    return out


def cut(text: str) -> list[tuple[int, int]]:
    """The passages of one document as half-open spans of characters: ''.join(text[a:b] for a, b in cut(text)) == text."""
    values = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    n = int(count(np.array([len(values)]))[0])
    k = np.arange(n + 1)
    zeros = np.zeros(n + 1, np.int64)
    edges = characters(values, zeros, cuts(values, zeros, zeros + len(values), k)).tolist() if n else []
    return list(itertools.pairwise(edges))
