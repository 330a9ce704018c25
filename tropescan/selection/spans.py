"""Cuts passages out of a text, or marks them, at the borders of sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

Span = tuple[int, int]

REACH = 600
"""How far in characters a border may move outward to the end of a sentence; beyond, a line break and then white space will do."""

# what follows a sentence: closing quotes and brackets, then white space; an ideographic full stop needs none; a blank line ends one too
_SENTENCE = re.compile(r"[.!?…]+[\"'’”»)\]*_]*\s+|[。！？]+[」』”’）]*\s*|\n[ \t\r]*\n\s*")
_LINE = re.compile(r"\n\s*")
_SPACE = re.compile(r"\s+")
_NEAR = 80  # more than a full stop with its quotes and white space


def widened(text: str, spans: Sequence[Span]) -> list[Span]:
    """The spans, each moved outward to whole sentences, those that touch or overlap united, in order.

    Half-open, in characters. A span begins with the first character of a sentence and ends where the next sentence begins, the white space
    between them included. No span gets narrower, and the length of `text` bounds them all.
    """
    out: list[Span] = []
    for start, end in sorted(spans):
        start, end = max(0, min(start, len(text))), max(0, min(end, len(text)))
        if start >= end:
            continue
        start, end = _before(text, start), _after(text, end)
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def cut(text: str, spans: Sequence[Span], marker: str = "") -> str:
    """The text without these spans (as `widened` gives them); a marker stands for each, with the white space that followed the span kept."""
    kept: list[str] = []
    at = 0
    for start, end in spans:
        kept.append(text[at:start])
        if marker:
            body = text[start:end]
            kept += [marker, body[len(body.rstrip()) :]]
        at = end
    return "".join([*kept, text[at:]])


def wrapped(text: str, spans: Sequence[Span], before: str, after: str) -> str:
    """The text with a token before and one after each of these spans, inside the white space that follows it."""
    out: list[str] = []
    at = 0
    for start, end in spans:
        body = text[start:end]
        bare = body.rstrip()
        out += [text[at:start], before, bare, after, body[len(bare) :]]
        at = end
    return "".join([*out, text[at:]])


def _before(text: str, start: int) -> int:
    """The last border at or before `start`."""
    low = max(0, start - REACH)
    for kind in (_SENTENCE, _LINE, _SPACE):
        border = max((m.end() for m in kind.finditer(text, low, start)), default=None)
        if border is not None:
            return border
        if low == 0:
            return 0
    return start


def _after(text: str, end: int) -> int:
    """The first border at or after `end`."""
    if any(m.end() == end for m in _SENTENCE.finditer(text, max(0, end - _NEAR), end)):
        return end
    high = min(len(text), end + REACH)
    for kind in (_SENTENCE, _LINE, _SPACE):
        border = next((m.end() for m in kind.finditer(text, max(0, end - _NEAR), high) if m.end() >= end), None)
        if border is not None:
            return border
        if high == len(text):
            return high
    return end
