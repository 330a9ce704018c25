"""A scan that is killed at random moments ends with the tables of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import contents, sample_documents
from tests.test_scan import children

KILLS = 24


def corpus(folder: Path) -> Path:
    """Forty shards, each with other documents: the sample's, turned round; some in several row groups, one in lines."""
    folder.mkdir()
    documents = sample_documents()
    for i in range(40):
        turned = [d | {"text": f"{i} {d['text']}"} for d in documents[i * 7 :] + documents[: i * 7]]
        pq.write_table(
            pa.Table.from_pylist(turned),
            folder / f"{i:02}.parquet",
            row_group_size=100 + 40 * (i % 5),
            compression="zstd",
        )
    return folder


def command(shards: Path, db: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tropescan",
        "scan",
        str(shards),
        "--db",
        str(db),
        "--depth",
        "fast",
        "--workers",
        "2",
        "--audit",
        "0.01",
    ]


def test_sigkill_at_random_moments_loses_and_doubles_nothing(
    tmp_path: Path, tropescan: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shards = corpus(tmp_path / "shards")
    undisturbed = tmp_path / "undisturbed.duckdb"
    assert subprocess.run(command(shards, undisturbed), capture_output=True, timeout=300).returncode == 0
    expected = contents(undisturbed)
    assert len(expected["units"]) == 40 and len(expected["documents"]) > 1000
    rng = random.Random(os.environ.get("TROPESCAN_SEED", "1"))
    kills = rounds = stopped = 0
    while kills < KILLS:
        rounds += 1
        db = tmp_path / f"{rounds}.duckdb"
        while True:
            with subprocess.Popen(command(shards, db), stderr=subprocess.PIPE) as scan:
                end = time.monotonic() + rng.uniform(0.2, 1.8)
                worker = rng.random() < 0.4
                while time.monotonic() < end and scan.poll() is None:
                    time.sleep(0.01)
                if scan.poll() is None:
                    victims = children(scan.pid) if worker else [scan.pid]
                    if victims:
                        os.kill(rng.choice(victims), signal.SIGKILL)
                        kills += 1
                        stopped += not worker
                scan.communicate(timeout=300)
            if scan.returncode == 0:
                break
            assert scan.returncode == -signal.SIGKILL
            assert worker is False, "a killed worker must not end the scan"
        assert contents(db) == expected
    assert stopped >= 5
