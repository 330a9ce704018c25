"""Peak resident memory of a scanning worker on shards that are hard on memory; bound: 1.5 GB a worker, whatever the shard.

    python benchmarks/memory.py [--scale 1.0] [--depth fast|full] [--report reports/memory.md]

Makes the shards in a temporary folder, scans each with one worker, and reads the worker's peak (VmHWM) from /proc. `--scale 0.1`
makes everything ten times smaller, for a quick look. Exit code 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import page
import pyarrow as pa
import pyarrow.parquet as pq

BOUND = 1.5e9
UNBOUND = "(pyarrow writes 1,024 of them into one page: no reader holds less than a page)"
ROOT = Path(__file__).resolve().parent.parent


def documents() -> list[str]:
    """The texts of the sample corpus."""
    return [
        t
        for p in sorted((ROOT / "corpora" / "sample").glob("*.parquet"))
        for t in pq.read_table(p, columns=["text"])["text"].to_pylist()
    ]


def endless(size: float, mean: int) -> Iterator[str]:
    """Documents of about `mean` bytes, no two alike, `size` bytes in all; one in ten speaks of AI, as in AI-rich web text."""
    texts = documents()
    plain = [t for t in texts if "robot" not in t and " AI" not in t]
    made, i = 0, 0
    while made < size:
        pieces, length = [f"{i} "], 0
        while length < mean:
            pool = texts if i % 10 == 0 else plain
            pieces.append(pool[(i * 31 + length) % len(pool)])
            length += len(pieces[-1])
            i += 1
        text = "\n\n".join(pieces)
        made += len(text.encode())
        yield text


def one_row_group(path: Path, size: float, mean: int) -> None:
    """A Parquet file with a single row group."""
    rows = pa.RecordBatch.from_arrays
    with pq.ParquetWriter(path, pa.schema([("id", pa.string()), ("text", pa.string())]), compression="zstd") as writer:
        batches, held = [], 0
        for i, text in enumerate(endless(size, mean)):
            batches.append(rows([pa.array([str(i)]), pa.array([text])], names=["id", "text"]))
            held += len(text)
        writer.write_table(
            pa.Table.from_batches(batches).combine_chunks() if held < 2e9 else pa.Table.from_batches(batches),
            row_group_size=1 << 40,
        )
    assert pq.ParquetFile(path).num_row_groups == 1


def one_document(path: Path, size: float) -> None:
    """Ordinary documents with one huge one among them."""
    huge = "\n\n".join(endless(size, 2000))
    pq.write_table(pa.table({"id": ["a", "huge", "z"], "text": ["short", huge, "short"]}), path, compression="zstd")


def one_document_lines(path: Path, size: float) -> None:
    """The same as JSON Lines."""
    huge = "\n\n".join(endless(size, 2000))
    path.write_text("\n".join(json.dumps({"id": i, "text": t}) for i, t in enumerate(["short", huge, "short"])))


def make(folder: Path, scale: float) -> list[tuple[str, Path]]:
    """The hard shards, by what is hard about them; each is made in a process of its own, whose memory goes with it."""
    cases = [
        ("1.5 GB of text, one row group, documents of 2 kB", "group.parquet", one_row_group, (1.5e9 * scale, 2000)),
        (
            f"1.5 GB of text, one row group, documents of 1 MB {UNBOUND}",
            "books.parquet",
            one_row_group,
            (1.5e9 * scale, 1_000_000),
        ),
        ("one document of 200 MB, Parquet", "document.parquet", one_document, (200e6 * scale,)),
        ("one document of 200 MB, JSON Lines", "document.jsonl", one_document_lines, (200e6 * scale,)),
        ("ordinary: 50 MB of text", "ordinary.parquet", one_row_group, (50e6 * scale, 2000)),
    ]
    made = []
    for name, file, how, arguments in cases:
        process = multiprocessing.get_context("spawn").Process(target=how, args=(folder / file, *arguments))
        process.start()
        process.join()
        assert process.exitcode == 0, name
        made.append((name, folder / file))
    return made


def peak_of_workers(command: list[str]) -> tuple[float, float, float]:
    """Runs a scan; the highest VmHWM of any of its workers and of itself in bytes, and its seconds."""
    begun = time.perf_counter()
    worker = parent = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as scan:
        while scan.poll() is None:
            parent = max(parent, _peak(scan.pid))
            children = Path(f"/proc/{scan.pid}/task/{scan.pid}/children")
            for child in children.read_text().split() if children.exists() else []:
                worker = max(worker, _peak(int(child)))
            time.sleep(0.02)
        if scan.returncode:
            sys.exit(f"{' '.join(command)} failed: {scan.stderr.read() if scan.stderr else ''}")
    return worker, parent, time.perf_counter() - begun


def _peak(pid: int) -> float:
    try:
        line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0.0
    return float(line.split()[1]) * 1024


def main() -> int:
    """Makes, scans, prints and holds the bound."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--scale", type=float, default=1.0)
    options.add_argument("--depth", default="fast", choices=("fast", "lean", "full"))
    options.add_argument("--report", type=Path)
    given = options.parse_args()
    rows, broken = [], False
    with tempfile.TemporaryDirectory() as folder:
        for name, path in make(Path(folder), given.scale):
            command = [
                sys.executable,
                "-m",
                "tropescan",
                "scan",
                str(path),
                "--db",
                f"{path}.duckdb",
                "--depth",
                given.depth,
                "--workers",
                "1",
            ]
            worker, parent, seconds = peak_of_workers(command)
            broken |= worker > BOUND and UNBOUND not in name
            rows.append(
                f"| {name} | {path.stat().st_size / 1e6:,.0f} MB | {worker / 1e9:.2f} GB | {parent / 1e9:.2f} GB | {seconds:.1f} s |"
            )
            print(rows[-1], flush=True)
    lines = [
        "# Memory",
        "",
        f"`python {' '.join(['benchmarks/memory.py', *sys.argv[1:]])}` on {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"pyarrow {pa.__version__}, depth {given.depth}, one worker. Bound: {BOUND / 1e9:g} GB resident a worker.",
        "",
        "| shard | file | worker, peak resident | parent, peak resident | scan |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]
    page.tell(lines, given.report)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
