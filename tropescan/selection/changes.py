"""What is done to the rows of one shard while it is written again, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tropescan.errors import CorpusChanged
from tropescan.schema import Ints, strings, texts
from tropescan.selection.decisions import Decisions

Rewrite = Callable[[list[int], list[str]], list[str | None]]
"""New texts for the rows with these texts; None takes the row out."""

REASONS = ("tropescan_row", "tropescan_score", "tropescan_frame", "tropescan_reason")
"""Columns (keys) that a shard of removed documents, or of documents before they were changed, has besides those of its input."""


def reason_names(taken: Collection[str]) -> list[str]:
    """REASONS, with as many underscores behind them all as it takes for none to be `taken`: our own hosts write some of these names."""
    mark = ""
    while any(name + mark in taken for name in REASONS):
        mark += "_"
    return [name + mark for name in REASONS]


@dataclass
class Counts:
    """Rows of a shard: in = kept + removed; `changed` are among those kept. None where a shard that was never read cannot be counted."""

    rows_in: int | None = 0
    rows_kept: int | None = 0
    rows_removed: int | None = 0
    rows_changed: int = 0
    characters_removed: int = 0


@dataclass
class Change:
    """What becomes of the decided rows: dropped (`rewrite` None) or given a new text. `reason` is told beside what is kept aside.

    `pool` are rows that are written once more, to the pool.
    """

    decided: Decisions
    reason: str
    rewrite: Rewrite | None = None
    pool: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    def here(self, first: int, count: int) -> slice:
        """Which of the decided rows lie in these rows of the shard."""
        begin, end = np.searchsorted(self.decided.rows, [first, first + count]).tolist()
        return slice(begin, end)

    def reasons(self, part: slice, removed: list[bool]) -> dict[str, pa.Array]:
        """The columns REASONS of some decided rows."""
        facts = self.decided.facts.slice(part.start, part.stop - part.start)
        verbs = ["removed" if gone else "changed" for gone in removed]
        return dict(
            zip(
                REASONS,
                (
                    facts["row"].combine_chunks().cast(pa.int64()),
                    facts["score"].combine_chunks().cast(pa.float64()),
                    facts["frame"].combine_chunks().cast(pa.string()),
                    pa.array([f"{verb}: {self.reason}" for verb in verbs], pa.string()),
                ),
                strict=True,
            )
        )

    def texts(self, part: slice, column: pa.Array, counts: Counts) -> list[str | None]:
        """The new texts of these decided rows, whose texts `column` holds; counts what goes. Raises CorpusChanged where they are not those scanned."""
        old = texts(column)[0].to_pylist()
        rows = self.decided.rows[part].tolist()
        stored = self.decided.facts["characters"].slice(part.start, part.stop - part.start).to_pylist()
        for row, text, size in zip(rows, old, stored, strict=True):
            if len(text) != size:
                raise CorpusChanged(
                    f"row {row} has a text of {len(text)} characters, the store says {size}: another column than at the scan? (--text-column)"
                )
        new: list[str | None] = [None] * len(old)
        if self.rewrite:
            new = self.rewrite(rows, old)
        for before, after in zip(old, new, strict=True):
            counts.characters_removed += len(before) - len(after) if after is not None else len(before)
        return new


def check_ids(path: str, column: pa.Array | None, expected: list[str | None], rows: list[int]) -> None:
    """That rows hold the ids that the store has for them, where it has any. Raises CorpusChanged."""
    if column is None:
        return
    for row, found, stored in zip(rows, strings(column), expected, strict=True):
        if stored is not None and found != stored:
            raise CorpusChanged(
                f"{path} row {row} has id {found!r}, the store says {stored!r}: another id column than at the scan (--id-column), or another corpus"
            )


def expected_ids(change: Change, part: slice) -> list[str | None]:
    """The ids that the store has for some decided rows."""
    ids: list[Any] = change.decided.facts["id"].slice(part.start, part.stop - part.start).to_pylist()
    return ids
