"""What a rule decides about a shard, out of the stored scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tropescan.errors import RuleError
from tropescan.schema import DOCUMENTS, FACETS, PASSAGE, Floats, Ints
from tropescan.selection.rules import DOCUMENT, Rule
from tropescan.selection.rules import PASSAGE as PASSAGE_COLUMNS
from tropescan.selection.sources import Source
from tropescan.selection.spans import Span
from tropescan.store import Store

_TOLD = ("score", "frame", "admirable")
_OF_DOCUMENT = ", ".join(f'd."{n}"' for n in (*DOCUMENTS.names, "path"))
_ABOUT = ", ".join(f'd."{n}"' for n in ("row", "id", "url", "domain", "characters", "passages", "audited", "path"))
_OF_PASSAGE = ", ".join(f'p."{n}"' for n in PASSAGE.names if n in PASSAGE_COLUMNS and n != "audited")
# the path where a shard lies now, not where it lay when it was scanned; without a fast score a document has its row from an audit alone
_HERE = """(SELECT d.*, here.path FROM documents d JOIN (SELECT unnest($shards::VARCHAR[]) AS shard, unnest($paths::VARCHAR[]) AS path) here USING (shard)
  WHERE d.model = $model AND ($shard IS NULL OR d.shard = $shard) AND d.fast_score IS NOT NULL)"""

# the facets of a document are those of its strongest passage, as its intensity, frame and admirable are
DOCUMENTS_SQL = f"""SELECT d.shard, {_OF_DOCUMENT}, {", ".join(f"p.{f}" for f in FACETS)} FROM {_HERE} d LEFT JOIN (
  SELECT shard, row, {", ".join(FACETS)} FROM passages WHERE model = $model AND ($shard IS NULL OR shard = $shard) AND audited IS NULL
  QUALIFY row_number() OVER (PARTITION BY shard, row ORDER BY score DESC NULLS LAST, passage) = 1) p USING (shard, row)"""
# what is told of a document is its own, not its passages': under names that no rule can hold
PASSAGES_SQL = f"""SELECT d.shard, {_ABOUT}, {_OF_PASSAGE}, {", ".join(f"d.{n} AS document_{n}" for n in _TOLD)}
  FROM passages p JOIN {_HERE} d USING (shard, row)
  WHERE p.model = $model AND p.audited IS NULL"""


@dataclass
class Decisions:
    """What becomes of a shard's rows: those the rule holds for, ascending, with what the store knows of them (`facts`, a row each).

    `spans` are the flagged passages of a row, where the rule was asked of passages. All other rows stay as they are.
    """

    facts: pa.Table
    spans: dict[int, list[Span]] = field(default_factory=dict)
    rows: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.rows = np.asarray(self.facts["row"].to_numpy(), np.int64)


_DRAWN = 10_000
FACTS = ("row", "id", "url", "domain", "characters", *_TOLD)


def documents(store: Store, model: str, source: Source, rule: Rule) -> Decisions:
    """The documents of a shard for which the rule holds. Raises RuleError."""
    sql = f"SELECT {', '.join(FACTS)} FROM ({DOCUMENTS_SQL}) WHERE {rule.sql} ORDER BY row"
    return Decisions(store.locked(sql, _of(model, source)))


def passages(store: Store, model: str, source: Source, rule: Rule) -> Decisions:
    """The passages of a shard for which the rule holds, by document. Raises RuleError."""
    facts = [f"document_{n}" if n in _TOLD else n for n in FACTS]
    sql = f"SELECT {', '.join(facts)}, start_char, end_char FROM ({PASSAGES_SQL}) WHERE {rule.sql} ORDER BY row, start_char"
    found = store.locked(sql, _of(model, source))
    spans: dict[int, list[Span]] = {}
    for row, start, end in zip(*(found[n].to_pylist() for n in ("row", "start_char", "end_char")), strict=True):
        spans.setdefault(row, []).append((start, end))
    _, first = np.unique(found["row"].to_numpy(), return_index=True)
    return Decisions(found.take(pa.array(first)).select(facts).rename_columns(list(FACTS)), spans)


@dataclass
class Weights:
    """The weights of a shard's rows that the rule was asked of, ascending by row, and the weight of all its other rows."""

    rows: Ints
    ids: list[str | None]
    weights: Floats
    other: float


def weights(store: Store, model: str, source: Source, rule: Rule, other_sql: str) -> Weights:
    """What the rule makes of a shard. Where it gives null the weight is 1. `other_sql` as `unseen` gives it. Raises RuleError."""
    sql = f"SELECT row, id, coalesce(CAST(({rule.sql}) AS DOUBLE), 1.0) AS weight FROM ({DOCUMENTS_SQL}) ORDER BY row"
    found = store.locked(sql, _of(model, source))
    weight = np.asarray(found["weight"].to_numpy(), np.float64)
    other = float(store.locked(other_sql, {})["weight"][0].as_py())
    if not (np.isfinite(weight).all() and np.isfinite(other) and (weight >= 0).all() and other >= 0):
        bad = next(w for w in [other, *weight.tolist()] if not (np.isfinite(w) and w >= 0))
        raise RuleError(f"the rule gives a weight of {bad:g}: weights are finite and not negative")
    return Weights(np.asarray(found["row"].to_numpy(), np.int64), found["id"].to_pylist(), weight, other)


def unseen(rule: Rule) -> str:
    """A query for what a rule gives a document that the gate refused: there every column is null."""
    empty = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in DOCUMENT.items())
    return f"SELECT coalesce(CAST(({rule.sql}) AS DOUBLE), 1.0) AS weight FROM (SELECT {empty})"


def pool(
    store: Store, model: str, sources: Sequence[Source], removed: Rule, wanted: Rule, characters: int
) -> dict[str, Decisions]:
    """Documents that stay and that a second rule wants, drawn by a hash of where they lie until they hold `characters` characters, by shard.

    A document that would go over is passed over, so that the sum comes close and never above. Raises RuleError.
    """
    order = "ORDER BY md5(concat(shard, ':', row)), shard, row"
    sql = (
        f"SELECT shard, {', '.join(FACTS)} FROM ({DOCUMENTS_SQL}) WHERE ({wanted.sql}) AND ({removed.sql}) IS NOT TRUE "
        # as many as hold twice what is needed, and enough that some fit: the rest is never looked at, however large the database
        f"AND characters BETWEEN 1 AND $characters QUALIFY row_number() OVER ({order}) <= {_DRAWN} "
        f"OR sum(characters) OVER ({order} ROWS UNBOUNDED PRECEDING) <= 2 * $characters {order}"
    )
    # of two files that are the same shard the first
    paths = {s.shard: s.file.path for s in reversed(sources) if s.scanned}
    where = {"shard": None, "shards": list(paths), "paths": list(paths.values())}
    found = store.locked(sql, where | {"model": model, "characters": characters})
    taken: list[int] = []
    left = characters
    for i, size in enumerate(found["characters"].to_pylist()):
        if size <= left:
            taken.append(i)
            left -= size
    chosen = found.take(pa.array(taken, pa.int64())).sort_by([("shard", "ascending"), ("row", "ascending")])
    return {
        shard: Decisions(chosen.filter(pc.equal(chosen["shard"], shard)).select(FACTS))
        for shard in chosen["shard"].unique().to_pylist()
    }


def _of(model: str, source: Source) -> dict[str, Any]:
    return {"model": model, "shard": source.shard, "shards": [source.shard], "paths": [source.file.path]}


def none() -> Decisions:
    """No row is decided."""
    kinds = {"row": pa.int64(), "characters": pa.int64(), "score": pa.float64(), "admirable": pa.float64()}
    return Decisions(pa.schema([(n, kinds.get(n, pa.string())) for n in FACTS]).empty_table())
