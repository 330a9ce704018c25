"""Commits are exact, other processes can query between them, and a database that cannot be used is told in a line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import EVIL, PLAIN, contents, write_shard
from tropescan import persistence, shards
from tropescan.errors import QueryError, StoreError, StoreLocked, WrongSchema
from tropescan.parts import Part, scan_unit
from tropescan.runners.folder import Folder
from tropescan.runners.ingest import ingest
from tropescan.scanner import Scanner
from tropescan.shards import Columns, File, Plan
from tropescan.store import Entry, Store

MODEL = persistence.load("evil-ai")
KEY = MODEL.key("fast")
SCANNER = Scanner(depth="fast", audit=0.0)


@pytest.fixture
def shard(tmp_path: Path) -> tuple[File, Plan, Part]:
    file = shards.find(
        [
            write_shard(
                tmp_path / "a.parquet",
                [EVIL, PLAIN, None, EVIL + PLAIN],
                url=["https://www.a.example/x", "b", None, ""],
            )
        ]
    )[0]
    plan = shards.plan(file, Columns())
    return file, plan, scan_unit(SCANNER, file, Columns(), plan.units[0])


def filled(path: Path, shard: tuple[File, Plan, Part]) -> Store:
    file, plan, part = shard
    store = Store(path, wait=1.0)
    store.register_model(MODEL, "fast")
    store.commit([], [Entry("s1", KEY, file, plan, 0.0)])
    store.commit([("s1", KEY, plan.units[0], part)])
    return store


def test_a_part_survives_the_pipe(shard: tuple[File, Plan, Part]) -> None:
    part = shard[2]
    back = Part.from_buffers(*part.to_buffers())
    assert (
        back.counters == part.counters and back.documents.equals(part.documents) and back.passages.equals(part.passages)
    )
    assert part.counters["rows"] == 4 and part.counters["gated_documents"] == 2 and part.counters["null_documents"] == 1
    assert part.documents["domain"].to_pylist() == ["a.example", None]


URL = st.one_of(
    st.text(max_size=12),
    st.from_regex(
        r"(HTTP|https?|ftp|)(://|:|//)([A-Za-z.é@:\[\]0-9\t-]{0,12})([/?#:][a-z@:/?#]{0,6})?", fullmatch=True
    ),
)


@settings(max_examples=40, deadline=None)
@given(urls=st.lists(URL, min_size=1, max_size=40))
def test_a_domain_is_the_host_of_the_url(tmp_path_factory: pytest.TempPathFactory, urls: list[str]) -> None:
    path = write_shard(tmp_path_factory.mktemp("urls") / "a.parquet", [EVIL] * len(urls), url=urls)
    file = shards.find([path])[0]
    part = scan_unit(SCANNER, file, Columns(), shards.plan(file, Columns()).units[0])
    assert part.documents["domain"].to_pylist() == [host(u) for u in urls]


def host(url: str) -> str | None:
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.") or None
    except ValueError:
        return None


def test_a_repeated_commit_changes_nothing(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    before = contents(store.path)
    file, plan, part = shard
    store.commit([("s1", KEY, plan.units[0], part)] * 2)
    store.commit([], [Entry("s1", KEY, file, plan, 0.0)])
    assert contents(store.path) == before
    assert len(before["documents"]) == 2


def test_an_audit_share_that_changed_halfway_is_null(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    file, plan, part = shard
    two = Plan(8, (plan.units[0], replace(plan.units[0], index=1, first_row=4)))
    store = Store(tmp_path / "x.duckdb")
    for done, share, told in ((0, 0.5, 0.5), (0, 0.1, 0.1), (1, 0.1, 0.1), (1, 0.5, None), (2, 0.1, None)):
        store.commit([("s1", KEY, unit, part) for unit in two.units[:done]], [Entry("s1", KEY, file, two, share)])
        assert store.rows("SELECT audit FROM shards") == [{"audit": told}], (done, share)


def test_a_failure_that_brings_less_keeps_what_was_read(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    """A worker that died at a unit of which an earlier scan had read a part."""
    file, plan, part = shard
    dead = Part(status="failed", kind="WorkerDied", error="died twice")
    store, folder = Store(tmp_path / "x.duckdb"), Folder(tmp_path / "parts", [file.path])
    for sink in (store, folder):
        sink.register_model(MODEL, "fast")
        sink.commit([("s1", KEY, plan.units[0], replace(part, status="limited"))], [Entry("s1", KEY, file, plan, 0.0)])
        sink.commit([("s1", KEY, plan.units[0], dead)])
    ingest(folder.path, Store(tmp_path / "y.duckdb"))
    for path in (store.path, tmp_path / "y.duckdb"):
        (told,) = Store(path).rows("SELECT status, kind, documents, gated_documents FROM shards")
        assert told == {"status": "failed", "kind": "WorkerDied", "documents": 4, "gated_documents": 2}
        assert len(contents(path)["documents"]) == 2
    later = Folder(tmp_path / "later", [file.path])
    later.register_model(MODEL, "fast")
    later.commit([("s1", KEY, plan.units[0], dead)], [Entry("s1", KEY, file, plan, 0.0)])
    assert [ingest(later.path, store).committed for _ in range(2)] == [1, 0]
    assert len(contents(store.path)["documents"]) == 2


def test_a_name_that_duckdb_takes_for_another_place_is_a_file(
    tmp_path: Path, shard: tuple[File, Plan, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", ":default:", "md:x"):
        store = filled(Path(name), shard)
        assert (tmp_path / name).is_file() and store.rows("SELECT count(*) AS n FROM documents") == [{"n": 2}]


def test_changed_content_replaces_the_old_rows(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    store.commit([], [Entry("s2", KEY, shard[0], shard[1], 0.0)])
    assert store.rows("SELECT shard, status FROM shards") == [{"shard": "s2", "status": "pending"}]
    assert not contents(store.path)["documents"] and not contents(store.path)["units"]


def test_a_failing_commit_leaves_no_trace(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    before = contents(store.path)
    _, plan, part = shard
    store.commit([], [Entry("s3", KEY, File("/elsewhere.parquet", 1, "t"), plan, 0.0)])
    broken = Part(counters=part.counters, documents=part.documents, passages=pa.table({"no_such_column": [1]}))
    with pytest.raises(StoreError):
        store.commit([("s3", KEY, plan.units[0], broken)])
    assert contents(store.path)["documents"] == before["documents"]


def test_views_agree_with_tables_and_null_is_not_zero(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    store.commit([], [Entry("s4", KEY, File("/pending.parquet", 1, "t"), shard[1], 0.0)])
    rows = store.rows("SELECT * FROM prevalence ORDER BY path DESC")
    assert rows[0]["documents"] == 4 and rows[0]["flagged_documents"] == len(store.rows("SELECT * FROM flagged"))
    assert (
        rows[0]["prevalence"] == rows[0]["flagged_documents"] / 4
        and rows[0]["prevalence_low"] < rows[0]["prevalence"] < rows[0]["prevalence_high"]
    )
    assert rows[1]["status"] == "pending" and rows[1]["prevalence"] is None and rows[1]["prevalence_high"] is None
    assert sum(r["documents"] for r in store.rows("SELECT * FROM histograms")) == 2
    assert {r["domain"] for r in store.rows("SELECT * FROM domains")} == {"a.example", None}


def test_another_process_queries_between_commits(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    code = f"import duckdb; print(duckdb.connect({str(store.path)!r}, read_only=True).execute('SELECT count(*) FROM documents').fetchone()[0])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "2\n"


def test_a_held_database_is_waited_for_then_its_holder_named(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    code = f"import duckdb, sys, time; c = duckdb.connect({str(store.path)!r}); print('held', flush=True); time.sleep(float(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", code, "60"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        with pytest.raises(StoreLocked, match=f"PID {holder.pid}"):
            store.rows("SELECT 1")
        assert 1.0 <= time.monotonic() - begun < 10
        holder.kill()
    with subprocess.Popen([sys.executable, "-c", code, "1.5"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert Store(store.path, wait=30).rows("SELECT 1 AS one") == [{"one": 1}]


def test_other_databases_are_refused(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    duckdb.connect(str(tmp_path / "other.duckdb")).execute("CREATE TABLE t (i INT)").close()
    with pytest.raises(WrongSchema, match="not of tropescan"):
        Store(tmp_path / "other.duckdb").register_model(MODEL, "fast")
    (tmp_path / "words.duckdb").write_text("these are words, and no database " * 1000)
    with pytest.raises(WrongSchema, match="no DuckDB database"):
        Store(tmp_path / "words.duckdb").rows("SELECT 1")
    store = filled(tmp_path / "old.duckdb", shard)
    duckdb.connect(str(store.path)).execute("UPDATE tropescan SET schema_version = 99").close()
    with pytest.raises(WrongSchema, match="schema version 99"):
        store.rows("SELECT 1")
    with pytest.raises(StoreError, match="no database"):
        Store(tmp_path / "nothing.duckdb").rows("SELECT 1")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nothing FROM documents",
        "SELEC",
        "",
        "DELETE FROM documents",
        "DROP TABLE units",
        "CREATE TABLE t (i INT)",
        "COPY documents TO 'stolen.csv'",
        "EXPLAIN ANALYZE COPY documents TO 'stolen.csv'",
        "/* é /* */ EXPLAIN SELECT 1 */ EXPLAIN -- why\n(ANALYZE, FORMAT json) COPY documents TO 'stolen.csv'",
        "WITH x AS (COPY documents TO 'stolen.csv') SELECT 1",
        "EXPLAIN ANALYZE WITH x AS (COPY documents TO 'stolen.csv') SELECT 1",
        "SELECT 1; SELECT 2",
    ],
)
def test_queries_only_read(
    tmp_path: Path, shard: tuple[File, Plan, Part], sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    monkeypatch.chdir(tmp_path)
    before = contents(store.path)
    with pytest.raises(QueryError):
        store.query(sql)
    assert contents(store.path) == before and not (tmp_path / "stolen.csv").exists()


def test_a_query_that_is_explained_reads_too(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    explains = ["EXPLAIN", "/* é */ explain analyze", "EXPLAIN -- why\n", "EXPLAIN (ANALYZE)", "EXPLAIN (FORMAT json)"]
    for explain in explains:
        for asked in ("SELECT id FROM documents", "(FROM documents)", "WITH x AS (SELECT 'COPY' AS a) SELECT a FROM x"):
            assert store.query(f"{explain} {asked}").num_rows
    for asked in ("SUMMARIZE documents", "SHOW TABLES", "VALUES (1)"):
        assert store.query(asked).num_rows


def test_an_interrupt_that_finds_duckdb_at_work_is_one(tmp_path: Path, shard: tuple[File, Plan, Part]) -> None:
    store = filled(tmp_path / "x.duckdb", shard)
    # one thread: with more, the main one may sleep until the others are done, deaf to signals
    code = """
import sys
from tropescan.store import Store
try:
    with Store(sys.argv[1]).connect(read_only=True) as c:
        c.execute("SET threads = 1")
        print("begun", flush=True)
        c.execute("SELECT count(*) FROM range(100000000000) t(i) WHERE i % 7 = 3").fetchall()
except KeyboardInterrupt:
    print("interrupted")
"""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
    with subprocess.Popen([sys.executable, "-c", code, str(store.path)], stdout=subprocess.PIPE, text=True) as query:
        assert query.stdout and query.stdout.readline() == "begun\n"
        time.sleep(0.3)
        query.send_signal(signal.SIGINT)
        try:
            told, _ = query.communicate(timeout=30)
        finally:
            query.kill()
    assert told == "interrupted\n" and query.returncode == 0
