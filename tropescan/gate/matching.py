"""Literal terms matched by Hyperscan over whole Arrow buffers, at some 600 MB/s a core (reports/speed.md).

One call scans a stretch of the values buffer with no regard to where documents begin; what that could get wrong at the joins
between documents is scanned again, apart, so that the result is exactly that of scanning every document alone (tests/test_gate.py
holds it against Python's `re`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import hyperscan
import numpy as np

from tropescan.gate.compiling import compiled
from tropescan.gate.terms import WORD, Term
from tropescan.schema import Bytes, Ints

SEGMENT = 8 << 20  # bytes scanned a call: bounds the matches held at once
_BLOCK = 4096  # spans gathered a call
_NUL = np.zeros(1, np.uint8)


class Matcher:
    """Compiled terms. Not thread-safe: one Matcher a thread (Hyperscan's scratch space)."""

    def __init__(self, terms: list[Term]) -> None:
        self.width, self._terms = max(t.width for t in terms), len(terms)
        # fewer than 64 patterns would choose a matcher several times slower (reports/log.md): never-matching ones fill up
        filler = [rb"\x00tropescan-filler-%d\x00" % i for i in range(64 - len(terms))]
        flags = [0 if t.exact else hyperscan.HS_FLAG_CASELESS for t in terms] + [0] * len(filler)
        self._database = compiled([t.pattern for t in terms] + filler, flags)
        self._scratch = hyperscan.Scratch(self._database)

    def hits(self, values: Bytes, offsets: Ints) -> Iterator[tuple[Ints, Ints]]:
        """The matches in a string column: pairs of arrays (position of the match's last byte, number of the term), each once, in no order.

        `values` holds the column's bytes, `offsets` (n + 1) where each document begins and the last ends. Arrays come a segment at a
        time, so that a document of any size needs bounded memory.
        """
        doubtful = self._joined(values, offsets)
        for start in range(0, len(values), SEGMENT):
            stop = min(start + SEGMENT, len(values))
            low = max(0, start - self.width - 1)
            ends, ids = self._scan(values[low : min(stop + 1, len(values))])
            ends += low
            inside = (ends > start) & (ends <= stop)
            ends, ids = ends[inside], ids[inside]
            row = np.searchsorted(offsets, ends - 1, side="right") - 1
            doubt = (ends - offsets[row] <= self.width) | (ends == offsets[row + 1])
            doubtful[row[doubt]] = True
            yield ends[~doubt] - 1, ids[~doubt]
        yield self._edges(values, offsets, np.flatnonzero(doubtful))

    def _scan(self, data: Bytes) -> tuple[Ints, Ints]:
        found = array("q")
        add, terms = found.append, self._terms

        def on_match(term: int, _start: int, end: int, _flags: int, _context: object) -> None:
            if term < terms:  # else a filler
                add(end << 16 | term)

        self._database.scan(data.data, match_event_handler=on_match, scratch=self._scratch)  # type: ignore[type-var]
        packed = np.frombuffer(found, np.int64) if found else np.zeros(0, np.int64)
        return packed >> 16, packed & 0xFFFF

    def _joined(self, values: Bytes, offsets: Ints) -> np.ndarray:
        """The documents one of whose ends touches a word character of its neighbour, where a word boundary is hidden."""
        doubtful = np.zeros(len(offsets) - 1, bool)
        full = np.flatnonzero(offsets[1:] > offsets[:-1])
        if len(full) < 2:
            return doubtful
        join = offsets[full[1:]]
        hidden = WORD[values[join]] & WORD[values[join - 1]]
        doubtful[full[1:][hidden]] = True
        doubtful[full[:-1][hidden]] = True
        return doubtful

    def _edges(self, values: Bytes, offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
        """All matches that end within `width` bytes of their document's beginning, or at its end, scanned apart from its neighbours."""
        reach = self.width + 1
        begin, end = offsets[rows], offsets[rows + 1]
        short = end - begin <= 2 * reach + 2
        head_stop = np.where(short, end, begin + reach)
        # a slice that is not the whole document keeps one byte of context on its open side, where no match is taken
        starts = np.concatenate([begin, end[~short] - reach])
        stops = np.concatenate([head_stop, end[~short]])
        is_tail = np.arange(len(starts)) >= len(rows)
        lengths = stops - starts
        width = 2 * reach + 3  # a NUL, which is in no term, parts the slices
        block = 1 << 14
        out: list[tuple[Ints, Ints]] = []
        for i in range(0, len(starts), block):
            s, n, tail = starts[i : i + block], lengths[i : i + block], is_tail[i : i + block]
            whole = np.concatenate([short, np.zeros(int((~short).sum()), bool)])[i : i + block]
            column = np.arange(width)
            index = np.minimum(s[:, None] + column, len(values) - 1)
            matrix = np.where(column < n[:, None], values[index], 0).astype(np.uint8)
            ends, ids = self._scan(matrix.reshape(-1))
            slot, local = ends // width, ends % width
            at_end = local == n[slot]
            take = np.where(tail[slot], at_end, (local <= self.width) | (whole[slot] & at_end))
            out.append((s[slot[take]] + local[take] - 1, ids[take]))
        if not out:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate([p for p, _ in out]), np.concatenate([t for _, t in out])

    def within(self, values: Bytes, begin: Ints, end: Ints, low: Ints, high: Ints) -> np.ndarray:
        """Whether any match ends within each of the spans [begin, end) (m,) of documents that lie at [low, high): exactly as in `hits`."""
        reach = self.width + 1
        first, last = np.maximum(low, begin - reach), np.minimum(high, end + 1)
        found = np.zeros(len(begin), bool)
        for i in range(0, len(begin), _BLOCK):
            some = slice(i, i + _BLOCK)
            slices = [values[a:b] for a, b in zip(first[some].tolist(), last[some].tolist(), strict=True)]
            # a NUL, which is in no term, parts the slices
            parted = [piece for one in slices for piece in (one, _NUL)]
            ends, _ = self._scan(np.concatenate(parted))
            at = np.concatenate([[0], np.cumsum([len(one) + 1 for one in slices])])
            slot = np.searchsorted(at, ends - 1, side="right") - 1
            place = ends - at[slot] + first[some][slot]
            inside = (place > begin[some][slot]) & (place <= end[some][slot])
            found[i + slot[inside]] = True
        return found
