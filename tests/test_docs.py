"""The documentation is held against the program: every verb, table and exit code is there, every query and command runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import EVIL, PLAIN, ROOT, write_shard
from tropescan import errors
from tropescan.cli.arguments import names, parser
from tropescan.store import Store

README = (ROOT / "README.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "queries.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, tropescan: Callable[..., subprocess.CompletedProcess[str]]
) -> Store:
    folder = tmp_path_factory.mktemp("docs")
    write_shard(
        folder / "a.parquet", [EVIL, PLAIN, EVIL + PLAIN], url=["https://a.example/1", "https://b.example", None]
    )
    assert tropescan("scan", folder, "--db", folder / "x.duckdb", "--depth", "fast", "--audit", "1").returncode == 0
    return Store(folder / "x.duckdb")


def test_there_are_ten_queries() -> None:
    assert len(QUERIES) == 10


@pytest.mark.parametrize("sql", QUERIES, ids=range(len(QUERIES)))
def test_every_query_runs(store: Store, sql: str) -> None:
    assert store.query(sql).num_columns >= 2


@pytest.fixture(scope="module")
def two_depths(store: Store, tropescan: Callable[..., subprocess.CompletedProcess[str]]) -> Store:
    folder = store.path.parent
    for depth in ("lean", "fast"):
        scan = tropescan("scan", folder, "--db", folder / "two.duckdb", "--depth", depth, "--audit", "1")
        assert scan.returncode == 0, scan.stderr
    return Store(folder / "two.duckdb")


@pytest.mark.parametrize("sql", QUERIES, ids=range(len(QUERIES)))
def test_another_depth_in_the_database_doubles_nothing(store: Store, two_depths: Store, sql: str) -> None:
    key = store.model()["model"]
    alone, beside = (sorted(map(str, one.query(sql).to_pylist())) for one in (store, two_depths))
    counts_each = "model" in store.query(sql).column_names
    assert [r for r in beside if key in r or not counts_each] == alone


def test_the_readme_documents_every_table_view_and_column(store: Store) -> None:
    described = store.rows("SELECT table_name, column_name FROM information_schema.columns")
    for name in {r["table_name"] for r in described}:
        assert f"`{name}`" in README, name
    tables = "\n".join(line for line in README.splitlines() if line.startswith("|"))
    for row in described:
        assert re.search(rf"\b{row['column_name']}\b", tables), row


def test_the_readme_documents_every_verb_and_exit_code() -> None:
    for verb in names(parser()):
        assert f"tropescan {verb}" in README, verb

    def below(kind: type[errors.TropescanError]) -> list[type[errors.TropescanError]]:
        return [kind, *[k for one in kind.__subclasses__() for k in below(one)]]

    for kind in below(errors.TropescanError):
        assert f"| {kind.code} |" in README, kind


def test_every_command_of_the_readme_is_one() -> None:
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", README.replace("\\\n", " "), re.DOTALL)
        for line in block.splitlines()
    ]
    ours = [c for c in commands if c.startswith("tropescan ")]
    assert len(ours) >= 8
    for command in ours:
        parser().parse_args(shlex.split(command, comments=True)[1:])


def test_links_between_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_report_names_its_command() -> None:
    for page in (ROOT / "reports").glob("*.md"):
        assert page.name == "log.md" or "`" in page.read_text().split("\n\n")[1], page.name
    assert Path(ROOT / "reports" / "log.md").exists()
