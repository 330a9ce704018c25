"""Writes a Parquet shard again, row group by row group: the same columns, types, order, compression, row groups and metadata, less what goes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tropescan.errors import DamagedShard, MissingColumn, OutputError
from tropescan.schema import Ints
from tropescan.selection.changes import REASONS, Change, Counts, check_ids, expected_ids, reason_names
from tropescan.shards import Columns, File
from tropescan.shards.files import open_file

HUGE, PIECE = 512 << 20, 128 << 20
"""Uncompressed bytes from which a row group is read and written in pieces, and of such a piece: memory stays bounded."""
_BATCH = 1024


def rewrite(file: File, columns: Columns, change: Change, out: Path, aside: Path, pool: Path) -> Counts:
    """Writes the shard to `out`, what is removed or was changed to `aside`, the rows of the pool to `pool` (these two where there are any).

    Raises CorpusChanged where an id is not the store's, MissingColumn, DamagedShard, OutputError where pyarrow cannot keep the file's types.
    """
    counts = Counts()
    with opened(file) as parquet, contextlib.ExitStack() as stack:
        schema = parquet.schema_arrow
        text, id = _at(schema, columns.text, file), _at(schema, columns.id, None)
        form = _form(parquet.metadata, columns.text if change.rewrite else None)
        if change.rewrite and pa.types.is_fixed_size_binary(schema.field(text).type):
            raise OutputError(
                f"the texts in column '{columns.text}' are of a fixed length, so that none can be masked or tagged: give --mode drop or replace"
            )
        main = stack.enter_context(pq.ParquetWriter(out, schema, **form))
        if (
            not form["store_schema"] and parquet.metadata.metadata
        ):  # then pyarrow leaves out the metadata of the schema as well
            main.add_key_value_metadata(parquet.metadata.metadata)
        extra = pa.schema([*schema, *_reason_fields(schema)])
        beside: dict[str, pq.ParquetWriter] = {}

        def also(path: Path, table: pa.Table) -> None:
            if str(path) not in beside:
                beside[str(path)] = stack.enter_context(
                    pq.ParquetWriter(path, table.schema, **(form | {"sorting_columns": None}))
                )
            beside[str(path)].write_table(table, row_group_size=max(1, len(table)))

        first = 0
        for table in pieces(parquet):
            part = change.here(first, len(table))
            rows = change.decided.rows[part] - first
            kept = table
            if len(rows):
                chosen = _only(table, rows)
                check_ids(
                    file.path,
                    chosen.column(id).combine_chunks() if id >= 0 else None,
                    expected_ids(change, part),
                    (rows + first).tolist(),
                )
                new = change.texts(part, chosen.column(text).combine_chunks(), counts)
                gone = np.array([t is None for t in new])
                also(aside, _beside(chosen, change, part, gone, extra))
                kept = _edited(table, text, rows, new, gone)
                counts.rows_changed += int((~gone).sum())
            begin, end = np.searchsorted(change.pool, [first, first + len(table)]).tolist()
            if begin < end:
                also(pool, _only(table, change.pool[begin:end] - first))
            if len(kept):
                main.write_table(kept, row_group_size=len(kept))
            counts.rows_in = (counts.rows_in or 0) + len(table)
            counts.rows_kept = (counts.rows_kept or 0) + len(kept)
            first += len(table)
        counts.rows_removed = (counts.rows_in or 0) - (counts.rows_kept or 0)
        given = parquet.metadata
    verify(file, given, schema, out, counts)
    return counts


@contextlib.contextmanager
def opened(file: File) -> Iterator[pq.ParquetFile]:
    """The shard, read as it is needed. Raises DamagedShard, UnreadableShard."""
    try:
        with open_file(file.path) as raw, pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20) as parquet:
            yield parquet
    except (pa.ArrowException, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the file's bytes
            raise
        raise DamagedShard(f"{file.path} is damaged ({str(error).splitlines()[0][:200]}): fetch it again") from None


def pieces(parquet: pq.ParquetFile, only: list[str] | None = None) -> Iterator[pa.Table]:
    """The row groups as tables, huge ones in pieces; `only` names the columns to read."""
    for g in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(g)
        if group.total_byte_size < HUGE:
            yield parquet.read_row_group(g, columns=only)
            continue
        step = max(1, min(_BATCH, group.num_rows * (PIECE >> 4) // group.total_byte_size))
        batches: list[pa.RecordBatch] = []
        for batch in parquet.iter_batches(batch_size=step, row_groups=[g], columns=only):
            batches.append(batch)
            if sum(b.nbytes for b in batches) >= PIECE:
                yield pa.Table.from_batches(batches)
                batches = []
        if batches:
            yield pa.Table.from_batches(batches)


def verify(file: File, given: Any, schema: pa.Schema, out: Path, counts: Counts) -> None:
    """That what was written has the columns, types and metadata of the input, and the rows that were counted. Raises OutputError."""
    with pq.ParquetFile(out) as parquet:
        meta = parquet.metadata
        leaves = zip(
            map(given.schema.column, range(given.num_columns)),
            map(meta.schema.column, range(meta.num_columns)),
            strict=True,
        )
        changed = [before.path for before, after in leaves if _kind(before) != _kind(after)]
        if changed or not schema.equals(parquet.schema_arrow):
            raise OutputError(
                f"{file.path}: pyarrow cannot write {', '.join(changed) or 'its schema'} with the type it has: nothing was written of it"
            )
        ours, theirs = ({k: v for k, v in (m.metadata or {}).items() if k != b"ARROW:schema"} for m in (meta, given))
        if ours != theirs:
            raise OutputError(f"{file.path}: pyarrow did not keep its key-value metadata: nothing was written of it")
        if meta.num_rows != counts.rows_kept:
            raise OutputError(
                f"{out} holds {meta.num_rows} rows, not {counts.rows_kept}: a defect, nothing was written of it"
            )


def _kind(leaf: Any) -> tuple[Any, ...]:
    """What a column is to its readers. That a signed integer is one (DuckDB notes it, pyarrow does not) says nothing."""
    logical = str(leaf.logical_type)
    width = {"INT32": "32", "INT64": "64"}.get(leaf.physical_type)
    plain = logical == f"Int(bitWidth={width}, isSigned=true)"
    return leaf.path, leaf.physical_type, "None" if plain else "String" if logical == "Enum" else logical


def _at(schema: pa.Schema, name: str, file: File | None) -> int:
    """The number of a column; where it is not there, -1, or MissingColumn with the file to name."""
    if name in schema.names:
        return int(schema.names.index(name))
    if file is not None:
        raise MissingColumn(
            f"{file.path} has no column '{name}'; its columns: {', '.join(schema.names)}: name the right one with --text-column"
        )
    return -1


def _form(meta: Any, rewritten: str | None) -> dict[str, Any]:
    """How the file was written, as options of ParquetWriter; `rewritten` is the column that gets other values.

    The level of its compression is not in the file: pyarrow's default is used.
    """
    leaves = [meta.schema.column(i) for i in range(meta.num_columns)]
    group: Any = meta.row_group(0) if meta.num_row_groups else None
    compression: dict[str, str] = {}
    dictionary: list[str] = []
    statistics: list[str] = []
    for i, leaf in enumerate(leaves if group is not None else []):
        chunk = group.column(i)
        compression[leaf.path] = {"UNCOMPRESSED": "none"}.get(chunk.compression, chunk.compression.lower())
        chunks = [meta.row_group(g).column(i) for g in range(meta.num_row_groups)]
        if any("DICTIONARY" in e for c in chunks for e in c.encodings):
            dictionary.append(leaf.path)
        if chunk.is_stats_set:
            statistics.append(leaf.path)
    # what DuckDB writes as version 1, and pyarrow in none before 2.6
    kinds = [str(leaf.logical_type) for leaf in leaves]
    late = any(k == "Int(bitWidth=32, isSigned=false)" or (k[:9] == "Timestamp" and "=nanoseconds" in k) for k in kinds)
    return {
        "version": meta.format_version if meta.format_version in ("1.0", "2.4") and not late else "2.6",
        "compression": compression or "snappy",
        "use_dictionary": dictionary,
        "write_statistics": statistics,
        "use_deprecated_int96_timestamps": any(leaf.physical_type == "INT96" for leaf in leaves),
        "use_compliant_nested_type": not any(".list.item" in leaf.path for leaf in leaves),
        "store_schema": b"ARROW:schema" in (meta.metadata or {}),
        "write_page_index": bool(group is not None and meta.num_columns and group.column(0).has_offset_index),
        "store_decimal_as_integer": any(
            leaf.logical_type.type == "DECIMAL" and leaf.physical_type in ("INT32", "INT64") for leaf in leaves
        ),
        "sorting_columns": _sorting(meta, rewritten),
    }


def _sorting(meta: Any, rewritten: str | None) -> list[Any] | None:
    """The columns that the rows are said to be ordered by; not from one on that is rewritten."""
    leaves = [meta.schema.column(i).path for i in range(meta.num_columns)]
    given = meta.row_group(0).sorting_columns if meta.num_row_groups else ()
    return list(takewhile(lambda s: leaves[s.column_index] != rewritten, given)) or None


def _reason_fields(schema: pa.Schema) -> list[pa.Field]:
    """REASONS as fields, with names that the input does not have yet."""
    kinds = (pa.int64(), pa.float64(), pa.string(), pa.string())
    return [pa.field(name, kind) for name, kind in zip(reason_names(schema.names), kinds, strict=True)]


def _beside(chosen: pa.Table, change: Change, part: slice, gone: Any, schema: pa.Schema) -> pa.Table:
    reasons = change.reasons(part, gone.tolist())
    return pa.Table.from_arrays([*chosen.columns, *(pa.chunked_array([reasons[r]]) for r in REASONS)], schema=schema)


def _only(table: pa.Table, rows: Ints, *, but: bool = False) -> pa.Table:
    """These rows of the table, in its order; with `but` all others."""
    keep = np.full(len(table), but)
    keep[rows] = not but
    try:
        return table.filter(pa.array(keep))
    except pa.ArrowNotImplementedError:  # it filters no views: slices, a run of rows each
        kept = np.flatnonzero(keep)
        runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1) if len(kept) else []
        return pa.concat_tables([table.slice(0, 0), *(table.slice(run[0], len(run)) for run in runs)])


def _edited(table: pa.Table, text: int, rows: Ints, new: list[str | None], gone: Any) -> pa.Table:
    """The table with new texts in the column `text` and without the rows that have none; no other row is touched."""
    if not gone.all():
        column, kind = table.column(text), table.schema.field(text).type
        chunks: list[pa.Array] = []
        at = 0
        for row, value in zip(rows.tolist(), new, strict=True):
            chunks += column.slice(at, row - at).chunks
            chunks.append(_one(value or "", kind))
            at = row + 1
        chunks += column.slice(at).chunks
        edited = pa.chunked_array(chunks, type=kind)
        table = table.set_column(text, table.schema.field(text), edited.unify_dictionaries())
    if gone.any():
        table = _only(table, rows[gone], but=True)
    return table


def _one(value: str, kind: pa.DataType) -> pa.Array:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    raw: Any = (
        value
        if pa.types.is_string(plain) or pa.types.is_large_string(plain) or plain == pa.string_view()
        else value.encode()
    )
    array = pa.array([raw], plain)
    return array.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else array


@contextlib.contextmanager
def writer(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Takes tables of one schema, a row group each, compressed by zstd."""
    with contextlib.ExitStack() as stack:
        made: list[pq.ParquetWriter] = []

        def write(table: pa.Table) -> None:
            if not made:
                made.append(stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd")))
            made[0].write_table(table, row_group_size=max(1, len(table)))

        yield write
