"""What the gate passes: positives of labels files, and the share of a background's characters that reach the fast tier.

    python benchmarks/gate.py MODEL --labels FILE... [--texts DIR] --background DIR [--report reports/gate.md]

`--texts` is where labels that are pointers find their texts (docs/labels.md). A background is a folder of Parquet shards with a column text.
The share is that of the passages that pass, of all characters.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
import page
import pyarrow.parquet as pq

from tropescan import corpus, persistence
from tropescan.evaluation import ratio
from tropescan.passages import cut
from tropescan.training import passing


def share(gate: str, folder: Path) -> list[tuple[str, int, int]]:
    """Shard, characters, and characters of passages that pass."""
    found = []
    for shard in sorted(folder.glob("*.parquet")):
        texts = [t or "" for t in pq.read_table(shard, columns=["text"])["text"].to_pylist()]
        pieces = [t[a:b] for t in texts for a, b in cut(t)]
        passed = sum(len(p) for p, k in zip(pieces, passing(gate, pieces), strict=True) if k)
        found.append((shard.name, sum(map(len, texts)), passed))
    return found


def main() -> None:
    """Parses, measures, prints."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--labels", nargs="+", default=[])
    options.add_argument("--texts", type=Path, nargs="+", default=[])
    options.add_argument("--background", type=Path, required=True)
    options.add_argument("--report", type=Path)
    given = options.parse_args()
    if missing := [p for p in (*given.labels, given.background, *given.texts) if not Path(p).exists()]:
        options.error(f"no such path: {missing[0]}")
    gate = persistence.load(given.model).gate
    said: list[str] = []
    lines = [
        "# The gate",
        "",
        f"`python benchmarks/gate.py {shlex.join(sys.argv[1:])}`",
        "",
        "| labels | positives | pass | share, 95 % interval over sources |",
        "| --- | --- | --- | --- |",
    ]
    for path in given.labels:
        told: list[str] = []
        positive = [p for p in corpus.load([path], given.texts, told.append) if p.positive]
        said += [f"{path}: {line}." for line in told]
        if not positive:
            lines.append(f"| {path} | 0 | - | - |")
            continue
        passed = passing(gate, [p.text for p in positive]).astype(np.int64)
        _, low, high = ratio([p.source for p in positive], passed, np.ones_like(passed))
        k, n = int(passed.sum()), len(positive)
        interval = "-" if np.isnan(low) else f"{low:.1%} to {high:.1%}"  # all resamples agree, or a single source
        lines.append(f"| {path} | {n} | {k} | {k / n:.2%}, {interval} |")
    lines += [
        "",
        *said,
        "The gate's terms were chosen with these labels in view: the figures on them are hopeful (reports/log.md).",
        "",
    ]
    lines += ["| shard | characters | in passages that pass | share |", "| --- | --- | --- | --- |"]
    rows = share(gate, given.background)
    for name, total, passed in [*rows, ("all", sum(r[1] for r in rows), sum(r[2] for r in rows))]:
        lines.append(f"| {name} | {total:,} | {passed:,} | {passed / max(1, total):.2%} |")
    page.tell(lines, given.report)


if __name__ == "__main__":
    main()
