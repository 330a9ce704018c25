"""A score part as a file: what the scan of one unit leaves behind, with all that a database has to know of it. Parquet, readable by anything.

One row a kept document, its passages in the column `hits`; the head (counters, model, shard, plan, unit, how and when it ended) is JSON in the
file's metadata under `tropescan`. Written under a temporary name and renamed, with a checksum on every page and on the head.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tropescan import __version__
from tropescan.errors import NoSpace, PartError, StoreError
from tropescan.parts import Part
from tropescan.persistence import Model
from tropescan.runners.orders import unit_of
from tropescan.schema import DOCUMENTS, PASSAGE, PASSAGES
from tropescan.shards import File, Plan, Unit
from tropescan.store import Entry

FORMAT = 1
SUFFIX = ".parquet"
COPY = "copy"  # ends the name of a part that has no unit: its path holds a shard which counts elsewhere
_KEY, _SEAL = b"tropescan", b"tropescan_sha256"
_TABLE = pa.schema([*DOCUMENTS, ("hits", pa.list_(PASSAGE))])


@dataclass(frozen=True)
class Head:
    """What a part is about: the model as the database notes it, the shard with its plan, the unit (None: the shard could not be planned, or
    counts elsewhere: then the part only tells what its path holds)."""

    model: dict[str, Any]
    entry: Entry
    unit: Unit | None
    part: dict[str, Any]
    at: datetime

    @property
    def status(self) -> str:
        """done, limited or failed."""
        return str(self.part["status"]) if self.unit else "failed"


def described(model: Model, depth: str) -> dict[str, Any]:
    """The row of a model in the database, less what differs between programs and times (see Store.note_model)."""
    return {
        "model": model.key(depth),
        "name": model.name,
        "fingerprint": model.fingerprint,
        "depth": depth,
        "thresholds": model.thresholds[depth],
        "hit_floor": model.config["hit_floor"],
    }


def origin(model: str, path: str) -> str:
    """How the names of a path's parts begin, so that its parts are found among many without opening any."""
    return hashlib.sha256(f"{model}\n{path}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def name(entry: Entry, unit: Unit | None) -> str:
    """The name of a part: the same for the same content of the same path by the same model."""
    end = f"{entry.shard}-{unit.index:05}" if unit else f"{entry.shard}-{COPY}" if entry.elsewhere else "failed"
    return f"{origin(entry.model, entry.file.path)}-{end}{SUFFIX}"


def write(folder: Path, model: dict[str, Any], entry: Entry, unit: Unit | None, part: Part) -> Path:
    """Writes a part into an existing folder; it is there whole, or not at all. Raises NoSpace, StoreError."""
    head = {
        "format": FORMAT,
        "tropescan": __version__,
        "at": _now().isoformat(),
        "model": model,
        "shard": entry.shard,
        "audit": entry.audit,
        "file": asdict(entry.file),
        "plan": asdict(entry.plan) if entry.plan else None,
        "error": entry.error,
        "elsewhere": entry.elsewhere,
        "unit": asdict(unit) if unit else None,
        "part": {k: getattr(part, k) for k in ("counters", "status", "kind", "error", "seconds", "flagged", "backend")},
    }
    target = folder / name(entry, unit)
    temporary = folder / f".{target.name}.{uuid4().hex}"
    raw_head = orjson.dumps(head)
    table = _joined(part).replace_schema_metadata({_KEY: raw_head, _SEAL: _sealed(raw_head)})
    with _translated(folder):
        try:
            with _new(temporary) as raw:
                pq.write_table(table, raw, compression="zstd", write_page_checksum=True)
                raw.flush()
                os.fsync(raw.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _new(temporary: Path) -> IO[bytes]:
    """The file, opened for writing. Its folder is made again where it is gone: of two scans on Ray, one may take away what is empty."""
    try:
        return open(temporary, "xb")
    except FileNotFoundError:
        temporary.parent.mkdir(exist_ok=True)
        return open(temporary, "xb")


def read_head(path: Path) -> Head:
    """The head of a part; its rows are not read. Raises PartError where it is damaged, OSError where it cannot be opened or read."""
    with _damage(path), open(path, "rb") as raw, pq.ParquetFile(raw) as parquet:
        return _head(path, parquet)


def read(path: Path) -> tuple[Head, Part]:
    """A whole part. Raises as `read_head` does."""
    with _damage(path), open(path, "rb") as raw, pq.ParquetFile(raw, page_checksum_verification=True) as parquet:
        head = _head(path, parquet)
        table = parquet.read(use_threads=False)
        if table.schema.remove_metadata() != _TABLE:
            raise PartError(f"{path} has other columns than a score part of this tropescan: scan its shard again")
        documents, passages = _parted(table)
        return head, Part(documents=documents, passages=passages, at=head.at, **head.part)


def _head(path: Path, parquet: pq.ParquetFile) -> Head:
    metadata = parquet.metadata.metadata or {}
    raw = metadata.get(_KEY)
    if raw is None:
        raise PartError(f"{path} is a Parquet file, but no score part: take it out of the folder")
    if metadata.get(_SEAL) != _sealed(raw):
        raise PartError(f"{path} is damaged (its head): remove it, and scan its shard again")
    told = orjson.loads(raw)
    if told["format"] != FORMAT:
        raise PartError(
            f"{path} was written by tropescan {told['tropescan']} in format {told['format']}, this one reads {FORMAT}: scan its shard again"
        )
    plan = told["plan"] and Plan(told["plan"]["rows"], tuple(map(unit_of, told["plan"]["units"])))
    error = told["error"] and (str(told["error"][0]), str(told["error"][1]))
    # older parts say so by a unit of which nothing was read
    nothing = told["part"]["status"] == "limited" and not any(told["part"]["counters"].values())
    elsewhere = bool(told.get("elsewhere", nothing))
    unit = unit_of(told["unit"]) if told["unit"] and not elsewhere else None
    entry = Entry(told["shard"], told["model"]["model"], File(**told["file"]), plan, told["audit"], error, elsewhere)
    return Head(told["model"], entry, unit, told["part"], datetime.fromisoformat(told["at"]))


def _joined(part: Part) -> pa.Table:
    """The documents with their passages inside them: both are in the order of their rows."""
    documents, passages = part.documents.combine_chunks(), part.passages.combine_chunks()
    rows, owner = documents["row"].to_numpy(), passages["row"].to_numpy()
    begin = np.append(np.searchsorted(owner, rows), len(owner)).astype(np.int32)
    columns = [_whole(passages[f.name]) for f in PASSAGE]
    hits = pa.ListArray.from_arrays(pa.array(begin), pa.StructArray.from_arrays(columns, fields=list(PASSAGE)))
    return pa.table([*documents.columns, hits], schema=_TABLE)


def _parted(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    lists = _whole(table["hits"])
    passages = lists.flatten()
    owner = _whole(table["row"]).take(pc.list_parent_indices(lists))
    columns = [owner, *passages.flatten()]
    return table.select(DOCUMENTS.names), pa.table(columns, schema=PASSAGES)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:  # those of Arrow, on what it has read, have no number
            raise
        reason = " ".join(str(error).split())[:200]
        raise PartError(
            f"{path} is no score part, or damaged ({reason}): remove it, and scan its shard again"
        ) from None


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left in {folder}: free some and run the same command again, it goes on from there"
            ) from None
        raise StoreError(f"{folder} cannot be written to: {error.strerror or error}") from None


def _sealed(head: bytes) -> bytes:
    return hashlib.sha256(head).hexdigest().encode()


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
