"""Prevalence: the intervals are those of scipy, the table is that of the view, null is not zero."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.conftest import EVIL, PLAIN, write_shard
from tropescan import prevalence
from tropescan.store import Store


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_that_of_scipy(kn: tuple[int, int]) -> None:
    k, n = kn
    theirs = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert prevalence.wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_the_total_claims_no_more_than_its_documents_or_its_shards_show(
    tmp_path: Path, tropescan: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for name, texts in {"none": ([PLAIN] * 10, [f"1 {PLAIN}"] * 10), "far": ([EVIL] * 10, [PLAIN] * 10)}.items():
        (tmp_path / name).mkdir()
        for i, one in enumerate(texts):
            write_shard(tmp_path / name / f"{i}.parquet", one)
        db = tmp_path / f"{name}.duckdb"
        assert tropescan("scan", tmp_path / name, "--db", db, "--depth", "fast").returncode == 0
    none, far = (prevalence.measure(Store(tmp_path / f"{name}.duckdb")) for name in ("none", "far"))
    # no shard has any: the bootstrap over shards knows nothing, 20 documents without any do
    assert (none.total.low, none.total.high) == prevalence.wilson(0, 20)
    assert "0.00 % to 16.11 %" in tropescan("prevalence", "--db", tmp_path / "none.duckdb").stdout
    # one has it in all, one in none: so may the next
    assert (far.total.flagged, far.total.low, far.total.high) == (10, 0.0, 1.0)


def test_depth_lean_says_what_it_leaves_out(
    tmp_path: Path, tropescan: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write_shard(tmp_path / "a.parquet", [EVIL, PLAIN])
    for depth, told in (("lean", True), ("fast", False)):
        db = tmp_path / f"{depth}.duckdb"
        assert tropescan("scan", tmp_path / "a.parquet", "--db", db, "--depth", depth).returncode == 0
        assert ("Depth lean scores what may reach" in tropescan("prevalence", "--db", db).stdout) is told
        assert json.loads(tropescan("prevalence", "--db", db, "--json").stdout)["total"]["flagged"] == 1


def test_table_and_view_agree_and_failed_shards_are_told(
    tmp_path: Path, tropescan: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    write_shard(tmp_path / "a.parquet", [EVIL, PLAIN, EVIL, PLAIN])
    write_shard(tmp_path / "b.parquet", [PLAIN] * 100)
    write_shard(tmp_path / "e.parquet", [])
    (tmp_path / "c.parquet").write_text("words")
    assert tropescan("scan", tmp_path, "--db", tmp_path / "x.duckdb", "--depth", "fast").returncode == 21
    store = Store(tmp_path / "x.duckdb")
    found = prevalence.measure(store)
    view = store.rows("SELECT * FROM prevalence ORDER BY path")
    for row, seen in zip(found.shards, view, strict=True):
        assert (row.path, row.documents, row.flagged, row.prevalence) == (
            seen["path"],
            seen["documents"],
            seen["flagged_documents"],
            seen["prevalence"],
        )
        for mine, theirs in (
            (row.low, seen["prevalence_low"]),
            (row.high, seen["prevalence_high"]),
            (row.expected, seen["expected_prevalence"]),
        ):
            assert mine == (None if theirs is None else pytest.approx(theirs, abs=1e-9))
    a, b, c, e = found.shards
    assert (
        a.flagged == 2
        and b.prevalence == 0.0
        and c.prevalence is None
        and e.prevalence is None
        and c.status == "failed"
    )
    assert b.high is not None and b.high > 0.03
    assert (found.scanned, found.failed, found.total.documents, found.total.flagged) == (3, 1, 104, 2)
    assert found.total.low is not None and found.total.low <= 2 / 104 <= (found.total.high or 0)
    assert (
        "Rests on 3 of 4 shards scanned whole (1 failed)"
        in tropescan("prevalence", "--db", tmp_path / "x.duckdb").stdout
    )
    other = prevalence.measure(store, threshold=0.0)
    assert (
        other.total.flagged
        == json.loads(tropescan("prevalence", "--db", tmp_path / "x.duckdb", "--threshold", "0", "--json").stdout)[
            "total"
        ]["flagged"]
        >= 2
    )
