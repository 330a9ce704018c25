"""The gate's language: one term a line, under [strong], [weak] or [trope]. The head of a model's gate.txt says how terms are written."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tropescan.errors import ModelError

STRONG, WEAK, TROPE = 1, 2, 4
GROUPS = {"strong": STRONG, "weak": WEAK, "trope": TROPE}
WORD = np.zeros(256, bool)
"""Which bytes are of a word, as a regular expression's \\b takes them: ASCII letters, digits and the underscore."""
WORD[[b for b in range(128) if chr(b).isalnum() or b == 95]] = True
_TAIL = 12  # word characters that a '*' admits
_GAP = r"[ \t\r\n\-][ \n]?"  # what a space may stand for: one to three of the first class cost a third of the gate's speed (reports/log.md)


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
    pattern = _GAP.join(words) + (rf"\w{{0,{tail}}}" if tail else "")
    front = r"\b" if _wordlike(stem[0]) else ""
    back = r"\b" if tail or _wordlike(stem[-1]) or stem.endswith("(s)") else ""
    width = len(stem.encode()) + tail + len(words) - 1
    return Term(line, f"{front}{pattern}{back}".encode(), exact, group, width)


def _wordlike(character: str) -> bool:
    return bool(WORD[character.encode()[0]])
