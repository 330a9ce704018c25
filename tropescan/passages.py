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

_CHUNK = 2048  # cuts judged at a time: the work arrays stay in the cache

_SPACE = np.zeros(256, bool)
_SPACE[[9, 10, 11, 12, 13, 32]] = True
_STOP = np.zeros(256, bool)
_STOP[[ord(c) for c in ".!?:;"]] = True
_CLOSE = np.zeros(256, bool)
_CLOSE[[ord(c) for c in "\"')]*_"] + [0x9D, 0x99]] = True  # with the last bytes of the curly quotes


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
    near = np.arange(-REACH, REACH + 1)
    # even places are far from the document's ends; a cut lies before the byte `here`, b1 to b5 are the bytes before it
    window = np.lib.stride_tricks.sliding_window_view(values, len(near) + 5)[centres - REACH - 5]
    here, b1, b2, b3, b5 = (window[:, 5 - back : window.shape[1] - back] for back in (0, 1, 2, 3, 5))
    word = ~_SPACE[here]
    space = word & _SPACE[b1]
    sentence = space & (_STOP[b2] | (_CLOSE[b2] & (_STOP[b3] | _STOP[b5])))
    sentence |= (b1 == 0x82) & (b2 == 0x80) & (b3 == 0xE3)  # the ideographic full stop
    blank = word & (b1 == 10) & ((b2 == 10) | ((b2 == 13) & (b3 == 10)))
    inside = (here & 0xC0) == 0x80  # within a character
    rank = np.maximum(
        space.view(np.int8), np.maximum(2 * sentence.view(np.int8), 3 * blank.view(np.int8))
    ) - inside.view(np.int8)
    merit = rank * np.int16(4 * REACH) - (2 * np.abs(near) + (near > 0)).astype(np.int16)
    return np.asarray(near[np.argmax(merit, axis=1)], np.int64)


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
