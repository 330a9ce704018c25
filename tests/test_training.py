"""`tropescan train` makes a folder that scans, and makes the same one twice; `tropescan evaluate` measures it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import EVIL, PLAIN, ROOT, sample_documents, sample_labels, write_shard
from tropescan.corpus import source_key
from tropescan.detector import OUTPUTS
from tropescan.evaluation import SLACK, best_threshold
from tropescan.fits import Logits
from tropescan.training import calibrate, cascade

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labels file from the sample corpus: ten sources, every class there."""
    texts = {d["id"]: d["text"][:400] for d in sample_documents()}
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    rows = list(sample_labels().values())[::6]
    with open(path, "w") as file:
        for i, row in enumerate(rows):
            keys = ("id", "intensity", "facets", "frame", "admirable", "readings")
            file.write(
                json.dumps(
                    {k: row[k] for k in keys}
                    | {"text": texts[row["id"]], "source": f"s{i % 10}", "register": row["shard"]}
                )
                + "\n"
            )
    return path


def cut_off(command: list[str], folder: Path, tmp: Path) -> list[Path]:
    """Kills a training, whole, as soon as one of its encoders is there; what it left."""
    tmp.mkdir()
    with subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env=os.environ | {"TMPDIR": str(tmp)}, start_new_session=True
    ) as run:
        while run.poll() is None and not list(folder.glob(".fits-*/encoded-*.safetensors")):
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
    assert not (folder / "manifest.json").exists()
    return sorted(folder.glob(".fits-*/*.safetensors"))


def test_train_twice_cut_off_once_and_evaluate(labels: Path, tmp_path: Path, tropescan: Run) -> None:
    reports, said = [], []
    (tmp_path / "plain").mkdir()
    write_shard(tmp_path / "plain" / "a.parquet", [f"{PLAIN} And {n} more." for n in range(20)])
    scenes = tmp_path / "scenes.jsonl"
    scenes.write_text(
        "".join((ROOT / "corpora" / "written" / "pairs" / "held.jsonl").read_text().splitlines(True)[:18])
    )
    options = ["--labels", str(labels), "--refused", str(tmp_path / "plain"), "--name", "mine", "--json"]
    options += ["--pairs", str(scenes), "--most", "3", "--unlabelled"]
    for folder in ("rich", "richer"):
        (tmp_path / folder).mkdir()
        write_shard(
            tmp_path / folder / "a.parquet", [f"{EVIL} The {folder} ship was never seen again, {n}." for n in range(5)]
        )
        options.append(str(tmp_path / folder))
    command = [sys.executable, "-m", "tropescan", "train", *options, "--out", str(tmp_path / "two")]
    left = cut_off(command, tmp_path / "two", tmp_path / "tmp")
    encoders, fast = (sum(path.name.startswith(kind) for path in left) for kind in ("encoded-", "fast-"))
    assert encoders >= 1 and fast < 4
    for name in ("one", "two"):
        done = tropescan("train", *options, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
        said.append(done.stderr)
        assert "refused by the gate, taken as not positive: 20 passages" in done.stderr
        assert "unlabelled, for the fast tier to learn from the encoder: 6 passages" in done.stderr
        assert "variants of scenes, to tell apart: 18 of 18 passages" in done.stderr
    assert f"{encoders} of 4 encoders and {fast} of 4 fast tiers are there from a run that was cut off" in said[1]
    assert "cut off" not in said[0] and "the model itself: holding the variants of 3 scenes apart" in said[0]
    assert reports[0] == reports[1] and not list(tmp_path.glob("*/.fits-*"))
    for file in (
        "config.json",
        "fast.safetensors",
        "encoder.safetensors",
        "thresholds.json",
        "README.md",
        "out-of-source.jsonl",
        "manifest.json",
    ):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    taught = json.loads((tmp_path / "one" / "config.json").read_text())["training_sources"]
    assert source_key("a.parquet") in taught and len(taught) == len(
        set(taught)
    )  # the refused and the unlabelled ones, too
    measured = tropescan("evaluate", tmp_path / "one", "--labels", labels, "--json")
    assert measured.returncode == 0, measured.stderr
    full = json.loads(measured.stdout)["full"]
    assert full["passages"] == reports[0]["full"]["passages"] and 0.2 < full["average_precision"][0] <= 1
    shown = tropescan("evaluate", tmp_path / "one", "--labels", labels, "--depth", "fast").stdout
    assert "average precision" in shown and "are measured by models that saw none of their source" in shown


def test_a_worker_that_is_killed_ends_the_training_in_one_line(labels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tropescan", "train", "--labels", str(labels), "--out", str(tmp_path / "model")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr
        for line in run.stderr:
            if "tuning the encoder on" in line:
                break
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        # the first child of a pool that spawns keeps track of shared memory
        workers = [int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
        os.kill(workers[0], signal.SIGKILL)
        rest = run.stderr.read()
    assert run.returncode == 2, rest
    assert rest.splitlines()[-1].startswith("tropescan: a process that tuned the encoder was killed"), rest
    assert "Traceback" not in rest


def test_calibration_where_the_fast_tier_tells_all_apart() -> None:
    positive = np.arange(60) % 2
    logits = np.random.default_rng(0).normal(6.0 * positive[:, None] - 3, 0.1, (60, len(OUTPUTS)))
    calibration, floors = calibrate(Logits(logits, logits), positive, np.ones(60, bool))
    assert floors["full"] == 0.0
    score = calibration["full"].score(logits, logits)
    assert score[positive == 1].min() > 0.9 > 0.1 > score[positive == 0].max()


def test_what_cannot_be_trained_on_is_told_before_the_work(tmp_path: Path, tropescan: Run) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [
        {
            "id": f"{i}",
            "text": f"{EVIL if i % 2 else PLAIN} {i}",
            "intensity": 4 * (i % 2),
            "facets": [],
            "frame": "fiction",
        }
        | {"admirable": 0, "source": f"s{i}"}
        for i in range(12)
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = tropescan("train", "--labels", labels, "--out", tmp_path / "model")
    assert done.returncode == 13 and "pass the gate" in done.stderr and "Traceback" not in done.stderr
    gate = tmp_path / "gate.txt"
    gate.write_bytes(b"[strong]\nrob\xf4ts\n")
    done = tropescan("train", "--labels", labels, "--gate", gate, "--out", tmp_path / "model")
    assert "no UTF-8" in done.stderr and len(done.stderr.splitlines()) == 1 and done.returncode == 30


def test_calibration_rests_on_the_passages_that_reach_the_tier() -> None:
    random = np.random.default_rng(0)
    positive = (random.random(400) < 0.3).astype(np.int64)
    fast, encoder = (random.normal(positive[:, None] * 1.5, 1.0, (400, len(OUTPUTS))) for _ in range(2))
    passed = random.random(400) < 0.8
    calibration, floors = calibrate(Logits(fast, encoder), positive, passed)
    score = calibration["fast"].score(fast)
    refused = ~passed | (score < floors["full"])
    assert refused.sum() > (~passed).sum()
    wild = np.where(refused[:, None], 9.0, encoder)
    assert calibrate(Logits(np.where(passed[:, None], fast, -9.0), wild), positive, passed) == (calibration, floors)
    mean = calibration["full"].score(fast, encoder)[~refused].mean()
    assert abs(mean - positive[~refused].mean()) < 1e-3
    found = cascade(Logits(fast, encoder), calibration, floors, passed)
    flagged = found["full"] >= best_threshold(positive, found["full"], SLACK)
    assert (found["lean"][flagged] == found["full"][flagged]).mean() == pytest.approx(0.98, abs=0.01)
    assert set(found["lean"]) <= {0.0, *found["full"]} and (found["lean"] > 0).sum() < (found["full"] > 0).sum()
