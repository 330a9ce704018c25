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
_LONGEST = 200  # bytes of a line: Hyperscan refuses what is much longer
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
        if wrong := _wrong(line):
            raise ModelError(f"gate.txt line {number}: {wrong}")
        terms.append(_term(line, group))
    if not any(t.group == STRONG for t in terms):
        raise ModelError("gate.txt has no term in [strong]: nothing could pass")
    return terms


def _wrong(line: str) -> str:
    """Why a line is no term; empty where it is one."""
    stem = line.removeprefix("=").removesuffix("*").replace("(s)", "").strip()
    if not stem:
        return f"'{line}' names nothing"
    if "\0" in line:
        return f"{line!r} holds a NUL, which parts texts"
    return f"'{line[:40]}...' is longer than {_LONGEST} bytes" if len(line.encode()) > _LONGEST else ""


def _term(line: str, group: int) -> Term:
    exact, text = line.startswith("="), line.removeprefix("=")
    stem, tail = (text[:-1], _TAIL) if text.endswith("*") else (text, 0)
    core = stem.removesuffix("(s)")
    words = re.escape(core).replace(r"\(s\)", "s?").split(r"\ ")
    front = r"\b" if _wordlike(core[0]) else ""
    if _wordlike(core[-1]):
        back = "s?" * (core != stem) + rf"\w{{0,{tail}}}" * (tail > 0) + r"\b"
    else:  # the core itself ends at no word boundary, only what may follow it does
        back = r"(?:s\b)?" * (core != stem) + rf"(?:\w{{1,{tail}}}\b)?" * (tail > 0)
    width = len(stem.encode()) + tail + len(words) - 1
    return Term(line, f"{front}{_GAP.join(words)}{back}".encode(), exact, group, width)


def _wordlike(character: str) -> bool:
    return bool(WORD[character.encode()[0]])
