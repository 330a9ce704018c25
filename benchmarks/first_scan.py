"""A scan of real text with its report: every document accounted for, speed, prevalence, and flagged passages read and judged.

    python benchmarks/first_scan.py draw PATH --db web.duckdb > passages.jsonl
    python benchmarks/first_scan.py report PATH --db web.duckdb --judged corpora/public/first-scan.jsonl --report reports/first-scan.md

`draw` scans, draws 20 flagged documents by hash, and prints the texts of their strongest passages for a reader, never their scores. The
reader's file holds pointers and labels, never text: shard, row, start_char, end_char, sha256 of the text, intensity and a few words why.
`report` scans once more at both depths into new files, checks the judged pointers against what is drawn now, and writes the figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from tropescan import __version__, shards
from tropescan.prevalence import measure, wilson
from tropescan.report import short_names
from tropescan.store import Store

N = 20


def scanned(path: str, db: Path, depth: str) -> tuple[dict[str, object], float]:
    """Scans in a process of its own; its summary and its wall time from start to end."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "tropescan", "scan", path, "--db", str(db), "--depth", depth, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), time.perf_counter() - begun


def flagged(store: Store) -> list[dict[str, object]]:
    """The strongest passages of N flagged documents, drawn by hash: the same whoever asks."""
    return store.rows(
        "SELECT x.path, x.bytes, x.tag, p.row, p.start_char, p.end_char, p.score FROM passages p JOIN flagged f USING (shard, model, row) "
        "JOIN files x USING (shard, model) "
        "WHERE p.audited IS NULL AND p.score = f.score QUALIFY row_number() OVER (PARTITION BY p.shard, p.row ORDER BY p.start_char) = 1 "
        f"ORDER BY md5(f.id || p.row) LIMIT {N}"
    )


def draw(path: str, db: Path) -> None:
    """Prints the drawn passages as JSON Lines, in an order that says nothing about their scores."""
    scanned(path, db, "full")
    for r in flagged(Store(db)):
        file = shards.File(str(r["path"]), int(str(r["bytes"])), str(r["tag"]))
        text = shards.rows(file, shards.Columns(), {int(str(r["row"]))})[int(str(r["row"]))][
            int(str(r["start_char"])) : int(str(r["end_char"]))
        ]
        pointer = {
            "shard": Path(str(r["path"])).name,
            "row": r["row"],
            "start_char": r["start_char"],
            "end_char": r["end_char"],
        }
        print(
            json.dumps(
                pointer | {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}, ensure_ascii=False
            )
        )


def report(path: str, db: Path, judged: Path, out: Path) -> None:
    """Scans afresh, checks the judged pointers against what is drawn now, and writes the report."""
    command = f"python benchmarks/first_scan.py report {path} --db {db} --judged {judged} --report {out}"
    lines = ["# First scan of real text", ""]
    cores = len(os.sched_getaffinity(0))
    lines += [
        f"`{command}`, tropescan {__version__}, {cores} cores of {platform.machine()}, Python {platform.python_version()}.",
        "",
    ]
    rows = sum(pq.ParquetFile(f.path).metadata.num_rows for f in shards.find([path]))
    size = sum(
        len(t.as_py().encode()) for f in shards.find([path]) for t in pq.read_table(f.path, columns=["text"])["text"]
    )
    lines += [
        f"{len(shards.find([path]))} shards, {rows:,} rows, {size / 1e6:.1f} MB of text.",
        "",
        "| depth | workers | wall | MB/s | documents in the database | passages the encoder saw |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for depth in ("fast", "full"):
            target = db if depth == "full" else Path(folder) / "fast.duckdb"
            target.unlink(missing_ok=True)
            _, seconds = scanned(path, target, depth)
            totals = Store(target).rows(
                "SELECT sum(documents)::BIGINT AS n, sum(encoded_passages)::BIGINT AS e FROM shards WHERE status = 'done'"
            )[0]
            assert totals["n"] == rows, "a document is not accounted for"
            lines.append(
                f"| {depth} | {cores} | {seconds:.1f} s | {size / 1e6 / seconds:.1f} | {totals['n']:,} of {rows:,} | {totals['e']:,} |"
            )
    store = Store(db)
    found = measure(store)
    names = short_names([r.path or "" for r in found.shards])
    lines += ["", f"Model {found.model}, default threshold {found.threshold:g}:", ""]
    lines += [
        "| shard | documents | through gate | flagged | prevalence | 95 % interval | expected |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in [*found.shards, found.total]:
        interval = "-" if r.low is None or r.high is None else f"{r.low:.3%} to {r.high:.3%}"
        counts = f"{r.documents:,} | {r.gated:,} | {r.flagged:,}"
        lines.append(
            f"| {names.get(r.path or '', 'all')} | {counts} | {r.prevalence or 0:.3%} | {interval} | {r.expected or 0:.3%} |"
        )
    lines += ["", *judgement(store, judged), ""]
    out.write_text("\n".join(lines))
    print("\n".join(lines))


def judgement(store: Store, judged: Path) -> list[str]:
    """The share of the drawn passages that the reader put at intensity 3 or 4."""
    labels = {
        (r["shard"], r["row"], r["start_char"], r["end_char"]): r
        for r in map(json.loads, judged.read_text().splitlines())
    }
    drawn = [(Path(str(r["path"])).name, r["row"], r["start_char"], r["end_char"]) for r in flagged(store)]
    read = [labels[d] for d in drawn if d in labels]
    if len(read) < len(drawn):
        return [f"Only {len(read)} of the {len(drawn)} drawn passages are judged: draw and read again."]
    right = sum(r["intensity"] >= 3 for r in read)
    low, high = wilson(right, len(read))
    by = ", ".join(f"{sum(r['intensity'] == i for r in read)} at {i}" for i in range(5))
    return [
        f"{len(read)} flagged documents drawn by hash, their strongest passages read whole and judged by one reader under the codebook ({judged}): "
        f"**{right} of {len(read)} are right** (intensity 3 or 4; {right / len(read):.0%}, 95 % interval {low:.0%} to {high:.0%}). Intensities: {by}."
    ]


def main() -> None:
    """Parses and runs."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("draw", "report"))
    options.add_argument("path")
    options.add_argument("--db", type=Path, required=True)
    options.add_argument("--judged", type=Path)
    options.add_argument("--report", type=Path)
    given = options.parse_args()
    if given.what == "draw":
        draw(given.path, given.db)
    else:
        report(given.path, given.db, given.judged, given.report)


if __name__ == "__main__":
    main()
