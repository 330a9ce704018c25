"""Selections on real shards and databases: rows reconcile, what stays is as it was, and bad input costs one line."""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import EVIL, PLAIN, SAMPLE, python, write_shard
from tropescan import persistence, shards
from tropescan.cli import main
from tropescan.errors import CorpusChanged, InputError, NotScanned, OutputError, RuleError
from tropescan.parts import Part
from tropescan.schema import DOCUMENTS, FACETS, PASSAGES
from tropescan.selection import Request, dry, preset, rules, select, spans, weigh
from tropescan.shards import Columns
from tropescan.store import Entry, Store

Run = Callable[..., subprocess.CompletedProcess[str]]
MODEL = persistence.load("evil-ai")
KEY = MODEL.key("fast")
RULE = "score >= 0.5"


def stored(corpus: Path, db: Path, scores: dict[str, dict[int, dict[str, Any]]], ids: bool = True) -> Store:
    """A database that holds these scores: by shard name and row, what is known of a document, and under `spans` its passages."""
    store = Store(db, wait=2.0)
    store.register_model(MODEL, "fast")
    for file in shards.find([corpus]):
        name, plan = Path(file.path).name, shards.plan(file, Columns())
        documents, passages = [], []
        texts = shards.rows(file, Columns(), set(scores.get(name, {})))
        for row, known in sorted(scores.get(name, {}).items()):
            about = {
                "row": row,
                "id": f"{Path(name).stem}-{row}" if ids else None,
                "audited": False,
                "characters": len(texts.get(row, "")),
                "passages": 1,
            }
            judged = {k: known.get(k) for k in ("score", "intensity", "frame", "admirable")} | {"fast_score": 0.5}
            documents.append(
                about
                | judged
                | {"characters": known.get("characters", about["characters"]), "domain": known.get("domain")}
            )
            for i, (start, end) in enumerate(known.get("spans", [])):
                place = {"row": row, "passage": i, "start_char": start, "end_char": end}
                passages.append(place | judged | {f: known.get(f, 0.0) for f in FACETS})
        parts = []
        for unit in plan.units:
            inside = [d for d in documents if unit.rows < 0 or unit.first_row <= d["row"] < unit.first_row + unit.rows]
            part = Part(
                documents=pa.Table.from_pylist(inside, DOCUMENTS), passages=pa.Table.from_pylist(passages, PASSAGES)
            )
            part.counters["rows"], passages = max(0, unit.rows), []
            parts.append((shards.fingerprint(file), KEY, unit, part))
        store.commit(parts, [Entry(shards.fingerprint(file), KEY, file, plan, 0.0)])
    return store


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Store]:
    """Two shards in three row groups each; rows 1 and 4 of the first are flagged, and row 2 is admirable."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        write_shard(folder / f"{name}.parquet", [f"{name} one. {i} two. three." for i in range(7)], row_group_size=3)
    known = {
        1: {"score": 0.9, "frame": "fiction", "admirable": 0.1, "domain": "x.example", "spans": [(7, 9)]},
        2: {"score": 0.1, "frame": "argument", "admirable": 0.9},
        3: {"score": None},
        4: {"score": 0.6, "frame": "report", "admirable": 0.6, "spans": [(0, 3), (14, 20)]},
    }
    return folder, stored(folder, tmp_path / "x.duckdb", {"a.parquet": known})


def table(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


def select_rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(store.path), read_only=True) as c:
        return c.execute(sql).fetchall()


def test_drop_keeps_all_that_is_not_dropped(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    done = select(store, [str(folder)], tmp_path / "out", Request(where=RULE))
    assert [(r["rows_in"], r["rows_kept"], r["rows_removed"], r["characters_removed"]) for r in done.rows] == [
        (7, 5, 2, 40),
        (7, 7, 0, 0),
    ]
    kept, removed = table(tmp_path / "out" / "a.parquet"), table(tmp_path / "out" / "_removed" / "a.parquet")
    assert kept["id"].to_pylist() == ["a-0", "a-2", "a-3", "a-5", "a-6"]
    assert (
        removed["id"].to_pylist() == ["a-1", "a-4"]
        and removed["tropescan_reason"].to_pylist() == ["removed: score >= 0.5"] * 2
    )
    assert removed["tropescan_row"].to_pylist() == [1, 4] and removed["tropescan_score"].to_pylist() == [0.9, 0.6]
    with pq.ParquetFile(tmp_path / "out" / "a.parquet") as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 1]
        assert file.metadata.row_group(0).column(1).compression == "ZSTD"
    assert (tmp_path / "out" / "b.parquet").read_bytes() == before["b.parquet"]  # nothing goes: copied as it is
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    noted = select_rows(
        store,
        "SELECT selection, mode, rule, model, rows_in, rows_kept, rows_removed, outcome FROM selections ORDER BY path",
    )
    assert noted == [
        (done.selection, "drop", RULE, KEY, 7, 5, 2, "filtered"),
        (done.selection, "drop", RULE, KEY, 7, 7, 0, "copied"),
    ]


def test_mask_and_tag_change_whole_sentences_only(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    for name, request, wanted in [
        ("mask", Request("mask", RULE), ["a one. three.", "4 two. "]),
        ("mark", Request("mask", RULE, marker="[..]"), ["a one. [..] three.", "[..] 4 two. [..]"]),
        ("tag", Request("tag", RULE, token="<t>"), ["<t>a one. 1 two. three.", "<t>a one. 4 two. three."]),
        (
            "around",
            Request("tag", RULE, token="<", end_token=">", around=True),
            ["a one. <1 two.> three.", "<a one.> 4 two. <three.>"],
        ),
    ]:
        done = select(store, [str(folder)], tmp_path / name, request)
        got, given = table(tmp_path / name / "a.parquet"), table(folder / "a.parquet")
        assert [got["text"][i].as_py() for i in (1, 4)] == wanted
        others = [0, 2, 3, 5, 6]
        assert got.take(others).equals(given.take(others)) and got["id"].equals(given["id"])
        assert [r["rows_changed"] for r in done.rows] == [2, 0] and [r["rows_removed"] for r in done.rows] == [0, 0]
        assert (tmp_path / name / "_removed" / "a.parquet").exists() == (request.mode == "mask")


def test_replacements_are_drawn_from_what_stays(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    pool = "admirable >= 0.5 AND score < 0.2"
    done = select(store, [str(folder)], tmp_path / "out", Request("replace", RULE, pool=pool))
    assert (done.pool_documents, done.pool_characters) == (1, 20)
    assert table(tmp_path / "out" / "_pool" / "a.parquet")["id"].to_pylist() == ["a-2"]
    assert "a-2" in table(tmp_path / "out" / "a.parquet")["id"].to_pylist()


def test_a_long_document_does_not_end_the_draw(tmp_path: Path, tropescan: Run) -> None:
    (tmp_path / "in").mkdir()
    long = [PLAIN * 900] * 30 + [PLAIN * 6] * 30  # the first never fit, of the others one
    write_shard(tmp_path / "in" / "a.parquet", ["x" * len(PLAIN * 10), *long, *["y" * len(PLAIN)] * 30])
    known = {0: {"score": 0.9}} | {i: {"score": 0.01} for i in range(1, 91)}
    store = stored(tmp_path / "in", tmp_path / "x.duckdb", {"a.parquet": known})
    how = ["filter", tmp_path / "in", "--db", store.path, "--where", RULE, "--mode", "replace"]
    done = tropescan(*how, "--out", tmp_path / "out")
    assert f"documents with {len(PLAIN * 10):,} characters in" in done.stdout and "short" not in done.stdout
    done = tropescan(*how, "--pool", "row = 31", "--out", tmp_path / "less")
    assert f"{len(PLAIN * 10):,} removed; {len(PLAIN * 4):,} characters short" in done.stdout


def test_weights_stand_beside_every_row(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    rule = "CASE WHEN score >= 0.8 THEN 0 WHEN admirable >= 0.5 AND score < 0.5 THEN 3 WHEN score IS NULL THEN 0.5 END"
    weigh(store, [str(folder)], tmp_path / "w", rule, Request())
    got = table(tmp_path / "w" / "a.parquet.weights.parquet")
    assert got.column_names == ["id", "row", "weight"] and got["id"].equals(table(folder / "a.parquet")["id"])
    # a document without a row in `documents` reads as null in every column; a rule that gives null leaves the weight at 1
    assert got["weight"].to_pylist() == [0.5, 0, 3, 0.5, 1, 0.5, 0.5] and got["row"].to_pylist() == list(range(7))
    assert got.schema.metadata[b"tropescan_model"] == KEY.encode()
    with pq.ParquetFile(tmp_path / "w" / "a.parquet.weights.parquet") as file:
        assert file.num_row_groups == 3
    with pytest.raises(RuleError, match="not negative"):
        weigh(store, [str(folder)], tmp_path / "v", "score - 1", Request())


def test_a_rule_that_gives_null_decides_nothing(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    done = select(store, [str(folder)], tmp_path / "a", Request(where="NOT (score < 0.5)"))
    assert sum(r["rows_removed"] for r in done.rows) == 2
    done = select(
        store, [str(folder)], tmp_path / "b", Request(where="score IS NULL")
    )  # row 3; ungated documents are not asked
    assert table(tmp_path / "b" / "_removed" / "a.parquet")["id"].to_pylist() == ["a-3"]


def test_an_audit_decides_nothing(tmp_path: Path, tropescan: Run) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_shard(folder / "a.parquet", [EVIL, PLAIN, EVIL, PLAIN * 9])
    how = [folder, "--db", tmp_path / "x.duckdb"]
    assert tropescan("scan", *how, "--depth", "fast", "--audit", 1.0).returncode == 0
    assert select_rows(Store(how[-1]), "SELECT count(*), count(fast_score) FROM documents") == [(4, 2)]
    for mode in ("drop", "tag"):
        done = tropescan(
            "filter", *how, "--where", "characters > 0", "--mode", mode, "--out", tmp_path / mode, "--json"
        )
        assert sum(json.loads(done.stdout)["rows"][0][n] for n in ("rows_removed", "rows_changed")) == 2
    assert tropescan("weights", *how, "--rule", "coalesce(characters * 0, 7)", "--out", tmp_path / "w").returncode == 0
    assert table(tmp_path / "w" / "a.parquet.weights.parquet")["weight"].to_pylist() == [0, 7, 0, 7]


@pytest.mark.parametrize("kind", [pa.int64(), None])
def test_weights_of_a_shard_without_rows(
    corpus: tuple[Path, Store], tmp_path: Path, kind: pa.DataType | None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = corpus[0]
    empty = {"text": pa.array([], pa.string())} | ({"id": pa.array([], kind)} if kind else {})
    pq.write_table(pa.table(empty), folder / "empty.parquet")
    store = stored(folder, tmp_path / "y.duckdb", {"a.parquet": {1: {"score": 0.9}}})
    how = ["weights", str(folder), "--db", str(store.path), "--rule", "score", "--out", str(tmp_path / "w")]
    assert main(how) == 0, capsys.readouterr().err
    written = table(tmp_path / "w" / "empty.parquet.weights.parquet")
    assert written.column_names == ["id", "row", "weight"] and not len(written)
    assert written.schema.metadata[b"tropescan_rule"] == b"score"
    assert table(tmp_path / "w" / "a.parquet.weights.parquet")["weight"].to_pylist() == [1, 0.9, 1, 1, 1, 1, 1]


def test_what_nobody_foresaw_costs_its_shard_alone(
    corpus: tuple[Path, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = corpus[0]
    twice = pa.table([pa.array(["d-0"]), pa.array(["one."]), pa.array(["other"])], ["id", "text", "id"])
    pq.write_table(twice, folder / "0.parquet")
    store = stored(folder, tmp_path / "y.duckdb", {"a.parquet": {1: {"score": 0.9}}})
    how = ["weights", str(folder), "--db", str(store.path), "--rule", "score", "--out", str(tmp_path / "w")]
    assert main([*how, "--workers", "1"]) == 20
    told = capsys.readouterr().err
    assert "0.parquet: KeyError while selecting: " in told and told.count("0.parquet") == told.count("\n") == 1
    assert sorted(p.name[0] for p in (tmp_path / "w").glob("*.parquet")) == ["a", "b"]


def test_the_path_in_a_rule_is_where_the_shard_lies_now(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    moved = folder.rename(tmp_path / "moved")
    shutil.copy(moved / "a.parquet", moved / "c.parquet")  # the same shard once more
    here = f"{RULE} AND path = '{moved / 'a.parquet'}'"
    for mode in ("drop", "mask"):
        done = select(store, [str(moved)], tmp_path / mode, Request(mode, here))
        assert [r["rows_removed"] + r["rows_changed"] for r in done.rows] == [2, 0, 0]
    done = select(store, [str(moved)], tmp_path / "replace", Request("replace", here, pool="path LIKE '%/moved/%'"))
    assert (done.pool_documents, done.pool_characters) == (2, 40)
    assert table(tmp_path / "replace" / "_pool" / "a.parquet")["id"].to_pylist() == ["a-2", "a-3"]
    weigh(store, [str(moved)], tmp_path / "w", "CASE WHEN path LIKE '%c.parquet' THEN 0 END", Request())
    weights = [table(tmp_path / "w" / f"{n}.parquet.weights.parquet")["weight"].to_pylist() for n in "ac"]
    assert weights == [[1] * 7, [1, 0, 0, 0, 0, 1, 1]]


def test_dry_run_tells_what_would_go(corpus: tuple[Path, Store], capsys: pytest.CaptureFixture[str]) -> None:
    folder, store = corpus
    _, found = dry(store, [str(folder)], Request("replace", RULE, pool="admirable >= 0.5 AND score < 0.2"))
    assert (found.documents, found.characters, found.pool_documents) == (2, 40, 1)
    assert found.shards["a.parquet"]["documents"] == 2 and found.shards["a.parquet"]["of_documents"] == 7
    assert found.frames["fiction"] == {"documents": 1, "characters": 20, "of_documents": 1}
    assert {e["id"] for e in found.examples} == {"a-1", "a-4"} and "two" in found.examples[0]["text"]
    assert main(["filter", str(folder), "--db", str(store.path), "--preset", "strict", "--dry-run"]) == 0
    assert f"score >= {MODEL.thresholds['fast']['default']['threshold']:g}" in capsys.readouterr().out


def test_dry_run_shares_are_of_the_shards_given(tmp_path: Path, tropescan: Run) -> None:
    (tmp_path / "in").mkdir()
    urls = ["https://a.example/", "https://a.example/", "https://b.example/", "https://a.example/"]
    for name in ("a", "b"):
        write_shard(tmp_path / "in" / f"{name}.parquet", [f"{name} {t}" for t in (EVIL, EVIL, EVIL, PLAIN)], url=urls)
    shutil.copy(tmp_path / "in" / "a.parquet", tmp_path / "in" / "c.parquet")
    db = tmp_path / "x.duckdb"
    assert tropescan("scan", tmp_path / "in", "--db", db, "--depth", "fast", "--audit", 1.0).returncode == 0
    for names, documents in (["a"], 1), (["a", "b", "c"], 3):
        paths = [str(tmp_path / "in" / f"{n}.parquet") for n in names]
        _, found = dry(Store(db), paths, Request(where="row <> 1"))
        assert [
            (d["documents"], d["of_documents"]) for d in (found.domains["a.example"], found.domains["b.example"])
        ] == [
            (documents, 2 * documents),
            (documents, documents),
        ]
        assert sum(f["of_documents"] for f in found.frames.values()) == 3 * documents


def test_every_preset_is_a_rule(corpus: tuple[Path, Store]) -> None:
    model = corpus[1].model()
    for name in rules.PRESETS:
        for columns in (rules.DOCUMENT, rules.PASSAGE):
            rules.condition(preset(name, model), columns)


BAD_RULES = [
    *(
        "",
        "score",
        "nope > 1",
        "score >",
        "score > 1, true",
        "documents.score > 1",
        "*",
        "COLUMNS('s.*') > 1",
        "count(*) > 1",
        "score > ?",
    ),
    *(
        "1); DROP TABLE documents; SELECT (1",
        "true); SELECT (true",
        "true; ATTACH 'x.db'",
        "true) FROM read_csv('/etc/passwd') AS t (x) WHERE (true",
    ),
    *(
        "(SELECT true)",
        "score IN (SELECT 1)",
        "EXISTS (FROM documents)",
        "score = ANY ([1])",
        "sum(score) OVER () > 1",
        "list_sum([score]) > 1",
    ),
    *(
        "read_text('/etc/passwd') = ''",
        "getenv('HOME') = ''",
        "current_setting('threads') > 1",
        "random() < 0.5",
        "nextval('s') > 1",
    ),
    *(
        "true) UNION (SELECT true",
        "true) ORDER BY (1",
        "COPY documents TO 'x'",
        "set_config('a', 'b')",
        "(" * 3000 + "true" + ")" * 3000,
        "\ud800",
    ),
]


@pytest.mark.parametrize("rule", BAD_RULES, ids=range(len(BAD_RULES)))
def test_a_rule_is_one_read_only_expression(rule: str) -> None:
    with pytest.raises(RuleError) as told:
        rules.condition(rule, rules.DOCUMENT)
    assert "\n" not in str(told.value)


def test_a_rule_nested_deeply_is_told() -> None:
    for depth in (150, 400):
        with pytest.raises(RuleError, match="nested too deeply|does not parse|not one SQL"):
            rules.condition("(" * 0 + "NOT (" * depth + "score > 0" + ")" * depth, rules.DOCUMENT)


def test_a_rule_with_comments_functions_and_quotes() -> None:
    rule = rules.condition(
        "score BETWEEN 0.1 AND 1 /* why */ AND domain NOT LIKE '%.gov;--' -- so\n AND lower(frame) IN ('a''b')",
        rules.DOCUMENT,
    )
    assert "a''b" in rule.sql and "why" not in rule.sql
    with pytest.raises(RuleError, match="start_char"):
        rules.condition("start_char > 1", rules.DOCUMENT)
    rules.condition("start_char > 1 AND coercion >= 0.5", rules.PASSAGE)


def test_a_rule_that_fails_on_the_rows_is_told(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    with pytest.raises(RuleError, match="Could not convert"):
        select(store, [str(folder)], tmp_path / "out", Request(where="CAST(id AS INTEGER) > 1"))


def test_a_rule_without_a_result_is_told(
    corpus: tuple[Path, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = corpus
    for number in ("sqrt(score - 0.7)", "ln(score - 0.7)", "(score - 0.9) / (score - 0.9)", "-1 / (score - 0.9)"):
        how = ["filter", str(folder), "--db", str(store.path), "--where", f"{number} > 2"]
        assert main([*how, "--dry-run"]) == RuleError.code
    assert main([*how, "--mode", "mask", "--out", str(tmp_path / "out")]) == RuleError.code
    how = ["weights", str(folder), "--db", str(store.path), "--rule", f"CASE WHEN {number} > 2 THEN 0 END"]
    assert main([*how, "--out", str(tmp_path / "weights")]) == RuleError.code
    assert capsys.readouterr().err.count("the rule fails on this corpus: ") == 6


def test_a_rule_is_kept_to_the_letter(
    corpus: tuple[Path, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = corpus
    given = {
        "frame <> 'a  b'": 3,
        "frame <> 'a b'": 3,
        "frame <> '\t:robot:'": 3,
        "score > 0 -- all\nAND row > 1": 2,
        "score > 0 -- all AND row > 1": 3,
    }
    for i, rule in enumerate(given):
        out = tmp_path / str(i)
        assert main(["filter", str(folder), "--db", str(store.path), "--where", f" {rule}\n", "--out", str(out)]) == 0
        assert f": {rule}\n" in capsys.readouterr().out
        with pytest.raises(OutputError, match="other rule"):
            select(store, [str(folder)], out, Request(where=list(given)[i - 1]))
    assert dict(select_rows(store, "SELECT rule, sum(rows_removed) FROM selections GROUP BY rule")) == given


def test_outputs_that_cannot_be_used(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, folder / "deep" / "er", tmp_path, tmp_path / "full", tmp_path / "link", folder / "a.parquet"):
        with pytest.raises(OutputError):
            select(store, [str(folder)], out, Request(where=RULE))
    assert sorted(p.name for p in folder.iterdir()) == ["a.parquet", "b.parquet"]
    select(store, [str(folder)], tmp_path / "out", Request(where=RULE))
    with pytest.raises(OutputError, match="other rule"):
        select(store, [str(folder)], tmp_path / "out", Request(where="score >= 0.7"))
    shutil.copytree(folder, tmp_path / "in2")
    with pytest.raises(OutputError, match="both be written to a.parquet"):
        select(store, [str(folder), str(tmp_path / "in2")], tmp_path / "two", Request(where=RULE))


def test_the_output_mirrors_the_corpus_however_its_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "here" / "deep")
    for folder in ("a", "b"):
        (tmp_path / "here" / "in" / folder).mkdir(parents=True)
        write_shard(tmp_path / "here" / "in" / folder / "x.parquet", [f"{folder} one.", "two."])
    store = stored(tmp_path / "here" / "in", tmp_path / "x.duckdb", {})
    monkeypatch.chdir(tmp_path / "here" / "deep")
    top = str(tmp_path)
    ways = {
        **dict.fromkeys(("../in", f"file://{top}//here/./in", f"{top}//here/in/[ab]", f"{top}/link/../in"), ""),
        "..": "in/",
    }
    for i, (path, above) in enumerate(ways.items()):
        out = tmp_path / "out" / str(i)
        assert main(["filter", path, "--db", str(store.path), "--where", RULE, "--out", str(out)]) == 0
        written = sorted(str(p.relative_to(out)) for p in out.rglob("*.parquet"))
        assert written == [f"{above}a/x.parquet", f"{above}b/x.parquet"], path
    for out in (tmp_path / "here" / "in" / "out", tmp_path / "here"):
        command = ["filter", f"{top}/link/../in", "--db", str(store.path), "--where", RULE, "--out", str(out)]
        assert main(command) == OutputError.code and "apart from it" in capsys.readouterr().err


def test_a_changed_corpus_is_refused(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    shutil.copytree(folder, tmp_path / "moved")  # other paths, the same bytes: the same shards
    assert select(store, [str(tmp_path / "moved")], tmp_path / "m", Request(where=RULE)).rows[0]["rows_removed"] == 2
    stat = (folder / "b.parquet").stat()
    data = bytearray((folder / "b.parquet").read_bytes())
    data[8] ^= 1
    (folder / "b.parquet").write_bytes(data)
    with pytest.raises(CorpusChanged, match="b.parquet"):
        dry(store, [str(folder)], Request(where=RULE))
    os.utime(
        folder / "b.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns)
    )  # as if it had not been touched: found when it is read
    done = select(store, [str(folder)], tmp_path / "out", Request(where=RULE))
    assert [Path(p).name for p in done.failed] == ["b.parquet"] and not (tmp_path / "out" / "b.parquet").exists()
    assert (tmp_path / "out" / "a.parquet").exists()


def test_a_name_that_is_not_utf_8_is_told(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    shutil.copy(folder / "b.parquet", os.fsencode(folder) + b"/caf\xe9.parquet")
    for unscanned in ("keep", "drop"):
        for chosen in (
            lambda r: select(store, [str(folder)], tmp_path / "out", r),
            lambda r: weigh(store, [str(folder)], tmp_path / "weights", "1.0", r),
        ):
            with pytest.raises(InputError, match=r"caf\\udce9\.parquet .* not UTF-8: rename it"):
                chosen(Request(where=RULE, unscanned=unscanned))
    assert not (tmp_path / "out").exists() and not (tmp_path / "weights").exists()


def test_spans_are_cut_out_of_no_other_column(tmp_path: Path, tropescan: Run) -> None:
    write_shard(tmp_path / "in.parquet", [EVIL, PLAIN], body=["Other words. " * 20, "None."])
    db, out = tmp_path / "x.duckdb", tmp_path / "out"
    assert tropescan("scan", tmp_path / "in.parquet", "--db", db, "--depth", "fast").returncode == 0
    command = ["filter", tmp_path / "in.parquet", "--db", db, "--where", "score > 0", "--mode", "mask", "--out", out]
    done = tropescan(*command, "--text-column", "body")
    assert done.returncode == 15 and "--text-column" in done.stderr and not (out / "in.parquet").exists()
    assert tropescan(*command, "--out", tmp_path / "right").returncode == 0


@pytest.mark.parametrize("option", ["--out", "--parts", "--db"])
def test_what_is_written_is_written_here(tmp_path: Path, option: str, tropescan: Run) -> None:
    verb = ["weights", SAMPLE, "--rule", "1.0", "--db", "x.duckdb"] if option == "--out" else ["scan", SAMPLE]
    done = tropescan(*verb, option, "s3://bucket/out", cwd=tmp_path)
    assert done.returncode == 2 and "is a URL" in done.stderr.splitlines()[-1] and not list(tmp_path.iterdir())


def test_a_shard_scanned_between_two_runs_is_selected_from(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    write_shard(folder / "c.parquet", ["c one.", "c two."])
    request, paths, out = Request(where=RULE, unscanned="keep"), [str(folder)], tmp_path / "out"
    first = select(store, paths, out, request)
    assert [r["outcome"] for r in first.rows] == ["filtered", "copied", "kept: not scanned"]
    stored(folder, store.path, {"c.parquet": {1: {"score": 0.9}}})
    second = select(store, paths, out, request)
    assert second.rows[-1]["rows_removed"] == 1 and table(out / "c.parquet")["id"].to_pylist() == ["c-0"]


def test_another_pool_is_another_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, count in (("a", 2), ("b", 2), ("c", 500)):
        write_shard(folder / f"{name}.parquet", [f"{name} {i:03}." for i in range(count)])
    known = {"a.parquet": {0: {"score": 0.9}}, "b.parquet": {1: {"score": 0.01}}}
    (late := folder / "c.parquet").rename(tmp_path / "c.parquet")
    store = stored(folder, tmp_path / "x.duckdb", known)
    (tmp_path / "c.parquet").rename(late)
    request, paths = Request("replace", RULE, unscanned="keep"), [str(folder)]
    select(store, paths, tmp_path / "out", request)
    assert table(tmp_path / "out" / "_pool" / "b.parquet")["id"].to_pylist() == ["b-1"]
    known["c.parquet"] = {0: {"score": 0.9}} | {i: {"score": 0.01} for i in range(1, 500)}
    stored(folder, store.path, known)  # two are drawn now, and among so many not b-1
    done = [select(store, paths, tmp_path / out, request) for out in ("out", "whole", "out")]
    assert [(d.before, d.pool_documents, d.pool_characters) for d in done] == [(0, 2, 12), (0, 2, 12), (3, 2, 12)]
    files = [
        {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out).rglob("*.parquet")}
        for out in ("out", "whole")
    ]
    assert files[0] == files[1] and Path("_pool", "b.parquet") not in files[0]
    assert table(tmp_path / "out" / "_pool" / "c.parquet").num_rows == 2


def test_a_corpus_that_moved_is_counted_once(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    write_shard(folder / "c.parquet", ["c one.", "c two."])
    request = Request(where=RULE, unscanned="drop")
    select(store, [str(folder)], tmp_path / "out", request)
    moved = folder.rename(tmp_path / "moved")
    select(store, [str(moved)], tmp_path / "out", request)
    assert select_rows(store, "SELECT count(*), sum(rows_in), sum(rows_removed) FROM selections") == [(3, 16, 4)]


def test_untouched_documents_are_told_again(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    request = Request("mask", "score >= 0.05")  # row 2 has no stored passage
    done = [select(store, [str(folder)], tmp_path / "out", request) for _ in range(2)]
    assert [(d.before, d.untouched, d.rows[0]["rows_changed"]) for d in done] == [(0, 1, 2), (2, 1, 2)]


def test_a_shard_that_only_gives_to_the_pool_is_copied(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, known = corpus[0], {"a.parquet": {1: {"score": 0.9}}, "b.parquet": {0: {"score": 0.01}}}
    store = stored(folder, tmp_path / "y.duckdb", known)
    done = select(store, [str(folder)], tmp_path / "out", Request("replace", where=RULE))
    assert [r["outcome"] for r in done.rows] == ["filtered", "copied"] and done.pool_documents == 1
    assert (tmp_path / "out" / "b.parquet").read_bytes() == (folder / "b.parquet").read_bytes()
    assert table(tmp_path / "out" / "_pool" / "b.parquet")["id"].to_pylist() == ["b-0"]


def test_weights_of_lines_that_are_no_utf8(tmp_path: Path) -> None:
    lines = [
        b'{"id": "\xff", "text": "one"}',
        b'{"id": "y", "text": "two", "n": NaN}',
        b'{"id": [1, 2], "text": "\\ud83d"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    file = shards.find([tmp_path])[0]
    ids = [
        one
        for batch in shards.read(file, Columns(), shards.plan(file, Columns()).units[0])
        for one in batch.id.to_pylist()
    ]
    assert ids == ["\N{REPLACEMENT CHARACTER}", "y", "[1,2]"]
    store = stored(
        tmp_path / "a.jsonl", tmp_path / "x.duckdb", {"a.jsonl": {i: {"score": 0.9} for i in range(3)}}, ids=False
    )
    with duckdb.connect(str(store.path)) as c:
        c.executemany("UPDATE documents SET id = ? WHERE row = ?", [[one, i] for i, one in enumerate(ids)])
    weigh(store, [str(tmp_path / "a.jsonl")], tmp_path / "w", "score", Request())
    assert table(tmp_path / "w" / "a.jsonl.weights.parquet")["weight"].to_pylist() == [0.9] * 3
    done = select(store, [str(tmp_path / "a.jsonl")], tmp_path / "out", Request("tag", where=RULE, token="T"))
    assert done.rows[0]["rows_changed"] == 3
    assert b"NaN" in (tmp_path / "out" / "a.jsonl").read_bytes()


def test_long_integers_in_lines_are_kept_whole(tmp_path: Path, tropescan: Run) -> None:
    given = [{"id": 10**38 + i, "n": [{"m": 1 << 64}, -(10**19)], "text": EVIL} for i in range(2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(d) + "\n" for d in given))
    db, out = tmp_path / "x.duckdb", tmp_path / "out"
    assert tropescan("scan", tmp_path / "a.jsonl", "--db", db, "--depth", "fast").returncode == 0
    assert select_rows(Store(db), "SELECT id FROM documents ORDER BY row") == [(str(d["id"]),) for d in given]
    how = ["--db", db, "--where", "row = 1", "--mode", "tag", "--token", "T", "--out", out]
    assert tropescan("filter", tmp_path / "a.jsonl", *how).returncode == 0
    written = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    assert written == [given[0], given[1] | {"text": "T" + EVIL}]
    assert (
        tropescan("weights", tmp_path / "a.jsonl", *how[:2], "--rule", "row", "--out", tmp_path / "w").returncode == 0
    )
    assert table(tmp_path / "w" / "a.jsonl.weights.parquet")["id"].to_pylist() == [str(d["id"]) for d in given]


def test_ids_are_held_against_the_store(corpus: tuple[Path, Store], tmp_path: Path) -> None:
    folder, store = corpus
    done = select(store, [str(folder)], tmp_path / "out", Request(where=RULE, columns=Columns(id="text")))
    assert [type(e) for e in done.failed.values()] == [CorpusChanged]


def test_shards_without_a_whole_scan(
    corpus: tuple[Path, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = corpus
    write_shard(folder / "new.parquet", ["x", "y"])
    (folder / "words.parquet").write_text("words")
    with pytest.raises(NotScanned, match="new.parquet"):
        dry(store, [str(folder)], Request(where=RULE))
    kept = select(store, [str(folder)], tmp_path / "keep", Request(where=RULE, unscanned="keep"))
    assert [(r["rows_in"], r["rows_kept"]) for r in kept.rows] == [(7, 5), (7, 7), (2, 2), (None, None)]
    assert (tmp_path / "keep" / "words.parquet").read_text() == "words"
    dropped = select(store, [str(folder)], tmp_path / "drop", Request(where=RULE, unscanned="drop"))
    assert [(r["rows_in"], r["rows_removed"]) for r in dropped.rows] == [(7, 2), (7, 0), (2, 2), (None, None)]
    assert not (tmp_path / "drop" / "new.parquet").exists()
    weigh(
        store, [str(folder / "new.parquet"), str(folder / "a.parquet")], tmp_path / "w", "2", Request(unscanned="drop")
    )
    assert table(tmp_path / "w" / "new.parquet.weights.parquet")["weight"].to_pylist() == [0, 0]
    (tmp_path / "other").mkdir()
    write_shard(tmp_path / "other" / "a.parquet", ["q"])
    assert (
        main(
            ["filter", str(tmp_path / "other"), "--db", str(store.path), "--where", RULE, "--out", str(tmp_path / "o")]
        )
        == 16
    )
    assert "another corpus" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_json_lines_are_copied_line_by_line(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    raw = [
        b'{"text": "one. two.", "id":  "a-0"}\r\n',
        b"\n",
        b"{broken\n",
        b'{"id":"a-3","k":[1.50],"text":"bad. good."}\n',
        b'{"id":"a-4","text":"z"}',
    ]
    path = folder / f"a.{end}"
    codec = {"jsonl.gz": "gzip", "jsonl.zst": "zstd"}.get(end)
    with pa.output_stream(str(path), compression=codec) as sink:
        sink.write(b"".join(raw))
    store = stored(folder, tmp_path / "x.duckdb", {path.name: {3: {"score": 0.9, "spans": [(0, 5)]}}}, ids=False)

    def lines(path: Path) -> bytes:
        with pa.input_stream(str(path), compression=codec) as stream:
            return bytes(stream.read())

    done = select(store, [str(folder)], tmp_path / "drop", Request(where=RULE))
    assert lines(tmp_path / "drop" / path.name) == b"".join(raw[:3] + raw[4:]) and done.rows[0]["rows_kept"] == 4
    assert json.loads(lines(tmp_path / "drop" / "_removed" / path.name))["tropescan_row"] == 3
    select(store, [str(folder)], tmp_path / "mask", Request("mask", RULE))
    masked = lines(tmp_path / "mask" / path.name).split(b"\n")
    assert json.loads(masked[3]) == {"id": "a-3", "k": [1.5], "text": "good."} and masked[0] == raw[0].rstrip(b"\n")
    weigh(store, [str(folder)], tmp_path / "w", "coalesce(1 - score, 1)", Request())
    assert len(table(tmp_path / "w" / f"{path.name}.weights.parquet")) == 5


def test_lines_behind_a_byte_order_mark_are_selected_from(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    raw = [b'\xef\xbb\xbf{"text": "bad. good."}\n', b'{"text": "fine."}\n']
    (folder / "what?.jsonl").write_bytes(b"".join(raw))
    store = stored(folder, tmp_path / "x.duckdb", {"what?.jsonl": {0: {"score": 0.9, "spans": [(0, 5)]}}}, ids=False)
    done = select(store, [str(folder)], tmp_path / "drop", Request(where=RULE))
    assert not done.failed and (tmp_path / "drop" / "what?.jsonl").read_bytes() == raw[1]
    select(store, [str(folder)], tmp_path / "mask", Request("mask", RULE))
    assert (tmp_path / "mask" / "what?.jsonl").read_bytes() == b'{"text":"good."}\n' + raw[1]
    select(store, [str(folder)], tmp_path / "keep", Request(where="score > 1"))
    assert (tmp_path / "keep" / "what?.jsonl").read_bytes() == b"".join(raw)


VIEWS = {"id": (pa.string_view(), str), "text": (pa.string_view(), str), "more": (pa.binary_view(), str.encode)}


@pytest.mark.parametrize("viewed", [("more",), ("text",), ("id",), ("id", "text", "more")], ids="-".join)
def test_views_are_selected_from(tmp_path: Path, viewed: tuple[str, ...]) -> None:
    folder, n = tmp_path / "in", 9
    folder.mkdir()
    values = {"id": [f"a-{i}" for i in range(n)], "text": [f"one {i}. two." for i in range(n)], "more": ["m"] * n}
    given = {k: pa.array([VIEWS[k][1](x) for x in v], VIEWS[k][0]) if k in viewed else v for k, v in values.items()}
    pq.write_table(pa.table(given), folder / "a.parquet", row_group_size=6)
    known = {i: {"score": 0.9, "spans": [(0, 6)]} for i in (1, 2, 4, 8)} | {7: {"score": 0.01}}
    store = stored(folder, tmp_path / "x.duckdb", {"a.parquet": known})
    for mode, text in (("replace", None), ("mask", "two."), ("tag", "Tone 4. two.")):
        done = select(store, [str(folder)], tmp_path / mode, Request(mode, RULE, token="T"))
        assert not done.failed, done.failed
        got = table(tmp_path / mode / "a.parquet")
        assert got.schema.equals(table(folder / "a.parquet").schema)
        ids = [i for i in values["id"] if text or i not in ("a-1", "a-2", "a-4", "a-8")]
        assert got["id"].to_pylist() == ids and got["text"].to_pylist()[ids.index("a-3")] == "one 3. two."
        assert text is None or got["text"][4].as_py() == text
    assert table(tmp_path / "replace" / "_removed" / "a.parquet")["id"].to_pylist() == ["a-1", "a-2", "a-4", "a-8"]
    assert table(tmp_path / "replace" / "_pool" / "a.parquet")["id"].to_pylist() == ["a-7"]
    weigh(store, [str(folder)], tmp_path / "w", "coalesce(score, 1)", Request())
    weighed = table(tmp_path / "w" / "a.parquet.weights.parquet")
    assert weighed.take([7, 8]).to_pylist() == [  # pyarrow takes rows out of no view: a sidecar has none
        {"id": "a-7", "row": 7, "weight": 0.01},
        {"id": "a-8", "row": 8, "weight": 0.9},
    ]


def test_ids_that_are_no_utf8_are_held_against_the_store(tmp_path: Path) -> None:
    raw = pa.array([b"\xff0", b"\xff1"], pa.large_binary())
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.large_string())):
        folder = tmp_path / str(kind)[:6]
        folder.mkdir()
        ids = raw.view(pa.large_string())
        ids = ids.dictionary_encode() if pa.types.is_dictionary(kind) else ids.cast(kind)
        pq.write_table(pa.table({"id": ids, "text": ["one.", "two."]}), folder / "a.parquet")
        store = stored(folder, folder / "x.duckdb", {"a.parquet": {1: {"score": 0.9}}})
        with duckdb.connect(str(store.path)) as c:
            c.execute("UPDATE documents SET id = '\N{REPLACEMENT CHARACTER}1'")
        done = select(store, [str(folder)], tmp_path / f"{folder.name}-out", Request(where=RULE))
        assert not done.failed and done.rows[0]["rows_removed"] == 1, done.failed
        weigh(store, [str(folder)], tmp_path / f"{folder.name}-w", "score", Request())


def test_reasons_stand_beside_what_a_document_says_itself(tmp_path: Path) -> None:
    own = {"tropescan_score": 0.99, "tropescan_frame": "its own", "tropescan_reason_": 1}
    given = [{"id": f"a-{i}", "text": "one. two."} | (own if i else {}) for i in range(2)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps(d) + "\n" for d in given))
    pq.write_table(pa.Table.from_pylist(given[1:]), tmp_path / "in" / "b.parquet")
    known = {"score": 0.5, "frame": "report"}
    store = stored(
        tmp_path / "in", tmp_path / "x.duckdb", {"a.jsonl": {0: known, 1: known}, "b.parquet": {0: known}}, ids=False
    )
    select(store, [str(tmp_path / "in")], tmp_path / "out", Request(where=RULE))
    removed = tmp_path / "out" / "_removed"
    plain, kept = (json.loads(line) for line in (removed / "a.jsonl").read_text().splitlines())
    assert (plain["tropescan_score"], plain["tropescan_frame"]) == (0.5, "report")
    for one, row in (kept, 1), (table(removed / "b.parquet").to_pylist()[0], 0):
        mine = {"row": row, "score": 0.5, "frame": "report", "reason": f"removed: {RULE}"}
        assert one == given[1] | {f"tropescan_{name}__": value for name, value in mine.items()}


def test_types_metadata_and_layout_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    n = 10
    given = pa.table(
        {
            "id": [f"a-{i}" for i in range(n)],
            "text": pa.array([f"t{i}" for i in range(n)], pa.large_string()),
            "nested": [[{"a": i, "b": None}] for i in range(n)],
            "kind": pa.array(["x", "y"] * 5).dictionary_encode(),
            "nothing": pa.nulls(n),
            "when": pa.array([1] * n, pa.timestamp("ns", "UTC")),
            "when2": pa.array([1] * n, pa.timestamp("us")),
        }
    ).replace_schema_metadata({"source": "here", "ü": "w"})
    pq.write_table(
        given,
        folder / "a.parquet",
        row_group_size=4,
        compression={"id": "gzip", "text": "zstd", "kind": "none"},
        use_dictionary=["kind"],
    )
    with duckdb.connect() as c:  # another writer: no Arrow schema in the file
        c.execute(
            f"COPY (SELECT 'b-' || i AS id, 'text' AS text, i, 1.5::DECIMAL(9, 2) AS d, [i] AS l, gen_random_uuid() AS u FROM range(10) t(i)) "
            f"TO '{folder}/b.parquet' (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{a: 'b'}})"
        )
    store = stored(
        folder, tmp_path / "x.duckdb", {f"{s}.parquet": {5: {"score": 1.0, "spans": [(0, 9)]}} for s in "ab"}
    )
    for mode in ("drop", "mask"):
        done = select(store, [str(folder)], tmp_path / mode, Request(mode, RULE))
        assert not done.failed, done.failed
        for name in ("a.parquet", "b.parquet"):
            with pq.ParquetFile(folder / name) as before, pq.ParquetFile(tmp_path / mode / name) as after:
                assert before.schema_arrow.equals(after.schema_arrow, check_metadata=True)
                pairs = [
                    {k: v for k, v in f.metadata.metadata.items() if k != b"ARROW:schema"} for f in (before, after)
                ]
                assert pairs[0] == pairs[1] and len(pairs[0]) >= 1
                old, new = before.metadata.row_group(0), after.metadata.row_group(0)
                assert [old.column(i).compression for i in range(old.num_columns)] == [
                    new.column(i).compression for i in range(new.num_columns)
                ]
                assert before.num_row_groups == after.num_row_groups
                kept = [i for i in range(n) if i != 5]
                rest = after.read() if mode == "drop" else after.read().take(kept)
                assert rest.equals(before.read().take(kept))


CONDITIONS = [
    "score >= 0.5",
    "score < 0.5",
    "score IS NULL",
    "true",
    "false",
    "NULL",
    "frame IN ('fiction') OR admirable >= 0.5",
    "row % 2 = 0 AND characters > 50",
]
SCORE = st.one_of(st.none(), st.floats(0, 1))
KNOWN = st.fixed_dictionaries(
    {
        "score": SCORE,
        "admirable": SCORE,
        "frame": st.sampled_from(["fiction", "argument", None]),
        "characters": st.integers(0, 100),
    }
)


@settings(max_examples=16, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.one_of(st.none(), st.text(max_size=30)), max_size=40),
    group=st.integers(1, 50),
    known=st.dictionaries(st.integers(0, 39), KNOWN, max_size=20),
    rule=st.sampled_from(CONDITIONS),
    mode=st.sampled_from(["drop", "mask", "tag", "replace"]),
)
def test_rows_reconcile_and_kept_rows_are_the_inputs(
    texts: list[str | None], group: int, known: dict[int, dict[str, Any]], rule: str, mode: str
) -> None:
    known = {
        row: k | {"spans": [(0, 5)], "characters": len(texts[row] or "")}
        for row, k in known.items()
        if row < len(texts)
    }
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "in", Path(name) / "out"
        folder.mkdir()
        table_in = pa.table(
            {
                "id": [f"a-{i}" for i in range(len(texts))],
                "text": pa.array(texts, pa.string()),
                "n": pa.array([None] * len(texts), pa.int8()),
            }
        )
        pq.write_table(table_in, folder / "a.parquet", row_group_size=group)
        store = stored(folder, Path(name) / "x.duckdb", {"a.parquet": known})
        done = select(store, [str(folder)], out, Request(mode, rule))
        assert not done.failed, done.failed
        (row,) = done.rows
        with duckdb.connect() as c:  # the plain reading of the rule, row by row
            empty = {"score": None, "admirable": None, "frame": None, "characters": 0}
            wanted = {
                r
                for r, k in known.items()
                if c.execute(
                    f"SELECT {rule} FROM (SELECT ?::DOUBLE AS score, ?::DOUBLE AS admirable, ?::VARCHAR AS frame, ?::BIGINT AS characters, ?::BIGINT AS row)",
                    [*(k[n] for n in empty), r],
                ).fetchone()
                == (True,)
            }
        got = table(out / "a.parquet")
        removes = mode in ("drop", "replace")
        assert row["rows_in"] == len(texts) == row["rows_kept"] + row["rows_removed"]
        assert row["rows_removed"] == (len(wanted) if removes else 0) and row["rows_changed"] == (
            0 if removes else len(wanted)
        )
        others = pa.array([i for i in range(len(texts)) if i not in wanted], pa.int64())
        assert got.equals(table_in.take(others)) if removes else got.take(others).equals(table_in.take(others))
        assert got.schema.equals(table_in.schema) and (
            removes or got.select(["id", "n"]).equals(table_in.select(["id", "n"]))
        )
        if wanted and mode != "tag":
            aside = table(out / "_removed" / "a.parquet")
            assert aside.select(table_in.column_names).equals(table_in.take(sorted(wanted)))
        layout = [min(group, len(texts) - i) for i in range(0, len(texts), group)]
        left = [
            sum(i not in wanted or not removes for i in range(k * group, k * group + size))
            for k, size in enumerate(layout)
        ]
        with pq.ParquetFile(out / "a.parquet") as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert [n for n in sizes if n] == [n for n in left if n]


@settings(max_examples=160, deadline=None, derandomize=True)
@given(
    text=st.text(alphabet='ab .!?\n"é。', max_size=80),
    ends=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=4),
)
def test_spans_only_grow_and_nothing_else_is_touched(text: str, ends: list[tuple[int, int]]) -> None:
    wide = spans.widened(text, ends)
    assert all(0 <= a < b <= len(text) for a, b in wide) and all(
        x[1] < y[0] for x, y in zip(wide, wide[1:], strict=False)
    )
    for start, end in ends:
        inside = set(range(max(0, start), min(end, len(text))))
        assert inside <= {i for a, b in wide for i in range(a, b)}
    outside = "".join(c for i, c in enumerate(text) if not any(a <= i < b for a, b in wide))
    assert spans.cut(text, wide) == outside
    tagged = spans.wrapped(text, wide, "<", ">")
    assert tagged.replace("<", "").replace(">", "") == text and tagged.count("<") == len(wide)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, tropescan: Run) -> Iterator[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("scanned")
    (folder / "in").mkdir()
    long = "\n\n".join([PLAIN * 12, EVIL, PLAIN * 12, EVIL * 2, PLAIN])
    write_shard(
        folder / "in" / "a.parquet",
        [EVIL, PLAIN, None, long, EVIL + PLAIN, "The robot was kind."] * 3,
        row_group_size=5,
    )
    shutil.copy(SAMPLE / "forum.parquet", folder / "in" / "b.parquet")
    assert (
        tropescan("scan", folder / "in", "--db", folder / "x.duckdb", "--depth", "fast", "--workers", 1).returncode == 0
    )
    yield folder / "in", folder / "x.duckdb"


def test_the_filtered_corpus_scans_clean(scanned: tuple[Path, Path], tmp_path: Path, tropescan: Run) -> None:
    folder, db = scanned
    scores = "SELECT id, score, fast_score, frame, admirable FROM documents"
    before = {r[0]: r for r in select_rows(Store(db), scores)}
    for mode in (["drop"], ["mask", "--until-clean"]):
        out = tmp_path / mode[0]
        done = tropescan("filter", folder, "--db", db, "--preset", "strict", "--mode", *mode, "--out", out, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert all(r["rows_in"] == r["rows_kept"] + r["rows_removed"] for r in told["rows"])
        changed = {i for s in "ab" for i in table(out / "_removed" / f"{s}.parquet")["id"].to_pylist()}
        assert len(changed) >= 6
        assert (
            tropescan("scan", out, "--db", tmp_path / f"{mode[0]}.duckdb", "--depth", "fast", "--workers", 1).returncode
            == 0
        )
        after = Store(tmp_path / f"{mode[0]}.duckdb")
        assert select_rows(after, "SELECT sum(flagged_documents) FROM prevalence") == [(0,)]
        rest = {r[0]: r for r in select_rows(after, scores) if r[0] not in changed}
        assert rest and rest == {k: v for k, v in before.items() if k not in changed}


def test_a_killed_run_goes_on(tmp_path: Path, tropescan: Run) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(16):
        write_shard(folder / f"s{i:02}.parquet", [f"{i} {j} " + PLAIN * 20 for j in range(500)], row_group_size=50)
    store = stored(folder, tmp_path / "x.duckdb", {f"s{i:02}.parquet": {3: {"score": 0.9}} for i in range(16)})
    command = [folder, "--db", store.path, "--where", RULE, "--workers", 1, "--out"]
    with subprocess.Popen(
        [sys.executable, "-m", "tropescan", "filter", *map(str, [*command, tmp_path / "out"])],
        stdout=subprocess.DEVNULL,
    ) as run:
        while run.poll() is None and len(list((tmp_path / "out").glob("*.parquet"))) < 8:
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
    cut = len(list((tmp_path / "out").glob("*.parquet")))
    again = tropescan("filter", *command, tmp_path / "out", "--json")
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert 1 <= told["before"] <= cut < 16 and len(told["rows"]) == 16
    assert tropescan("filter", *command, tmp_path / "whole").returncode == 0

    def files(out: Path) -> dict[str, bytes]:
        return {
            str(p.relative_to(out)): p.read_bytes()
            for p in out.rglob("*")
            if p.is_file() and p.name != "_selection.json"
        }

    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert (
        select_rows(
            store, "SELECT count(*), count(DISTINCT path), sum(rows_removed) FROM selections GROUP BY selection"
        )
        == [(16, 16, 16)] * 2
    )


@pytest.mark.parametrize("mode", ["drop", "mask", "weights"])
def test_a_huge_row_group_never_lies_in_memory_whole(tmp_path: Path, mode: str) -> None:
    folder, block, count = tmp_path / "in", PLAIN * 1000, 16_000
    folder.mkdir()
    texts = pa.chunked_array(
        [pa.array([f"{i} {block}" for i in range(400)])] * (count // 400)
    )  # the same 37 MB again and again
    whole = pa.table({"id": [f"a-{i}" for i in range(count)], "text": texts})
    pq.write_table(whole, folder / "a.parquet", row_group_size=count, compression="zstd", use_dictionary=False)
    with pq.ParquetFile(folder / "a.parquet") as file:
        assert file.num_row_groups == 1 and (size := file.metadata.row_group(0).total_byte_size) > 1.4e9
    known = {i: {"score": 0.9, "spans": [(0, 30)]} for i in range(0, count, 1000)}
    store = stored(folder, tmp_path / "x.duckdb", {"a.parquet": known})
    how = ["weights", folder, "--rule", "CASE WHEN score >= 0.5 THEN 0.1 ELSE 1 END"]
    how = how if mode == "weights" else ["filter", folder, "--where", RULE, "--mode", mode, "--workers", 1]
    command = [*how, "--db", store.path, "--out", tmp_path / "out"]
    code = f"""
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "tropescan", *{list(map(str, command))!r}]).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    done = python(code)
    ended, peak = map(int, done.stdout.splitlines()[-1].split())
    assert ended == 0, done.stderr
    assert 1024 * peak < 0.9 * size, f"{1024 * peak / 1e9:.2f} GB for a row group of {size / 1e9:.2f} GB"
    with pq.ParquetFile(next((tmp_path / "out").rglob("a*.parquet"))) as file:
        assert file.metadata.num_rows == (count - 16 if mode == "drop" else count)


def test_no_space_left_is_one_line(tmp_path: Path, tropescan: Run) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_shard(folder / "a.parquet", [secrets.token_hex(900) for _ in range(500)])
    store = stored(folder, tmp_path / "x.duckdb", {"a.parquet": {3: {"score": 0.9}}})
    limit = 20_000
    assert (folder / "a.parquet").stat().st_size > limit
    full = tropescan(
        *("filter", folder, "--db", store.path, "--where", RULE, "--out", tmp_path / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 43 and "no space left" in full.stderr and full.stderr.count("\n") == 1
    assert tropescan("filter", folder, "--db", store.path, "--where", RULE, "--out", tmp_path / "out").returncode == 0


def answer(capsys: pytest.CaptureFixture[str], *command: Any, code: int = 0) -> Any:
    """What a command prints with --json."""
    given = main([*map(str, command), "--json"])
    told = capsys.readouterr()
    assert given == code, told.err
    return json.loads(told.out)


def test_a_passage_is_no_document(
    scanned: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, db = scanned
    known = {
        r[0]: r for r in select_rows(Store(db), "SELECT id, score, frame FROM documents WHERE fast_score IS NOT NULL")
    }
    how = ["filter", folder, "--db", db, "--mode", "mask", "--where", "score > 0.05"]
    told = answer(capsys, *how, "--dry-run")
    assert told["characters"] == sum(f["characters"] for f in told["frames"].values())
    assert told["characters"] == sum(d["characters"] for d in told["domains"].values())
    assert {e["id"]: (e["id"], e["score"], e["frame"]) for e in told["examples"]}.items() <= known.items()
    answer(capsys, *how, "--out", tmp_path / "out")
    aside = pa.concat_tables(
        table(tmp_path / "out" / "_removed" / f"{n}.parquet").select(["id", "tropescan_score", "tropescan_frame"])
        for n in "ab"
    )
    assert {tuple(r.values()) for r in aside.to_pylist()} <= set(known.values())
    assert told["passages"] > told["documents"] == len(aside)
    for frame in told["frames"]:
        for one in answer(capsys, *how[:-1], f"frame = '{frame}'", "--dry-run")["frames"].values():
            assert one["documents"] <= one["of_documents"]


def test_a_dry_run_tells_of_shards_without_a_scan(
    corpus: tuple[Path, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = corpus
    write_shard(folder / "[b]new.parquet", ["x", "y"])
    how = ["filter", folder, "--db", store.path, "--where", RULE, "--dry-run", "--unscanned"]
    assert answer(capsys, *how, "drop")["unscanned"] == {"[b]new.parquet": "not scanned"}
    for unscanned, becomes in ("drop", "left out, with all their rows"), ("keep", "copied"):
        assert main([*map(str, how), unscanned]) == 0
        assert (
            f"would be {becomes}, and are not counted here: [b]new.parquet (not scanned)\n" in capsys.readouterr().out
        )


def test_types_that_only_other_writers_put_in_version_1_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    with duckdb.connect() as c:
        sql = "SELECT i::VARCHAR AS id, 'text' AS text, 4294967295::UINTEGER AS n, '2026-01-01 00:00:00.123456789'::TIMESTAMP_NS AS t"
        c.execute(f"COPY ({sql} FROM range(3) t(i)) TO '{tmp_path}/in/a.parquet'")
    assert pq.read_metadata(tmp_path / "in" / "a.parquet").format_version == "1.0"
    store = stored(tmp_path / "in", tmp_path / "x.duckdb", {"a.parquet": {1: {"score": 0.9}}}, ids=False)
    how = ["filter", tmp_path / "in", "--db", store.path, "--where", RULE, "--out", tmp_path / "out"]
    assert answer(capsys, *how)["failed"] == {}
    assert table(tmp_path / "out" / "a.parquet").equals(table(tmp_path / "in" / "a.parquet").take([0, 2]))


def test_texts_of_another_column_are_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"id": "a-0", "text": "one. two."}\n')
    store = stored(tmp_path / "in", tmp_path / "x.duckdb", {"a.jsonl": {0: {"score": 0.9}}})
    for mode in ("drop", "replace"):
        how = ["filter", str(tmp_path / "in"), "--db", str(store.path), "--where", RULE, "--mode", mode]
        assert main([*how, "--text-column", "content", "--out", str(tmp_path / mode)]) == CorpusChanged.code
        assert "(--text-column)" in capsys.readouterr().err
        assert not list((tmp_path / mode).rglob("*.jsonl"))


def test_what_is_left_out_now_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, db, out = tmp_path / "in", tmp_path / "x.duckdb", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b"):
        write_shard(folder / f"{name}.parquet", [f"{name} one.", "two."])
    known = {f"{n}.parquet": {0: {"score": 0.9}, 1: {"score": 0.01}} for n in "ab"}
    stored(folder, db, known)
    how = ["filter", folder, "--db", db, "--where", RULE, "--unscanned", "drop", "--out", out]
    answer(capsys, *how)
    assert len(list(out.rglob("b.parquet"))) == 2
    db.unlink()
    stored(folder / "a.parquet", db, known)
    told = answer(capsys, *how)
    assert [r["outcome"] for r in told["rows"]] == ["filtered", "left out: not scanned"]
    assert not list(out.rglob("b.parquet")) and len(list(out.rglob("a.parquet"))) == 2


@pytest.mark.parametrize("unscanned", ["keep", "drop"])
def test_a_selection_goes_on_once_a_shard_can_be_read(
    corpus: tuple[Path, Store], tmp_path: Path, unscanned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = corpus
    late = folder / "c.parquet"
    if unscanned == "keep":
        late.symlink_to("nowhere")
    else:  # as a scan notes what it cannot read
        os.mkfifo(late)
        (file,) = shards.find([late])
        store.commit([], [Entry("!0", KEY, file, None, 0.0, ("UnreadableShard", "a pipe"))])
    where = ["--where", RULE, "--unscanned", unscanned, "--out", tmp_path / "out"]
    command = ["filter", folder, "--db", store.path, *where]
    answer(capsys, *command, code=23 if unscanned == "keep" else 0)
    late.unlink()
    write_shard(late, ["c one.", "c two."])
    for scans in range(3):
        if scans:
            stored(folder, store.path, {"c.parquet": {1: {"score": 0.9}}}, ids=False)
        told = answer(capsys, *command)
        assert (told["rows"][-1]["outcome"], told["rows"][-1]["rows_removed"]) == (
            ("filtered", 1) if scans else ("kept: not scanned", 0) if unscanned == "keep" else ("left out: failed", 2)
        )
    head = json.loads((tmp_path / "out" / "_selection.json").read_text())
    assert all(head["shards"].values()) and len(head["shards"]) == 3
    write_shard(late, ["other"])
    with pytest.raises((CorpusChanged, OutputError)):
        select(store, [str(folder)], tmp_path / "out", Request(where=RULE, unscanned=unscanned))


def test_rows_are_not_said_to_be_ordered_by_texts_that_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    order = [pq.SortingColumn(0), pq.SortingColumn(1), pq.SortingColumn(2)]
    given = pa.table({"id": ["a-0", "a-1"], "text": ["a. b.", "b. c."], "n": [1, 2]})
    pq.write_table(given, tmp_path / "in" / "a.parquet", sorting_columns=order)
    store = stored(tmp_path / "in", tmp_path / "x.duckdb", {"a.parquet": {0: {"score": 0.9, "spans": [(0, 2)]}}})
    for mode, left in ("drop", 3), ("mask", 1), ("tag", 1):
        how = ["filter", tmp_path / "in", "--db", store.path, "--where", RULE, "--mode", mode, "--out", tmp_path / mode]
        answer(capsys, *how)
        written = pq.read_metadata(tmp_path / mode / "a.parquet").row_group(0)
        assert list(written.sorting_columns) == order[:left]


def test_an_empty_option_is_one(corpus: tuple[Path, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, store = corpus
    how = ["filter", str(folder), "--db", str(store.path), "--where", RULE, "--mode"]
    tag = ["tag", "--around", "--token", "<t>", "--end-token", ""]
    assert main([*how, *tag, "--out", str(tmp_path / "tag")]) == 0
    assert table(tmp_path / "tag" / "a.parquet")["text"][1].as_py() == "a one. <t>1 two. three."
    assert main([*how, "replace", "--pool", "", "--dry-run"]) == RuleError.code
    assert "the rule is empty" in capsys.readouterr().err


def test_a_rule_that_duckdb_refuses_midway_is_told(
    corpus: tuple[Path, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = corpus
    how = ["filter", str(folder), "--db", str(store.path), "--dry-run", "--where"]
    for rule in ("id LIKE 'ab' ESCAPE 'ab'", "regexp_matches(id, '(')"):
        assert main([*how, rule]) == RuleError.code
        assert capsys.readouterr().err.count("\n") == 1


def test_a_line_nested_deeply_costs_its_shard_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, nested = tmp_path / "in", "[" * 1000 + "]" * 1000
    folder.mkdir()
    write_shard(folder / "a.parquet", ["one. two.", "three."])
    (folder / "b.jsonl").write_text(f'{{"id": "b-0", "text": "one. two.", "x": {nested}}}\n')
    known = {n: {0: {"score": 0.9, "spans": [(0, 4)]}} for n in ("a.parquet", "b.jsonl")}
    store = stored(folder, tmp_path / "x.duckdb", known)
    for mode in ("drop", "mask"):
        how = ["filter", folder, "--db", store.path, "--where", RULE, "--mode", mode, "--out", tmp_path / mode]
        given = main([*map(str, how), "--json"])
        told = capsys.readouterr().err
        assert (tmp_path / mode / "a.parquet").exists()
        if given:  # how deep Python goes is the interpreter's
            assert given == 20 and "b.jsonl row 0 is nested too deeply" in told and told.count("b.jsonl") == 1
        else:
            assert nested in (tmp_path / mode / "_removed" / "b.jsonl").read_text().replace(" ", "")


def test_texts_of_a_fixed_length_are_only_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    given = pa.table({"id": ["a-0", "a-1"], "text": pa.array([b"abcd", b"efgh"], pa.binary(4))})
    pq.write_table(given, tmp_path / "in" / "a.parquet")
    known = {"a.parquet": {0: {"score": 0.9, "characters": 4, "spans": [(0, 2)]}}}
    store = stored(tmp_path / "in", tmp_path / "x.duckdb", known)
    for mode, code in ("drop", 0), ("mask", OutputError.code), ("tag", OutputError.code):
        how = ["filter", tmp_path / "in", "--db", store.path, "--where", RULE, "--mode", mode, "--out", tmp_path / mode]
        assert main([*map(str, how)]) == code
        assert ("'text' are of a fixed length" in capsys.readouterr().err) == bool(code)


def test_options_that_are_no_utf_8_are_told(corpus: tuple[Path, Store], capsys: pytest.CaptureFixture[str]) -> None:
    folder, store = corpus
    odd = os.fsdecode(b"caf\xe9")
    how = ["filter", str(folder), "--db", str(store.path), "--where", RULE]
    tag, mask = ["--mode", "tag"], ["--mode", "mask"]
    for more in (["--text-column", odd], ["--out", odd], [*tag, "--token", odd], [*mask, "--marker", odd]):
        assert main([*how, "--out", str(folder.parent / "out"), *more]) == InputError.code
        assert f"{more[-2]} caf\\udce9 is not UTF-8" in capsys.readouterr().err
    assert main(["weights", *how[1:4], "--rule", "score", "--out", odd]) == InputError.code
    assert not (folder.parent / "out").exists()
