"""Shards as odd writers, crashes and editors leave them: what is good of them is scanned, and what is wrong is told in a line that is true."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import EVIL, PLAIN, python, write_shard
from tropescan import shards
from tropescan.errors import DamagedShard, NotAShard, UnreadableShard
from tropescan.parts import scan_unit
from tropescan.runners.orders import planned
from tropescan.scanner import Scanner
from tropescan.schema import text_bytes, texts
from tropescan.selection import lines as selection_lines
from tropescan.shards import Columns, File
from tropescan.store import Entry, Store

Run = Callable[..., subprocess.CompletedProcess[str]]
FAST = ("--depth", "fast", "--workers", "1")


def select(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(db), read_only=True) as c:
        return c.execute(sql).fetchall()


def only(path: Path) -> File:
    (file,) = shards.find([path])
    return file


def read(file: File) -> list[shards.stream.Batch]:
    return [b for unit in shards.plan(file, Columns()).units for b in shards.read(file, Columns(), unit)]


def written(path: Path, *documents: Any) -> Path:
    path.write_text("".join(json.dumps(d) + "\n" for d in documents))
    return path


def test_names_that_are_no_unicode_are_told_in_a_line(tmp_path: Path, tropescan: Run) -> None:
    """A worker that cannot send its message dies of it."""
    many = {f"key {i:03}": 0 for i in range(500)} | {"z" * 100_000: 0}
    keys = written(tmp_path / "keys.jsonl", {"body": "x", "\ud800": 1, **many})
    (tmp_path / "in").mkdir()
    write_shard(tmp_path / "in" / "a.parquet", [PLAIN])
    written(tmp_path / "in" / "b.jsonl", {"text": PLAIN})
    for path, column, told in (
        (keys, "text", ["no key 'text'; its keys: body, key 000, "]),
        (
            tmp_path / "in",
            "\udcff",
            [r"no column '\udcff'; its columns: id, text:", r"no key '\udcff'; its keys: text:"],
        ),
    ):
        done = tropescan("scan", path, "--db", tmp_path / "x.duckdb", *FAST, "--json", "--text-column", column)
        lines = sorted(done.stderr.splitlines())
        assert done.returncode == 24 and len(lines) == len(told) and len(done.stderr) < 1500, done.stderr
        assert all(words in line for words, line in zip(told, lines, strict=True)), done.stderr


def test_a_wrong_type_is_told_with_shard_and_column(tmp_path: Path, tropescan: Run) -> None:
    pq.write_table(pa.table({"body": [1, 2]}), tmp_path / "a.parquet")
    done = tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", *FAST, "--json", "--text-column", "body")
    assert done.returncode == 25 and f"{tmp_path / 'a.parquet'}: column 'body' holds int64, not text" in done.stderr


def test_ids_nested_deeply_or_of_many_digits_cost_no_document(tmp_path: Path, tropescan: Run) -> None:
    deep, digits = "[" * 1000 + "]" * 1000, "9" * 5000
    told = [("1", "1"), (deep, None), (digits, digits)]
    lines = [f'{{"text": "{EVIL}", "id": {id}}}' for id, _ in told]
    lines += [f'{{"text": "{EVIL}", "id": 2, "url": {deep}}}', f'{{"text": "{EVIL}", "id": 3, "n": {digits}}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    db = tmp_path / "x.duckdb"
    done = tropescan("scan", tmp_path / "a.jsonl", "--db", db, *FAST)
    assert done.returncode == 0, done.stderr
    known = [id for (id,) in select(db, "SELECT id FROM documents ORDER BY row")]
    assert [None if id == deep else id for id in known] == ["1", None, digits, "2", "3"]  # some Pythons write it
    assert select(db, "SELECT documents, bad_lines FROM shards") == [(5, 0)]


def test_ids_in_lists_and_structs_of_views(tmp_path: Path, tropescan: Run) -> None:
    view = pa.string_view()
    nested = {
        "id": pa.array([["a"], ["b"], ["c"]], pa.list_(view)),
        "url": pa.array([{"u": "x"}, None, {"u": "z"}], pa.struct([("u", view)])),
        "text": [EVIL, PLAIN, EVIL],
    }
    pq.write_table(pa.table(nested), tmp_path / "a.parquet")
    db = tmp_path / "x.duckdb"
    done = tropescan("scan", tmp_path, "--db", db, *FAST, "--audit", 0)
    assert done.returncode == 0, done.stderr
    assert select(db, "SELECT row, id, url FROM documents ORDER BY row") == [
        (0, "['a']", "{'u': 'x'}"),
        (2, "['c']", "{'u': 'z'}"),
    ]


def test_memory_that_runs_out_is_no_damage(tmp_path: Path) -> None:
    """It is for the worker to die of, and for the run to try the unit again alone."""
    write_shard(tmp_path / "a.parquet", ["long text " * (10 << 20)])
    code = (
        "import resource\n"
        "from tropescan import shards\n"
        "(file,) = shards.find([%r]); columns = shards.Columns(); made = shards.plan(file, columns)\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + (50 << 20),) * 2)\n"
        "try:\n"
        "    print(len(list(shards.read(file, columns, made.units[0]))))\n"
        "except Exception as error:\n"
        "    print(isinstance(error, MemoryError), type(error).__name__)\n"
    )
    done = python(code % str(tmp_path))
    assert done.stdout.split()[:1] == ["True"], done


def test_what_changes_while_it_is_read_fails_and_is_scanned_anew(tmp_path: Path, tropescan: Run) -> None:
    path, db = written(tmp_path / "a.jsonl", *[{"text": EVIL}] * 3), tmp_path / "x.duckdb"
    scanner, file = Scanner(depth="fast"), only(path)
    made, shard = shards.plan(file, Columns()), shards.fingerprint(file)
    (unit,) = made.units

    def touched(_: dict[str, int]) -> None:
        os.utime(path, (1, 1))

    def appended(_: dict[str, int]) -> None:
        with path.open("a") as more:
            more.write(json.dumps({"text": PLAIN}) + "\n")

    assert scan_unit(scanner, file, Columns(), unit, tick=touched, shard=shard).status == "done"
    part = scan_unit(scanner, file, Columns(), unit, tick=appended, shard=shard)
    assert (part.status, part.kind, part.counters["rows"]) == ("failed", "UnreadableShard", 3)
    assert part.error == f"{path} changed while it was read: scan it again with --retry-failed"
    store = Store(db, 0)
    store.register_model(scanner.model, "fast")
    store.commit([(shard, scanner.key, unit, part)], [Entry(shard, scanner.key, file, made, scanner.audit)])
    done = tropescan("scan", path, "--db", db, *FAST)
    assert done.returncode == 0, done.stderr
    assert select(db, "SELECT status, documents FROM shards") == [("done", 4)]


def test_what_changes_while_it_is_planned_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as sparse:
        sparse.truncate(64 << 20)
    file, stop = only(path), threading.Event()

    def append() -> None:
        while not stop.wait(0.001):
            with path.open("ab") as more:
                more.write(b"\n")

    thread = threading.Thread(target=append)
    thread.start()
    told = planned(file, Columns())
    stop.set()
    thread.join()
    assert told["say"] == "failed" and "changed while it was read" in told["error"]
    assert planned(file, Columns())["say"] == "plan"  # it may have changed since it was found


def test_a_shard_under_the_name_of_another_format_is_scanned_once_it_is_renamed(tmp_path: Path, tropescan: Run) -> None:
    corpus, db = tmp_path / "in", tmp_path / "x.duckdb"
    corpus.mkdir()
    one, two = (gzip.compress(json.dumps({"text": t}).encode(), mtime=0) for t in (EVIL, PLAIN))
    for name, content in (("a.jsonl", one), ("b.jsonl.gz", one), ("c.jsonl", two)):
        (corpus / name).write_bytes(content)
    done = tropescan("scan", corpus, "--db", db, *FAST, "--json")
    assert done.returncode == 21 and len(done.stderr.splitlines()) == 2, done.stderr
    counted = "SELECT split_part(path, '/', -1), status, documents FROM shards WHERE status = 'done' ORDER BY path"
    assert select(db, counted) == [("b.jsonl.gz", "done", 1)]
    (corpus / "a.jsonl").unlink()
    (corpus / "c.jsonl").rename(corpus / "c.jsonl.gz")
    done = tropescan("scan", corpus, "--db", db, *FAST)
    assert done.returncode == 0, done.stderr
    assert select(db, counted) == [("b.jsonl.gz", "done", 1), ("c.jsonl.gz", "done", 1)]


def test_lines_that_are_not_what_their_name_says_are_told(tmp_path: Path) -> None:
    table = write_shard(tmp_path / "a.parquet", [PLAIN]).read_bytes()
    line = json.dumps({"text": PLAIN}).encode()
    for name, content, ending in (
        ("a.jsonl", table, "parquet"),
        ("b.jsonl", pa.Codec("zstd").compress(line, asbytes=True), "jsonl.zst"),
        ("c.jsonl.gz", pa.Codec("zstd").compress(line, asbytes=True), "jsonl.zst"),
        ("d.jsonl.gz", line, "jsonl"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NotAShard, match=f"rename it to end in .{ending}$"):
            shards.plan(only(tmp_path / name), Columns())


def test_gzip_may_be_padded_with_zeros(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{i} {PLAIN}"}).encode() for i in range(20_000)]
    half = [gzip.compress(b"\n".join(part) + b"\n") for part in (lines[:10_000], lines[10_000:])]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(half) + bytes(512))
    file = only(tmp_path / "a.jsonl.gz")
    assert sum(len(b.text) for b in read(file)) == 20_000
    assert shards.rows(file, Columns(), {19_999}) == {19_999: f"19999 {PLAIN}"}
    assert list(selection_lines.lines(file)) == [line + b"\n" for line in lines]  # `filter` reads what `scan` reads


def test_of_damaged_gzip_all_that_is_whole_is_read(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{i} {PLAIN}"}).encode() for i in range(20_000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n") + b"what is no gzip")
    file, found = only(tmp_path / "a.jsonl.gz"), []
    with pytest.raises(DamagedShard, match="truncated or damaged"):
        for batch in shards.read(file, Columns(), shards.plan(file, Columns()).units[0]):
            found += batch.text.to_pylist()
    assert len(found) == 20_000


def test_a_window_that_is_too_large_is_no_damage(tmp_path: Path) -> None:
    frame = bytes.fromhex("28b52ffd 00 a8") + (2 << 3 | 1).to_bytes(3, "little") + b"{}"  # as zstd --long=31 begins
    (tmp_path / "a.jsonl.zst").write_bytes(frame)
    with pytest.raises(UnreadableShard, match="larger window.*without --long"):
        read(only(tmp_path / "a.jsonl.zst"))


@pytest.mark.parametrize("name", ["data.text", "data"])
def test_batches_are_bounded_whatever_the_column_is_called(tmp_path: Path, name: str) -> None:
    """The footer's columns are known by their path, in which a dot may be part of a name."""
    long = ["long text " * 60_000] * 40
    columns = {"data.id": [str(i) for i in range(40)], name: [f"{i} {t}" for i, t in enumerate(long)]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", use_dictionary=False)
    file, wanted = only(tmp_path / "a.parquet"), Columns(text=name)
    sizes = [b.text.nbytes for u in shards.plan(file, wanted).units for b in shards.read(file, wanted, u)]
    assert len(sizes) >= 4 and max(sizes) < 10 << 20


def test_a_large_dictionary_is_not_carried_from_batch_to_batch(tmp_path: Path) -> None:
    column = pa.array([f"{i} " + "long text " * 800 for i in range(3000)])
    times = pa.array(range(3000), pa.duration("us"))
    for ids, kind in ((pa.array(map(str, range(3000))).dictionary_encode(), pa.string()), (times, None)):
        pq.write_table(pa.table({"id": ids, "text": column.dictionary_encode()}), tmp_path / "a.parquet")
        batches = read(only(tmp_path / "a.parquet"))
        assert pa.concat_arrays([texts(b.text)[0] for b in batches]).to_pylist() == column.to_pylist()
        assert pa.concat_arrays([b.id for b in batches]).to_pylist() == ids.to_pylist()
        assert all(b.text.type == kind and b.text.nbytes < 10 << 20 for b in batches) or kind is None


def test_a_slice_of_a_dictionary_costs_no_more_than_its_rows() -> None:
    column = pa.array([str(i) for i in range(200_000)]).dictionary_encode()
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        assert text_bytes(column[199_990:]) == 60 and texts(column[199_990:])[0].to_pylist()[0] == "199990"
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() < 100_000
