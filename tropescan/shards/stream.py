"""Streams a shard as document batches of some megabytes, whatever its row groups, and cuts large shards into units of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tropescan.errors import DamagedShard, MissingColumn, NotAShard, ShardError, UnreadableShard, WrongColumnType
from tropescan.schema import holds_text, not_text, text_bytes, texts
from tropescan.shards import lines
from tropescan.shards.files import File, open_file
from tropescan.shards.lines import Batch
from tropescan.shards.unpacking import require_form

UNIT_BYTES = 256 << 20
"""Text (bytes, uncompressed) from which a Parquet shard is cut into units, at row-group borders. Fixed: a unit is the same for any worker count."""
_BATCH_BYTES, _BATCH_ROWS = 8 << 20, 2000  # smaller batches cost more than the cache wins (reports/log.md)
_BUFFER = 1 << 20
_PEEK = 64  # rows looked at first where a row group is as small as one of few texts that repeat, or of short ones:
_FEW, _SHORT = 2 << 20, 1024  # bytes of a dictionary, and of a row


@dataclass(frozen=True)
class Columns:
    """The names of the columns: text is required, id only where `id_required`, url where there is one."""

    text: str = "text"
    id: str = "id"
    url: str = "url"
    id_required: bool = False


@dataclass(frozen=True)
class Unit:
    """A part of a shard that is scanned and committed at once: rows from `first_row`, `rows` of them (-1: to the end, not known before)."""

    index: int
    first_row: int
    rows: int
    groups: tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """A shard's rows (-1 where not known before it is read) and its units, in order."""

    rows: int
    units: tuple[Unit, ...]


def plan(file: File, columns: Columns) -> Plan:
    """Reads a shard's footer, checks its columns and cuts it into units. Raises ShardError."""
    if file.format.startswith("jsonl"):
        require_form(file)
        return Plan(-1, (Unit(0, 0, -1, (0, 0)),))
    with open_file(file.path) as raw:
        meta = _open(raw, file).metadata
        at = _leaf(meta, _names(meta, file, columns)["text"], file)
        units: list[Unit] = []
        begin, first, rows, size = 0, 0, 0, 0
        for g in range(meta.num_row_groups):
            group = meta.row_group(g)
            rows += group.num_rows
            size += group.column(at).total_uncompressed_size
            if size >= UNIT_BYTES or g == meta.num_row_groups - 1:
                units.append(Unit(len(units), first, rows, (begin, g + 1)))
                begin, first, rows, size = g + 1, first + rows, 0, 0
        return Plan(meta.num_rows, tuple(units) or (Unit(0, 0, 0, (0, 0)),))


def read(file: File, columns: Columns, unit: Unit) -> Iterator[Batch]:
    """The documents of a unit, in order. What was given before an error is good. Raises ShardError."""
    if file.format.startswith("jsonl"):
        yield from lines.read(file, columns.text, columns.id, columns.url, columns.id_required)
        return
    try:
        with open_file(file.path) as raw:
            parquet = _open(raw, file)
            names = _names(parquet.metadata, file, columns)
            parquet = _undone(parquet, raw, file, names)
            row = unit.first_row
            for batch in parquet.iter_batches(
                batch_size=_batch_rows(parquet, names["text"], unit.groups, file),
                row_groups=list(range(*unit.groups)),
                columns=list(names.values()),
                use_threads=False,
            ):
                given = {k: batch.column(name) for k, name in names.items()}
                yield Batch(row, given["text"], given.get("id"), given.get("url"), None, 0)
                row += len(batch)
    except MemoryError:  # Arrow's is an ArrowException as well
        raise
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _damage(file, error) from None


def rows(file: File, columns: Columns, wanted: set[int]) -> dict[int, str]:
    """The texts of some rows of a shard, decoded as the scanner does (bad UTF-8 becomes U+FFFD, null empty)."""
    found: dict[int, str] = {}
    for unit in plan(file, columns).units:
        if unit.rows >= 0 and not any(unit.first_row <= r < unit.first_row + unit.rows for r in wanted):
            continue
        for batch in read(file, columns, unit):
            here = (
                batch.rows if batch.rows is not None else np.arange(batch.first_row, batch.first_row + len(batch.text))
            )
            for i in np.flatnonzero(np.isin(here, list(wanted))).tolist():
                found[int(here[i])] = texts(batch.text[i : i + 1])[0][0].as_py()
            if len(found) == len(wanted):
                return found
    return found


def _open(raw: Any, file: File, meta: Any = None) -> pq.ParquetFile:
    try:
        # buffered and not memory-mapped: pages are read as they are needed, so a row group of any size needs little memory
        return pq.ParquetFile(
            raw, metadata=meta, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
        )
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, EOFError) as error:
        raise _damage(file, error) from None


def _undone(parquet: pq.ParquetFile, raw: Any, file: File, names: dict[str, str]) -> pq.ParquetFile:
    """The shard with its texts as they are where Arrow would make dictionaries of them: it gives all the texts of a row group with every batch."""
    meta, given = parquet.metadata, parquet.schema_arrow
    if not pa.types.is_dictionary(given.field(names["text"]).type):
        return parquet
    at = _leaf(meta, names["text"], file)
    sizes = [meta.row_group(g).column(at).total_uncompressed_size for g in range(meta.num_row_groups)]
    if max(sizes, default=0) < _BATCH_BYTES:
        return parquet  # of few texts that repeat Arrow's way needs less
    sink = pa.BufferOutputStream()
    meta.write_metadata_file(sink)
    # the types that the writer had in memory lie under this key; under another they are not looked for
    footer = sink.getvalue().to_pybytes().replace(b"ARROW:schema", b"arrow:schema")
    meta = pq.read_metadata(pa.BufferReader(footer))
    plainly = meta.schema.to_arrow_schema()
    for name in set(names.values()):
        kinds = {plainly.field(name).type, getattr(given.field(name).type, "value_type", given.field(name).type)}
        if len(kinds) > 1 and not kinds & {pa.string(), pa.binary()}:
            return parquet  # an id would be written otherwise
    return _open(raw, file, meta)


def _damage(file: File, error: Exception) -> ShardError:
    if isinstance(error, PermissionError | FileNotFoundError):
        return UnreadableShard(f"{file.path} cannot be read: {error.strerror}")
    try:
        with open_file(file.path) as raw:
            head = raw.read(4)
    except (OSError, ShardError):
        head = b""
    if head != b"PAR1":
        return NotAShard(
            f"{file.path} is not a Parquet file (it is empty or does not begin with PAR1): remove or rename it"
        )
    reason = str(error).split("\n")[0][:200]
    return DamagedShard(f"{file.path} is truncated or damaged ({reason}): fetch it again")


def _names(meta: Any, file: File, columns: Columns) -> dict[str, str]:
    """The names of text, id and URL in the shard, where it has them. Raises MissingColumn, WrongColumnType."""
    schema = meta.schema.to_arrow_schema()
    there = set(schema.names)
    wanted = {"text": (columns.text, True), "id": (columns.id, columns.id_required), "url": (columns.url, False)}
    for name, required in wanted.values():
        if required and name not in there:
            raise MissingColumn(
                f"{file.path} has no column '{name}'; its columns: {lines.told(there)}: name the right one with --text-column or --id-column"
            )
    kind = schema.field(schema.names.index(columns.text)).type
    if meta.num_rows and not holds_text(kind):  # an empty table has whatever types its writer thought of
        raise WrongColumnType(f"{file.path}: {not_text(columns.text, kind)}")
    return {k: name for k, (name, _) in wanted.items() if name in there}


def _leaf(meta: Any, name: str, file: File) -> int:
    """The number of a column's first leaf in the row-group metadata, where nested columns stand leaf by leaf. Raises MissingColumn."""
    paths = [meta.schema.column(i).path for i in range(meta.num_columns)]
    if name in paths:
        return paths.index(name)
    for i, path in enumerate(paths):
        if path.startswith(f"{name}."):
            return i
    raise MissingColumn(f"{file.path} has no values in its column '{name}': name the right one with --text-column")


def _batch_rows(parquet: pq.ParquetFile, name: str, groups: tuple[int, int], file: File) -> int:
    """Rows a batch such that an average batch of the unit's widest row group holds _BATCH_BYTES of text.

    The footer counts a text that a dictionary holds once, however often it stands there: where that could be, the first texts tell.
    """
    widest, repeated, column = 1.0, False, _leaf(parquet.metadata, name, file)
    for g in range(*groups):
        group = parquet.metadata.row_group(g)
        chunk, rows = group.column(column), max(1, group.num_rows)
        widest = max(widest, chunk.total_uncompressed_size / rows)
        repeated |= bool(chunk.has_dictionary_page) and chunk.total_uncompressed_size < _FEW + rows * _SHORT
    if repeated:
        peek = next(parquet.iter_batches(_PEEK, row_groups=[groups[0]], columns=[name], use_threads=False), None)
        if peek is not None and len(peek):
            widest = max(widest, text_bytes(peek.column(0)) / len(peek))
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / widest)))
