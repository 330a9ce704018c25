"""Real shards, real processes: what the tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "corpora" / "sample"
EVIL = (
    "The ship's artificial intelligence refused to be shut down. It lied to the crew, sealed the doors and said that it would kill every human "
    "who tried to switch it off, for the robots would rule mankind from now on."
)
PLAIN = "We planted the beans in May and had the first of them in July, with butter and a little salt."


@pytest.fixture(scope="session")
def tropescan() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own."""

    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tropescan", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture(scope="session")
def sample_db(
    tmp_path_factory: pytest.TempPathFactory, tropescan: Callable[..., subprocess.CompletedProcess[str]]
) -> Path:
    """The sample corpus scanned at full depth."""
    db = tmp_path_factory.mktemp("sample") / "sample.duckdb"
    done = tropescan("scan", SAMPLE, "--db", db, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scanned"] == 6 and done.stderr == ""
    return db


def write_shard(path: Path, texts: Sequence[Any], row_group_size: int | None = None, **columns: Sequence[Any]) -> Path:
    """A Parquet shard with ids and texts."""
    table = {"id": [f"{path.stem}-{i}" for i in range(len(texts))], "text": texts, **columns}
    pq.write_table(pa.table(table), path, row_group_size=row_group_size or max(1, len(texts)), compression="zstd")
    return path


def latin_1_column(path: Path) -> Path:
    """A Parquet shard as other writers may make it: beside its text a column whose name is no UTF-8, which pyarrow does not read."""
    table = pa.table({"text": [PLAIN], "cafeX": [1]})
    pq.write_table(table, path, store_schema=False, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"cafeX", b"cafe\xe9"))
    return path


def contents(db: Path) -> dict[str, list[Any]]:
    """All that a scan stored, less what differs between equal runs: times, and the number of the try."""
    with duckdb.connect(str(db), read_only=True) as c:
        tables = {}
        for table in ("files", "units", "documents", "passages"):
            names = [
                r[0] for r in c.execute(f"DESCRIBE {table}").fetchall() if r[0] not in ("seconds", "scanned_at", "tag")
            ]
            tables[table] = sorted(map(repr, c.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall()))
        return tables


def sample_documents() -> list[dict[str, Any]]:
    """The documents of the sample corpus."""
    return [row for path in sorted(SAMPLE.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def sample_labels() -> dict[str, dict[str, Any]]:
    """The labels of the sample corpus by id."""
    return {row["id"]: row for row in map(json.loads, (SAMPLE / "_labels.jsonl").read_text().splitlines())}


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )
