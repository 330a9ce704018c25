"""Writes a JSON Lines shard again, line by line: lines that stay are copied byte for byte, bad and empty ones too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from tropescan.errors import DamagedShard, ShardError
from tropescan.selection.changes import REASONS, Change, Counts, check_ids, expected_ids, reason_names
from tropescan.shards import Columns, File, unpacking
from tropescan.shards.lines import as_text, dumps, loads


def rewrite(file: File, columns: Columns, change: Change, out: Path, aside: Path, pool: Path) -> Counts:
    """As parquet.rewrite. Rows are lines from 0; a line whose text changes is written anew, its other keys in their order."""
    counts = Counts()
    decided = {row: i for i, row in enumerate(change.decided.rows.tolist())}
    drawn = set(change.pool.tolist())
    with contextlib.ExitStack() as stack:
        main = stack.enter_context(_writer(out, file))
        beside: dict[Path, IO[bytes]] = {}

        def also(path: Path, line: bytes) -> None:
            if path not in beside:
                beside[path] = stack.enter_context(_writer(path, file))
            beside[path].write(line)

        for number, line in enumerate(lines(file)):
            counts.rows_in = (counts.rows_in or 0) + 1
            if number in drawn:
                also(pool, line.rstrip(b"\r\n") + b"\n")
            at = decided.get(number)
            if at is not None:
                kept, before = _decided(file, columns, change, slice(at, at + 1), line, counts)
                also(aside, before)
                if kept is None:
                    counts.rows_removed = (counts.rows_removed or 0) + 1
                    continue
                counts.rows_changed += 1
                line = kept
            counts.rows_kept = (counts.rows_kept or 0) + 1
            main.write(line)
    return counts


def _decided(
    file: File, columns: Columns, change: Change, at: slice, line: bytes, counts: Counts
) -> tuple[bytes | None, bytes]:
    """What becomes of a line (None: it goes), and the line with the reason for it."""
    try:
        document = loads(line)
        text = as_text(document.get(columns.text)) or ""
        id = document.get(columns.id)
    except (ValueError, AttributeError) as error:
        raise DamagedShard(
            f"{file.path} row {change.decided.rows[at.start]} is no JSON object any more: {error}"
        ) from None
    given = as_text(id)
    check_ids(
        file.path, pa.array([given], pa.large_string()), expected_ids(change, at), change.decided.rows[at].tolist()
    )
    (new,) = change.texts(at, pa.array([text], pa.large_string()), counts)
    reasons = change.reasons(at, [new is None])
    told = [reasons[name][0].as_py() for name in REASONS]
    try:
        before = dumps(document | dict(zip(reason_names(document), told, strict=True))) + b"\n"
        if new is None:
            return None, before
        return dumps(document | {columns.text: new}) + line[len(line.rstrip(b"\r\n")) :], before
    except RecursionError:
        row = change.decided.rows[at.start]
        raise ShardError(
            f"{file.path} row {row} is nested too deeply to be written again: take that line out"
        ) from None


def lines(file: File) -> Iterator[bytes]:
    """The lines as they are, with their ends, in the order in which the scanner numbers them. Raises ShardError."""
    rest: list[bytes] = []
    try:
        for block in unpacking.blocks(file):
            *whole, last = block.split(b"\n")
            for piece in whole:
                yield b"".join([*rest, piece, b"\n"])
                rest = []
            rest.append(last)
        if any(rest):
            yield b"".join(rest)
    except MemoryError:  # Arrow's is an ArrowException as well
        raise
    except unpacking.FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise unpacking.damaged(file, error) from None


@contextlib.contextmanager
def _writer(path: Path, file: File) -> Iterator[IO[bytes]]:
    codec = unpacking.CODECS.get(file.format)
    with open(path, "wb") as raw:
        if not codec:
            yield raw
            return
        stream: Any = pa.CompressedOutputStream(pa.PythonFile(raw, mode="w"), codec)
        try:
            yield stream
        finally:
            stream.close()
