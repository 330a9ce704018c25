"""Streams JSON Lines, plain, gzip or zstd, as document batches; a line that is no JSON object is counted and passed over."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.json as pj

from tropescan.errors import MissingColumn, ShardError
from tropescan.schema import Ints
from tropescan.shards import unpacking
from tropescan.shards.files import File

_BATCH_BYTES, _BATCH_ROWS = 4 << 20, 1000
_HUGE = 16 << 20  # bytes of a line
_SHOWN, _SHOWN_CHARACTERS = 30, 80  # keys of a message, and of a key


@dataclass(frozen=True)
class Batch:
    """Documents in a row: where they begin in the shard, their columns as Arrow arrays (id and url may be missing), and their physical rows
    where those are not consecutive. `bad_lines` were passed over since the last batch; `repaired` says which texts were no Unicode before they got here."""

    first_row: int
    text: pa.Array
    id: pa.Array | None
    url: pa.Array | None
    rows: Ints | None
    bad_lines: int
    repaired: npt.NDArray[np.bool_] | None = None


def read(file: File, text: str, id: str, url: str, id_required: bool) -> Iterator[Batch]:
    """The documents of a JSON Lines shard; `row` is the number of the line from 0, empty and bad lines counted. Raises ShardError."""
    pending: list[tuple[int, dict[str, Any], bool]] = []
    size = bad = 0
    seen: set[str] = set()
    good = 0
    damage: list[ShardError] = []
    for number, line in enumerate(unpacking.lines(file, damage)):
        if len(line) >= _HUGE and (alone := _huge(line, number, text, id, url)) is not None:
            if pending or bad:
                yield _batch(pending, text, id, url, bad)
            pending, size, bad, good = [], 0, 0, good + 1
            seen |= {text} if alone.id is None else {text, id}
            line = b""
            yield alone
            continue
        if not line.strip():
            continue
        parsed = _parse(line, text, id, url)
        if parsed is None:
            bad += 1
            continue
        document, mended = parsed
        if not good or not {text, id} <= seen:
            seen |= document.keys()
        good += 1
        pending.append((number, document, mended))
        size += len(line)
        if size >= _BATCH_BYTES or len(pending) >= _BATCH_ROWS:
            _require(file, seen, text, id, id_required)
            yield _batch(pending, text, id, url, bad)
            pending, size, bad = [], 0, 0
    if good:
        _require(file, seen, text, id, id_required)
    if pending or bad:
        yield _batch(pending, text, id, url, bad)
    if damage:
        raise damage[0]


def told(names: Collection[str]) -> str:
    """Keys or columns in a message, the first of many, the beginning of long ones."""
    shown = [n if len(n) <= _SHOWN_CHARACTERS else f"{n[:_SHOWN_CHARACTERS]}..." for n in sorted(names)[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(shown) or "none") + more


def _huge(line: bytes, number: int, text: str, id: str, url: str) -> Batch | None:
    """A line too long to be made a Python string, which takes up to four bytes a character; None where it is not as it should be."""
    reading = pj.ReadOptions(use_threads=False, block_size=len(line) + 1)
    # what ids mostly are; Arrow would make times of some strings, and of other kinds something else than `as_text` does
    for kind in (pa.string(), pa.int64()):
        try:
            schema = pa.schema({url: pa.string(), id: kind, text: pa.string()})
            options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
            table = pj.read_json(pa.BufferReader(line), reading, options)
        except (pa.ArrowInvalid, UnicodeEncodeError):  # the latter of a name that is no Unicode
            continue
        if len(table) != 1 or table[text].null_count:
            return None
        given = {name: table[name].combine_chunks() for name in {text, id, url} if not table[name].null_count}
        return Batch(number, given[text], given.get(id), given.get(url), np.array([number], np.int64), 0)
    return None


def loads(line: bytes) -> Any:
    """A line's JSON value. What orjson refuses or rounds and others write is taken: invalid UTF-8, half surrogate pairs, NaN, a byte-order mark,
    integers beyond 64 bits. Raises ValueError."""
    with contextlib.suppress(orjson.JSONDecodeError):
        value = orjson.loads(line)
        if not _rounded(value):
            return value
    try:
        return _DECODER.decode(line.decode("utf-8-sig", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int | str:
    """An integer; as it is written where it has more digits than Python makes a number of."""
    try:
        return int(digits)
    except ValueError:
        return digits


_DECODER = json.JSONDecoder(parse_int=_integer)


def _rounded(value: Any) -> bool:
    """Whether a value holds a float that may have been an integer too long for orjson. (A search for long digits in the line takes ten times as long.)"""
    pending = [value]
    for one in pending:  # grows meanwhile
        if isinstance(one, dict):
            pending += one.values()
        elif isinstance(one, list):
            pending += one
        elif isinstance(one, float) and abs(one) >= 1 << 63:
            return True
    return False


def dumps(value: Any) -> bytes:
    """A JSON value as bytes, with what only `loads` takes as it was written."""
    try:
        json.dumps(value, allow_nan=False)  # orjson writes null for NaN
        return orjson.dumps(value)
    except (TypeError, ValueError):
        return json.dumps(value).encode()


def as_text(value: Any) -> str | None:
    """A value of a line as a column holds it: a string mended, null as it is, anything else as JSON; null where that is nested too deeply."""
    if value is None:
        return None
    try:
        return unicode(value) if isinstance(value, str) else dumps(value).decode()
    except RecursionError:
        return None


def unicode(text: str) -> str:
    """The text with U+FFFD for every half of a surrogate pair, which no UTF-8 can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parse(line: bytes, text: str, id: str, url: str) -> tuple[dict[str, Any], bool] | None:
    """A line's document, and whether its text had to be mended; None where it is none. Only what orjson refuses can need mending."""
    try:
        document = orjson.loads(line)
        # the only keys that are read besides the text
        again = isinstance(document, dict) and _rounded([document.get(id), document.get(url)])
    except orjson.JSONDecodeError:
        again = True
    if again:
        try:
            document = loads(line)
        except ValueError:
            return None
    if not isinstance(document, dict) or not isinstance(document.get(text), str | None):
        return None
    return document, again and _odd(line, document.get(text))


def _odd(line: bytes, text: str | None) -> bool:
    """Whether a text of a line that orjson refuses had to be mended: the line is no UTF-8, or it holds half a surrogate pair."""
    if text is None:
        return False
    try:
        line.decode()
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}" in text
    return unicode(text) != text


def _require(file: File, seen: set[str], text: str, id: str, id_required: bool) -> None:
    for name, required in ((text, True), (id, id_required)):
        if required and name not in seen:
            raise MissingColumn(
                f"{file.path} has no key '{name}'; its keys: {told(seen)}: name the right one with --text-column or --id-column"
            )


def _batch(pending: list[tuple[int, dict[str, Any], bool]], text: str, id: str, url: str, bad: int) -> Batch:
    def column(key: str) -> pa.Array:
        values = [d.get(key) for _, d, _ in pending]
        try:
            return pa.array([v if isinstance(v, str) else as_text(v) for v in values], pa.large_string())
        except UnicodeEncodeError:
            return pa.array([as_text(v) for v in values], pa.large_string())

    numbers = np.array([n for n, _, _ in pending], np.int64)
    repaired = np.array([odd for _, _, odd in pending], bool)
    return Batch(int(numbers[0]) if len(numbers) else 0, column(text), column(id), column(url), numbers, bad, repaired)
