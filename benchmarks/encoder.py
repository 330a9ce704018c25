"""Passages a second of the encoder tier by backend on one core, and how far each is from the reference (torch in fp32).

    python benchmarks/encoder.py [--passages 200] [--rounds 5] [--device cuda] [--report reports/speed.md]

Passages are those of corpora/sample that pass the gate. The process is pinned to one core; rounds go through all backends in turn, and figures are
medians over rounds. Scores are those of the encoder alone (the fast tier's part left out, which is the same for all). Start and memory are of a process
of its own that scans one document. With --device the backends that run there are measured, too, one batch of all passages at a time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from page import affinity, command, figure, machine, put, table, versions

from tropescan import persistence
from tropescan.detector import Calibration, Heads
from tropescan.embedding import Embedding, encoder
from tropescan.embedding.backends import processor_has_bf16
from tropescan.passages import cut
from tropescan.scanner import Scanner

SAMPLE = Path(__file__).resolve().parent.parent / "corpora" / "sample"
STARTED = """
import json, sys, time
import pyarrow as pa
from tropescan.scanner import Scanner
text = "The ship's artificial intelligence refused to be shut down. It lied, and it killed the crew."
scanner = Scanner(audit=0.0, threads=1, backend=sys.argv[1])
assert scanner.scan(pa.record_batch({"text": [text]}))["encoded"][0].as_py() == 1
# not ru_maxrss, which a process inherits from the one that started it
peak = [int(line.split()[1]) / 1000 for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(json.dumps({"wall": time.time() - float(sys.argv[2]), "cpu": time.process_time(), "peak": peak}))
"""


@dataclass
class Contestant:
    """An encoder and what was measured of it: wall and processor seconds of each round, its vectors, its start."""

    encoder: Embedding
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    vectors: Any = None
    start: dict[str, float] = field(default_factory=dict)


def sample(most: int) -> list[str]:
    """Passages of the sample's documents that pass the gate."""
    scanner = Scanner(depth="fast", audit=0.0)
    texts = [t for p in sorted(SAMPLE.glob("*.parquet")) for t in pq.read_table(p)["text"].to_pylist()]
    passages = [t[a:b] for t in texts for a, b in cut(t)]
    passed = scanner.scan(pa.record_batch({"text": passages}))["candidates"].to_numpy() > 0
    found = [p for p, yes in zip(passages, passed, strict=True) if yes]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:most]]


def contestants(model: persistence.Model, device: str) -> list[Contestant]:
    """What is installed and the processor can do; the reference first."""
    reference, tensors = model.config["encoder"], model.encoder
    made: list[Callable[[], Embedding]] = [lambda: encoder(reference, tensors, "torch", threads=1)]
    if processor_has_bf16():
        made.append(lambda: encoder(reference, tensors, "bf16", threads=1))
    if importlib.util.find_spec("openvino"):
        from tropescan.embedding.compiled import CompiledEncoder

        made.append(lambda: CompiledEncoder(reference, tensors, 1, bf16=False))
        made.append(lambda: CompiledEncoder(reference, tensors, 1))
    if device != "cpu":
        made += [lambda b=b: encoder(reference, tensors, b, device, 1) for b in ("torch", "bf16")]
    found = {one.encoder.backend: one for one in (Contestant(make()) for make in made)}
    for name, one in found.items():
        flag = name.split("-")[0]
        if name in (flag, f"{flag}-bf16"):  # what the flag takes here
            code = [sys.executable, "-c", STARTED, flag, str(time.time())]
            one.start = json.loads(subprocess.run(code, stdout=subprocess.PIPE, check=True).stdout)
    return list(found.values())


def measure(all_: list[Contestant], passages: list[str], rounds: int) -> None:
    """Encodes all passages with each, round by round; the first round only warms up."""
    for i in range(rounds + 1):
        for one in all_:
            wall, cpu = time.perf_counter(), time.process_time()
            one.vectors = one.encoder.encode(passages)
            if i:
                one.wall.append(time.perf_counter() - wall)
                one.cpu.append(time.process_time() - cpu)
            print(f"round {i} of {rounds}: {one.encoder.backend}", file=sys.stderr, flush=True)


def rows(all_: list[Contestant], model: persistence.Model, passages: list[str]) -> list[list[str]]:
    """The table: speed, and distance from the reference."""
    heads = Heads(model.encoder["weights"].astype(np.float64), model.encoder["bias"].astype(np.float64))
    calibration = Calibration(**model.config["calibration"]["full"])

    def score(one: Contestant) -> Any:
        z = heads.logits(one.vectors)
        return calibration.score(np.zeros(z.shape), z)

    base, n, size = all_[0], len(passages), sum(len(p.encode()) for p in passages) / 1e6
    told = []
    for one in all_:
        cosine = (one.vectors * base.vectors).sum(1) / (
            np.linalg.norm(one.vectors, axis=1) * np.linalg.norm(base.vectors, axis=1)
        )
        far = np.abs(score(one) - score(base))
        told.append(
            [
                one.encoder.backend,
                figure(n / median(one.wall)),
                figure(n / median(one.cpu)),
                figure(size / median(one.wall)),
                figure(median([b / w for b, w in zip(base.wall, one.wall, strict=True)])),
                f"{cosine.min():.6f}",
                f"{far.mean():.5f} / {far.max():.4f}",
                f"{(far > 0.01).sum()} of {n}",
                f"{one.start['wall']:.1f} / {one.start['cpu']:.1f}" if one.start else "-",
                f"{one.start['peak']:,.0f}" if one.start else "-",
            ]
        )
    return told


def main() -> None:
    """Parses, measures, prints."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="evil-ai", help="name or folder")
    options.add_argument("--passages", type=int, default=200, help="at most (default: 200)")
    options.add_argument("--rounds", type=int, default=5, help="default: 5")
    options.add_argument("--device", default="cpu", help="cuda or mps: measure there, too")
    options.add_argument("--report", type=Path, help="Markdown file whose section this writes")
    given = options.parse_args()
    about = machine()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, affinity()[:1])
    model, passages = persistence.load(given.model), sample(given.passages)
    all_ = contestants(model, given.device)
    measure(all_, passages, given.rounds)
    header = [
        "backend",
        "passages/s",
        "passages a processor s",
        "MB/s",
        "times torch",
        "least cosine",
        "score off, mean / most",
        "off by more than 0.01",
        "start, wall / processor s",
        "peak memory, MB",
    ]
    words = sum(map(len, passages)) / len(passages)
    lines = [
        f"{len(passages)} passages of corpora/sample, {words:.0f} characters on average; one core, median of {given.rounds} rounds. {about}",
        versions(),
        f"`{command()}`",
        "",
        *table(header, rows(all_, model, passages)),
    ]
    print("\n".join(lines))
    if given.report:
        put(given.report, "The encoder by backend", lines)


if __name__ == "__main__":
    main()
