"""`tropescan scan` on real shards, good and bad, in processes of its own."""

from __future__ import annotations

import ctypes
import functools
import gzip
import http.server
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import EVIL, PLAIN, SAMPLE, contents, latin_1_column, python, sample_documents, write_shard
from tropescan import shards
from tropescan.runners import driving
from tropescan.runners.local.run import run
from tropescan.schema import text_bytes, texts
from tropescan.shards import find
from tropescan.store import Store

Run = Callable[..., subprocess.CompletedProcess[str]]
FAST = ("--depth", "fast", "--workers", "2")


def select(db: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(db), read_only=True) as c:
        return c.execute(sql).fetchall()


def test_the_sample_corpus_at_full_depth(sample_db: Path, tropescan: Run) -> None:
    documents = sample_documents()
    counted = [(len(documents), sum(len(d["text"]) for d in documents))]
    assert select(sample_db, "SELECT sum(documents), sum(characters) FROM shards") == counted
    shares = dict(select(sample_db, "SELECT split_part(path, '/', -1), prevalence FROM prevalence"))
    assert shares["stories.parquet"] > shares["web.parquet"]
    again = json.loads(tropescan("scan", SAMPLE, "--db", sample_db, "--json").stdout)
    assert again["done_before"] == 6 and again["documents"] == 0
    best = select(sample_db, "SELECT id FROM documents ORDER BY score DESC NULLS LAST LIMIT 1")[0][0]
    strongest = tropescan("passages", "--db", sample_db, "--top", 1, "--json")
    assert json.loads(strongest.stdout)["text"] in next(d["text"] for d in documents if d["id"] == best)


def test_the_how_tos_are_flagged_less_than_the_stories(sample_db: Path) -> None:
    shares = dict(select(sample_db, "SELECT split_part(path, '/', -1), prevalence FROM prevalence"))
    assert shares["stories.parquet"] > shares["howto.parquet"]


def test_every_format_and_worker_count_stores_the_same(tmp_path: Path, tropescan: Run) -> None:
    documents = sample_documents()[:150]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(documents), tmp_path / "in" / "a.parquet", row_group_size=40)
    lines = "\n".join(json.dumps({k: d[k] for k in ("id", "text", "url")}) for d in documents)
    (tmp_path / "in" / "b.jsonl").write_text(lines)
    for workers in (1, 2, 3):
        done = tropescan(
            "scan", tmp_path / "in", "--db", tmp_path / f"{workers}.duckdb", "--depth", "fast", "--workers", workers
        )
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "1.duckdb") == contents(tmp_path / "2.duckdb") == contents(tmp_path / "3.duckdb")
    columns = "row, id, url, domain, characters, passages, fast_score, score, intensity, frame, admirable, audited"
    parts = [
        select(
            tmp_path / "1.duckdb",
            f"SELECT {columns} FROM documents JOIN files USING (shard) WHERE path LIKE '%{end}' ORDER BY row",
        )
        for end in ("parquet", "jsonl")
    ]
    assert parts[0] == parts[1] and len(parts[0]) > 50


def test_bad_shards_cost_only_themselves(tmp_path: Path, tropescan: Run) -> None:
    corpus, db = tmp_path / "corpus", tmp_path / "x.duckdb"
    corpus.mkdir()
    good = write_shard(corpus / "good.parquet", [EVIL, PLAIN, None, ""]).read_bytes()
    (corpus / "cut.parquet").write_bytes(good[:-20])
    (corpus / "words.parquet").write_text("words")
    pq.write_table(pa.table({"body": [EVIL]}), corpus / "nocolumn.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), corpus / "numbers.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), corpus / "empty.parquet")
    (corpus / "lines.jsonl").write_text('{"text": "fine"}\n{broken\n')
    done = tropescan("scan", corpus, "--db", db, *FAST)
    assert done.returncode == 20 and "Traceback" not in done.stderr
    kinds = dict(select(db, "SELECT split_part(path, '/', -1), kind FROM shards WHERE status = 'failed'"))
    assert kinds == {
        "cut.parquet": "DamagedShard",
        "words.parquet": "NotAShard",
        "nocolumn.parquet": "MissingColumn",
        "numbers.parquet": "WrongColumnType",
    }
    assert select(db, "SELECT documents, null_documents FROM shards WHERE path LIKE '%good.parquet'") == [(4, 1)]
    assert select(db, "SELECT documents, status FROM shards WHERE path LIKE '%empty.parquet'") == [(0, "done")]
    assert select(db, "SELECT bad_lines, documents FROM shards WHERE path LIKE '%lines.jsonl'") == [(1, 1)]
    told = tropescan("status", "--db", db)
    assert "7 shards = 3 done + 0 partial + 4 failed + 0 pending" in told.stdout and "its columns: body" in told.stdout
    assert tropescan("scan", corpus, "--db", db, *FAST).returncode == 20  # left out, and still told
    write_shard(corpus / "cut.parquet", [PLAIN])
    shutil.copy(corpus / "good.parquet", corpus / "words.parquet")
    (corpus / "nocolumn.parquet").unlink()
    mended = tropescan("scan", corpus, "--db", db, *FAST)
    assert mended.returncode == 25 and "same bytes" in mended.stderr


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("a.parquet", b"words", 21), ("a.jsonl.gz", b"words", 22), ("a.jsonl", b'{"body": "x"}\n', 24)],
)
def test_one_kind_of_failure_has_its_own_exit_code(
    tmp_path: Path, tropescan: Run, name: str, content: bytes, code: int
) -> None:
    (tmp_path / name).write_bytes(content)
    done = tropescan("scan", tmp_path / name, "--db", tmp_path / "x.duckdb", *FAST)
    assert done.returncode == code and name in done.stderr and "Traceback" not in done.stderr


def test_an_unreadable_file_is_recorded_and_tried_again_on_demand(tmp_path: Path, tropescan: Run) -> None:
    path, db = tmp_path / "a.parquet", tmp_path / "x.duckdb"
    path.symlink_to("/proc/self/mem")  # opens, also for root, and fails to be read
    write_shard(tmp_path / "b.parquet", [EVIL])
    done = tropescan("scan", tmp_path, "--db", db, *FAST)
    assert done.returncode in (21, 22, 23) and "a.parquet" in done.stderr and "Traceback" not in done.stderr
    path.unlink()
    path.symlink_to(tmp_path / "vanished")
    gone = tropescan("scan", tmp_path, "--db", db, *FAST, "--retry-failed")
    assert gone.returncode == 23 and "No such file" in gone.stderr
    path.unlink()
    shutil.copy(write_shard(tmp_path / "c.parquet", [PLAIN]), path)
    (tmp_path / "c.parquet").unlink()
    again = tropescan("scan", tmp_path, "--db", db, *FAST, "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert select(db, "SELECT status, count(*) FROM shards GROUP BY ALL") == [("done", 2)]


def test_what_no_reader_foresees_costs_its_shard_alone(tmp_path: Path, tropescan: Run) -> None:
    shards = tmp_path / "in"
    shards.mkdir()
    write_shard(shards / "a.parquet", [EVIL])
    write_shard(shards / "unavailable.parquet", [PLAIN])
    latin_1_column(shards / "column.parquet")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...
        def do_GET(self) -> None:
            if "unavailable" in self.path:
                self.send_error(503, "caf\xe9")
            else:
                super().do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(shards))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        web = [f"http://127.0.0.1:{server.server_port}/{name}.parquet" for name in ("a", "unavailable")]
        done = tropescan("scan", shards / "column.parquet", *web, "--db", tmp_path / "x.duckdb", *FAST, "--json")
        server.shutdown()
    assert done.returncode == 20 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 2
    assert "column.parquet: UnicodeDecodeError while planning" in done.stderr and ": 503, message=" in done.stderr
    kinds = select(tmp_path / "x.duckdb", "SELECT split_part(path, '/', -1), status, kind FROM shards ORDER BY 1")
    assert kinds == [
        ("a.parquet", "done", None),
        ("column.parquet", "failed", "ShardError"),
        ("unavailable.parquet", "failed", "ShardError"),
    ]


def test_a_name_that_is_not_utf_8_costs_its_shard_alone(tmp_path: Path, tropescan: Run) -> None:
    (tmp_path / "in").mkdir()
    write_shard(tmp_path / "in" / "a.parquet", [EVIL])
    shutil.copy(write_shard(tmp_path / "b.parquet", [PLAIN]), os.fsencode(tmp_path / "in") + b"/caf\xe9.parquet")
    escaped = str(tmp_path / "in" / "caf\\udce9.parquet")
    for into, before in (("--db", 0), ("--db", 1), ("--parts", 0), ("--parts", 1)):
        done = tropescan("scan", tmp_path / "in", into, tmp_path / into, *FAST, "--json")
        told = json.loads(done.stdout)
        assert done.returncode == 23 and len(done.stderr.splitlines()) == 1 and "not UTF-8" in done.stderr
        assert told["failed"] == {escaped: "UnreadableShard"}
        assert (told["scanned"], told["done_before"]) == (1 - before, before)


def bound_by_permissions() -> None:
    """Lets a process that is begun by a superuser read no more than the permissions say."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_folder_that_cannot_be_listed_is_told_and_counts_as_failed(tmp_path: Path, tropescan: Run) -> None:
    corpus, secret, db = tmp_path / "in", tmp_path / "in" / "secret", tmp_path / "x.duckdb"
    for folder in (corpus, secret, corpus / "_hidden", corpus / "open"):
        folder.mkdir()
        write_shard(folder / "a.parquet", [f"{folder.name} {EVIL}"])
    try:
        for folder in (secret, corpus / "_hidden"):
            folder.chmod(0)
        bound: dict[str, Any] = {"preexec_fn": bound_by_permissions}
        for paths in ([corpus], [f"{corpus}/**/*.parquet"], [f"{corpus}/*/a.parquet", f"{corpus}/*.parquet"]):
            done = tropescan("scan", *paths, "--db", db, *FAST, "--json", **bound)
            assert done.returncode == 23 and "Traceback" not in done.stderr
            assert json.loads(done.stdout)["failed"] == {str(secret): "UnreadableShard"}
            assert done.stderr.count("cannot be listed (Permission denied)") == len(done.stderr.splitlines()) == 1
        assert select(db, "SELECT count(*) FROM shards WHERE status = 'done'") == [(2,)]
        for refused in (
            tropescan("filter", corpus, "--db", db, "--where", "score > 0.5", "--out", tmp_path / "out", **bound),
            tropescan("scan", secret, "--db", db, *FAST, **bound),
        ):
            assert refused.returncode == 23 and f"{secret} cannot be listed" in refused.stderr
    finally:
        for folder in (secret, corpus / "_hidden"):
            folder.chmod(0o700)
    assert json.loads(tropescan("scan", corpus, "--db", db, *FAST, "--json").stdout)["failed"] == {}


def test_a_folder_that_cannot_be_listed_may_have_any_name(tmp_path: Path, tropescan: Run) -> None:
    write_shard(tmp_path / "a.parquet", [EVIL])
    secret = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(secret, 0)
    done = tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", *FAST, "--json", preexec_fn=bound_by_permissions)
    os.chmod(secret, 0o700)
    assert done.returncode == 23 and len(done.stderr.splitlines()) == 1, done.stderr
    assert json.loads(done.stdout)["failed"] == {f"{tmp_path}/caf\\udce9": "UnreadableShard"}


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_scan_that_nobody_reads_goes_on_and_keeps_its_exit_code(tmp_path: Path, stream: str) -> None:
    corpus, db = tmp_path / "in", tmp_path / "x.duckdb"
    corpus.mkdir()
    (corpus / "0.parquet").write_text("words")  # a warning, before the others are scanned
    for i in range(1, 7):
        write_shard(corpus / f"{i}.parquet", [f"{i} {EVIL}"])
    end, gone = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "tropescan", "scan", corpus, "--db", db, "--depth", "fast", "--workers", "1"]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: gone}
    done = subprocess.run(command, **streams, text=True, timeout=120)
    os.close(gone)
    assert done.returncode == 21 and "Traceback" not in f"{done.stdout}{done.stderr}"
    assert select(db, "SELECT status, count(*) FROM shards GROUP BY ALL ORDER BY 1") == [("done", 6), ("failed", 1)]
    refused = subprocess.run([*command, "--limit", "-1"], **(streams | {stream: subprocess.DEVNULL}), timeout=60)
    assert refused.returncode == 2


def test_a_pipe_is_no_shard_and_nobody_waits_for_it(tmp_path: Path, tropescan: Run) -> None:
    db, corpus = tmp_path / "x.duckdb", tmp_path / "in"
    corpus.mkdir()
    write_shard(corpus / "a.parquet", [EVIL])
    for name in ("p.jsonl", "q.parquet"):
        os.mkfifo(corpus / name)
        done = tropescan("scan", corpus / name, "--db", db, *FAST)
        assert done.returncode == 23 and "it is a pipe" in done.stderr and "Traceback" not in done.stderr
    done = tropescan("scan", corpus, "--db", db, *FAST, "--retry-failed")
    assert done.returncode == 23 and len(done.stderr.splitlines()) == 2
    assert select(db, "SELECT status, count(*) FROM shards GROUP BY ALL ORDER BY 1") == [("done", 1), ("failed", 2)]


@pytest.mark.skipif(os.getuid() != 0, reason="needs a superuser to become somebody without a home")
def test_a_user_without_a_home_scans(tmp_path: Path, tropescan: Run) -> None:
    write_shard(tmp_path / "a.parquet", [EVIL])
    homeless = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    nobody = 12345
    with pytest.raises(KeyError):
        pwd.getpwuid(nobody)
    done = tropescan(
        "scan", tmp_path, "--db", tmp_path / "x.duckdb", *FAST, env=homeless, preexec_fn=lambda: os.setreuid(nobody, 0)
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_bad_utf8_in_any_column_of_strings(tmp_path: Path, tropescan: Run, kind: str) -> None:
    """Not every writer checks its UTF-8."""

    def column(values: list[bytes]) -> pa.Array:
        if kind == "large_string":
            return pa.array(values, pa.large_binary()).view(pa.large_string())
        if kind == "string_view":
            return pa.Array.from_buffers(pa.string_view(), len(values), pa.array(values, pa.binary_view()).buffers())
        plain = pa.array(values, pa.binary()).view(pa.string())
        indices = pa.array(range(len(values)), pa.int32())
        return pa.DictionaryArray.from_arrays(indices, plain) if kind == "dictionary" else plain

    corpus, db, evil = tmp_path / "in", tmp_path / "x.duckdb", EVIL.encode()
    corpus.mkdir()
    bad = {
        "text": [PLAIN.encode(), evil + b"\xff"],
        "id": [b"a", b"b\xff"],
        "url": [b"http://x.org/", b"http://x.org/\xe9"],
    }
    pq.write_table(pa.table({name: column(values) for name, values in bad.items()}), corpus / "a.parquet")
    done = tropescan("scan", corpus, "--db", db, *FAST)
    assert done.returncode == 0, done.stderr
    known = [("b\ufffd", "http://x.org/\ufffd", "x.org", len(EVIL) + 1)]
    assert select(db, "SELECT id, url, domain, characters FROM documents WHERE score > 0") == known
    strongest = tropescan("passages", "--db", db, "--top", 1, "--json")
    assert strongest.returncode == 0 and json.loads(strongest.stdout)["text"] == EVIL + "\ufffd"


def test_what_no_reader_foresees_costs_no_row_before_it(tmp_path: Path, tropescan: Run) -> None:
    """Ids beyond Python's years and URLs in lists are written as they can be; an error of another kind keeps what was scanned."""
    corpus, db = tmp_path / "in", tmp_path / "x.duckdb"
    corpus.mkdir()
    days = pa.array([1, 3_000_000], pa.int32()).cast(pa.date32())
    urls = pa.ListArray.from_arrays([0, 1, 2], pa.array([b"http://a/", b"http://a/\xff"]).view(pa.string()))
    pq.write_table(pa.table({"id": days, "url": urls, "text": [EVIL, f"{EVIL} 2"]}), corpus / "a.parquet")
    done = tropescan("scan", corpus, "--db", db, *FAST)
    assert done.returncode == 0, done.stderr
    known = select(db, "SELECT id, url FROM documents ORDER BY row")
    assert known[0] == ("1970-01-02", "['http://a/']") and len(known) == 2
    code = (
        "from tropescan import parts, scanner, shards; import pathlib\n"
        "(file,) = shards.find([%r]); made = shards.plan(file, shards.Columns()); s = scanner.Scanner(depth='fast')\n"
        "scan, n = s.scan, []\n"
        "def second(batch):\n"
        "    n.append(1)\n"
        "    if len(n) > 1: raise KeyError('odd')\n"
        "    return scan(batch)\n"
        "s.scan = second; parts._SLICE = 1\n"
        "p = parts.scan_unit(s, file, shards.Columns(), made.units[0]); print(p.status, p.counters['rows'], p.documents.num_rows, p.error)"
    )
    told = python(code % str(corpus)).stdout.split(maxsplit=3)
    assert told[:3] == ["failed", "1", "1"] and "KeyError while scanning: 'odd'" in told[3]


@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()], ids=str)
def test_texts_that_repeat_are_read_in_batches_of_the_same_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    """The footer counts what a dictionary holds once; of a column of its type Arrow does, too."""
    few = [f"{PLAIN} {i} " * 2000 for i in range(5)]
    column = pa.array([few[i % 5] for i in range(600)])
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    pq.write_table(pa.table({"id": [str(i) for i in range(600)], "text": column}), tmp_path / "a.parquet")
    (file,) = shards.find([tmp_path])
    sizes = [
        text_bytes(b.text) for b in shards.read(file, shards.Columns(), shards.plan(file, shards.Columns()).units[0])
    ]
    assert sum(sizes) == sum(len(t) for t in few) * 120 > 40 << 20 and max(sizes) <= 10 << 20


def test_a_dictionary_of_long_texts_is_decoded_whole() -> None:
    """Their strings would come to more than an array of strings holds."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * 1_200_000]))
    assert text_bytes(column) == 2_400_000_000
    some = texts(column[:3])[0]
    assert some.type == pa.large_string() and some.to_pylist() == ["x" * 1_200_000] * 3


def test_a_limit_counts_the_lines_that_were_mended(tmp_path: Path, tropescan: Run) -> None:
    lines = [b'{"id": "%d", "text": "The robot lied \xff"}\n' % i for i in range(10)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    db = tmp_path / "x.duckdb"
    assert tropescan("scan", tmp_path / "a.jsonl", "--db", db, *FAST, "--limit", 2).returncode == 0
    assert select(db, "SELECT documents, repaired_documents FROM shards") == [(2, 2)]


def test_changed_moved_and_doubled_shards(tmp_path: Path, tropescan: Run) -> None:
    db = tmp_path / "x.duckdb"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    a = write_shard(tmp_path / "one" / "a.parquet", [EVIL, PLAIN])
    assert tropescan("scan", tmp_path / "one", "--db", db, *FAST).returncode == 0
    os.utime(a, (1, 1))  # touched, not changed
    assert json.loads(tropescan("scan", a, "--db", db, *FAST, "--json").stdout)["documents"] == 0
    a.rename(tmp_path / "two" / "b.parquet")
    moved = json.loads(tropescan("scan", tmp_path / "two", "--db", db, *FAST, "--json").stdout)
    assert moved["documents"] == 0 and [Path(p).name for (p,) in select(db, "SELECT path FROM shards")] == ["b.parquet"]
    shutil.copy(tmp_path / "two" / "b.parquet", tmp_path / "two" / "c.parquet")
    doubled = json.loads(tropescan("scan", tmp_path / "two", "--db", db, *FAST, "--json").stdout)
    assert list(doubled["duplicates"].values()) == [str(tmp_path / "two" / "b.parquet")]
    assert select(db, "SELECT sum(documents) FROM shards") == [(2,)]
    write_shard(tmp_path / "two" / "b.parquet", [PLAIN, PLAIN, PLAIN])
    assert json.loads(tropescan("scan", tmp_path / "two", "--db", db, *FAST, "--json").stdout)["documents"] in (3, 5)
    assert select(db, "SELECT split_part(path, '/', -1), documents FROM shards ORDER BY path") == [
        ("b.parquet", 3),
        ("c.parquet", 2),
    ]


def prevalence(db: Path) -> list[tuple[Any, ...]]:
    return select(db, "SELECT split_part(path, '/', -1), status, documents FROM prevalence ORDER BY path")


def test_a_shard_that_becomes_a_copy_of_another_loses_its_scores(tmp_path: Path, tropescan: Run) -> None:
    shards, db = tmp_path / "in", tmp_path / "x.duckdb"
    shards.mkdir()
    write_shard(shards / "a.parquet", [EVIL, PLAIN])
    write_shard(shards / "b.parquet", [EVIL] * 3)
    (shards / "c.parquet").write_text("words")
    assert tropescan("scan", shards, "--db", db, *FAST).returncode == 21
    (shards / "b.parquet").rename(shards / "d.parquet")  # of which another path is to keep them
    for copy in ("b.parquet", "c.parquet"):
        shutil.copy(shards / "a.parquet", shards / copy)
    done = json.loads(tropescan("scan", shards, "--db", db, *FAST, "--json").stdout)
    assert len(done["duplicates"]) == 2 and done["failed"] == {}
    assert prevalence(db) == [("a.parquet", "done", 2), ("d.parquet", "done", 3)]
    assert select(db, "SELECT count(DISTINCT shard) FROM documents") == [(2,)]
    shutil.copy(shards / "a.parquet", shards / "d.parquet")
    assert tropescan("scan", shards, "--db", db, *FAST).returncode == 0
    assert prevalence(db) == [("a.parquet", "done", 2)]
    assert select(db, "SELECT count(DISTINCT shard) FROM documents") == [(1,)]


@pytest.mark.parametrize("names", ["ab", "cb"])
def test_a_moved_shard_outlives_what_lies_at_its_old_path(tmp_path: Path, tropescan: Run, names: str) -> None:
    shards, db = tmp_path / "in", tmp_path / "x.duckdb"
    shards.mkdir()
    old, new = (shards / f"{name}.parquet" for name in names)
    write_shard(old, [EVIL, PLAIN])
    assert tropescan("scan", shards, "--db", db, "--depth", "fast").returncode == 0
    old.rename(new)
    old.write_bytes(new.read_bytes()[:200])
    for _ in range(2):  # one worker plans them in the order of their names
        assert tropescan("scan", shards, "--db", db, "--depth", "fast", "--workers", "1").returncode == 22
        assert sorted(prevalence(db)) == sorted([(old.name, "failed", 0), (new.name, "done", 2)])


def stored(into: Path) -> tuple[int, list[str]]:
    """The documents in a database, or in score parts, and what these are called."""
    if not into.is_dir():
        return select(into, "SELECT count(*) FROM documents")[0][0], []
    return sum(pq.read_table(part).num_rows for part in into.iterdir()), sorted(p.name for p in into.iterdir())


@pytest.mark.parametrize("into", ["--db", "--parts"])
def test_a_shard_that_cannot_be_planned_keeps_its_scores(tmp_path: Path, tropescan: Run, into: str) -> None:
    mount, corpus, to = tmp_path / "mount", tmp_path / "in", tmp_path / "x"
    mount.mkdir()
    corpus.mkdir()
    shard = write_shard(mount / "a.parquet", [EVIL, PLAIN, f"{EVIL} 2"])
    (corpus / "a.parquet").symlink_to(shard)
    scan = ("scan", corpus, into, to, *FAST, "--json")
    assert tropescan(*scan).returncode == 0
    before = stored(to)
    assert before[0] == 2
    mount.rename(tmp_path / "away")
    for _ in range(2):
        gone = tropescan(*scan)
        assert gone.returncode == 23 and stored(to) == before and "what is stored of it stays" in gone.stderr
        assert json.loads(gone.stdout)["failed"] == {str(corpus / "a.parquet"): "UnreadableShard"}
    (tmp_path / "away").rename(mount)
    os.utime(shard, (1, 1))
    assert tropescan(*scan, "--text-column", "txet").returncode == 24 and stored(to) == before
    again = json.loads(tropescan(*scan).stdout)
    assert (again["done_before"], again["documents"], again["failed"]) == (1, 0, {}) and stored(to) == before
    shard.write_bytes(b"words, for a while")
    assert tropescan(*scan).returncode == 21 and stored(to) == before
    write_shard(shard, [EVIL])
    assert json.loads(tropescan(*scan).stdout)["documents"] == 1 and stored(to)[0] == 1


@pytest.mark.parametrize("into", ["--db", "--parts"])
def test_a_limit_takes_nothing_from_what_was_read_before_a_failure(tmp_path: Path, tropescan: Run, into: str) -> None:
    shard, to = tmp_path / "a.jsonl.gz", tmp_path / "x"
    lines = "".join(json.dumps({"text": f"{n} {EVIL}"}) + "\n" for n in range(60_000))
    whole = gzip.compress(lines.encode(), 1)
    shard.write_bytes(whole[:-50_000])
    scan = ("scan", shard, into, to, *FAST, "--json")
    assert tropescan(*scan).returncode == 22
    before = stored(to)
    assert before[0] > 1000
    assert tropescan(*scan, "--retry-failed", "--limit", 10).returncode == 0
    assert stored(to) == before
    again = tropescan(*scan)
    assert again.returncode == 22 and json.loads(again.stdout)["failed_before"] == 1


def test_of_two_copies_the_first_counts_whichever_worker_is_faster(tmp_path: Path, tropescan: Run) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.parquet", [EVIL, PLAIN])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...
        def end_headers(self) -> None:
            self.send_header("ETag", "the same")
            super().end_headers()

        def do_GET(self) -> None:
            time.sleep("a.parquet" in self.path)
            super().do_GET()

    # ids are as long in both: so are the files
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        a, b = (f"http://127.0.0.1:{server.server_port}/{name}.parquet" for name in ("a", "b"))
        done = tropescan("scan", b, a, "--db", tmp_path / "x.duckdb", *FAST, "--json")
        server.shutdown()
    assert done.returncode == 0 and json.loads(done.stdout)["duplicates"] == {b: a}, done.stderr
    assert select(tmp_path / "x.duckdb", "SELECT path, status, documents FROM shards") == [(a, "done", 2)]


def test_the_audit_share_is_that_of_the_scan_not_of_a_later_look(tmp_path: Path, tropescan: Run) -> None:
    db, told = tmp_path / "x.duckdb", "SELECT audit, audited_documents FROM shards"
    a = write_shard(tmp_path / "a.parquet", [EVIL, PLAIN, PLAIN])
    assert tropescan("scan", a, "--db", db, *FAST, "--audit", "0.5", "--limit", "1").returncode == 0
    assert tropescan("scan", a, "--db", db, *FAST, "--audit", "1").returncode == 0  # all of it, anew
    assert select(db, told) == [(1.0, 2)]
    moved = a.rename(tmp_path / "b.parquet")
    for share in ("0.5", "0.25"):
        os.utime(moved, (1, float(share) * 100))
        assert tropescan("scan", moved, "--db", db, *FAST, "--audit", share).returncode == 0
        assert select(db, f"{told} WHERE ends_with(path, 'b.parquet')") == [(1.0, 2)]


def test_a_limit_leaves_shards_partial_until_the_whole_scan(tmp_path: Path, tropescan: Run) -> None:
    db = tmp_path / "x.duckdb"
    write_shard(tmp_path / "a.parquet", [EVIL] * 50, row_group_size=10)
    write_shard(tmp_path / "b.parquet", [EVIL] * 5)
    assert json.loads(tropescan("scan", tmp_path, "--db", db, *FAST, "--limit", 20, "--json").stdout)["documents"] == 25
    assert select(db, "SELECT status, documents, rows FROM shards ORDER BY path") == [
        ("partial", 20, 50),
        ("done", 5, 5),
    ]
    assert json.loads(tropescan("scan", tmp_path, "--db", db, *FAST, "--limit", 20, "--json").stdout)["documents"] == 0
    table = tropescan("prevalence", "--db", db)
    assert "1 of 2 shards" in table.stdout
    assert json.loads(tropescan("scan", tmp_path, "--db", db, *FAST, "--json").stdout)["documents"] == 50
    assert select(db, "SELECT status, documents, count(*) OVER () FROM shards ORDER BY path") == [
        ("done", 50, 2),
        ("done", 5, 2),
    ]


@pytest.mark.parametrize("into", ["--db", "--parts"])
def test_a_unit_that_failed_costs_no_other_that_is_still_to_come(tmp_path: Path, tropescan: Run, into: str) -> None:
    shard = tmp_path / "a.parquet"
    with pq.ParquetWriter(
        shard, pa.schema([("text", pa.string())]), use_dictionary=False, compression="zstd", write_page_checksum=True
    ) as out:
        out.write_table(pa.table({"text": [f"{i} " + PLAIN * 90_000 for i in range(34)]}))  # a unit of its own
        out.write_table(pa.table({"text": [EVIL, PLAIN]}))
    torn = bytearray(shard.read_bytes())
    torn[2000] ^= 0xFF
    shard.write_bytes(torn)
    scan = ("scan", shard, into, tmp_path / "x", "--depth", "fast", "--workers", "1", "--json")
    limited = tropescan(*scan, "--limit", 1)  # as if it had been stopped before the other unit
    assert limited.returncode == 22 and json.loads(limited.stdout)["documents"] == 0
    for documents in (1, 0):  # the limit is of the shard, whose other unit begins at row 34
        assert json.loads(tropescan(*scan, "--limit", 35).stdout)["documents"] == documents
    whole = tropescan(*scan)
    assert whole.returncode == 22 and json.loads(whole.stdout)["documents"] == 2, whole.stderr
    assert json.loads(whole.stdout)["failed"] == {str(shard): "DamagedShard"} and whole.stderr == ""
    os.utime(shard, (1, 1))  # touched, not changed: what failed is tried again on demand alone
    for _ in range(2):
        told = json.loads(tropescan(*scan).stdout)
        assert (told["done_before"], told["failed_before"], len(told["failed"]), told["scanned"]) == (0, 1, 1, 0)
    again = tropescan(*scan, "--retry-failed")
    assert again.returncode == 22 and "a.parquet" in again.stderr and json.loads(again.stdout)["failed_before"] == 0


def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path: Path, tropescan: Run) -> None:
    db = tmp_path / "x.duckdb"
    for i in range(30):
        write_shard(tmp_path / f"{i:02}.parquet", [f"{i} {EVIL} {n}" for n in range(400)])

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    full = tropescan("scan", tmp_path, "--db", db, *FAST, preexec_fn=small)
    assert full.returncode == 43 and "no space left" in full.stderr and "Traceback" not in full.stderr
    assert tropescan("scan", tmp_path, "--db", db, *FAST).returncode == 0
    assert tropescan("scan", tmp_path, "--db", tmp_path / "undisturbed.duckdb", *FAST).returncode == 0
    assert contents(db) == contents(tmp_path / "undisturbed.duckdb")


def children(pid: int) -> list[int]:
    """The worker processes of a scan."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid
                and "spawn_main" in (entry / "cmdline").read_text()
            ):
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def test_workers_that_die_while_they_start_are_told(tmp_path: Path, tropescan: Run) -> None:
    write_shard(tmp_path / "a.parquet", [PLAIN])
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv: os._exit(7)"
    )
    begun = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = tropescan("scan", tmp_path / "a.parquet", "--db", tmp_path / "x.duckdb", "--depth", "fast", env=begun)
    assert done.returncode == 1 and "workers die while they start (exit code 7)" in done.stderr
    assert "defect" not in done.stderr and "Traceback" not in done.stderr


def test_a_worker_that_is_killed_twice_costs_its_unit(tmp_path: Path, tropescan: Run) -> None:
    db = tmp_path / "x.duckdb"
    for i in range(4):
        write_shard(tmp_path / f"{i}.parquet", [f"{i} {EVIL}"])
    with open(tmp_path / "pipe.jsonl", "wb") as huge:  # large enough to be at it when it is killed
        for n in range(400_000):
            huge.write(json.dumps({"text": f"{n} {EVIL}"}).encode() + b"\n")
    command = [
        sys.executable,
        "-m",
        "tropescan",
        "scan",
        str(tmp_path),
        "--db",
        str(db),
        "--depth",
        "fast",
        "--workers",
        "2",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as scan:
        killed: set[int] = set()
        while scan.poll() is None and len(killed) < 12:
            for child in children(scan.pid):
                # the one that reads the large file
                try:
                    if child not in killed and any(
                        os.readlink(f).endswith("pipe.jsonl") for f in Path(f"/proc/{child}/fd").iterdir()
                    ):
                        os.kill(child, signal.SIGKILL)
                        killed.add(child)
                except OSError:
                    continue
            time.sleep(0.02)
        _, told = scan.communicate(timeout=120)
    assert scan.returncode == 26 and "died twice (signal 9)" in told and "Traceback" not in told
    assert select(db, "SELECT status, kind, count(*) FROM shards GROUP BY ALL ORDER BY 1") == [
        ("done", None, 4),
        ("failed", "WorkerDied", 1),
    ]


@pytest.mark.parametrize("signals", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_in_one_line_and_no_process_stays(tmp_path: Path, tropescan: Run, signals: int) -> None:
    for i in range(200):
        write_shard(tmp_path / f"{i:03}.parquet", [f"{i} {EVIL} {n}" for n in range(500)])
    command = [
        sys.executable,
        "-m",
        "tropescan",
        "scan",
        str(tmp_path),
        "--db",
        str(tmp_path / "x.duckdb"),
        "--depth",
        "fast",
        "--workers",
        "2",
    ]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as scan:
        while len(workers := children(scan.pid)) < 2 or not (tmp_path / "x.duckdb").exists():
            time.sleep(0.02)
        time.sleep(0.6)
        os.killpg(scan.pid, signals) if signals == signal.SIGINT else scan.send_signal(signals)
        _, told = scan.communicate(timeout=60)
    assert scan.returncode == 130 and "interrupted" in told and "Traceback" not in told
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{w}").exists() for w in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{w}").exists() for w in workers)


def test_what_has_arrived_at_an_interrupt_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(60):
        write_shard(tmp_path / f"{i:03}.parquet", [f"{i} {EVIL} {n}" for n in range(3000)])
    finished: list[int] = []

    class Impatient:
        def begin(self, shards: int, total_bytes: int) -> None: ...
        def note(self, line: str) -> None: ...
        def moved(self, done_shards: int, done_bytes: float, counters: dict[str, int]) -> None:
            finished.append(done_shards)
            if done_shards >= 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(driving, "_pause", lambda took, lasted: 600.0)  # after the first, no commit is due
    store = Store(tmp_path / "x.duckdb")
    with pytest.raises(KeyboardInterrupt):
        run(find([tmp_path]), store, Impatient(), depth="fast", workers=2)
    assert 5 <= finished[-1] < 60
    assert select(store.path, "SELECT count(*) FROM units WHERE status = 'done'") == [(finished[-1],)]


def test_progress_is_plain_lines_without_a_terminal(tmp_path: Path, tropescan: Run) -> None:
    with open(tmp_path / "a.jsonl", "wb") as large:
        for n in range(250_000):
            large.write(json.dumps({"text": f"{n} {EVIL}"}).encode() + b"\n")
    done = tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", "--depth", "fast", "--workers", "1")
    lines = [line for line in done.stderr.splitlines() if "shards" in line]
    assert lines and "flagged" in lines[0] and "left" in lines[0] and "\x1b" not in done.stderr
    (tmp_path / "a.jsonl").write_text("words")
    forced = os.environ | {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    done = tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", *FAST, env=forced)
    assert (done.returncode, done.stderr) == (0, "")
