"""Speed and memory of `tropescan filter` and `weights` against a plain pyarrow read-and-rewrite of the same shards on the same cores.

    python benchmarks/selection.py [CORPUS] [--copies 4] [--repeats 3] [--cores 1] [--out reports/selection.md]

CORPUS (default: ../shared/data/web) is copied `--copies` times and scanned at depth fast; then each contender runs in a process of its own on the
given cores, in turn, `--repeats` times, and the medians count. Prints Markdown; exit code 1 where drop or weights run at less than half the speed of
the rewrite. Peak memory is the process's (getrusage), on 1 copy and on all.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import page
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
FLOOR = 0.5
REWRITE = """
import sys, pathlib
import pyarrow.parquet as pq
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.parquet")):
    with pq.ParquetFile(path) as file:
        codec = file.metadata.row_group(0).column(0).compression.lower() if file.num_row_groups else "zstd"
        with pq.ParquetWriter(pathlib.Path(sys.argv[2]) / path.name, file.schema_arrow, compression=codec) as sink:
            for g in range(file.num_row_groups):
                sink.write_table(file.read_row_group(g))
"""
WEIGHT = "CASE WHEN score >= 0.5 THEN 0.1 WHEN admirable >= 0.5 THEN 3 END"


def copied(corpus: Path, into: Path, copies: int) -> None:
    """Copies with a row of metadata of their own, so that no two shards have the same bytes."""
    into.mkdir()
    for path in sorted(corpus.rglob("*.parquet")):
        for n in range(copies):
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow.with_metadata({**(file.schema_arrow.metadata or {}), "copy": str(n)})
                codec = file.metadata.row_group(0).column(0).compression.lower() if file.num_row_groups else "zstd"
                with pq.ParquetWriter(into / f"{path.stem}-{n}.parquet", schema, compression=codec) as sink:
                    for g in range(file.num_row_groups):
                        sink.write_table(file.read_row_group(g).cast(schema))


def timed(command: list[str], cores: set[int]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak resident bytes of one process."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, cores)) as run:
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        sys.exit(f"{' '.join(command)} ended with {run.returncode}")
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def contenders(corpus: Path, db: Path, out: Path, rule: str, workers: int) -> dict[str, list[str]]:
    """Name to command; `out` is made new for each."""
    ours = [sys.executable, "-m", "tropescan"]
    how = ["--db", str(db), "--out", str(out), "--workers", str(workers)]
    return {
        "pyarrow read and rewrite": [sys.executable, "-c", REWRITE, str(corpus), str(out)],
        "filter --mode drop": [*ours, "filter", str(corpus), "--where", rule, *how],
        "filter --mode mask": [*ours, "filter", str(corpus), "--where", rule, "--mode", "mask", *how],
        "filter --mode tag": [*ours, "filter", str(corpus), "--where", rule, "--mode", "tag", *how],
        "filter --mode replace": [*ours, "filter", str(corpus), "--where", rule, "--mode", "replace", *how],
        "weights": [*ours, "weights", str(corpus), "--rule", WEIGHT, *how],
    }


def measure(
    corpus: Path, db: Path, out: Path, rule: str, given: argparse.Namespace
) -> dict[str, tuple[float, float, float]]:
    """Median wall seconds, processor seconds and highest peak by contender, run in turn."""
    cores = set(sorted(os.sched_getaffinity(0))[: given.cores])
    seen: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(given.repeats):
        for name, command in contenders(corpus, db, out, rule, given.cores).items():
            shutil.rmtree(out, ignore_errors=True)
            if command[1] == "-c":
                out.mkdir()
            seen.setdefault(name, []).append(timed(command, cores))
    return {
        name: (statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs), max(r[2] for r in runs))
        for name, runs in seen.items()
    }


def main() -> int:
    """Copies, scans, measures, prints and holds the floor."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "web")
    options.add_argument("--copies", type=int, default=4)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--cores", type=int, default=1)
    options.add_argument("--where", help="default: score >= the model's default threshold")
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    lines = ["# Selection", "", f"`python {' '.join(['benchmarks/selection.py', *sys.argv[1:]])}`", ""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks: dict[str, list[float]] = {}
        for copies in sorted({1, given.copies}):
            corpus, db = folder / f"in{copies}", folder / f"{copies}.duckdb"
            copied(given.corpus, corpus, copies)
            scan = [
                sys.executable,
                "-m",
                "tropescan",
                "scan",
                str(corpus),
                "--db",
                str(db),
                "--depth",
                "fast",
                "--json",
            ]
            subprocess.run(scan, check=True, stdout=subprocess.DEVNULL)
            with duckdb.connect(str(db), read_only=True) as c:
                (level,) = c.execute("SELECT threshold FROM models ORDER BY scanned_at DESC").fetchone() or (0.5,)
                rule = given.where or f"score >= {level:g}"
                flagged, documents, characters = c.execute(
                    "SELECT (SELECT count(*) FROM flagged), sum(documents), sum(characters) FROM shards"
                ).fetchone() or (0, 0, 0)
            found = measure(corpus, db, folder / "out", rule, given)
            for contender, (_, _, peak) in found.items():
                peaks.setdefault(contender, []).append(peak)
        size = sum(p.stat().st_size for p in corpus.iterdir())
        base = found["pyarrow read and rewrite"][0]
        lines += [
            f"{documents:,} documents, {characters / 1e6:,.0f} M characters, {size / 1e6:,.0f} MB of Parquet, {flagged:,} documents flagged by `{rule}`; "
            f"{given.cores} core(s), median of {given.repeats}. {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
            f"pyarrow {pa.__version__}, DuckDB {duckdb.__version__}. Whole processes, start included.",
            "",
            "| | seconds | processor seconds | M characters/s | speed over the rewrite | peak, 1 copy | peak, all copies |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        slow = []
        for contender, (wall, cpu, _) in found.items():
            ratio = base / wall
            lines.append(
                f"| {contender} | {wall:.2f} | {cpu:.2f} | {characters / 1e6 / wall:,.0f} | {ratio:.2f} | "
                f"{peaks[contender][0] / 1e6:,.0f} MB | {peaks[contender][-1] / 1e6:,.0f} MB |"
            )
            if contender in ("filter --mode drop", "weights") and ratio < FLOOR:
                slow.append(f"{contender} runs at {ratio:.2f} of the rewrite, floor {FLOOR}")
    page.tell(lines, given.out)
    for line in slow:
        print(line, file=sys.stderr)
    return int(bool(slow))


if __name__ == "__main__":
    sys.exit(main())
