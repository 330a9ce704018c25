"""The columns that pass between the stations, and the checks that a table has them."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tropescan.errors import WrongColumnType

SCHEMA_VERSION = 2
"""Version of the database tables; a database of another version is refused."""

FACETS = ("self_preservation", "coercion", "deception", "escape", "power_seeking", "hostility")
FRAMES = ("fiction", "reference", "report", "argument", "dialogue", "other")
DECIMALS = 4
"""Scores are rounded to this many decimals, so that they compare equal across hosts."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_JUDGED = [
    ("fast_score", pa.float64()),
    ("score", pa.float64()),
    ("intensity", pa.float64()),
    ("frame", pa.string()),
    ("admirable", pa.float64()),
]

PASSAGE = pa.struct(
    [
        ("passage", pa.int32()),
        ("start_char", pa.int64()),
        ("end_char", pa.int64()),
        *_JUDGED,
        *[(f, pa.float64()) for f in FACETS],
        ("audited", pa.string()),
        ("weight", pa.float64()),
    ]
)
"""One scored passage. Spans are half-open, in characters (Unicode code points) of the document's text."""

SCORES = pa.schema(
    [
        ("characters", pa.int64()),
        ("passages", pa.int64()),
        ("candidates", pa.int64()),
        ("encoded", pa.int64()),
        ("null_text", pa.bool_()),
        ("repaired", pa.bool_()),
        *_JUDGED,
        ("audited", pa.bool_()),
        ("hits", pa.list_(PASSAGE)),
    ]
)
"""What `Scanner.scan` gives: one row a document. See docs/design.md for units."""

DOCUMENTS = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("url", pa.string()),
        ("domain", pa.string()),
        ("characters", pa.int64()),
        ("passages", pa.int64()),
        *_JUDGED,
        ("audited", pa.bool_()),
    ]
)
"""The `documents` table, less its key columns shard, model and unit."""

PASSAGES = pa.schema([("row", pa.int64()), *[(f.name, f.type) for f in PASSAGE]])
"""The `passages` table, less its key columns shard, model and unit."""

SELECTIONS = pa.schema(
    [
        *[(n, pa.string()) for n in ("selection", "shard", "model", "path", "output", "mode", "rule", "options")],
        ("outcome", pa.string()),
        *[(n, pa.int64()) for n in ("rows_in", "rows_kept", "rows_removed", "rows_changed", "characters_removed")],
        ("tropescan_version", pa.string()),
        ("selected_at", pa.timestamp("us")),
    ]
)
"""The `selections` table: one row a shard and selection. Rows are null where a shard that was never read could not be counted."""

COUNTERS = (
    "rows",
    "characters",
    "passages",
    "gated_documents",
    "gated_characters",
    "candidate_passages",
    "encoded_passages",
    "audited_documents",
    "null_documents",
    "repaired_documents",
    "bad_lines",
)
"""What is counted in every unit of work; `characters` and `passages` cover all documents, gated or not."""

BATCH = pa.schema([("row", pa.int64()), ("id", pa.string()), ("text", pa.string()), ("url", pa.string())])
"""What the shard readers give (text and the others may also be large_string)."""


def texts(column: pa.Array, name: str = "text") -> tuple[pa.Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Any Arrow column that can hold text, as plain UTF-8.

    Returns the column as string or large_string without nulls (null becomes empty) and without invalid UTF-8 (each bad
    byte sequence becomes U+FFFD, as `bytes.decode("utf-8", "replace")` does), a mask of the rows that were null and a mask of the
    rows that were repaired. Raises WrongColumnType for a column that holds no text.
    """
    if not holds_text(column.type):
        raise WrongColumnType(not_text(name, column.type))
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        column = column.cast(pa.string())
    elif pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        column = column.cast(pa.binary()).view(pa.string())
    elif pa.types.is_large_binary(kind):
        column = column.view(pa.large_string())
    null = np.zeros(len(column), dtype=bool)
    if column.null_count:
        null = column.is_null().to_numpy(zero_copy_only=False)
        column = pc.fill_null(column, pa.scalar("", column.type))
    repaired = np.zeros(len(column), dtype=bool)
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        column, repaired = _repair(column)
    return column, null, repaired


def holds_text(kind: pa.DataType) -> bool:
    """Whether `texts` takes a column of this type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    known = (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.null(),
    )
    return kind in known or pa.types.is_fixed_size_binary(kind)


def not_text(name: str, kind: pa.DataType) -> str:
    """What is told of a column of a type that `texts` does not take."""
    return f"column '{name}' holds {kind}, not text: name the column of the text with --text-column"


def _decoded(column: pa.DictionaryArray) -> pa.Array:
    """Its values, one after another; texts and bytes as large ones, for a few of them may come to more than 2 GB where they repeat."""
    kept, indices = _used(column)
    wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kept.type)
    if wide is not None:  # the bytes as they are: not every writer checks its UTF-8
        kept = kept.cast(pa.large_binary()).view(wide)
    return kept.take(indices)


def _used(column: pa.DictionaryArray) -> tuple[pa.Array, pa.Array]:
    """The values that stand in a dictionary column, each once, and which of them stands where: a few rows may come with the dictionary of a million."""
    used = column.indices.dictionary_encode()
    return plain(column.dictionary).take(used.dictionary), used.indices


def plain(column: pa.Array) -> pa.Array:
    """The values in a type that pyarrow can take rows out of: views become large strings or binaries, dictionaries their values."""
    if pa.types.is_dictionary(column.type):
        column = _decoded(column)
    if column.type not in (pa.string_view(), pa.binary_view()):
        return column
    wide = column.cast(pa.large_binary())  # not every writer checks its UTF-8
    return wide.view(pa.large_string()) if column.type == pa.string_view() else wide


def strings(column: pa.Array) -> list[str | None]:
    """A column of ids or URLs as the store writes them: bad UTF-8 becomes U+FFFD as in `texts`, and what is no text is written as Python does."""
    column = plain(column)
    if column.type in (pa.string(), pa.large_string()):
        column = column.cast(pa.large_binary())
    try:
        values = column.to_pylist()
    except Exception:
        # a time that Python has no room for, bad UTF-8 within a list: whatever it is, the others are told
        values = [_told(value) for value in column]
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else None if v is None else str(v) for v in values]


def _told(value: pa.Scalar) -> Any:
    """As Python has it, else as Arrow writes it, else None."""
    for told in (value.as_py, lambda: value.cast(pa.string()).as_py()):
        with contextlib.suppress(Exception):
            return told()
    return None


def _repair(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    raw = column.cast(pa.large_binary()).to_pylist()
    fixed = [b.decode("utf-8", "replace").encode() for b in raw]
    bad = np.array([a != b for a, b in zip(raw, fixed, strict=True)], dtype=bool)
    return pa.array(fixed, pa.large_binary()).view(pa.large_string()), bad


def text_bytes(column: pa.Array) -> int:
    """The bytes that a column's texts come to, each as often as it stands there: a dictionary holds it once, and a view of a few of them all."""
    values, indices = _used(column) if pa.types.is_dictionary(column.type) else (plain(column), None)
    try:
        lengths = pc.binary_length(values)
    except pa.ArrowNotImplementedError:  # no text: `texts` will say so
        return int(column.nbytes)
    return int(pc.sum(lengths if indices is None else lengths.take(indices)).as_py() or 0)


def buffers(column: pa.Array) -> tuple[Bytes, Ints]:
    """The bytes of a string column and its n + 1 offsets into them (int64), without copying the bytes."""
    wide = pa.types.is_large_string(column.type)
    _, raw_offsets, raw_values = column.buffers()
    if len(column) == 0 or raw_offsets is None:
        return np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    offsets = np.frombuffer(raw_offsets, dtype=np.int64 if wide else np.int32)[
        column.offset : column.offset + len(column) + 1
    ]
    values = np.zeros(0, np.uint8) if raw_values is None else np.frombuffer(raw_values, dtype=np.uint8)
    return values[offsets[0] : offsets[-1]], offsets.astype(np.int64) - int(offsets[0])
