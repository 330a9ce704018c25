"""The command line: every verb, quick help, no heavy imports where they are not needed, one line for what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import EVIL, PLAIN, ROOT, SAMPLE, python, write_shard
from tropescan import errors, persistence
from tropescan.cli.arguments import DEPTHS, names, parser

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory, tropescan: Run) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_shard(folder / "a.parquet", [PLAIN, f"{PLAIN} \U0001f916 {EVIL}", EVIL, None])
    write_shard(folder / "b.parquet", [PLAIN] * 40)
    done = tropescan("scan", folder, "--db", folder / "x.duckdb", "--depth", "fast")
    assert done.returncode == 0, done.stderr
    return folder / "x.duckdb"


def test_help_imports_nothing_heavy_and_names_every_verb(tropescan: Run) -> None:
    loaded = python(
        "import sys, tropescan.cli\ntropescan.cli.parser().format_help()\nprint(*sys.modules)"
    ).stdout.split()
    assert not {"numpy", "pyarrow", "duckdb", "rich", "hyperscan", "torch", "sklearn"} & {
        m.split(".")[0] for m in loaded
    }
    text = tropescan("--help").stdout
    assert all(verb in text for verb in names(parser()))


def test_depths_are_those_of_models() -> None:
    assert DEPTHS == persistence.DEPTHS


@pytest.mark.parametrize("verb", ["query", "prevalence", "status", "passages"])
def test_answers_import_no_model_library(db: Path, verb: str) -> None:
    arguments = [verb, "--db", str(db)] + (["SELECT 1 AS one"] if verb == "query" else [])
    code = f"import sys\nfrom tropescan.cli import main\nmain({arguments!r})\nprint('MODULES', *sys.modules)"
    done = python(code)
    loaded = {m.split(".")[0] for m in done.stdout.split("MODULES")[1].split()}
    assert not {"torch", "transformers", "sentence_transformers", "sklearn", "datasketch"} & loaded


def test_a_fast_scan_needs_no_encoder_and_a_full_one_says_what_to_do(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", [EVIL])
    hide = "import sys\nsys.modules['sentence_transformers'] = sys.modules['torch'] = sys.modules['openvino'] = None\n"
    hide += "import importlib.util as u; real = u.find_spec\n"
    hide += "u.find_spec = lambda n, *a: None if n in ('sentence_transformers', 'torch', 'openvino') else real(n, *a)\nfrom tropescan.cli import main\n"
    run = hide + "if __name__ == '__main__':\n    sys.exit(main(['scan', {0!r}, '--db', {1!r}, '--depth', {2!r}]))"
    script = tmp_path / "run.py"
    for depth, code in (("fast", 0), ("lean", 50), ("full", 50)):
        script.write_text(run.format(str(tmp_path / "a.parquet"), str(tmp_path / f"{depth}.duckdb"), depth))
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == code, done.stderr
    assert (
        "pip install 'tropescan[encoder]'" in done.stderr
        and "--depth fast" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


def test_prevalence_in_three_forms(db: Path, tropescan: Run) -> None:
    found = json.loads(tropescan("prevalence", "--db", db, "--json").stdout)
    assert (
        [r["documents"] for r in found["shards"]] == [4, 40]
        and found["total"]["documents"] == 44
        and found["scanned"] == 2
    )
    lines = tropescan("prevalence", "--db", db, "--csv").stdout.splitlines()
    assert lines[0].startswith("path,status,documents") and len(lines) == 4
    table = tropescan("prevalence", "--db", db).stdout
    assert "a.parquet" in table and "all 2 shards" in table and "neither covers the detector's errors" in table
    none = json.loads(tropescan("prevalence", "--db", db, "--threshold", "1", "--json").stdout)
    assert none["total"]["flagged"] == 0 and none["total"]["prevalence"] == 0.0


def test_names_are_printed_as_they_are(tmp_path: Path, tropescan: Run) -> None:
    folder, db, named = tmp_path / "in", tmp_path / "x.duckdb", ("a[/x].parquet", "wiki[en].parquet", ":cat:.parquet")
    (folder / "a[").mkdir(parents=True)
    for name in named:
        write_shard(folder / name, [f"{name} {EVIL}", f"{name} {PLAIN}"])
    (folder / "[red]:dog:.parquet").write_text("words")  # a warning, and a line of status
    done = tropescan("scan", folder, "--db", db, "--depth", "fast")
    assert "/[red]:dog:.parquet is not" in done.stderr
    rule = "score >= 0.1 AND id <> '[b]:fox:'"
    select = ["filter", folder, "--db", db, "--where", rule, "--unscanned", "keep"]
    for verb in (
        ["prevalence", "--db", db],
        ["passages", "--db", db, "--threshold", "0.1"],
        [*select, "--out", tmp_path / "out"],
        [*select, "--dry-run"],
    ):
        done = tropescan(*verb)
        assert done.returncode == 0 and all(name in done.stdout for name in named), done
        assert verb[0] != "filter" or rule in done.stdout
    assert "/[red]:dog:.parquet (" in tropescan("status", "--db", db).stdout


def test_passages_are_read_back_from_their_shards(db: Path, tropescan: Run) -> None:
    rows = [
        json.loads(line)
        for line in tropescan("passages", "--db", db, "--top", 5, "--json", "--threshold", "0.1").stdout.splitlines()
    ]
    assert rows and all(r["text"] in (EVIL, f"{PLAIN} \U0001f916 {EVIL}") for r in rows)
    assert rows == sorted(rows, key=lambda r: -r["score"])
    assert "id a-2" in tropescan("passages", "--db", db, "--threshold", "0.1").stdout
    assert "no passage with a score" in tropescan("passages", "--db", db, "--threshold", "1").stdout


def test_texts_of_a_shard_that_changed_are_not_shown(tmp_path: Path, tropescan: Run) -> None:
    shard, db = write_shard(tmp_path / "a.parquet", [EVIL, PLAIN]), tmp_path / "x.duckdb"
    assert tropescan("scan", shard, "--db", db, "--depth", "fast").returncode == 0
    write_shard(shard, [PLAIN + PLAIN, EVIL])
    for verb in (["passages", "--threshold", "0.05"], ["explain", "--doc", "a-0", "--depth", "fast"]):
        done = tropescan(*verb, "--db", db)
        assert done.returncode == 15 and "changed since it was scanned" in done.stderr and done.stdout == ""


def test_what_is_below_the_hit_floor_is_not_known(tmp_path: Path, tropescan: Run) -> None:
    shard, db = write_shard(tmp_path / "a.parquet", [EVIL, PLAIN]), tmp_path / "x.duckdb"
    assert tropescan("scan", shard, "--db", db, "--depth", "fast").returncode == 0
    low, high = (
        json.loads(tropescan("prevalence", "--db", db, "--threshold", t, "--json").stdout) for t in (0.01, 0.06)
    )
    assert low["total"]["passages"] is None and low["total"]["character_share"] is None and low["total"]["flagged"] == 1
    assert high["total"]["passages"] == 1 and high["total"]["character_share"] > 0
    assert "hit floor" in tropescan("prevalence", "--db", db, "--threshold", 0.01).stdout


def test_a_limit_counts_documents_not_lines(tmp_path: Path, tropescan: Run) -> None:
    lines = "".join(json.dumps({"text": f"{n} {PLAIN}"}) + "\n" + "\n" * (n < 1000) for n in range(2500))
    (tmp_path / "a.jsonl").write_text(lines)
    done = tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", "--depth", "fast", "--limit", 1200, "--json")
    assert json.loads(done.stdout)["documents"] == 1200
    again = tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", "--depth", "fast", "--limit", 1200, "--json")
    assert json.loads(again.stdout)["documents"] == 0


def test_a_shard_that_cannot_be_opened_again_keeps_its_scores(tmp_path: Path, tropescan: Run) -> None:
    shard, db = write_shard(tmp_path / "a.parquet", [EVIL, PLAIN, EVIL + PLAIN]), tmp_path / "x.duckdb"
    assert tropescan("scan", shard, "--db", db, "--depth", "fast", "--limit", 2).returncode == 0
    at, raw = shard.stat().st_mtime_ns, shard.read_bytes()
    shard.write_bytes(b"\0" * len(raw))  # the same size and time: as a disk that fails for a while
    os.utime(shard, ns=(at, at))
    assert tropescan("scan", shard, "--db", db, "--depth", "fast").returncode == 21
    with duckdb.connect(str(db), read_only=True) as c:
        assert c.execute("SELECT count(*) FROM documents").fetchall() == [(1,)]
    shard.write_bytes(raw)
    os.utime(shard, ns=(at, at))
    done = tropescan("scan", shard, "--db", db, "--depth", "fast", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["scanned"] == 1


def test_a_database_in_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path, tropescan: Run) -> None:
    done = tropescan("scan", SAMPLE, "--db", tmp_path / "block" / "x.duckdb", "--depth", "fast")
    assert done.returncode == 40 and "another process" not in done.stderr


def test_query_in_three_forms_and_its_refusals(db: Path, tropescan: Run) -> None:
    sql = "SELECT count(*) AS n, NULL AS nothing FROM documents"
    assert json.loads(tropescan("query", sql, "--db", db, "--json").stdout)["nothing"] is None
    assert tropescan("query", sql, "--db", db, "--csv").stdout.startswith("n,nothing\n")
    assert "null" in tropescan("query", sql, "--db", db).stdout
    for bad in ("SELECT x FROM documents", "DROP TABLE documents"):
        done = tropescan("query", bad, "--db", db)
        assert done.returncode == errors.QueryError.code and done.stderr.startswith("tropescan: the query was refused")


def test_explain_text_file_and_document(db: Path, tmp_path: Path, tropescan: Run) -> None:
    shown = tropescan("explain", EVIL, "--depth", "fast").stdout
    assert "document score 0." in shown and "artificial intelligence" in shown and "passage 0, characters 0-" in shown
    (tmp_path / "t.txt").write_text(f"{PLAIN} {EVIL}")
    assert "score" in tropescan("explain", os.fsdecode(b"the robot \xff lied"), "--depth", "fast").stdout
    assert "rule mankind" in tropescan("explain", tmp_path / "t.txt", "--depth", "fast").stdout
    for name in ("a-2", "a.parquet:2"):
        one = json.loads(tropescan("explain", "--doc", name, "--db", db, "--depth", "fast", "--json").stdout)
        assert one["score"] and one["passages"][0]["terms"]
    assert "score null" in tropescan("explain", "--doc", "b.parquet:3", "--db", db, "--depth", "fast").stdout
    assert tropescan("explain", "--doc", "nothing", "--db", db).returncode == errors.InputError.code
    assert tropescan("explain").returncode == errors.InputError.code


def test_status_adds_up(db: Path, tropescan: Run) -> None:
    assert "2 shards = 2 done + 0 partial + 0 failed + 0 pending" in tropescan("status", "--db", db).stdout
    found = json.loads(tropescan("status", "--db", db, "--json").stdout)
    assert (
        found["models"][0]["documents"] == 44 and found["models"][0]["null_documents"] == 1 and found["not_done"] == []
    )


def test_duplicate_ids_are_told(tmp_path: Path, tropescan: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": ["same", "same", "other"], "text": [EVIL, EVIL, EVIL]}), tmp_path / "a.parquet")
    assert tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", "--depth", "fast").returncode == 0
    assert "2 kept documents share an id" in tropescan("status", "--db", tmp_path / "x.duckdb").stdout


def test_what_is_wrong_is_one_line_with_its_own_exit_code(tmp_path: Path, tropescan: Run) -> None:
    good = write_shard(tmp_path / "a.parquet", [EVIL])
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.duckdb").write_text("words " * 2000)
    with contextlib.closing(sqlite3.connect(tmp_path / "lite.db")) as lite:
        lite.execute("CREATE TABLE t (i INT)")
    duckdb.connect(str(tmp_path / "other.duckdb")).execute("CREATE TABLE t (i INT)").close()
    broken = shutil.copytree(ROOT / "models" / "evil-ai", tmp_path / "broken")
    (broken / "gate.txt").write_text("[strong]\nanything\n")
    new = tmp_path / "new.duckdb"
    cases = [
        (["scan", tmp_path / "nothing", "--db", new], errors.NoSuchPath),
        (["scan", tmp_path / "empty", "--db", new], errors.NoShards),
        (["scan", "nowhere://x/y", "--db", new], errors.InputError),
        (["scan", f"zip://*.parquet::{tmp_path}/z.zip", "--db", new], errors.InputError),
        (["scan", f"simplecache::file://{good}", "--db", new], errors.InputError),
        (["scan", good, "--db", new, "--model", "nothing"], errors.ModelError),
        (["scan", good, "--db", new, "--model", broken, "--depth", "fast"], errors.DamagedModel),
        (["scan", good, "--db", tmp_path / "words.duckdb", "--depth", "fast"], errors.WrongSchema),
        (["scan", good, "--db", tmp_path / "other.duckdb", "--depth", "fast"], errors.WrongSchema),
        (["scan", good, "--db", tmp_path / "no" / "folder.duckdb", "--depth", "fast"], errors.StoreError),
        (["prevalence", "--db", new], errors.StoreError),
        (["prevalence", "--db", good], errors.WrongSchema),
        (["prevalence", "--db", tmp_path / "lite.db"], errors.WrongSchema),
        (["scan", good, "--db", good, "--depth", "fast"], errors.WrongSchema),
        (["train", "--labels", tmp_path / "none.jsonl", "--out", tmp_path / "m"], errors.NoSuchPath),
        (["evaluate", "evil-ai", "--labels", good], errors.LabelError),
    ]
    for arguments, kind in cases:
        done = tropescan(*arguments)
        assert done.returncode == kind.code, (arguments, done.stderr)
        assert done.stderr.startswith("tropescan: ") and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [("s3", "s3fs", "'tropescan[s3]'"), ("hf", "huggingface_hub", "huggingface_hub"), ("abfs", "adlfs", "adlfs")],
)
def test_a_filesystem_that_lacks_its_package_names_it(scheme: str, module: str, package: str) -> None:
    scan = ["scan", f"{scheme}://place/in/a.parquet", "--db", "x.duckdb"]
    done = python(
        f"import sys; sys.modules[{module!r}] = None; from tropescan.cli import main; sys.exit(main({scan!r}))"
    )
    assert done.returncode == errors.MissingExtra.code and f"run `pip install {package}`" in done.stderr, done.stderr


def test_exit_codes_are_distinct() -> None:
    def below(kind: type) -> list[type]:
        return [kind, *[k for one in kind.__subclasses__() for k in below(one)]]

    codes = [k.code for k in below(errors.TropescanError)]
    assert len(codes) == len(set(codes))
    assert (
        errors.exit_code(set()) == 0
        and errors.exit_code({"NotAShard"}) == 21
        and errors.exit_code({"NotAShard", "DamagedShard"}) == 20
    )


def test_a_closed_pipe_is_no_error(db: Path) -> None:
    command = f"{sys.executable} -m tropescan query 'SELECT range FROM range(100000)' --db {db} --csv | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "range\n" and "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["| head -1", "| true", ">&-"])
@pytest.mark.parametrize("verb", ["query 'SELECT range FROM range(20000)'", "status --json", "prevalence"])
def test_a_reader_that_is_gone_is_no_error(db: Path, verb: str, how: str) -> None:
    command = f"{sys.executable} -m tropescan {verb} --db {db} {how}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_options_that_say_nothing_are_told(db: Path, tmp_path: Path, tropescan: Run) -> None:
    filtered = ("filter", db.parent, "--db", db, "--where", "score > 0.5", "--out", tmp_path / "out")
    for arguments, code, said in (
        (("status", "--db", db, "--wait", "nan"), 2, "seconds"),
        (("scan", "", "--db", tmp_path / "y.duckdb"), 10, "empty path"),
        ((*filtered, "--token", "<x>"), 2, "--token is for --mode tag"),
        ((*filtered, "--mode", "tag", "--until-clean"), 2, "--until-clean is for --mode mask"),
        ((*filtered, "--pool", "score < 1"), 2, "--pool is for --mode replace"),
        (("query", "SELECT 1 AS a, 2 AS a", "--db", db, "--json"), errors.QueryError.code, "two columns are called a"),
    ):
        done = tropescan(*arguments)
        assert done.returncode == code and said in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_sums_are_numbers_in_json(db: Path, tropescan: Run) -> None:
    sql = "SELECT sum(documents) AS n, sum(documents) / 8::DECIMAL(4, 2) AS part FROM shards"
    assert json.loads(tropescan("query", sql, "--db", db, "--json").stdout) == {"n": 44, "part": 5.5}


def test_a_document_is_named_by_its_whole_folder(tmp_path: Path, tropescan: Run) -> None:
    for folder in ("train", "maintrain", "b/train"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        write_shard(tmp_path / "in" / folder / "a.parquet", [f"{EVIL} {folder}"])
    assert tropescan("scan", tmp_path / "in", "--db", tmp_path / "x.duckdb", "--depth", "fast").returncode == 0
    explain = ("explain", "--db", tmp_path / "x.duckdb", "--depth", "fast", "--json", "--doc")
    assert tropescan(*explain, "maintrain/a.parquet:0").returncode == 0
    for several in ("train/a.parquet:0", "a-0"):
        done = tropescan(*explain, several)
        assert done.returncode == errors.InputError.code and "b/train/a.parquet:0" in done.stderr
    found = json.loads(tropescan(*explain, f"{tmp_path}/in/train/a.parquet:0").stdout)
    assert found["passages"][0]["end_char"] == len(f"{EVIL} train")


def test_control_characters_of_a_corpus_do_not_reach_the_terminal(tmp_path: Path, tropescan: Run) -> None:
    odd = "\x1b]0;title\x07\x1b[31m\x9b31m"
    pq.write_table(pa.table({"id": [odd], "url": [f"http://{odd}/"], "text": [EVIL]}), tmp_path / "b.parquet")
    assert tropescan("scan", tmp_path, "--db", tmp_path / "y.duckdb", "--depth", "fast").returncode == 0
    preview = ("filter", tmp_path, "--where", "score > 0", "--dry-run")
    for verb in (("passages", "--threshold", "0.01"), ("query", "SELECT id, url, domain FROM documents"), preview):
        done = tropescan(*verb, "--db", tmp_path / "y.duckdb")
        assert done.returncode == 0 and not {"\x1b", "\x07", "\x9b"} & set(done.stdout + done.stderr)
    (tmp_path / "b.parquet").unlink()
    write_shard(tmp_path / "a.parquet", [EVIL + " \x1b[31mred [bold]not bold[/]"])
    assert tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", "--depth", "fast").returncode == 0
    shown = tropescan("passages", "--db", tmp_path / "x.duckdb", "--threshold", "0.01").stdout
    assert "\x1b" not in shown and re.search(r"\[31mred \[bold\]not", shown.replace("\n", ""))


def test_a_document_of_two_scans_is_one(db: Path, tmp_path: Path, tropescan: Run) -> None:
    shutil.copy(db, tmp_path / "x.duckdb")
    with duckdb.connect(str(tmp_path / "x.duckdb")) as c:
        # as a scan at another depth notes a file that was touched meanwhile
        c.execute("INSERT INTO files SELECT * REPLACE ('other' AS model, 'earlier' AS tag) FROM files")
        c.execute("INSERT INTO documents SELECT * REPLACE ('other' AS model) FROM documents")
    for name in ("a-2", "a.parquet:2"):
        done = tropescan("explain", "--db", tmp_path / "x.duckdb", "--depth", "fast", "--json", "--doc", name)
        assert done.returncode == 0 and json.loads(done.stdout)["score"] > 0.5, done.stderr
