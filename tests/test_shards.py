"""Shards are found, fingerprinted by content, and streamed; what is wrong with one is told in a line."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import EVIL, PLAIN, write_shard
from tropescan import shards
from tropescan.errors import DamagedShard, MissingColumn, NoShards, NoSuchPath, NotAShard, UnreadableShard
from tropescan.schema import strings
from tropescan.shards import Columns, File, stream


def everything(file: File, columns: Columns | None = None) -> list[tuple[int, str | None]]:
    found = []
    for unit in shards.plan(file, columns or Columns()).units:
        for batch in shards.read(file, columns or Columns(), unit):
            rows = (
                batch.rows.tolist()
                if batch.rows is not None
                else range(batch.first_row, batch.first_row + len(batch.text))
            )
            found += list(zip(rows, batch.text.to_pylist(), strict=True))
    return found


def only(path: Path) -> File:
    return shards.find([path])[0]


def test_find_takes_files_folders_globs_and_each_once(tmp_path: Path) -> None:
    for name in (
        "a.parquet",
        "deep/er/b.jsonl",
        "deep/c.jsonl.gz",
        "deep/.hidden/d.parquet",
        "_temporary/e.parquet",
        "notes.txt",
        "f.jsonl.zst",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def names(*paths: object) -> list[str]:
        return [f.path.removeprefix(f"{tmp_path}/") for f in shards.find([str(p) for p in paths])]

    everywhere = ["a.parquet", "deep/c.jsonl.gz", "deep/er/b.jsonl", "f.jsonl.zst"]
    assert names(tmp_path) == everywhere
    assert names(tmp_path, tmp_path / "a.parquet", f"file://{tmp_path}/a.parquet") == everywhere
    assert names(tmp_path / "**" / "*.jsonl*") == ["deep/c.jsonl.gz", "deep/er/b.jsonl", "f.jsonl.zst"]
    assert names(tmp_path / "notes.txt") == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoShards, match="no shard under"):
        shards.find([tmp_path / "empty"])
    for missing in (tmp_path / "nothing", tmp_path / "no*thing.parquet"):
        with pytest.raises(NoSuchPath):
            shards.find([missing])


def test_a_folder_with_brackets_is_no_glob(tmp_path: Path) -> None:
    (tmp_path / "corpus [1]").mkdir()
    write_shard(tmp_path / "corpus [1]" / "a.parquet", [PLAIN])
    assert len(shards.find([tmp_path / "corpus [1]"])) == 1


def test_links_are_followed_and_may_lead_round(tmp_path: Path) -> None:
    for name in ("blobs/x", "in/a.jsonl", "in/real/b.jsonl", "elsewhere/deep/c.jsonl", "elsewhere/_aside/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    links = {
        "in/l.jsonl": "blobs/x",
        "in/gone.jsonl": "nothing",
        "in/again": "in/real",
        "in/round": "in",
        "in/out": "elsewhere",
        "elsewhere/deep/up": "elsewhere",
        "in/self": "in/self",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(tmp_path / target)

    def names(pattern: str) -> list[str]:
        return [f.path.removeprefix(f"{tmp_path}/") for f in shards.find([f"{tmp_path}/{pattern}"])]

    below = ["in/a.jsonl", "in/gone.jsonl", "in/l.jsonl", "in/out/deep/c.jsonl", "in/real/b.jsonl"]
    assert names("in") == below
    assert names("in/*.jsonl") == below[:3]
    assert names("i*/**/?.jsonl") == [n for n in below if "gone" not in n]
    assert names("in/*/[bc].jsonl") == ["in/again/b.jsonl", "in/real/b.jsonl"]
    assert names("in/ag*") == ["in/again/b.jsonl"] and names("*/deep") == ["elsewhere/deep/c.jsonl"]
    (linked,) = shards.find([tmp_path / "in" / "l.jsonl"])
    assert linked.bytes == 1 and shards.fingerprint(linked) == shards.fingerprint(only(tmp_path / "in" / "a.jsonl"))


def test_names_with_colons_and_question_marks_are_names(tmp_path: Path) -> None:
    line = json.dumps({"text": PLAIN}).encode()
    names = ["Foo::Bar.jsonl", "what?.jsonl", "zip::a?b.jsonl"]
    for name in names:
        (tmp_path / name).write_bytes(line)
    store = fsspec.filesystem("memory")
    store.pipe("/colons/Foo::Bar.jsonl", line)
    for found in (shards.find([tmp_path]), [only(tmp_path / n) for n in names], shards.find(["memory://colons"])):
        assert {f.path.rsplit("/", 1)[-1] for f in found} <= set(names)
        assert [everything(f) for f in found] == [[(0, PLAIN)]] * len(found)
        assert len({shards.fingerprint(f) for f in found}) == 1
    assert len(shards.find([tmp_path])) == 3
    assert File("https://a.example/b.jsonl.gz?token=1.parquet", 0, "").format == "jsonl.gz"
    assert File("/a/b.jsonl?token=1", 0, "").format == ""


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    a = write_shard(tmp_path / "a.parquet", [PLAIN, EVIL])
    (tmp_path / "b.parquet").write_bytes(a.read_bytes())
    one = shards.fingerprint(only(a))
    assert shards.fingerprint(only(tmp_path / "b.parquet")) == one
    raw = bytearray(a.read_bytes())
    raw[100] ^= 1
    a.write_bytes(raw)
    assert shards.fingerprint(only(a)) != one


def test_large_shards_are_cut_at_row_groups_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{i} {PLAIN}" for i in range(1000)]
    file = only(write_shard(tmp_path / "a.parquet", texts, row_group_size=90))
    monkeypatch.setattr(stream, "UNIT_BYTES", 20_000)
    plan = shards.plan(file, Columns())
    assert len(plan.units) > 3 and sum(u.rows for u in plan.units) == plan.rows == 1000
    assert everything(file) == list(enumerate(texts))
    assert shards.rows(file, Columns(), {0, 500, 999}) == {i: texts[i] for i in (0, 500, 999)}


def test_batches_are_bounded_in_bytes(tmp_path: Path) -> None:
    file = only(write_shard(tmp_path / "a.parquet", [f"{i}" + "long text " * 60_000 for i in range(40)]))
    sizes = [b.text.nbytes for u in shards.plan(file, Columns()).units for b in shards.read(file, Columns(), u)]
    assert len(sizes) >= 4 and max(sizes) < 10 << 20


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_lines_in_every_compression(tmp_path: Path, ending: str) -> None:
    texts = [PLAIN, EVIL, "ünï \U0001f916", "", None] * 700
    raw = "\n".join(json.dumps({"id": i, "text": t}, ensure_ascii=i % 2 == 0) for i, t in enumerate(texts)).encode()
    path = tmp_path / f"a{ending}"
    path.write_bytes(
        {".jsonl": raw, ".jsonl.gz": gzip.compress(raw), ".jsonl.zst": bytes(pa.Codec("zstd").compress(raw))}[ending]
    )
    assert everything(only(path)) == list(enumerate(texts))


def test_bad_lines_are_counted_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text":"a"}\r\n\n{bad\n[1]\n{"text":5}\n{"text":"\xff"}\n{"other":1}\n{"text":"z"}')
    file = only(path)
    batches = list(shards.read(file, Columns(), shards.plan(file, Columns()).units[0]))
    assert sum(b.bad_lines for b in batches) == 3
    assert everything(file) == [(0, "a"), (5, "\ufffd"), (6, None), (7, "z")]


def test_lines_that_other_writers_write(tmp_path: Path) -> None:
    lines = [
        b'{"text": "half \\ud83d", "id": "a"}',
        b'{"text": "whole \\ud83d\\ude00", "x": NaN}',
        b'{"text": "bad \xff"}',
        b'{"text": "plain \xc3\xa9"}',
        b"[" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    file = shards.find([tmp_path])[0]
    (batch,) = shards.read(file, Columns(), shards.plan(file, Columns()).units[0])
    assert batch.text.to_pylist() == ["half \ufffd", "whole \U0001f600", "bad \ufffd", "plain é"]
    assert (batch.bad_lines, batch.repaired.sum()) == (1, 2)


def test_a_byte_order_mark_is_no_part_of_a_line(tmp_path: Path) -> None:
    lines = [b'{"text": "one"}', b'{"text": "two"}', b'\xef\xbb\xbf{"text": "of the next file"}', b"\xef\xbb\xbf{"]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    file = only(tmp_path / "a.jsonl")
    (batch,) = shards.read(file, Columns(), shards.plan(file, Columns()).units[0])
    assert batch.text.to_pylist() == ["one", "two", "of the next file"]
    assert (batch.bad_lines, batch.repaired.sum()) == (1, 0)


def test_what_the_caller_wrote_out_is_not_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "_raw" / ".cache"
    folder.mkdir(parents=True)
    write_shard(folder / "a.parquet", ["x"])
    write_shard(folder / "_b.parquet", ["x"])
    assert (
        [f.path for f in shards.find([folder])]
        == [f.path for f in shards.find([folder / "*.parquet"])]
        == [str(folder / "a.parquet")]
    )


def test_a_huge_line_is_a_batch_of_its_own(tmp_path: Path) -> None:
    huge = "A long line \U0001f916. " * 1_000_000
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "text": t, "more": [1]}) for i, t in enumerate(["a", huge, "z"])))
    assert everything(only(path)) == [(0, "a"), (1, huge), (2, "z")]
    assert shards.rows(only(path), Columns(), {1}) == {1: huge}


def test_ids_that_are_long_integers_are_kept_whole(tmp_path: Path) -> None:
    ids = [7, 1 << 64, -(10**19) + 1, [1 << 70], 10**38 + 1]
    texts = [*"abcd", "A long line. " * 1_400_000]  # the last line goes another way
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "text": t}) for i, t in zip(ids, texts, strict=True)))
    batches = list(shards.read(only(path), Columns(), shards.plan(only(path), Columns()).units[0]))
    assert [i for b in batches for i in b.id.to_pylist()] == [str(i) for i in ids]
    assert sum(b.repaired.sum() for b in batches) == 0


def test_ids_of_huge_lines_are_those_of_others(tmp_path: Path) -> None:
    ids = [
        "2024-05-01",
        "2024-05-01T10:00:00Z",
        "12:30:00",
        "x",
        "",
        7,
        -7,
        1 << 63,
        1.0,
        1e20,
        True,
        None,
        {"a": [1]},
        [],
    ]
    found: list[list[tuple[str | None, str | None]]] = []
    for padding in ("", " and weather" * 1_500_000):
        path = tmp_path / "a.jsonl"
        with path.open("w") as lines:
            for id in ids:
                lines.write(json.dumps({"id": id, "url": "2024-05-01", "text": PLAIN + padding}) + "\n")
        batches = list(shards.read(only(path), Columns(), shards.plan(only(path), Columns()).units[0]))
        assert len(batches) == (len(ids) if padding else 1)
        columns = [(pa.nulls(len(b.text)) if b.id is None else b.id, b.url) for b in batches]
        found.append([pair for id, url in columns for pair in zip(strings(id), strings(url), strict=True)])
    assert found[0] == found[1] and len(found[0]) == len(ids)


def test_missing_columns_list_those_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": [PLAIN], "title": ["t"]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"body": "x", "title": "t"}\n')
    for name in ("a.parquet", "b.jsonl"):
        with pytest.raises(MissingColumn, match="no .* 'text'; its .*: body, title"):
            everything(only(tmp_path / name))
        assert [t for _, t in everything(only(tmp_path / name), Columns(text="body"))]
        with pytest.raises(MissingColumn, match="'key'"):
            everything(only(tmp_path / name), Columns(text="body", id="key", id_required=True))


def test_what_is_no_parquet_and_what_is_damaged(tmp_path: Path) -> None:
    # without page checksums a flipped bit may decode to other text, which no reader can see; with them it is told
    pq.write_table(
        pa.table({"text": [f"{i} {EVIL}" for i in range(3000)]}),
        tmp_path / "good.parquet",
        compression="zstd",
        write_page_checksum=True,
    )
    good = (tmp_path / "good.parquet").read_bytes()
    (tmp_path / "words.parquet").write_text("these are words")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "cut.parquet").write_bytes(good[: len(good) // 2])
    (tmp_path / "flipped.parquet").write_bytes(good[:2000] + bytes([good[2000] ^ 1]) + good[2001:])
    for name, kind in (("words", NotAShard), ("empty", NotAShard), ("cut", DamagedShard), ("flipped", DamagedShard)):
        with pytest.raises(kind, match=f"{name}.parquet"):
            everything(only(tmp_path / f"{name}.parquet"))


def test_truncated_compressed_lines_give_what_was_whole(tmp_path: Path) -> None:
    raw = gzip.compress("\n".join(json.dumps({"text": f"{i} {EVIL}"}) for i in range(60_000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(raw[: len(raw) // 2])
    seen = 0
    with pytest.raises(DamagedShard, match="truncated"):
        for batch in shards.read(
            only(tmp_path / "a.jsonl.gz"), Columns(), shards.plan(only(tmp_path / "a.jsonl.gz"), Columns()).units[0]
        ):
            seen += len(batch.text)
    assert seen > 10_000


class Ranged(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, as object stores do."""

    def do_HEAD(self) -> None:
        raw = Path(self.translate_path(self.path))
        if not raw.exists():
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(raw.stat().st_size))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hash(raw.read_bytes())}"')
        self.end_headers()

    def do_GET(self) -> None:
        raw = Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers.get("Range")
        first, last = 0, len(raw) - 1
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hash(raw)}"')
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(raw)}")
        self.end_headers()
        self.wfile.write(raw[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Ranged, directory=str(tmp_path))
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_shard_over_http(tmp_path: Path, server: str) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra http")
    texts = [f"{i} {PLAIN}" for i in range(5000)]
    write_shard(tmp_path / "a.parquet", texts, row_group_size=800)
    (file,) = shards.find([f"{server}/a.parquet"])
    assert everything(file) == list(enumerate(texts))
    assert shards.fingerprint(file) == shards.fingerprint(shards.find([f"{server}/a.parquet"])[0])
    with pytest.raises(NoSuchPath):
        shards.find([f"{server}/nothing.parquet"])
    shards.require_unchanged(file)
    write_shard(tmp_path / "a.parquet", texts[:-1], row_group_size=800)
    with pytest.raises(UnreadableShard, match="changed while it was read"):
        shards.require_unchanged(file)
