"""Opens the database, commits to it, and reads from it.

DuckDB admits no second process while a writer has the file open, so the store opens it, commits, and closes it again: between commits
any process can query. A commit is repeated without harm: a unit that is done stays as it is.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from tropescan import __version__
from tropescan.errors import InputError, NoSpace, QueryError, StoreError, StoreLocked, WrongSchema
from tropescan.parts import Part
from tropescan.persistence import Model
from tropescan.schema import COUNTERS, SCHEMA_VERSION, SELECTIONS
from tropescan.shards import File, Plan, Unit
from tropescan.store import expressions
from tropescan.store.tables import TABLES, VIEWS

_EXPLAIN_OPTIONS = re.compile(r"\([\w\s,]*\)")


@dataclass(frozen=True)
class Entry:
    """A shard to note: what identifies it, where it lies, its plan (None where it could not be planned: then `error` is class and message).

    `elsewhere`: it counts under another path already, and nothing is noted but that this path holds no other content any more.
    """

    shard: str
    model: str
    file: File
    plan: Plan | None
    audit: float
    error: tuple[str, str] | None = None
    elsewhere: bool = False


class Store:
    """A tropescan database. `wait` is how long, in seconds, to wait for another process to let go of it. Raises StoreError."""

    moves = True  # what is stored of a shard follows it to another path

    def __init__(self, path: str | Path, wait: float = 30.0) -> None:
        self.path, self.wait = Path(path), wait

    @contextlib.contextmanager
    def connect(self, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """An open connection, closed at the end; of a schema that this tropescan knows. Raises WrongSchema, StoreLocked, NoSpace, StoreError."""
        if read_only and not self.path.is_file():
            raise StoreError(f"no database {self.path}: make one with `tropescan scan PATH... --db {self.path}`")
        with self._translated():
            connection = self._opened(read_only)
            try:
                self._check(connection, read_only)
                yield connection
            finally:
                connection.close()

    def _opened(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        _require_duckdb(self.path)
        deadline, pause = time.monotonic() + self.wait, 0.01
        while True:
            try:
                # absolute: DuckDB takes names such as :memory: and md:x for other places than files
                return duckdb.connect(str(self.path.absolute()), read_only=read_only)
            except duckdb.IOException as error:
                if "could not set lock" not in str(error).lower():
                    raise
                if time.monotonic() >= deadline:
                    holder = re.search(r"PID (\d+)", str(error))
                    raise StoreLocked(
                        f"{self.path} is held by another process ({holder.group(0) if holder else 'unknown'}) and was not freed in {self.wait:g} s: "
                        "end that process, or give more time with --wait"
                    ) from None
                time.sleep(pause)
                pause = min(0.25, pause * 1.5)

    def _check(self, connection: duckdb.DuckDBPyConnection, read_only: bool) -> None:
        names = {r[0] for r in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}
        if not names and not read_only:
            connection.execute("BEGIN")
            connection.execute(TABLES + VIEWS)
            connection.execute("INSERT INTO tropescan VALUES (?, ?, ?)", [SCHEMA_VERSION, __version__, _now()])
            connection.execute("COMMIT")
            return
        if "tropescan" not in names:
            raise WrongSchema(f"{self.path} is a DuckDB database, but not of tropescan: give another file to --db")
        version = connection.execute("SELECT schema_version FROM tropescan").fetchall()
        if version != [(SCHEMA_VERSION,)]:
            found = version[0][0] if version else "none"
            raise WrongSchema(
                f"{self.path} has schema version {found}, this tropescan {__version__} has {SCHEMA_VERSION}: scan into a new file"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            text = str(error)
            if any(sign in text for sign in ("No space left", "File too large", "Disk quota", "Could not write")):
                raise NoSpace(
                    f"no space left for {self.path} ({_first(text)}): free some and run the same command again, it goes on from there"
                ) from None
            if "not a valid DuckDB database" in text:
                raise WrongSchema(f"{self.path} is not a DuckDB database: give another file to --db") from None
            raise StoreError(f"{self.path}: {_first(text)}") from None
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # what becomes of a Ctrl-C that finds DuckDB at work
                raise KeyboardInterrupt from None
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with one transaction: committed at the end, rolled back on any error."""
        with self.connect() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def register_model(self, model: Model, depth: str) -> None:
        """Notes the model, with the thresholds that its folder has now."""
        told = {"model": model.key(depth), "name": model.name, "fingerprint": model.fingerprint, "depth": depth}
        self.note_model(told | {"thresholds": model.thresholds[depth], "hit_floor": model.config["hit_floor"]}, _now())

    def note_model(self, told: dict[str, Any], at: datetime) -> None:
        """Notes a model as it was at that time: model, name, fingerprint, depth, thresholds, hit_floor. What is noted of a later time stays."""
        row = [told["model"], told["name"], told["fingerprint"], told["depth"]]
        thresholds = [told["thresholds"]["default"]["threshold"], orjson.dumps(told["thresholds"]).decode()]
        with self.transaction() as c:
            if c.execute("SELECT 1 FROM models WHERE model = ? AND scanned_at > ?", [row[0], at]).fetchone():
                return
            c.execute("DELETE FROM models WHERE model = ?", row[:1])
            c.execute(
                "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [*row, *thresholds, told["hit_floor"], __version__, at],
            )

    def known(self, model: str) -> dict[str, dict[str, Any]]:
        """What is stored of each path: shard, bytes, tag, status, and the units by number with their status and rows."""
        with self.connect() as c:
            files = _dicts(
                c, "SELECT path, shard, bytes, tag, status, kind, units AS planned FROM shards WHERE model = ?", [model]
            )
            units = _dicts(c, "SELECT shard, unit, status, rows FROM units WHERE model = ?", [model])
        by_shard: dict[str, dict[int, tuple[str, int]]] = {}
        for u in units:
            by_shard.setdefault(u["shard"], {})[u["unit"]] = (u["status"], u["rows"])
        return {f["path"]: {**f, "units": by_shard.get(f["shard"], {})} for f in files}

    def commit(self, parts: list[tuple[str, str, Unit, Part]], entries: list[Entry] | None = None) -> None:
        """Registers shards and commits parts (shard, model, unit, part), one transaction each, while the database is open once.

        What is stored of an older content of an entry's path goes, in the same transaction. A unit that is done stays as it is.
        """
        if not parts and not entries:
            return
        with self.connect() as c:
            for entry in entries or []:
                c.execute("BEGIN")
                _register(c, entry)
                c.execute("COMMIT")
            for shard, model, unit, part in parts:
                c.execute("BEGIN")
                _commit(c, [shard, model, unit.index], unit, part)
                c.execute("COMMIT")

    def query(self, sql: str) -> pa.Table:
        """The result of one read-only SQL query as Arrow. Raises QueryError with DuckDB's reason."""
        with self.connect(read_only=True) as c:
            try:
                if not _reads(c, sql):
                    raise QueryError("the query was refused: give one SELECT, or EXPLAIN of one")
                return c.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                raise QueryError(f"the query was refused: {_first(str(error))}") from None

    def locked(self, sql: str, values: dict[str, Any]) -> pa.Table:
        """The result of a query of ours that holds checked expressions, run where nothing but this database can be reached. Raises RuleError."""
        with self.connect(read_only=True) as c:
            expressions.lock(c)
            return expressions.run(c, sql, values)

    def note_selection(self, rows: list[dict[str, Any]]) -> None:
        """Stores what a selection did with shards (schema.SELECTIONS, less version and time), in place of what it said of them before."""
        marks = ", ".join("?" * len(SELECTIONS))
        with self.transaction() as c:
            for row in rows:
                c.execute("DELETE FROM selections WHERE selection = ? AND path = ?", [row["selection"], row["path"]])
                given = row | {"tropescan_version": __version__, "selected_at": _now()}
                c.execute(f"INSERT INTO selections VALUES ({marks})", [given[f.name] for f in SELECTIONS])

    def forget_selection(self, selection: str, paths: Collection[str]) -> None:
        """Takes out what a selection noted of these paths."""
        with self.transaction() as c:
            gone = [selection, list(paths)]
            c.execute("DELETE FROM selections WHERE selection = ? AND path IN (SELECT unnest(?::VARCHAR[]))", gone)

    def rows(self, sql: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        """The result of one of tropescan's own read-only queries, a dict a row."""
        with self.connect(read_only=True) as c:
            return _dicts(c, sql, values or [])

    def model(self, wanted: str | None = None) -> dict[str, Any]:
        """The model asked for (its key or name), else the one scanned with last. Raises InputError."""
        rows = self.rows("SELECT * FROM models ORDER BY scanned_at DESC")
        for row in rows:
            if wanted in (None, row["model"], row["name"], row["depth"]):
                return row
        known = ", ".join(r["model"] for r in rows) or "none"
        raise InputError(f"{self.path} holds no scores of model '{wanted}': it has {known}")


def _reads(c: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Whether this is one SELECT, or EXPLAIN of one. COPY writes files however the database was opened: EXPLAIN ANALYZE runs it, and WITH may hold it."""
    kinds = [s.type for s in c.extract_statements(sql)]
    if kinds == [duckdb.StatementType.EXPLAIN]:
        explained = _explained(sql)
        return _selects(c, explained) or _selects(c, _EXPLAIN_OPTIONS.sub("", explained, count=1))
    return kinds == [duckdb.StatementType.SELECT] and _selects(c, sql)


def _selects(c: duckdb.DuckDBPyConnection, sql: str) -> bool:
    ((tree,),) = c.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    return not orjson.loads(tree)["error"] and '"type":"COPY_QUERY_NODE"' not in tree


def _explained(sql: str) -> str:
    """What stands behind EXPLAIN and ANALYZE, with the options in parentheses where there are any."""
    raw = sql.encode()  # tokens are told by their bytes
    words = [at for at, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment][1:]
    if raw[words[0] :].upper().startswith((b"ANALYZE", b"ANALYSE")):
        del words[0]
    return raw[words[0] :].decode()


def _require_duckdb(path: Path) -> None:
    """DuckDB would open Parquet, JSON and SQLite files as well, some with a package that it looks for on the network. Raises WrongSchema."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        begin = file.read(12)
        if begin and begin[8:] != b"DUCK":
            raise WrongSchema(f"{path} is no DuckDB database: give another file to --db")


def _register(c: duckdb.DuckDBPyConnection, e: Entry) -> None:
    here = [e.file.path, e.model, e.shard]
    others = c.execute("SELECT shard FROM files WHERE path = ? AND model = ? AND shard <> ?", here).fetchall()
    if others and e.plan is None and not e.elsewhere:  # a failure to read is no proof of another content
        return
    for (gone,) in others:
        for table in ("documents", "passages", "units", "files"):
            c.execute(f'DELETE FROM "{table}" WHERE shard = ? AND model = ?', [gone, e.model])
    if e.elsewhere:
        return
    audit = _audit(c, e)
    c.execute("DELETE FROM files WHERE shard = ? AND model = ?", [e.shard, e.model])
    rows, units = (e.plan.rows if e.plan.rows >= 0 else None, len(e.plan.units)) if e.plan else (None, 0)
    c.execute(
        "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            e.shard,
            e.model,
            e.file.path,
            e.file.format,
            e.file.bytes,
            e.file.tag,
            rows,
            units,
            audit,
            *(e.error or (None, None)),
        ],
    )


def _audit(c: duckdb.DuckDBPyConnection, e: Entry) -> float | None:
    """The share that all units are scanned with: units that are done keep theirs, whatever this scan is given; None where it goes on with another."""
    key = [e.shard, e.model]
    there = c.execute("SELECT audit, units FROM files WHERE shard = ? AND model = ?", key).fetchone()
    if there is None or there[0] == e.audit:
        return e.audit
    units = c.execute("SELECT status FROM units WHERE shard = ? AND model = ?", key).fetchall()
    done = units.count(("done",))
    return e.audit if not done else there[0] if done == there[1] else None


def _commit(c: duckdb.DuckDBPyConnection, key: list[Any], unit: Unit, part: Part) -> None:
    here = "shard = ? AND model = ? AND unit = ?"
    there = c.execute(f"SELECT status, rows, kind, error FROM units WHERE {here}", key).fetchone()
    if there and there[0] == "done":
        return
    if there and part.brings_less(there[1]):
        told = (part.status, part.kind, part.error) if part.kind else (there[0], *there[2:])
        looked = part.at or _now()  # else `ingest` would take the part for newer each time
        c.execute(
            f"UPDATE units SET status = ?, kind = ?, error = ?, scanned_at = ? WHERE {here}", [*told, looked, *key]
        )
        return
    if there:
        for table in ("documents", "passages", "units"):
            c.execute(f'DELETE FROM "{table}" WHERE {here}', key)
    for table, rows in (("documents", part.documents), ("passages", part.passages)):
        if rows.num_rows:
            c.register("incoming", rows)
            names = ", ".join(f'"{n}"' for n in rows.column_names)
            c.execute(f'INSERT INTO "{table}" (shard, model, unit, {names}) SELECT ?, ?, ?, {names} FROM incoming', key)
            c.unregister("incoming")
    c.execute(
        f"INSERT INTO units (shard, model, unit, first_row, planned_rows, status, kind, error, {', '.join(COUNTERS)}, seconds, backend, scanned_at) "
        f"VALUES ({', '.join('?' * (11 + len(COUNTERS)))})",
        [
            *key,
            unit.first_row,
            unit.rows if unit.rows >= 0 else None,
            part.status,
            part.kind,
            part.error,
            *[part.counters[n] for n in COUNTERS],
            part.seconds,
            part.backend,
            part.at or _now(),
        ],
    )


def _now() -> datetime:
    """The time, UTC without a zone, as all times in the database are."""
    return datetime.now(UTC).replace(tzinfo=None)


def _dicts(c: duckdb.DuckDBPyConnection, sql: str, values: list[Any]) -> list[dict[str, Any]]:
    cursor = c.execute(sql, values)
    names = [d[0] for d in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _first(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not set(line.strip()) <= {"^", " "}]
    return " ".join(lines[:2])[:300]
