"""Score parts: written without a database, committed exactly once, in any order, twice over without harm."""

from __future__ import annotations

import json
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


def synthetic(folder: Path, wanted: list[tuple[str, str, int, str, int]]) -> Path:
    """Parts made by hand: path, shard, unit (-1: the shard could not be planned), status, seconds after midnight."""
    folder.mkdir(exist_ok=True)
    model = {"model": "m-fast", "name": "m", "fingerprint": "f", "depth": "fast", "hit_floor": 0.1}
    for path, shard, unit, status, seconds in wanted:
        at = datetime(2026, 1, 1) + timedelta(seconds=seconds)
        thresholds = {"default": {"threshold": seconds / 1000}}
        plan = Plan(30, tuple(Unit(i, i * 10, 10, (i, i + 1)) for i in range(3))) if unit >= 0 else None
        error = None if plan else ("NotAShard", "no shard")
        entry = Entry(shard if plan else f"!{path}", "m-fast", File(path, 100, shard[-3:]), plan, 0.0, error)
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
