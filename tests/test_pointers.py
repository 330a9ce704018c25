"""Pointers give back exactly the passage they name or are told as lost, and unlabelled passages are drawn alike twice."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import EVIL, PLAIN, write_shard
from tropescan import corpus
from tropescan.errors import InputError, LabelError, NoSuchPath
from tropescan.passages import cut
from tropescan.pointers import drawn, resolve
from tropescan.training import passing

Run = Callable[..., subprocess.CompletedProcess[str]]

STRANGE = f"Ünïcödé — 漢字 \U0001f916\u200d\U0001f469 e\u0301\r\n{EVIL}\x00\u2028{PLAIN}"
GATE = partial(passing, "[strong]\nartificial intelligence\n")
LONG = " ".join(f"{EVIL} \U0001f916 {i}." for i in range(25))
JUDGED: dict[str, Any] = {"intensity": 3, "facets": ["escape"], "frame": "fiction", "admirable": 0}
SOME = st.tuples(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=60), st.integers(0, 60), st.integers(0, 60)
)


def pointer(number: int, text: str, start: int, end: int, **other: Any) -> dict[str, Any]:
    """A pointer to a span of document `number` of web/a.parquet."""
    where = {"corpus": "web", "shard": "a.parquet", "document": f"a-{number}", "start_char": start, "end_char": end}
    sha256 = hashlib.sha256(text[start:end].encode()).hexdigest()
    return {"id": f"p{number}", **where, "sha256": sha256, **other}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of texts with one shard of three documents."""
    (tmp_path / "texts" / "web").mkdir(parents=True)
    write_shard(tmp_path / "texts" / "web" / "a.parquet", [STRANGE, EVIL, PLAIN])
    return tmp_path / "texts"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SOME, min_size=1, max_size=6))
def test_pointers_give_exactly_their_spans_in_order(tmp_path: Path, drawn: list[tuple[str, int, int]]) -> None:
    (tmp_path / "web").mkdir(exist_ok=True)
    write_shard(tmp_path / "web" / "a.parquet", [text for text, _, _ in drawn])
    rows = [pointer(i, text, min(a, b), max(a, b)) for i, (text, a, b) in enumerate(drawn)][::-1]
    said: list[str] = []
    found = resolve(rows, [tmp_path], said.append)
    assert [r["text"] for r in found] == [text[min(a, b) : max(a, b)] for text, a, b in drawn][::-1]
    assert [{k: v for k, v in r.items() if k != "text"} for r in found] == rows
    assert said == [f"{len(rows)} of {len(rows)} pointers resolved against {tmp_path}"]


def test_an_id_that_a_shard_tells_twice_means_the_text_of_the_pointer(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    write_shard(tmp_path / "web" / "a.parquet", [EVIL, PLAIN], id=["a-0", "a-0"])
    rows = [pointer(0, EVIL, 0, 9), pointer(0, PLAIN, 2, 11)]
    assert [row["text"] for row in resolve(rows, [tmp_path], lambda _: None)] == [EVIL[:9], PLAIN[2:11]]


def test_pointers_are_looked_for_in_every_folder_of_texts(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "more").mkdir(parents=True)
    write_shard(tmp_path / "other" / "more" / "b.parquet", [LONG])
    there = {**pointer(0, LONG, 3, 90), "corpus": "more", "shard": "b.parquet", "document": "b-0"}
    said: list[str] = []
    found = resolve([pointer(1, EVIL, 0, 9), there], [root, tmp_path / "other"], said.append)
    assert [row["text"] for row in found] == [EVIL[:9], LONG[3:90]]
    assert said == [f"2 of 2 pointers resolved against {root}, {tmp_path / 'other'}"]
    with pytest.raises(NoSuchPath, match="nowhere"):
        resolve([there], [root, tmp_path / "nowhere"], said.append)


def test_a_changed_text_in_one_folder_hides_none_in_another(root: Path, tmp_path: Path) -> None:
    (tmp_path / "older" / "web").mkdir(parents=True)
    write_shard(tmp_path / "older" / "web" / "a.parquet", [STRANGE, PLAIN, PLAIN])
    said: list[str] = []
    for roots in ([tmp_path / "older", root], [root, tmp_path / "older"]):
        (row,) = resolve([pointer(1, EVIL, 0, 9)], roots, said.append)
        assert row["text"] == EVIL[:9] and "could not be" not in said[-1]


@pytest.mark.parametrize("kind", [pa.binary(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_texts_are_read_as_a_scan_reads_them(tmp_path: Path, kind: pa.DataType) -> None:
    (tmp_path / "web").mkdir()
    texts = [EVIL, f"{EVIL} caf\ufffd {PLAIN}"]
    raw = [EVIL.encode(), f"{EVIL} caf@ {PLAIN}".encode().replace(b"@", b"\xe9"), None]
    column = pa.array(raw, pa.large_binary()).view(
        pa.large_string()
    )  # bad UTF-8 in a column of strings, as some write it
    if kind == pa.binary():
        column = pa.array(raw, kind)
    elif kind == pa.string_view():
        column = pa.Array.from_buffers(kind, len(raw), pa.array(raw, pa.binary_view()).buffers())
    elif pa.types.is_dictionary(kind):
        column = column.dictionary_encode()
    pq.write_table(pa.table({"id": ["a-0", "a-1", "a-2"], "text": column}), tmp_path / "web" / "a.parquet")
    found = resolve([pointer(i, text, 0, len(text)) for i, text in enumerate(texts)], [tmp_path], print)
    assert [row["text"] for row in found] == texts
    assert {text for text, _ in drawn(tmp_path / "web", GATE, 10)} == set(texts)


def test_spans_count_characters_not_bytes(root: Path) -> None:
    start, end = STRANGE.index("\U0001f916"), STRANGE.index("\r\n")
    assert start != len(STRANGE[:start].encode())
    (one,) = resolve([pointer(0, STRANGE, start, end)], [root], lambda _: None)
    assert one["text"] == "\U0001f916\u200d\U0001f469 e\u0301"


def test_what_cannot_be_resolved_is_told_and_left_out(root: Path) -> None:
    good = pointer(1, EVIL, 0, 40)
    lost = [
        pointer(2, PLAIN, 0, 20) | {"start_char": 1},
        pointer(1, EVIL + "!", 0, len(EVIL) + 1),
        pointer(7, EVIL, 0, 40),
        pointer(1, EVIL, 0, 40, shard="b.parquet"),
        pointer(1, EVIL, 0, 40, corpus="ai"),
        pointer(9, "", 0, 0),
    ]
    said: list[str] = []
    found = resolve([*lost[:3], good, *lost[3:]], [root], said.append)
    assert [r["text"] for r in found] == [EVIL[:40]]
    (line,) = said
    assert line.startswith("1 of 7 pointers") and "2 could not be: its text is another now" in line
    assert "4 could not be: its shard or document is not there" in line


def test_a_path_out_of_the_folder_is_not_read(root: Path) -> None:
    outside = root.parent / "secret"
    outside.mkdir()
    write_shard(outside / "a.parquet", [PLAIN, EVIL])
    (root / "web" / "link.parquet").symlink_to(outside / "a.parquet")
    out = [
        {"corpus": "../secret"},
        {"corpus": "web", "shard": "../../secret/a.parquet"},
        {"corpus": str(outside)},
        {"shard": str(outside / "a.parquet")},
        {"shard": "link.parquet"},
    ]
    said: list[str] = []
    assert resolve([pointer(1, EVIL, 0, 40) | change for change in out], [root], said.append) == []
    assert "5 could not be: its shard or document is not there" in said[0]
    inside = pointer(1, EVIL, 0, 40) | {"shard": "../web/a.parquet"}
    assert len(resolve([inside], [root], said.append)) == 1  # so it is the place that counts, not the dots
    with pytest.raises(NoSuchPath, match="nowhere"):
        resolve([], [root / "nowhere"], said.append)


def test_texts_pointers_and_marks_load_in_order(root: Path, tmp_path: Path) -> None:
    marks = written(
        tmp_path / "marks.jsonl",
        {"id": "p0", "deciding": [[1, 4], [6, 9]]},
        {"id": "own", "deciding": [[7, 8]]},
        {"id": "stranger", "deciding": [0, 1]},
    )
    first = written(
        tmp_path / "first.jsonl",
        pointer(1, EVIL, 4, 44, **JUDGED, source="s1"),
        {"id": "own", "text": EVIL, **JUDGED, "deciding": [3, 9]},
        pointer(7, EVIL, 0, 9, **JUDGED),
        pointer(0, STRANGE, 2, 30, **JUDGED, deciding=[]),  # an empty list of its own does not suppress a mark
        {"id": "late", "deciding": [0, 2]},
    )
    second = written(tmp_path / "second.jsonl", {"id": "late", "text": PLAIN, **JUDGED, "intensity": 0, "facets": []})
    said: list[str] = []
    found = corpus.load([marks, first, second], [root], said.append)
    assert [(p.id, p.text, p.deciding) for p in found] == [
        ("p1", EVIL[4:44], ()),
        ("own", EVIL, ((3, 9),)),
        ("p0", STRANGE[2:30], ((1, 4), (6, 9))),
        ("late", PLAIN, ((0, 2),)),
    ]
    assert [p.source for p in found] == ["s1", "own", "p0", "late"]
    assert len(said) == 2 and said[0].startswith("2 of 3 pointers resolved")
    assert said[1].startswith("1 of 4 passages whose deciding sentences are marked are in none")
    texts_alone = corpus.load([second, marks], [], said.append)
    assert len(texts_alone) == 1 and len(said) == 3  # without pointers no folder is asked for
    late = written(tmp_path / "late.jsonl", {"id": "late", "text": PLAIN, **JUDGED, "deciding": [0, len(PLAIN) + 1]})
    with pytest.raises(LabelError, match="deciding sentences end after the text"):
        corpus.load([late], [])


def test_pointers_into_one_document_keep_their_own_texts(root: Path, tmp_path: Path) -> None:
    rows = [pointer(1, EVIL, 0, 30, **JUDGED), pointer(1, EVIL, 30, 60, **JUDGED) | {"id": "other"}]
    found = corpus.load([written(tmp_path / "labels.jsonl", *rows)], [root], lambda _: None)
    assert [p.text for p in found] == [EVIL[:30], EVIL[30:60]]


@pytest.mark.parametrize(
    ("again", "which"),
    [
        (pointer(1, EVIL, 30, 60, **JUDGED), "another text"),
        (pointer(1, EVIL, 0, 30, **JUDGED), "the same text"),
        ({"id": "p1", "text": EVIL[:30], **JUDGED}, "the same text"),
        ({"id": "p1", "text": EVIL[:31], **JUDGED}, "another text"),
    ],
)
def test_an_id_told_twice_is_refused_with_both_places(
    root: Path, tmp_path: Path, again: dict[str, Any], which: str
) -> None:
    first = written(tmp_path / "first.jsonl", {"id": "x", "text": PLAIN, **JUDGED}, pointer(1, EVIL, 0, 30, **JUDGED))
    second = written(tmp_path / "second.jsonl", again)
    both = written(tmp_path / "both.jsonl", *map(json.loads, first.read_text().splitlines()), again)
    for paths, there, here in (([first, second], f"{first} line 2", f"{second} line 1"), ([both], "line 2", "line 3")):
        with pytest.raises(LabelError, match=which) as raised:
            corpus.load(paths, [root], lambda _: None)
        assert there in str(raised.value) and here in str(raised.value) and "'p1'" in str(raised.value)


@pytest.mark.parametrize("key", ["corpus", "shard"])
def test_a_pointer_to_what_can_be_no_path_is_refused(root: Path, tmp_path: Path, key: str) -> None:
    path = written(tmp_path / "labels.jsonl", pointer(1, EVIL, 0, 9, **JUDGED) | {key: "a\0b"})
    with pytest.raises(LabelError, match=r"labels\.jsonl line 1"):
        corpus.load([path], [root], lambda _: None)
    path = written(tmp_path / "labels.jsonl", pointer(1, EVIL, 0, 9, **JUDGED) | {key: "x" * 5000})
    with pytest.raises(InputError, match="cannot be resolved|no labelled passage"):
        corpus.load([path], [root], lambda _: None)


def test_a_label_is_checked_where_its_text_is_lost(root: Path, tmp_path: Path) -> None:
    lost = pointer(7, EVIL, 0, 9, **JUDGED | {"frame": "poem"})
    labels = written(tmp_path / "l.jsonl", pointer(1, EVIL, 0, 9, **JUDGED), lost)
    with pytest.raises(LabelError, match=r"l\.jsonl line 2 \(id p7\) is not in the codebook's values"):
        corpus.load([labels], [root])


def test_pointers_without_texts_are_one_line_with_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.jsonl", {"id": "t", "text": PLAIN, **JUDGED}, pointer(1, EVIL, 0, 9, **JUDGED))
    path.write_text("\n" + path.read_text())
    with pytest.raises(LabelError, match="--texts") as raised:
        corpus.load([path])
    assert f"{path} line 3 " in str(raised.value) and "\n" not in str(raised.value)


def test_a_line_that_is_neither_text_nor_whole_pointer_is_refused(root: Path, tmp_path: Path) -> None:
    whole = pointer(1, EVIL, 0, 9, **JUDGED)
    for key in ("corpus", "shard", "document", "start_char", "end_char", "sha256"):
        path = written(tmp_path / "labels.jsonl", whole, {k: v for k, v in whole.items() if k != key})
        with pytest.raises(LabelError, match=r"line 2 has neither text nor a pointer"):
            corpus.load([path], [root], lambda _: None)
    nothing = written(tmp_path / "labels.jsonl", pointer(7, EVIL, 0, 9, **JUDGED))
    with pytest.raises(LabelError, match="no labelled passage"):
        corpus.load([nothing], [root], lambda _: None)


@pytest.mark.parametrize("span", [("0", 9), (0.0, 9)])
def test_a_span_that_is_no_span_is_refused_with_file_and_line(
    root: Path, tmp_path: Path, span: tuple[Any, Any]
) -> None:
    row = pointer(1, EVIL, 0, 9, **JUDGED) | {"start_char": span[0], "end_char": span[1]}
    with pytest.raises(LabelError, match=r"labels\.jsonl line 1"):
        corpus.load([written(tmp_path / "labels.jsonl", row)], [root], lambda _: None)


def test_the_command_line_says_a_missing_folder_in_one_line(tmp_path: Path, tropescan: Run) -> None:
    labels = written(tmp_path / "labels.jsonl", pointer(1, EVIL, 0, 9, **JUDGED))
    texts = written(tmp_path / "texts.jsonl", {"id": "t", "text": PLAIN, **JUDGED})
    out, nowhere = tmp_path / "model", tmp_path / "nowhere"
    for arguments in (
        ["evaluate", "evil-ai", "--labels", labels, "--texts", nowhere],
        ["train", "--out", out, "--labels", labels, "--texts", nowhere],
        ["train", "--out", out, "--labels", texts, "--unlabelled", nowhere],
    ):
        done = tropescan(*arguments)
        assert done.returncode == 10, (arguments, done.stderr)  # 10: no such path, in README.md
        assert done.stderr.startswith("tropescan: ") and len(done.stderr.splitlines()) == 1, done.stderr
        assert str(nowhere) in done.stderr and not out.exists()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards with a source column and without, of passages that the gate passes and others."""
    (tmp_path / "raw").mkdir()
    texts = [f"{EVIL} Number {i}. {PLAIN}" if i % 3 else f"{PLAIN} {i}" for i in range(30)]
    write_shard(tmp_path / "raw" / "b.parquet", texts, source=[f"s{i % 7}" for i in range(30)])
    write_shard(tmp_path / "raw" / "a.parquet", [LONG, None, "", PLAIN])
    (tmp_path / "raw" / "notes.txt").write_text(EVIL)
    return tmp_path / "raw"


def test_unlabelled_passages_are_those_that_pass_with_their_sources(folder: Path) -> None:
    found = drawn(folder, GATE, 1000)
    expected = {(LONG[a:b], "a.parquet") for a, b in cut(LONG)}
    expected |= {(f"{EVIL} Number {i}. {PLAIN}", f"s{i % 7}") for i in range(30) if i % 3}
    assert len(cut(LONG)) > 2 and len(found) == len(expected) and set(found) == expected
    assert all(GATE([text for text, _ in found]))


def test_unlabelled_passages_are_drawn_alike_twice_and_no_more_than_asked(folder: Path) -> None:
    every = drawn(folder, GATE, 1000)
    for most in (0, 1, 7, len(every)):
        some = drawn(folder, GATE, most)
        assert some == drawn(folder, GATE, most)
        assert len(some) == most == len(set(some)) and set(some) <= set(every)
    assert drawn(folder, GATE, 7) != every[:7]  # at random, not the first of the first shard
    assert drawn(folder, lambda texts: [False] * len(texts), 7) == []
    with pytest.raises(NoSuchPath, match="no Parquet shard"):
        drawn(folder / "none", GATE, 7)
