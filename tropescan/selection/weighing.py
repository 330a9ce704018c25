"""Weights: a sidecar Parquet beside each shard, row by row, for samplers. The shards themselves stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tropescan import __version__
from tropescan.errors import CorpusChanged
from tropescan.schema import plain
from tropescan.selection import decisions, lines, parquet, rules
from tropescan.selection.changes import Counts, check_ids
from tropescan.selection.decisions import Weights
from tropescan.selection.sources import Source
from tropescan.shards import Columns
from tropescan.shards.lines import as_text, loads
from tropescan.store import Store

SUFFIX = ".weights.parquet"
_LINES = 10_000


class Weighing:
    """A rule that gives every document a weight. Documents that the gate refused are asked with every column null. Raises RuleError."""

    def __init__(self, store: Store, model: dict[str, Any], rule: str, columns: Columns) -> None:
        self.rule = rules.number(rule)
        self._store, self._model, self._columns = store, str(model["model"]), columns
        self._unseen = decisions.unseen(self.rule)
        self._metadata = {
            "tropescan_rule": self.rule.text,
            "tropescan_model": self._model,
            "tropescan_version": __version__,
        }

    def weights(self, source: Source, unscanned: str) -> Weights:
        """The weights of a shard's rows; of one without a whole scan all 1 (keep) or 0 (drop)."""
        if source.scanned:
            return decisions.weights(self._store, self._model, source, self.rule, self._unseen)
        return Weights(np.zeros(0, np.int64), [], np.zeros(0), 0.0 if unscanned == "drop" else 1.0)

    def write(self, source: Source, weights: Weights, path: Path) -> Counts:
        """Writes the sidecar, with row groups as the shard has them. Raises CorpusChanged where an id is not the store's."""
        groups = self._lines(source) if source.file.format.startswith("jsonl") else self._parquet(source)
        first = 0
        with parquet.writer(path) as sink:
            for ids in groups:
                begin, end = np.searchsorted(weights.rows, [first, first + len(ids)]).tolist()
                rows = weights.rows[begin:end]
                check_ids(source.file.path, ids.take(pa.array(rows - first)), weights.ids[begin:end], rows.tolist())
                weight = np.full(len(ids), weights.other)
                weight[rows - first] = weights.weights[begin:end]
                told = {"id": ids, "row": pa.array(np.arange(first, first + len(ids))), "weight": weight}
                sink(pa.table(told).replace_schema_metadata(self._metadata))
                first += len(ids)
        if source.rows is not None and first != source.rows:
            raise CorpusChanged(
                f"{source.file.path} has {first} rows, the store counted {source.rows}: scan again, then weigh"
            )
        changed = int((weights.weights != 1.0).sum()) + (first - len(weights.rows)) * (weights.other != 1.0)
        return Counts(first, first, 0, changed)

    def _parquet(self, source: Source) -> Any:
        with parquet.opened(source.file) as shard:
            there = self._columns.id in shard.schema_arrow.names
            if not shard.metadata.num_row_groups:
                yield pa.array([], pa.string())
            for g in range(shard.metadata.num_row_groups):
                if there:
                    yield plain(shard.read_row_group(g, columns=[self._columns.id])[self._columns.id].combine_chunks())
                else:
                    yield pa.nulls(shard.metadata.row_group(g).num_rows, pa.string())

    def _lines(self, source: Source) -> Any:
        pending: list[str | None] = []
        first = True
        for line in lines.lines(source.file):
            pending.append(_id(line, self._columns.id))
            if len(pending) == _LINES:
                yield pa.array(pending, pa.string())
                pending, first = [], False
        if pending or first:
            yield pa.array(pending, pa.string())


def _id(line: bytes, key: str) -> str | None:
    try:
        return as_text(loads(line)[key])
    except (ValueError, KeyError, TypeError):
        return None
