"""Picks the passages worth scoring: literal terms matched by Hyperscan over whole Arrow buffers, at about 2 GB/s a core.

The terms stand in the model folder's gate.txt, whose head says how they are written. One call scans a stretch of the values buffer with
no regard to where documents begin; what that could get wrong at the joins between documents is scanned again, apart, so that
the result is exactly that of scanning every document alone (tests/test_gate.py holds it against Python's `re`).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import hyperscan
import numpy as np

from tropescan.errors import ModelError
from tropescan.schema import Bytes, Ints

STRONG, WEAK, TROPE = 1, 2, 4
GROUPS = {"strong": STRONG, "weak": WEAK, "trope": TROPE}
SEGMENT = 8 << 20  # bytes scanned a call: bounds the matches held at once
_TAIL = 12  # word characters that a '*' admits
_GAP = 3  # bytes that a space may stand for
_WORD = np.zeros(256, bool)
_WORD[[b for b in range(128) if chr(b).isalnum() or b == 95]] = True


@dataclass(frozen=True)
class Term:
    """One line of the gate: as written, its regular expression (bytes), whether case counts, its group, and the most bytes it matches."""

    text: str
    pattern: bytes
    exact: bool
    group: int
    width: int


def parse(source: str) -> list[Term]:
    """The terms of a gate file. Raises ModelError with the line's number for what is not in its language."""
    terms: list[Term] = []
    group = 0
    for number, raw in enumerate(source.splitlines(), 1):
        line = raw.split("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            group = GROUPS.get(line.strip("[]"), 0)
            if not group:
                raise ModelError(f"gate.txt line {number}: no such group {line}; the groups are {', '.join(GROUPS)}")
            continue
        if not group:
            raise ModelError(f"gate.txt line {number}: '{line}' stands before the first [group]")
        terms.append(_term(line, group))
    if not any(t.group == STRONG for t in terms):
        raise ModelError("gate.txt has no term in [strong]: nothing could pass")
    return terms


def _term(line: str, group: int) -> Term:
    exact, text = line.startswith("="), line.removeprefix("=")
    stem, tail = (text[:-1], _TAIL) if text.endswith("*") else (text, 0)
    words = re.escape(stem).replace(r"\(s\)", "s?").split(r"\ ")
    pattern = rf"[ \t\r\n\-]{{1,{_GAP}}}".join(words) + (rf"\w{{0,{tail}}}" if tail else "")
    front = r"\b" if _wordlike(stem[0]) else ""
    back = r"\b" if tail or _wordlike(stem[-1]) or stem.endswith("(s)") else ""
    width = len(stem.encode()) + tail + (_GAP - 1) * (len(words) - 1)
    return Term(line, f"{front}{pattern}{back}".encode(), exact, group, width)


def _wordlike(character: str) -> bool:
    return bool(_WORD[character.encode()[0]])


class Gate:
    """The compiled terms. Not thread-safe: one Gate a thread (Hyperscan's scratch space)."""

    def __init__(self, terms: list[Term]) -> None:
        self.terms = terms
        self.width = max(t.width for t in terms)
        self._groups = np.array([t.group for t in terms], np.uint8)
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        # fewer than 64 patterns would choose a matcher several times slower (reports/log.md): never-matching ones fill up
        filler = [rb"\x00tropescan-filler-%d\x00" % i for i in range(64 - len(terms))]
        flags = [0 if t.exact else hyperscan.HS_FLAG_CASELESS for t in terms] + [0] * len(filler)
        patterns = [t.pattern for t in terms] + filler
        self._database.compile(expressions=patterns, ids=list(range(len(patterns))), flags=flags)
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
        add = found.append

        def on_match(term: int, _start: int, end: int, _flags: int, _context: object) -> None:
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
        hidden = _WORD[values[join]] & _WORD[values[join - 1]]
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

    def groups(self, ids: Ints) -> Bytes:
        """The group bits (STRONG, WEAK, TROPE) of each term number."""
        return self._groups[ids]

    def fired(self, text: str) -> list[tuple[int, int, str]]:
        """What the terms match in one text: (start, end, term as written), spans of characters, in order."""
        raw = text.encode("utf-8", "replace")
        spans = []
        for term in self.terms:
            for m in re.finditer(term.pattern, raw, 0 if term.exact else re.IGNORECASE):
                spans.append((len(raw[: m.start()].decode()), len(raw[: m.end()].decode()), term.text))
        return sorted(spans)


def passes(bits: Bytes) -> np.ndarray:
    """Whether passages with these union-ed group bits pass: a strong term, or a weak one next to a trope term."""
    both = WEAK | TROPE
    return np.asarray(((bits & STRONG) != 0) | ((bits & both) == both))
