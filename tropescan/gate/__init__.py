"""Picks the passages worth scoring: those that hold a strong term, or a weak one and a trope term.

Every byte is scanned for strong and weak terms. Trope terms ("kill", "war") are common where nothing else is, so they are looked for in
passages with a weak term alone: about half of the work of scanning for all of them everywhere, with the same passages passing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from tropescan.gate.matching import Matcher
from tropescan.gate.terms import STRONG, TROPE, WEAK, Term, parse
from tropescan.schema import Bytes, Ints

__all__ = ["STRONG", "TROPE", "WEAK", "Gate", "Matcher", "Term", "parse"]


class Gate:
    """The compiled terms of a gate file. Not thread-safe: one Gate a thread."""

    def __init__(self, terms: list[Term]) -> None:
        self.terms = terms
        named, tropes = [t for t in terms if t.group != TROPE], [t for t in terms if t.group == TROPE]
        self._groups = np.array([t.group for t in named], np.uint8)
        self._named = Matcher(named)
        self._tropes = Matcher(tropes) if tropes else None

    def hits(self, values: Bytes, offsets: Ints) -> Iterator[tuple[Ints, Bytes]]:
        """Where the strong and weak terms of a string column match: pairs of arrays (position of the match's last byte, STRONG or WEAK).

        `values` holds the column's bytes, `offsets` (n + 1) where each document begins and the last ends. Arrays come a segment at a
        time, so that a document of any size needs bounded memory.
        """
        for position, term in self._named.hits(values, offsets):
            yield position, self._groups[term]

    def passes(self, values: Bytes, bits: Bytes, begin: Ints, end: Ints, low: Ints, high: Ints) -> np.ndarray:
        """Whether passages at [begin, end) (m,) of documents at [low, high) pass; `bits` (m,) unites STRONG and WEAK of the hits in each."""
        passed = (bits & STRONG) != 0
        weak = np.flatnonzero(~passed & ((bits & WEAK) != 0))
        if self._tropes and len(weak):
            passed[weak] = self._tropes.within(values, begin[weak], end[weak], low[weak], high[weak])
        return np.asarray(passed)

    def fired(self, text: str) -> list[tuple[int, int, str]]:
        """What the terms match in one text: (start, end, term as written), spans of characters, in order."""
        raw = text.encode("utf-8", "replace")
        spans = []
        for term in self.terms:
            for m in re.finditer(term.pattern, raw, 0 if term.exact else re.IGNORECASE):
                spans.append((len(raw[: m.start()].decode()), len(raw[: m.end()].decode()), term.text))
        return sorted(spans)
