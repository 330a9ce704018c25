"""A part: what the scan of one unit leaves behind. Counters for every document, rows only for the documents and passages worth keeping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tropescan.errors import ShardError, TropescanError, printable
from tropescan.scanner import Scanner
from tropescan.schema import COUNTERS, DOCUMENTS, PASSAGES, Ints, plain, strings, text_bytes
from tropescan.shards import Columns, File, Unit, read, require_unchanged
from tropescan.shards.lines import Batch

_SLICE = 16 << 20  # bytes of text scanned at once where a batch holds more
Tick = Callable[[dict[str, int]], None]


@dataclass
class Part:
    """The counters of a unit (schema.COUNTERS), its kept documents and passages (schema.DOCUMENTS, PASSAGES), and how it ended.

    `status` is 'done', 'limited' (a --limit ended it) or 'failed' (`kind` and `error` say why; what was read before is here). `seconds` is
    the worker's wall time, `flagged` the documents at or above the model's default threshold, `at` when it was scanned (UTC; None: just now),
    `backend` what ran the encoder (None: no passage reached it).
    """

    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    documents: pa.Table = field(default_factory=DOCUMENTS.empty_table)
    passages: pa.Table = field(default_factory=PASSAGES.empty_table)
    status: str = "done"
    kind: str | None = None
    error: str | None = None
    seconds: float = 0.0
    flagged: int = 0
    at: datetime | None = None
    backend: str | None = None

    def brings_less(self, rows: int) -> bool:
        """Whether it failed, or was cut short by a limit, with fewer rows than are there of its unit, which then stay: a worker that died brings nothing."""
        return self.status != "done" and self.counters["rows"] < rows

    def to_buffers(self) -> list[bytes]:
        """A JSON head and two Arrow IPC streams."""
        head = {k: getattr(self, k) for k in ("counters", "status", "kind", "error", "seconds", "flagged", "backend")}
        return [orjson.dumps(head), _to_ipc(self.documents), _to_ipc(self.passages)]

    @classmethod
    def from_buffers(cls, head: bytes, documents: bytes, passages: bytes) -> Part:
        """The inverse of `to_buffers`."""
        return cls(
            documents=pa.ipc.open_stream(documents).read_all(),
            passages=pa.ipc.open_stream(passages).read_all(),
            **orjson.loads(head),
        )


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def scan_unit(
    scanner: Scanner,
    file: File,
    columns: Columns,
    unit: Unit,
    limit: int | None = None,
    tick: Tick | None = None,
    shard: str = "",
) -> Part:
    """Scans one unit of a shard, to its end or to the shard's `limit`-th row. A shard that fails midway, in whatever way, gives what was read before.

    `tick`, if given, is called after every batch with the counters so far. `shard`, if given, is the fingerprint that the unit was planned by.
    """
    part, begun = Part(), perf_counter()
    documents: list[pa.Table] = []
    hits: list[pa.Table] = []
    try:
        for batch in read(file, columns, unit):
            part.counters["bad_lines"] += batch.bad_lines
            for piece in _pieces(batch):
                # rows of lines count empty and bad ones: there the limit is of the documents seen
                before = piece.first_row if piece.rows is None else part.counters["rows"]
                if limit is not None and before + len(piece.text) > limit:
                    part.status = "limited"
                    piece = _head(piece, max(0, limit - before))
                _add(part, piece, scanner, documents, hits)
                if tick:
                    tick(part.counters | {"flagged": part.flagged})
                if part.status == "limited":
                    break
            if part.status == "limited":
                break
        require_unchanged(file, shard)
    except ShardError as error:
        part.status, part.kind, part.error = "failed", type(error).__name__, printable(str(error))
    except (TropescanError, MemoryError, EOFError, OSError):
        raise  # of the model, the machine, or whoever gets the ticks
    except Exception as error:  # a defect of ours or of a library must cost neither the run nor what was read before
        part.status, part.kind, part.error = "failed", ShardError.__name__, unforeseen(file, error, "scanning")
    part.documents = pa.concat_tables(documents) if documents else part.documents
    part.passages = pa.concat_tables(hits) if hits else part.passages
    part.backend = scanner.backend if part.counters["encoded_passages"] else None
    part.seconds = round(perf_counter() - begun, 3)
    return part


def unforeseen(file: File, error: Exception, doing: str) -> str:
    """A line on an error that should not be."""
    return printable(
        f"{file.path}: {type(error).__name__} while {doing}: {error}"
    )  # what a server says may be no Unicode


def _pieces(batch: Batch) -> list[Batch]:
    """The batch in slices of at most _SLICE bytes of text, or of one document."""
    if len(batch.text) < 2 or text_bytes(batch.text) <= _SLICE:
        return [batch]
    half = len(batch.text) // 2
    return _pieces(_head(batch, half)) + _pieces(_tail(batch, half))


def _head(batch: Batch, n: int) -> Batch:
    return _sliced(batch, slice(0, n))


def _tail(batch: Batch, n: int) -> Batch:
    return _sliced(batch, slice(n, len(batch.text)))


def _sliced(batch: Batch, part: slice) -> Batch:
    def cut(column: Any) -> Any:
        return None if column is None else column[part]

    first, text = batch.first_row + part.start, batch.text[part]
    return Batch(first, text, cut(batch.id), cut(batch.url), cut(batch.rows), 0, cut(batch.repaired))


def _add(part: Part, batch: Batch, scanner: Scanner, documents: list[pa.Table], hits: list[pa.Table]) -> None:
    scores = scanner.scan(pa.record_batch({"text": batch.text}))
    column = {
        name: scores[name].to_numpy()
        for name in ("characters", "passages", "candidates", "encoded", "null_text", "repaired", "audited")
    }
    if batch.repaired is not None:
        column["repaired"] = column["repaired"] | batch.repaired
    gated = column["candidates"] > 0
    counted = {
        "rows": len(gated),
        "characters": column["characters"].sum(),
        "passages": column["passages"].sum(),
        "gated_documents": gated.sum(),
        "gated_characters": column["characters"][gated].sum(),
        "candidate_passages": column["candidates"].sum(),
        "encoded_passages": column["encoded"].sum(),
        "audited_documents": column["audited"].sum(),
        "null_documents": column["null_text"].sum(),
        "repaired_documents": column["repaired"].sum(),
    }
    keep = np.flatnonzero(gated | column["audited"])
    if len(keep):
        kept = _kept(batch, scores, keep)
        documents.append(kept[0])
        hits.append(kept[1])
    for name, value in counted.items():  # last: no row is counted whose documents could not be kept
        part.counters[name] += int(value)
    part.flagged += int(np.count_nonzero(np.nan_to_num(scores["score"].to_numpy()) >= scanner.threshold))


def _kept(batch: Batch, scores: pa.Table, keep: Ints) -> tuple[pa.Table, pa.Table]:
    """The documents worth keeping, and their passages."""
    row = batch.first_row + keep if batch.rows is None else batch.rows[keep]
    kept = scores.take(keep)
    url = _strings(batch.url, keep)
    given = {
        "row": pa.array(row, pa.int64()),
        "id": pa.array(_strings(batch.id, keep), pa.string()),
        "url": pa.array(url, pa.string()),
        "domain": pa.array([_domain(u) for u in url], pa.string()),
    }
    columns = [given.get(f.name, kept[f.name] if f.name in kept.column_names else None) for f in DOCUMENTS]
    lists = kept["hits"].combine_chunks()
    struct = lists.flatten()
    owner = pc.take(given["row"], pc.list_parent_indices(lists))
    found = pa.table([owner if f.name == "row" else struct.field(f.name) for f in PASSAGES], schema=PASSAGES)
    return pa.table(columns, schema=DOCUMENTS), found


def _strings(column: pa.Array | None, keep: Ints) -> list[str | None]:
    if column is None:
        return [None] * len(keep)
    try:
        return strings(plain(column).take(pa.array(keep)))
    except pa.ArrowNotImplementedError:  # a list of views, say
        return [strings(column[i : i + 1])[0] for i in keep.tolist()]


def _domain(url: str | None) -> str | None:
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.") or None if url else None
    except ValueError:
        return None
