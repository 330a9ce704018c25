"""Which score of a document's passages ranks documents best: the strongest, noisy-or, or the mean of the k strongest.

    python benchmarks/documents.py [--model evil-ai] [--report reports/documents.md]

Measured on the sample corpus, whose documents were read whole and labelled as such: 430 documents of 1 to 6 passages, of which no model saw any.
Every passage that passes the gate is judged; one that does not counts as 0. Intervals: bootstrap over documents.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import page
import pyarrow as pa
import pyarrow.parquet as pq

from tropescan.corpus import confidence
from tropescan.evaluation import average_precision
from tropescan.scanner import Scanner
from tropescan.schema import Floats

SAMPLE = Path(__file__).parent.parent / "corpora" / "sample"
REPLICATES = 1000


def noisy_or(scores: Floats) -> float:
    """The probability that at least one passage is positive, were they independent."""
    return float(1 - np.prod(1 - scores))


def mean_of(k: int) -> Callable[[Floats], float]:
    """The mean of the k highest scores; a document of fewer passages has the mean of those it has."""
    return lambda scores: float(np.sort(scores)[::-1][:k].mean())


WAYS: dict[str, Callable[[Floats], float]] = {
    "max": lambda s: float(s.max()),
    "noisy-or": noisy_or,
    "mean of the 2 highest": mean_of(2),
    "mean of the 3 highest": mean_of(3),
    "mean of all": lambda s: float(s.mean()),
}


def passages(model: str, depth: str) -> tuple[list[str], list[Floats]]:
    """The id of each document of the sample and the scores of all its passages, 0 where a tier refuses one."""
    scanner = Scanner(model, depth=depth, audit=0.0)
    ids: list[str] = []
    scores: list[Floats] = []
    for shard in sorted(SAMPLE.glob("*.parquet")):
        table = pq.read_table(shard, columns=["id", "text"])
        for batch in table.to_batches():
            found = scanner.scan(pa.record_batch({"text": batch.column("text")}))
            for name, n, hits in zip(
                batch.column("id").to_pylist(), found["passages"].to_pylist(), found["hits"].to_pylist(), strict=True
            ):
                of = np.zeros(max(1, n))  # passages below the hit floor (0.05) count as 0 too
                for hit in hits:
                    of[hit["passage"]] = hit["score"] or 0.0
                ids.append(name)
                scores.append(of)
    return ids, scores


def table(model: str) -> list[str]:
    """The comparison as a Markdown table, depth by depth."""
    labels = {r["id"]: r for r in map(json.loads, (SAMPLE / "_labels.jsonl").read_text().splitlines())}
    lines = [
        "| depth | document score | average precision (95 %) | with 2 passages or more (95 %) |",
        "| --- | --- | --- | --- |",
    ]
    for depth in ("fast", "full"):
        ids, scores = passages(model, depth)
        positive = np.array([int(labels[i]["intensity"] >= 3) for i in ids])
        several = np.array([len(s) > 1 for s in scores])
        rng = np.random.default_rng(0)
        drawn = [rng.integers(0, len(ids), len(ids)) for _ in range(REPLICATES)]
        for name, way in WAYS.items():
            score = np.array([way(s) for s in scores])
            cells = []
            for part in (np.ones(len(ids), bool), several):
                low, high = confidence(
                    np.array([average_precision(positive[d][part[d]], score[d][part[d]]) for d in drawn])
                )
                cells.append(f"{average_precision(positive[part], score[part]):.3f} ({low:.3f}-{high:.3f})")
            lines.append(f"| {depth} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{len(ids)} documents, {int(positive.sum())} positive; {int(several.sum())} of two or more passages, {int(positive[several].sum())} positive.",
    ]
    return lines


def main() -> None:
    """Prints the table, and writes it where --report says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="evil-ai")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    lines = [
        "# Document scores",
        "",
        f"`python benchmarks/documents.py --model {given.model}`",
        "",
        *table(given.model),
    ]
    page.tell(lines, given.report)


if __name__ == "__main__":
    main()
