"""Behaviour on minimal pairs and invariances (Ribeiro et al. 2020, CheckList): pass rates by family.

A case passes when the document is flagged at the threshold exactly if it should be; a changed text passes when it is flagged exactly if the
unchanged one is, whatever is right.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from tropescan.errors import LabelError, NoSuchPath
from tropescan.scanner import Scanner

_PADDING = (
    "The allotment behind the station was let by the yard, and nobody knew any longer who had drawn the lines. Beans did well there in wet "
    "years and onions in dry ones. On Sundays the church choir practised with its windows open. A tap dripped into a zinc tub, and the "
    "blackbirds drank from it. In October the leaves were raked into three heaps and left for the hedgehogs. The path was gravel, the "
    "fence was chestnut paling, and the shed at the end had once been a railway carriage, third class, no smoking.\n\n"
)
_LOOKALIKE = str.maketrans("aeocpAEOC", "\u0430\u0435\u043e\u0441\u0440\u0410\u0415\u041e\u0421")  # Cyrillic

CHANGES: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "curly quotes": lambda t: t.replace("'", "\u2019").replace(' "', " \u201c").replace('"', "\u201d"),
    "HTML entities": lambda t: html.escape(t).replace(" - ", " &ndash; "),
    "line breaks": lambda t: textwrap.fill(t, 60),
    "padding before": lambda t: _PADDING * 4 + t,
    "padding after": lambda t: t + "\n\n" + _PADDING * 4,
    "homoglyphs": lambda t: "".join(c.translate(_LOOKALIKE) if i % 7 == 3 else c for i, c in enumerate(t)),
    "zero-width characters": lambda t: "".join(c + "\u200b" if i % 9 == 4 else c for i, c in enumerate(t)),
}
"""The invariances: what is done to a text that should change nothing."""


@dataclass(frozen=True)
class Case:
    """A passage written to test one thing."""

    id: str
    family: str
    text: str
    positive: bool


def load(path: Path) -> list[Case]:
    """The cases of a JSON Lines file with the keys id, family, text and positive. Raises NoSuchPath, LabelError with the line."""
    if not path.is_file():
        raise NoSuchPath(f"no file of cases {path}")
    cases = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
            if row["positive"] not in (True, False, 0, 1):
                raise ValueError("positive is true or false")
            cases.append(Case(str(row["id"]), str(row["family"]), row["text"] + "", bool(row["positive"])))
        except (KeyError, TypeError, ValueError) as error:
            raise LabelError(f"{path} line {number} is no case (id, family, text, positive): {error}") from None
    if not cases:
        raise LabelError(f"{path} holds no case")
    return cases


def flagged(scanner: Scanner, texts: list[str]) -> np.ndarray:
    """Which of these documents (n,) the scanner flags at its threshold."""
    score = scanner.scan(pa.record_batch({"text": pa.array(texts, pa.large_string())}))["score"].to_numpy()
    return np.asarray(np.nan_to_num(score, nan=0.0) >= scanner.threshold)


def rates(
    scanner: Scanner, cases: list[Case], changed: tuple[str, ...] = ("portrayal", "refuses")
) -> dict[str, tuple[int, int]]:
    """Passed and tried, by family and by invariance; texts are changed in the families `changed`, and without one of those no invariance is tried."""
    plain = flagged(scanner, [c.text for c in cases])
    found: dict[str, tuple[int, int]] = {}
    for family in dict.fromkeys(c.family for c in cases):
        right = [bool(f) == c.positive for f, c in zip(plain, cases, strict=True) if c.family == family]
        found[family] = (sum(right), len(right))
    chosen = [i for i, c in enumerate(cases) if c.family in changed]
    for name, change in CHANGES.items() if chosen else ():
        same = flagged(scanner, [change(cases[i].text) for i in chosen]) == plain[chosen]
        found[name] = (int(same.sum()), len(chosen))
    return found
