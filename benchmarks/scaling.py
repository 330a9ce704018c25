"""Do time per GB and memory stay flat as a corpus grows, and what does a second worker bring?

    python benchmarks/scaling.py [--sizes 0.25 0.5 1 2 4] [--work DIR] [--report reports/speed.md]

Scans the first 0.25, 0.5, ... GB of the corpus that benchmarks/scan.py uses (the same shards where --work is the same), with one worker on one core and
with two on two, in interleaved rounds, whole processes with their commits to DuckDB. Peaks are the highest VmHWM of a worker and of the
parent; looking at them every 20 ms costs the scan next to nothing.
"""

from __future__ import annotations

import argparse
import glob
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import corpus
from memory import BOUND, peak_of_workers
from page import command, figure, machine, put, table, versions
from timing import ALL, median, pinned, spread


class Scan(NamedTuple):
    """One scan: GB of text, seconds, highest resident bytes of a worker and of the parent, bytes of the database."""

    gb: float
    seconds: float
    worker: float
    parent: float
    database: int


def scan(parts: list[corpus.Part], depth: str, workers: int, work: Path, options: list[str]) -> Scan:
    """Scans into a fresh database with `workers` processes on as many cores."""
    out = tempfile.mkdtemp(dir=work)
    db = Path(out) / "scan.duckdb"
    told = [sys.executable, "-m", "tropescan", "scan", *[p.path for p in parts], "--db", str(db), "--depth", depth]
    try:
        with pinned(workers):
            worker, parent, seconds = peak_of_workers([*told, "--workers", str(workers), "--json", *options])
        size = sum(os.path.getsize(f) for f in glob.glob(f"{db}*"))
    finally:
        shutil.rmtree(out)
    return Scan(sum(p.bytes for p in parts) / 1e9, seconds, worker, parent, size)


def measured(given: argparse.Namespace, work: Path) -> list[str]:
    """All sizes, all rounds; gives the report's lines."""
    state, sizes = machine(), sorted(given.sizes)
    # the same shards for every size: the smallest has two, one for each worker
    shard = int(min(corpus.SHARD, sizes[0] * 1e9 / 2))
    made = corpus.made_apart(given.source, work, sizes[-1], shard)
    for part in made.shards:
        Path(part.path).read_bytes()
    placements = [1, 2] if len(ALL) > 1 else [1]
    found: dict[tuple[float, int], list[Scan]] = {(gb, workers): [] for gb in sizes for workers in placements}
    for i in range(given.repeat):
        for gb in sizes:
            parts = made.shards[: max(1, round(gb * 1e9 / shard))]
            for workers in placements:
                one = scan(parts, given.depth, workers, work, shlex.split(given.scan_options))
                found[gb, workers].append(one)
                print(
                    f"round {i + 1}, {one.gb:.2f} GB, {workers} workers: {one.seconds:.2f} s",
                    file=sys.stderr,
                    flush=True,
                )
    lines = [
        f"`{command()}`",
        "",
        f"{state} {versions()}",
        "",
        f"Depth {given.depth}; medians of {given.repeat} interleaved rounds.",
        "",
    ]
    lines += [*table(_HEADER, [_row(found, gb, placements) for gb in sizes]), "", *verdict(found, sizes)]
    if given.report:
        put(given.report, "Scaling", lines)
    return lines


_HEADER = [
    "GB",
    "one worker, s (range)",
    "s a GB",
    "MB/s",
    "two workers, s",
    "two over one",
    "worker, peak",
    "parent, peak",
    "database",
]


def _row(found: dict[tuple[float, int], list[Scan]], gb: float, placements: list[int]) -> list[str]:
    one, two = found[gb, 1], found[gb, 2] if 2 in placements else None
    seconds = median([s.seconds for s in one])
    return [
        f"{one[0].gb:.3g}",
        f"{seconds:.2f} ({spread([s.seconds for s in one])})",
        f"{seconds / one[0].gb:.2f}",
        figure(one[0].gb * 1e3 / seconds),
        f"{median([s.seconds for s in two]):.2f}" if two else "-",
        f"{median([a.seconds / b.seconds for a, b in zip(one, two, strict=True)]):.2f}" if two else "-",
        f"{max(s.worker for s in [*one, *(two or [])]) / 1e9:.3f} GB",
        f"{max(s.parent for s in [*one, *(two or [])]) / 1e9:.3f} GB",
        f"{one[0].database / 1e6:.1f} MB",
    ]


def verdict(found: dict[tuple[float, int], list[Scan]], sizes: list[float]) -> list[str]:
    """From the smallest corpus to the largest: the start set apart, seconds for each further GB, and growth of memory."""
    first, last = found[sizes[0], 1], found[sizes[-1], 1]
    grown = last[0].gb / first[0].gb
    slope = (
        median([(b.seconds - a.seconds) / (b.gb - a.gb) for a, b in zip(first, last, strict=True)])
        if grown > 1
        else None
    )
    peaks = [max(s.worker for s in runs) for runs in found.values()]
    parents = max(s.parent for s in last) / max(s.parent for s in first)
    per_gb = [median([s.seconds for s in found[gb, 1]]) / found[gb, 1][0].gb for gb in sizes]
    held = "within" if max(peaks) < BOUND else "**over**"
    return [
        f"A corpus {grown:.0f} times larger takes {median([s.seconds for s in last]) / median([s.seconds for s in first]):.1f} times the time"
        + (
            f" ({slope:.2f} s for each further GB, start aside; s a GB from {min(per_gb):.2f} to {max(per_gb):.2f})."
            if slope is not None
            else "."
        ),
        f"A worker's peak is {min(peaks) / 1e9:.3f} to {max(peaks) / 1e9:.3f} GB over all sizes, {held} the bound of {BOUND / 1e9:g} GB; "
        f"the parent's grows {parents:.2f} times.",
    ]


def main() -> None:
    """Parses, measures, prints."""
    options = corpus.options(__doc__)
    options.add_argument("--sizes", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0, 4.0], help="GB of text")
    options.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    options.add_argument("--depth", choices=("fast", "lean", "full"), default="fast")
    options.add_argument("--scan-options", default="", help="further options of every scan, as one string")
    options.add_argument("--report", type=Path, help="the Markdown file whose section to write")
    given = options.parse_args()
    with corpus.room(given.work) as work:
        print("\n".join(measured(given, work)))


if __name__ == "__main__":
    main()
