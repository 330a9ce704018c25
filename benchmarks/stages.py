"""Where a scan's time goes, stage by stage, in one process on one core: what stands between a scan and the read limit.

    python benchmarks/stages.py [--depth fast] [--gb 0.5] [--work DIR] [--report reports/speed.md]

Scans shards of the corpus that benchmarks/scan.py uses with the code that a worker runs, less its process and its commits, with a clock round each
stage; a stage's time is without that of stages inside it. The first shard, which brings in the compiled loops, is not counted. A clock is read some
twenty times a batch of 2,000 documents. For comparison the text column alone is read in the same run, by benchmarks/limits.py.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus
from page import command, machine, put, table, versions
from timing import pinned, run

import tropescan.scanner.scan as scanning
from tropescan import kernels, parts
from tropescan.scanner import Scanner
from tropescan.shards import Columns, find, plan

HERE = Path(__file__).resolve().parent


class Clock:
    """Seconds by stage; what is inside another stage is taken out of that one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def enter(self, stage: str) -> None:
        self._turn()
        self._open.append(stage)

    def leave(self) -> None:
        self._turn()
        self._open.pop()

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time put down to the stage."""

        @functools.wraps(function)
        def timed(*given: Any, **named: Any) -> Any:
            self.enter(stage)
            try:
                return function(*given, **named)
            finally:
                self.leave()

        return timed

    def through(self, stage: str, found: Iterator[Any]) -> Iterator[Any]:
        """The same items, the time to make each put down to the stage."""
        while True:
            self.enter(stage)
            try:
                item = next(found)
            except StopIteration:
                return
            finally:
                self.leave()
            yield item


def watch(clock: Clock, scanner: Scanner) -> None:
    """Puts the clock round the stages of the scanner, whose compiled loops are in."""
    tier, hits, reading = scanner._fast_tier, scanner.gate.hits, parts.read
    parts.read = lambda *given: clock.through("reading text, ids and URLs", reading(*given))
    scanner.gate.hits = lambda *given: clock.through("gate: strong and weak terms", hits(*given))  # type: ignore[method-assign]
    whole = [(kernels, name, "cuts and characters") for name in ("cuts", "holding", "lengths", "characters")]
    for owner, name, stage in (
        *whole,
        (scanner, "scan", "scanner, all else"),
        (scanner, "_encode", "encoder"),
        (scanner.gate, "passes", "gate: trope terms beside weak ones"),
        (scanning, "texts", "UTF-8 check"),
        (scanning, "assemble", "rows of scores"),
        (tier, "logits", "fast tier"),
    ):
        setattr(owner, name, clock.around(stage, getattr(owner, name)))


def scanned(scanner: Scanner, shards: list[corpus.Part]) -> dict[str, int]:
    """Scans the shards as a worker does, and gives what was counted."""
    counted: dict[str, int] = defaultdict(int)
    for file in find([part.path for part in shards]):
        for unit in plan(file, Columns()).units:
            part = parts.scan_unit(scanner, file, Columns(), unit)
            for name, value in part.counters.items():
                counted[name] += value
    return counted


def measured(given: argparse.Namespace, work: Path) -> list[str]:
    """Scans, and gives the report's lines."""
    state = machine()
    made = corpus.made_apart(given.source, work, given.gb)
    shards = made.shards[1:] or made.shards
    megabytes = sum(p.bytes for p in shards) / 1e6
    for part in made.shards:
        Path(part.path).read_bytes()
    least = limit(shards)
    with pinned(1):
        scanner, clock = Scanner(depth=given.depth, threads=1), Clock()
        scanned(scanner, made.shards[:1])
        watch(clock, scanner)
        clock.enter("rows of the database")
        counted = scanned(scanner, shards)
        clock.leave()
    total, seconds = sum(clock.seconds.values()), sorted(clock.seconds.items(), key=lambda kv: -kv[1])
    told = [(name, value) for name, value in seconds if value] + [
        ("**all**", total),
        ("the text column alone: the read limit", least),
    ]
    rows = [[name, f"{1e3 * s / megabytes:.3f}", f"{s / total:.1%}", f"{s / least:.2f}"] for name, s in told]
    return [
        f"`{command()}`",
        "",
        f"{state} {versions()}",
        "",
        f"Depth {given.depth}, {megabytes:,.0f} MB of text on one core, in one process, without start and commits. "
        f"Of a MB {counted['candidate_passages'] / megabytes:.1f} passages pass the gate, {counted['encoded_passages'] / megabytes:.1f} reach the encoder.",
        "",
        *table(["stage", "ms a MB", "share", "times the read limit"], rows),
    ]


def limit(shards: list[corpus.Part]) -> float:
    """Seconds to read the text column of the shards alone, in a process of its own."""
    command = [sys.executable, str(HERE / "limits.py"), "read", *[part.path for part in shards]]
    return float(json.loads(run(command, 1).out)["seconds"])


def main() -> None:
    """Parses, measures, prints."""
    options = corpus.options(__doc__)
    options.add_argument("--gb", type=float, default=1.0, help="GB of text, the first shard of which warms up")
    options.add_argument("--depth", choices=("fast", "lean", "full"), default="fast")
    options.add_argument("--report", type=Path, help="the Markdown file whose section to write")
    given = options.parse_args()
    with corpus.room(given.work) as work:
        lines = measured(given, work)
    if given.report:
        put(given.report, f"Stages, depth {given.depth}", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
