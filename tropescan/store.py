"""The commit seam: scores and counts in DuckDB, one transaction a unit.

DuckDB admits no second process while a writer has the file open, so the store opens it, commits, and closes it again: between commits
any process can query. A commit is repeated without harm: a unit that is done stays as it is.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from tropescan import __version__
from tropescan.errors import NoSpace, QueryError, StoreError, StoreLocked, WrongSchema
from tropescan.parts import Part
from tropescan.persistence import Model
from tropescan.schema import COUNTERS, DOCUMENTS, PASSAGES, SCHEMA_VERSION
from tropescan.shards import File, Plan, Unit

_TYPES = {
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
}
_KEY = "shard VARCHAR NOT NULL, model VARCHAR NOT NULL"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} {_TYPES[f.type]}" for f in schema)


_TABLES = f"""
CREATE TABLE tropescan (schema_version INTEGER, tropescan_version VARCHAR, created_at TIMESTAMP);
CREATE TABLE models (model VARCHAR NOT NULL, name VARCHAR, fingerprint VARCHAR, depth VARCHAR, threshold DOUBLE, thresholds VARCHAR,
  hit_floor DOUBLE, tropescan_version VARCHAR, scanned_at TIMESTAMP);
CREATE TABLE files ({_KEY}, path VARCHAR, format VARCHAR, bytes BIGINT, tag VARCHAR, rows BIGINT, units INTEGER, audit DOUBLE,
  kind VARCHAR, error VARCHAR);
CREATE TABLE units ({_KEY}, unit INTEGER, first_row BIGINT, planned_rows BIGINT, status VARCHAR, kind VARCHAR, error VARCHAR,
  {", ".join(f"{c} BIGINT" for c in COUNTERS)}, seconds DOUBLE, scanned_at TIMESTAMP);
CREATE TABLE documents ({_KEY}, unit INTEGER, {_columns(DOCUMENTS)});
CREATE TABLE passages ({_KEY}, unit INTEGER, {_columns(PASSAGES)});
"""

_VIEWS = f"""
CREATE OR REPLACE VIEW shards AS
SELECT f.shard, f.model, f.path, f.format, f.bytes, f.tag, f.rows, f.units, f.audit,
  count(u.unit) FILTER (u.status = 'done') AS units_done,
  CASE WHEN f.kind IS NOT NULL OR count(*) FILTER (u.status = 'failed') > 0 THEN 'failed'
       WHEN count(*) FILTER (u.status = 'done') = f.units THEN 'done'
       WHEN count(u.unit) > 0 THEN 'partial' ELSE 'pending' END AS status,
  coalesce(f.kind, min(u.kind)) AS kind, coalesce(f.error, min(u.error)) AS error,
  coalesce(sum(u.rows), 0)::BIGINT AS documents,
  {", ".join(f"coalesce(sum(u.{c}), 0)::BIGINT AS {c}" for c in COUNTERS if c != "rows")},
  coalesce(sum(u.seconds), 0) AS seconds, max(u.scanned_at) AS scanned_at
FROM files f LEFT JOIN units u USING (shard, model)
GROUP BY f.shard, f.model, f.path, f.format, f.bytes, f.tag, f.rows, f.units, f.audit, f.kind, f.error;

CREATE OR REPLACE VIEW flagged AS
SELECT d.*, f.path, m.threshold FROM documents d JOIN models m USING (model) JOIN files f USING (shard, model) WHERE d.score >= m.threshold;

CREATE OR REPLACE VIEW prevalence AS
WITH d AS (
  SELECT shard, model, count(*) FILTER (score >= threshold) AS flagged, sum(score) AS expected,
    coalesce(sum(characters) FILTER (score >= threshold), 0) AS flagged_characters
  FROM documents JOIN models USING (model) GROUP BY ALL),
p AS (
  SELECT shard, model, count(*) AS flagged_passages, sum(end_char - start_char) AS passage_characters
  FROM passages JOIN models USING (model) WHERE score >= threshold AND audited IS NULL GROUP BY ALL),
s AS (
  SELECT s.*, m.threshold, coalesce(d.flagged, 0) AS k, s.documents AS n, d.expected, coalesce(d.flagged_characters, 0) AS fc,
    coalesce(p.flagged_passages, 0) AS fp, coalesce(p.passage_characters, 0) AS pc
  FROM shards s JOIN models m USING (model) LEFT JOIN d USING (shard, model) LEFT JOIN p USING (shard, model))
SELECT path, shard, model, status, threshold, documents, gated_documents, k AS flagged_documents, fp AS flagged_passages,
  k / nullif(n, 0) AS prevalence,
  CASE WHEN n > 0 THEN greatest(0, (k + 1.9208 - 1.96 * sqrt(k * (n - k) / n + 0.9604)) / (n + 3.8416)) END AS prevalence_low,
  CASE WHEN n > 0 THEN least(1, (k + 1.9208 + 1.96 * sqrt(k * (n - k) / n + 0.9604)) / (n + 3.8416)) END AS prevalence_high,
  coalesce(expected, 0) / nullif(n, 0) AS expected_prevalence,
  characters, fc::BIGINT AS flagged_characters, pc::BIGINT AS flagged_passage_characters, pc / nullif(characters, 0) AS character_prevalence
FROM s;

CREATE OR REPLACE VIEW domains AS
SELECT d.model, d.domain, count(*) AS gated_documents, count(*) FILTER (d.score >= m.threshold) AS flagged_documents, max(d.score) AS highest
FROM documents d JOIN models m USING (model) GROUP BY ALL;

CREATE OR REPLACE VIEW histograms AS
SELECT shard, model, least(19, floor(score * 20))::INTEGER AS bin, count(*) AS documents FROM documents WHERE score IS NOT NULL GROUP BY ALL;
"""


class Store:
    """A tropescan database. `wait` is how long, in seconds, to wait for another process to let go of it. Raises StoreError."""

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
        deadline, pause = time.monotonic() + self.wait, 0.01
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.IOException as error:
                if "lock" not in str(error).lower():
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
            connection.execute(_TABLES + _VIEWS)
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

    @contextlib.contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with one transaction: committed at the end, rolled back on any error."""
        with self.connect() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def register_model(self, model: Model, depth: str) -> None:
        """Notes the model, with the thresholds that its folder has now."""
        thresholds = model.thresholds[depth]
        row = [
            model.key(depth),
            model.name,
            model.fingerprint,
            depth,
            thresholds["default"]["threshold"],
            orjson.dumps(thresholds).decode(),
        ]
        with self.transaction() as c:
            c.execute("DELETE FROM models WHERE model = ?", row[:1])
            c.execute(
                "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [*row, model.config["hit_floor"], __version__, _now()],
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

    def register(
        self, shard: str, model: str, file: File, plan: Plan | None, audit: float, error: tuple[str, str] | None = None
    ) -> None:
        """Notes a shard before its units come. What is stored of an older content of the same path goes, in the same transaction."""
        with self.transaction() as c:
            old = c.execute(
                "SELECT shard FROM files WHERE path = ? AND model = ? AND shard <> ?", [file.path, model, shard]
            ).fetchall()
            for (gone,) in old:
                for table in ("documents", "passages", "units", "files"):
                    c.execute(f'DELETE FROM "{table}" WHERE shard = ? AND model = ?', [gone, model])
            c.execute("DELETE FROM files WHERE shard = ? AND model = ?", [shard, model])
            rows, units = (plan.rows if plan.rows >= 0 else None, len(plan.units)) if plan else (None, 0)
            c.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    shard,
                    model,
                    file.path,
                    file.format,
                    file.bytes,
                    file.tag,
                    rows,
                    units,
                    audit,
                    *(error or (None, None)),
                ],
            )

    def commit(self, parts: list[tuple[str, str, Unit, Part]]) -> None:
        """Commits parts (shard, model, unit, part): one transaction each, while the database is open once. Done units stay as they are."""
        if not parts:
            return
        with self.connect() as c:
            for shard, model, unit, part in parts:
                c.execute("BEGIN")
                self._commit(c, [shard, model, unit.index], unit, part)
                c.execute("COMMIT")

    def _commit(self, c: duckdb.DuckDBPyConnection, key: list[Any], unit: Unit, part: Part) -> None:
        here = "shard = ? AND model = ? AND unit = ?"
        there = c.execute(f"SELECT status FROM units WHERE {here}", key).fetchone()
        if there == ("done",):
            return
        if there:
            for table in ("documents", "passages", "units"):
                c.execute(f'DELETE FROM "{table}" WHERE {here}', key)
        for table, rows in (("documents", part.documents), ("passages", part.passages)):
            if rows.num_rows:
                c.register("incoming", rows)
                names = ", ".join(f'"{n}"' for n in rows.column_names)
                c.execute(
                    f'INSERT INTO "{table}" (shard, model, unit, {names}) SELECT ?, ?, ?, {names} FROM incoming', key
                )
                c.unregister("incoming")
        c.execute(
            f"INSERT INTO units (shard, model, unit, first_row, planned_rows, status, kind, error, {', '.join(COUNTERS)}, seconds, scanned_at) "
            f"VALUES ({', '.join('?' * (10 + len(COUNTERS)))})",
            [
                *key,
                unit.first_row,
                unit.rows if unit.rows >= 0 else None,
                part.status,
                part.kind,
                part.error,
                *[part.counters[n] for n in COUNTERS],
                part.seconds,
                _now(),
            ],
        )

    def query(self, sql: str) -> pa.Table:
        """The result of one read-only SQL query as Arrow. Raises QueryError with DuckDB's reason."""
        with self.connect(read_only=True) as c:
            try:
                return c.sql(sql).to_arrow_table()
            except duckdb.Error as error:
                raise QueryError(f"the query was refused: {_first(str(error))}") from None
            except AttributeError:
                raise QueryError("the query gives no rows: give one SELECT") from None

    def rows(self, sql: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        """The result of one of tropescan's own read-only queries, a dict a row."""
        with self.connect(read_only=True) as c:
            return _dicts(c, sql, values or [])

    def model(self, wanted: str | None = None) -> dict[str, Any]:
        """The model asked for (its key or name), else the one scanned with last. Raises StoreError."""
        rows = self.rows("SELECT * FROM models ORDER BY scanned_at DESC")
        for row in rows:
            if wanted in (None, row["model"], row["name"], row["depth"]):
                return row
        known = ", ".join(r["model"] for r in rows) or "none"
        raise StoreError(f"{self.path} holds no scores of model '{wanted}': it has {known}")


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
