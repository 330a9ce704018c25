"""Score parts: written without a database, committed exactly once, in any order, twice over without harm."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import EVIL, PLAIN, contents, sample_documents, write_shard
from tropescan.errors import NoShards, NoSuchPath, PartError
from tropescan.parts import Part
from tropescan.runners import score_parts
from tropescan.runners.folder import names
from tropescan.runners.ingest import ingest
from tropescan.schema import COUNTERS, DOCUMENTS, PASSAGES
from tropescan.shards import File, Plan, Unit
from tropescan.store import Entry, Store

Run = Callable[..., subprocess.CompletedProcess[str]]
FAST = ("--depth", "fast", "--audit", "0.05", "--workers", "1", "--json")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of every sort: in lines with a bad one, without rows, with null texts, without a text column, and one that is none."""
    folder = tmp_path_factory.mktemp("shards")
    documents = sample_documents()
    for i in range(4):
        some = documents[i * 60 : i * 60 + 60]
        write_shard(folder / f"{i}.parquet", [d["text"] for d in some], url=[d["url"] for d in some])
    (folder / "lines.jsonl").write_text(
        f"{json.dumps({'id': 'a', 'text': EVIL})}\nno JSON\n{json.dumps({'text': PLAIN})}\n"
    )
    write_shard(folder / "empty.parquet", pa.array([], pa.string()))
    write_shard(folder / "null.parquet", [None, EVIL, ""])
    pq.write_table(pa.table({"other": [1]}), folder / "columns.parquet")
    (folder / "garbage.parquet").write_bytes(b"not a shard")
    return folder


@pytest.fixture(scope="module")
def scanned(shards: Path, tmp_path_factory: pytest.TempPathFactory, tropescan: Run) -> Path:
    """The database of an ordinary scan."""
    db = tmp_path_factory.mktemp("scanned") / "x.duckdb"
    assert tropescan("scan", shards, "--db", db, *FAST).returncode == 20
    return db


@pytest.fixture(scope="module")
def parts(shards: Path, tmp_path_factory: pytest.TempPathFactory, tropescan: Run) -> Path:
    """The score parts of the same scan, by the three tasks of a job array."""
    folder = tmp_path_factory.mktemp("parts")
    for i in range(3):
        assert tropescan("scan", shards, "--parts", folder, "--slice", f"{i}/3", *FAST).returncode in (0, 20, 21, 24)
    return folder


def test_parts_of_an_array_make_the_tables_of_a_scan(
    parts: Path, scanned: Path, tmp_path: Path, tropescan: Run
) -> None:
    done = tropescan("ingest", parts, "--db", tmp_path / "x.duckdb", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["parts"], told["committed"], told["database"]["shards"], told["database"]["done"]) == (9, 9, 9, 7)
    assert contents(tmp_path / "x.duckdb") == contents(scanned)
    again = tropescan("ingest", parts, "--db", tmp_path / "x.duckdb")
    assert (
        "0 committed now, 9 stored before" in again.stdout and "7 of 9 shards in it are whole, 2 failed" in again.stdout
    )
    assert contents(tmp_path / "x.duckdb") == contents(scanned)


def test_parts_and_a_scan_complete_each_other(
    parts: Path, shards: Path, scanned: Path, tmp_path: Path, tropescan: Run
) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for name in names(parts)[::2]:
        shutil.copy(parts / name, some)
    assert tropescan("ingest", some, "--db", tmp_path / "x.duckdb").returncode == 0
    done = json.loads(tropescan("scan", shards, "--db", tmp_path / "x.duckdb", *FAST).stdout)
    assert done["done_before"] + done["scanned"] == 7 and done["done_before"] >= 2
    assert ingest(parts, Store(tmp_path / "x.duckdb")).committed == 0
    assert contents(tmp_path / "x.duckdb") == contents(scanned)


def test_a_scan_into_parts_goes_on_where_it_was_killed(
    shards: Path, scanned: Path, parts: Path, tmp_path: Path, tropescan: Run
) -> None:
    folder = tmp_path / "parts"
    command = [sys.executable, "-m", "tropescan", "scan", str(shards), "--parts", str(folder), *FAST]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as scan:
        deadline = time.monotonic() + 250
        while time.monotonic() < deadline and not (folder.is_dir() and names(folder)):
            time.sleep(0.005)
        scan.send_signal(signal.SIGKILL)
    assert 1 <= len(names(folder)) <= 9
    done = tropescan("scan", shards, "--parts", folder, *FAST)
    assert done.returncode == 20 and len(names(folder)) == 9
    before = {n: (folder / n).stat().st_mtime_ns for n in names(folder)}
    once_more = json.loads(tropescan("scan", shards, "--parts", folder, *FAST).stdout)
    assert once_more["done_before"] == 7 and once_more["failed_before"] == 2 and once_more["documents"] == 0
    assert before == {n: (folder / n).stat().st_mtime_ns for n in names(folder)}
    ingest(folder, Store(tmp_path / "x.duckdb"))
    assert contents(tmp_path / "x.duckdb") == contents(scanned)


def test_an_ingest_that_is_killed_goes_on(tmp_path: Path) -> None:
    folder = synthetic(
        tmp_path / "parts", [(f"{i}.parquet", f"{i:032}", u, "done", i) for i in range(60) for u in (0, 1, 2)]
    )
    ingest(folder, Store(tmp_path / "whole.duckdb"))
    rng = random.Random(1)
    duckdb.connect(str(tmp_path / "x.duckdb")).close()  # what is left where a kill comes before the tables
    for _ in range(4):
        command = [sys.executable, "-m", "tropescan", "ingest", str(folder), "--db", str(tmp_path / "x.duckdb")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(rng.uniform(0.3, 1.5))
            process.send_signal(signal.SIGKILL)
    ingest(folder, Store(tmp_path / "x.duckdb"))
    assert contents(tmp_path / "x.duckdb") == contents(tmp_path / "whole.duckdb")


def test_a_limit_a_repair_and_a_new_content(tmp_path: Path, tropescan: Run) -> None:
    shard, folder, store = tmp_path / "in" / "a.parquet", tmp_path / "parts", Store(tmp_path / "x.duckdb")
    shard.parent.mkdir()
    shard.write_bytes(b"not a shard")
    scan = ("scan", shard, "--parts", folder, *FAST)
    assert tropescan(*scan).returncode == 21 and ingest(folder, store).committed == 1
    assert store.rows("SELECT status, kind FROM shards") == [{"status": "failed", "kind": "NotAShard"}]
    write_shard(shard, [PLAIN, EVIL, EVIL])
    limited = json.loads(tropescan(*scan, "--limit", "1").stdout)
    assert limited["documents"] == 1 and len(names(folder)) == 1  # the failure's part is gone
    assert ingest(folder, store).committed == 1
    assert json.loads(tropescan(*scan).stdout)["documents"] == 3
    assert ingest(folder, store).committed == 1
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    write_shard(shard, [EVIL, PLAIN])
    assert json.loads(tropescan(*scan).stdout)["documents"] == 2 and len(names(folder)) == 1
    assert ingest(folder, store).committed == 1
    assert ingest(old, store).superseded == 1
    assert store.rows("SELECT status, documents FROM shards") == [{"status": "done", "documents": 2}]


def held(store: Store) -> list[tuple[str, str, int]]:
    rows = store.rows("SELECT path, status, documents FROM shards ORDER BY path")
    return [(Path(r["path"]).name, r["status"], r["documents"]) for r in rows]


@pytest.mark.parametrize("known", [True, False])  # whether the scan knows what the path held before
def test_what_a_path_held_before_it_became_a_copy_goes(tmp_path: Path, tropescan: Run, known: bool) -> None:
    shards, store, parts, later = tmp_path / "in", Store(tmp_path / "x.duckdb"), tmp_path / "p", tmp_path / "later"
    shards.mkdir()
    a, b = write_shard(shards / "a.parquet", [PLAIN, EVIL]), write_shard(shards / "b.parquet", [EVIL] * 3)
    assert tropescan("scan", shards, "--parts", parts, *FAST).returncode == 0
    ingest(parts, store)
    assert held(store) == [("a.parquet", "done", 2), ("b.parquet", "done", 3)]
    shutil.copy(a, b)
    given = (shards, "--parts", parts) if known else (b, "--parts", later)
    told = json.loads(tropescan("scan", *given, *FAST).stdout)
    assert (len(told["duplicates"]), told["documents"]) == ((1, 0) if known else (0, 2))
    for _ in range(3):
        ingest(parts if known else later, store)
        assert held(store) == [("a.parquet", "done", 2)]
        assert store.rows("SELECT DISTINCT shard FROM documents") == store.rows("SELECT shard FROM shards")
        if not known:  # with the older parts among them, too
            shutil.copytree(parts, later, dirs_exist_ok=True)
    write_shard(a, [EVIL] * 5)
    assert json.loads(tropescan("scan", shards, "--parts", parts, *FAST).stdout)["documents"] == 7
    ingest(parts, store)
    assert held(store) == [("a.parquet", "done", 5), ("b.parquet", "done", 2)]


def test_a_copy_of_a_shard_that_is_not_whole_costs_it_nothing(tmp_path: Path, tropescan: Run) -> None:
    shards, parts, direct = tmp_path / "in", tmp_path / "p", tmp_path / "direct.duckdb"
    shards.mkdir()
    lines = b"".join(orjson.dumps({"text": f"{i} {EVIL}"}) + b"\n" for i in range(200))
    (shards / "a.jsonl").write_bytes(lines)
    (shards / "c.jsonl.gz").write_bytes(gzip.compress(lines, 0)[: len(lines) // 2])
    (shards / "b.jsonl").write_bytes(orjson.dumps({"text": PLAIN}))
    (shards / "d.jsonl.gz").write_bytes(gzip.compress(orjson.dumps({"text": EVIL})))
    scan = (shards, *FAST, "--limit", "150")
    assert tropescan("scan", "--parts", parts, *scan).returncode == 22
    shutil.copy(shards / "a.jsonl", shards / "b.jsonl")
    shutil.copy(shards / "c.jsonl.gz", shards / "d.jsonl.gz")
    for _ in range(2):
        again = json.loads(tropescan("scan", "--parts", parts, *scan).stdout)
        assert again["documents"] == 0 and len(again["duplicates"]) == 2
    assert tropescan("scan", "--db", direct, *scan).returncode == 22
    store = Store(tmp_path / "x.duckdb")
    for committed in 2, 0:
        assert ingest(parts, store).committed == committed
        (limited, failed) = held(store)
        assert limited == ("a.jsonl", "partial", 150) and failed[1] == "failed" and failed[2] > 50
        assert contents(store.path) == contents(direct)


def test_a_copy_is_told_in_a_folder_that_never_saw_what_its_path_held(tmp_path: Path, tropescan: Run) -> None:
    shards, old, new, store = tmp_path / "in", tmp_path / "old", tmp_path / "new", Store(tmp_path / "x.duckdb")
    shards.mkdir()
    a, b = write_shard(shards / "a.parquet", [EVIL] * 2), write_shard(shards / "b.parquet", [PLAIN] * 3)
    assert tropescan("scan", shards, "--parts", old, *FAST).returncode == 0
    ingest(old, store)
    shutil.copy(a, b)
    assert tropescan("scan", shards, "--parts", new, *FAST).returncode == 0
    for _ in range(2):
        ingest(new, store)
        assert held(store) == [("a.parquet", "done", 2)]
        ingest(
            old, store
        )  # the database does not keep what it was told of copies: the newest folder counts if it comes last
    ingest(new, store)
    assert held(store) == [("a.parquet", "done", 2)]
    shutil.copytree(old, new, dirs_exist_ok=True)
    told = ingest(new, store)
    assert (told.committed, told.superseded) == (0, 1) and held(store) == [("a.parquet", "done", 2)]


def test_a_copy_that_an_older_tropescan_told_of_costs_nothing(tmp_path: Path) -> None:
    folder = synthetic(tmp_path / "parts", [("a.parquet", f"{0:032}", 0, "limited", 1)])
    (part,) = folder.iterdir()
    table = pq.read_table(part)
    head = orjson.loads(table.schema.metadata[b"tropescan"])
    head |= {"at": "2026-01-01T00:00:02", "part": head["part"] | {"counters": dict.fromkeys(COUNTERS, 0)}}
    head["file"]["path"] = "b.parquet"
    del head["elsewhere"]
    raw = orjson.dumps(head)
    told = {b"tropescan": raw, b"tropescan_sha256": hashlib.sha256(raw).hexdigest().encode()}
    pq.write_table(table.slice(0, 0).replace_schema_metadata(told), folder / f"{0:016}-{0:032}-00000.parquet")
    store = Store(tmp_path / "x.duckdb")
    for _ in range(2):
        ingest(folder, store)
        assert held(store) == [("a.parquet", "partial", 5)] and store.rows("SELECT rows FROM units") == [{"rows": 5}]


def test_a_moved_shard_counts_where_it_is_now(tmp_path: Path, tropescan: Run) -> None:
    shards, parts, db = tmp_path / "in", tmp_path / "p", tmp_path / "x.duckdb"
    shards.mkdir()
    a = write_shard(shards / "a.parquet", [EVIL] * 3)
    for _ in range(2):
        assert tropescan("scan", shards, "--parts", parts, *FAST).returncode == 0
        ingest(parts, Store(db))
        if a.exists():
            a.rename(shards / "b.parquet")
    ingest(parts, Store(db))
    assert held(Store(db)) == [("b.parquet", "done", 3)]
    assert tropescan("passages", "--db", db).returncode == 0


def test_of_copies_the_path_that_comes_first_counts(tmp_path: Path, tropescan: Run) -> None:
    shards, parts, direct = tmp_path / "in", tmp_path / "p", tmp_path / "direct.duckdb"
    shards.mkdir()
    for name, text in (("1", EVIL), ("2", PLAIN)):
        write_shard(shards / f"{name}a.parquet", [text] * 3)
        shutil.copy(shards / f"{name}a.parquet", shards / f"{name}b.parquet")
    for task in "1/2", "0/2":  # all that end in b first
        assert tropescan("scan", shards, "--parts", parts, "--slice", task, *FAST).returncode == 0
    assert tropescan("scan", shards, "--db", direct, *FAST).returncode == 0
    store = Store(tmp_path / "x.duckdb")
    for _ in range(2):
        ingest(parts, store)
        assert held(store) == held(Store(direct)) == [("1a.parquet", "done", 3), ("2a.parquet", "done", 3)]
    assert contents(store.path)["documents"] == contents(direct)["documents"]


def test_the_audit_share_is_that_of_the_whole_scan(tmp_path: Path, tropescan: Run) -> None:
    shard, parts, store = write_shard(tmp_path / "a.parquet", [PLAIN] * 9), tmp_path / "p", Store(tmp_path / "x.duckdb")
    for audit, more in (("0.5", ("--limit", "2")), ("0.25", ())):
        assert tropescan("scan", shard, "--parts", parts, *FAST, *more, "--audit", audit).returncode == 0
        ingest(parts, store)
        assert store.rows("SELECT audit FROM shards") == [{"audit": float(audit)}]
        ingest(parts, store)


def test_a_moved_shard_has_parts_of_its_own(tmp_path: Path, tropescan: Run) -> None:
    shards, parts, store = tmp_path / "in", tmp_path / "p", Store(tmp_path / "x.duckdb")
    shards.mkdir()
    old = write_shard(shards / "z.parquet", [EVIL] * 3)
    assert tropescan("scan", shards, "--parts", parts, *FAST).returncode == 0
    old.rename(shards / "a.parquet")
    write_shard(old, [PLAIN] * 4)
    assert json.loads(tropescan("scan", shards, "--parts", parts, *FAST).stdout)["scanned"] == 2
    ingest(parts, store)
    assert held(store) == [("a.parquet", "done", 3), ("z.parquet", "done", 4)]


def test_the_audit_share_of_units_that_differ_is_null(tmp_path: Path) -> None:
    shard, folders = f"{0:032}", [tmp_path / "both", tmp_path / "first", tmp_path / "second"]
    for unit, audit, alone in ((0, 0.01, folders[1]), (1, 0.02, folders[2])):
        for folder in folders[0], alone:
            synthetic(folder, [("a.parquet", shard, unit, "done", unit)], audit)
    for name, some in (("once", folders[:1]), ("twice", folders[1:])):
        store = Store(tmp_path / f"{name}.duckdb")
        for folder in some:
            ingest(folder, store)
        assert store.rows("SELECT audit, units_done FROM shards") == [{"audit": None, "units_done": 2}], name


def test_what_killed_writers_left_goes_once_it_is_old(tmp_path: Path, tropescan: Run) -> None:
    shard, parts = write_shard(tmp_path / "a.parquet", [PLAIN]), tmp_path / "p"
    assert tropescan("scan", shard, "--parts", parts, *FAST).returncode == 0
    (part,) = names(parts)
    old, new, other = parts / f".{part}.01", parts / f".{part}.23", parts / f".{'0' * 16}-failed.parquet.01"
    for left in old, new, other:
        left.write_bytes(b"PAR1")
        if left is not new:
            os.utime(left, (time.time() - 7200,) * 2)
    assert tropescan("scan", shard, "--parts", parts, *FAST).returncode == 0
    assert not old.exists() and new.exists() and other.exists() and names(parts) == [part]


def test_a_part_is_a_parquet_file_for_everybody(parts: Path) -> None:
    tables = [pq.read_table(parts / n) for n in names(parts)]
    assert all(t.column_names == [*DOCUMENTS.names, "hits"] for t in tables)
    assert max(h["score"] for t in tables for hits in t["hits"].to_pylist() for h in hits) > 0.3


def test_damaged_parts_are_told_and_the_others_committed(parts: Path, tmp_path: Path, tropescan: Run) -> None:
    folder = tmp_path / "parts"
    shutil.copytree(parts, folder)
    first, second, third, *_ = sorted(names(folder), key=lambda n: -(folder / n).stat().st_size)
    whole = (folder / first).read_bytes()
    (folder / first).write_bytes(whole[: len(whole) // 2])
    whole = (folder / second).read_bytes()
    (folder / second).write_bytes(whole.replace(b'"rows":60', b'"rows":61'))
    pq.write_table(pa.table({"a": [1]}), folder / third)
    (folder / f".{third}.half").write_bytes(b"what a killed writer leaves")
    done = tropescan("ingest", folder, "--db", tmp_path / "x.duckdb")
    assert done.returncode == PartError.code == 44 and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 3 and all(n in done.stderr for n in (first, second, third))
    assert "6 committed now" in done.stdout and "3 damaged" in done.stdout
    shutil.copytree(parts, folder, dirs_exist_ok=True)
    assert ingest(folder, Store(tmp_path / "x.duckdb")).committed == 3


def test_parts_that_cannot_be_read_are_not_called_damaged(tmp_path: Path, tropescan: Run) -> None:
    folder = synthetic(tmp_path / "parts", [(f"{i}.parquet", f"{i:032}", 0, "done", i) for i in range(2)])
    memory = folder / "x-memory.parquet"
    memory.symlink_to("/proc/self/mem")  # whose reading fails, for root too
    done = tropescan("ingest", folder, "--db", tmp_path / "x.duckdb")
    assert done.returncode == PartError.code and "2 committed now" in done.stdout
    assert "0 damaged, 1 could not be read" in done.stdout
    assert len(done.stderr.splitlines()) == 1 and f"{memory} cannot be read: " in done.stderr
    assert "remove it" not in done.stderr


def test_a_part_that_a_scan_takes_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    folder = synthetic(tmp_path / "parts", [(f"{i}.parquet", f"{i:032}", 0, "done", i) for i in range(3)])
    first, *_, last = names(folder)
    (folder / first).write_bytes(b"PAR1")
    told = ingest(folder, Store(tmp_path / "x.duckdb"), lambda line: (folder / last).unlink())
    assert (told.parts, told.committed, len(told.damaged), told.unreadable) == (2, 1, 1, {})


def test_a_folder_whose_name_is_no_utf8(tmp_path: Path, tropescan: Run) -> None:
    shard, parts = write_shard(tmp_path / "a.parquet", [EVIL]), tmp_path / os.fsdecode(b"p\xe9x")
    assert tropescan("scan", shard, "--parts", parts, *FAST).returncode == 0
    assert json.loads(tropescan("scan", shard, "--parts", parts, *FAST).stdout)["done_before"] == 1
    (part,) = names(parts)
    shutil.copy(parts / part, parts / "half.parquet")
    os.truncate(parts / "half.parquet", 50)
    done = tropescan("ingest", parts, "--db", tmp_path / "x.duckdb", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 44 and told["committed"] == 1, done.stderr
    assert list(told["damaged"]) == [f"{tmp_path}/p\\udce9x/half.parquet"]


def test_a_changed_byte_is_told_or_changes_nothing(parts: Path, tmp_path: Path) -> None:
    largest = max((parts / n for n in names(parts)), key=lambda p: p.stat().st_size)
    whole, expected, told = largest.read_bytes(), score_parts.read(largest), 0
    rng = random.Random(1)
    for at in rng.sample(range(len(whole)), 300):
        torn = bytearray(whole)
        torn[at] ^= 1 << rng.randrange(8)
        (tmp_path / "torn.parquet").write_bytes(torn)
        try:
            assert score_parts.read(tmp_path / "torn.parquet") == expected
        except PartError:
            told += 1
    assert told > 100


def test_what_cannot_be_ingested(tmp_path: Path, tropescan: Run) -> None:
    for path, kind in ((tmp_path / "no", NoSuchPath), (tmp_path, NoShards)):
        done = tropescan("ingest", path, "--db", tmp_path / "x.duckdb")
        assert done.returncode == kind.code and len(done.stderr.splitlines()) == 1, done.stderr
    shard = write_shard(tmp_path / "a.parquet", [EVIL])
    (tmp_path / "file").write_text("")
    for wrong in (
        (),
        ("--db", "x.duckdb", "--parts", "p"),
        ("--parts", "p", "--slice", "2/2"),
        ("--parts", "p", "--slice", "x"),
    ):
        done = tropescan("scan", shard, *wrong, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr, wrong
    done = tropescan("scan", shard, "--parts", "file", cwd=tmp_path)
    assert done.returncode == 40 and len(done.stderr.splitlines()) == 1, done.stderr


def test_parts_do_not_lie_among_the_shards(tmp_path: Path, tropescan: Run) -> None:
    corpus = tmp_path / "in"
    corpus.mkdir()
    write_shard(corpus / "a.parquet", [EVIL])
    (tmp_path / "link").symlink_to(corpus)
    for parts in (corpus, corpus / "parts", tmp_path / "link" / "deep" / "parts"):
        done = tropescan("scan", corpus, "--parts", parts, *FAST)
        assert done.returncode == 2 and "give a folder outside" in done.stderr and len(done.stderr.splitlines()) == 1
    assert [p.name for p in corpus.iterdir()] == ["a.parquet"]
    for parts, again in ((corpus / "_parts", 0), (corpus / "parts", 2)):
        scan = ("scan", f"{corpus}/**/*.parquet", "--parts", parts, *FAST)
        assert tropescan(*scan).returncode == 0 and tropescan(*scan).returncode == again
        assert len(names(parts)) == 1


def synthetic(folder: Path, wanted: list[tuple[str, str, int, str, int]], audit: float = 0.0) -> Path:
    """Parts made by hand: path, shard, unit (-1: the shard could not be planned), status, seconds after midnight."""
    folder.mkdir(exist_ok=True)
    model = {"model": "m-fast", "name": "m", "fingerprint": "f", "depth": "fast", "hit_floor": 0.1}
    for path, shard, unit, status, seconds in wanted:
        at = datetime(2026, 1, 1) + timedelta(seconds=seconds)
        thresholds = {"default": {"threshold": seconds / 1000}}
        plan = Plan(30, tuple(Unit(i, i * 10, 10, (i, i + 1)) for i in range(3))) if unit >= 0 else None
        error = None if plan else ("NotAShard", "no shard")
        entry = Entry(shard if plan else f"!{path}", "m-fast", File(path, 100, shard[-3:]), plan, audit, error)
        there = plan.units[unit] if plan else None
        _write(folder, model | {"thresholds": thresholds}, entry, there, _part(unit, status, seconds), at)
    return folder


def _part(unit: int, status: str, seconds: int) -> Part:
    rows = [max(unit, 0) * 10 + i for i in range(2)]
    blank: dict[str, Any] = dict.fromkeys(DOCUMENTS.names)
    documents = [blank | {"row": r, "id": f"{seconds}", "score": 0.1234 + r, "audited": False} for r in rows]
    hits = [dict.fromkeys(PASSAGES.names) | {"row": rows[1], "passage": i, "score": 0.5} for i in range(2)]
    kind = "DamagedShard" if status == "failed" else None
    counters = dict.fromkeys(COUNTERS, 1) | {"rows": 10 if status == "done" else 5}
    return Part(
        counters, pa.Table.from_pylist(documents, DOCUMENTS), pa.Table.from_pylist(hits, PASSAGES), status, kind, kind
    )


def _write(folder: Path, model: dict[str, Any], entry: Entry, unit: Unit | None, part: Part, at: datetime) -> None:
    before, score_parts._now = score_parts._now, lambda: at
    try:
        written = score_parts.write(folder, model, entry, unit, part)
    finally:
        score_parts._now = before
    head, found = score_parts.read(written)
    assert (head.entry, head.unit, head.at, head.model) == (entry, unit, at, model)
    assert found == Part(**{**vars(part), "at": at})


KINDS = st.tuples(
    st.sampled_from(["a.parquet", "b.parquet"]),
    st.sampled_from([f"{i:032}" for i in range(3)]),
    st.sampled_from([-1, 0, 1, 2]),
    st.sampled_from(["done", "done", "limited", "failed"]),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=st.lists(KINDS, min_size=1, max_size=7, unique_by=lambda k: k[:3]), data=st.data())
def test_any_order_any_batches_and_twice_over(made: list[tuple[str, str, int, str]], data: st.DataObject) -> None:
    # a content belongs to one path here: of copies, the one that came first counts, and that depends on the order
    wanted = [(("a.parquet", "b.parquet")[int(s) % 2], s, u, status, i) for i, (_, s, u, status) in enumerate(made)]
    wanted = list({(p, s if u >= 0 else "!", u): (p, s, u, status, i) for p, s, u, status, i in wanted}.values())
    with TemporaryDirectory() as folder:
        here = Path(folder)
        ingest(synthetic(here / "all", wanted), Store(here / "once.duckdb"))
        expected = contents(here / "once.duckdb")
        store = Store(here / "x.duckdb")
        for i, part in enumerate(data.draw(st.permutations(wanted))):
            ingest(synthetic(here / str(i), [part]), store)
        ingest(here / "all", store)
        assert contents(store.path) == expected
        assert ingest(here / "all", store).committed == 0 and contents(store.path) == expected
        assert store.rows("SELECT threshold FROM models")[0]["threshold"] == max(w[4] for w in wanted) / 1000


def test_what_was_read_counts_over_what_was_not_whichever_is_newer(tmp_path: Path) -> None:
    shard = f"{0:032}"
    done = synthetic(tmp_path / "done", [("a.parquet", shard, 0, "done", 1)])
    failed = synthetic(tmp_path / "failed", [("a.parquet", shard, 0, "failed", 2)])
    for order in ((done, failed), (failed, done)):
        store = Store(tmp_path / f"{order[0].name}.duckdb")
        for folder in order:
            ingest(folder, store)
        assert store.rows("SELECT status, rows FROM units") == [{"status": "done", "rows": 10}]


def test_nothing_but_damaged_parts_is_told_as_that(tmp_path: Path, tropescan: Run) -> None:
    folder = synthetic(tmp_path / "parts", [("a.parquet", f"{0:032}", 0, "done", 1)])
    (part,) = folder.iterdir()
    part.write_bytes(part.read_bytes()[:100])
    done = tropescan("ingest", folder, "--db", tmp_path / "x.duckdb")
    assert done.returncode == PartError.code and len(done.stderr.splitlines()) == 1 and "0 of 0 shards" in done.stdout
