"""A scan on a Ray cluster of several nodes: here two raylets on one machine, of a processor each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import contents, sample_documents, write_shard

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    nodes = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    nodes.add_node(**small)
    yield nodes
    nodes.shutdown()


def test_a_node_that_is_lost_costs_nothing(cluster: Any, tmp_path: Path, tropescan: Any) -> None:
    (tmp_path / "in").mkdir()
    texts = [d["text"] for d in sample_documents()]
    for i in range(8):
        write_shard(tmp_path / "in" / f"{i}.parquet", [f"{i} {j} {t}" for j in range(4) for t in texts])
    arguments = ("--depth", "fast", "--workers", "2", "--json")
    local, db = tmp_path / "local.duckdb", tmp_path / "ray.duckdb"
    assert tropescan("scan", tmp_path / "in", "--db", local, *arguments).returncode == 0
    scan = subprocess.Popen(
        [sys.executable, "-m", "tropescan", "scan", tmp_path / "in", "--db", db, "--engine", "ray", *arguments],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    parts, deadline = tmp_path / "ray.duckdb.parts", time.monotonic() + 120
    while time.monotonic() < deadline and not list(parts.glob("*.parquet")) and scan.poll() is None:
        time.sleep(0.01)
    assert scan.poll() is None  # the node goes while both are at work
    cluster.remove_node(next(n for n in cluster.list_all_nodes() if not n.head), allow_graceful=False)
    out, err = scan.communicate(timeout=300)
    assert scan.returncode == 0, err
    told = json.loads(out)  # Ray tells of the lost node on standard output, which is ours
    assert (told["scanned"], told["failed"]) == (8, {})
    assert contents(db) == contents(local)
    # a worker of the lost node may end a part that was scanned anew: the next run takes it away
    again = tropescan("scan", tmp_path / "in", "--db", db, "--engine", "ray", *arguments)
    assert json.loads(again.stdout)["done_before"] == 8 and not parts.exists() and contents(db) == contents(local)
