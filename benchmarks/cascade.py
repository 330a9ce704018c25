"""What the gate and the fast tier lose: documents positive at full depth if every passage is embedded, and how many of them the cascade finds.

    python benchmarks/cascade.py --folders ../shared/data/web ../shared/data/ai [--labels FILE... --texts DIR] [--report reports/speed.md]
                                 [--losses FILE]

From each folder documents are drawn at random (seed 0) until --passages passages are there. Everything: each passage as a document of its own, with an
audit share of 1, so that nothing is refused; a document's score is its highest passage's. Cascade: the documents as they are, without audit.
Both by one Scanner at the model's default threshold for full depth. At depth lean a document's score is that of its highest passage that the fast tier
passes on at that depth. Labelled passages are taken as documents. About 30 ms a passage and core. `--losses` writes the best passages of what the
cascade loses, for reading: texts, which belong to no report.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from page import command, machine, put, table, versions

from tropescan import corpus
from tropescan.passages import cut
from tropescan.prevalence import wilson
from tropescan.scanner import Scanner

BATCH = 64  # documents


@dataclass(frozen=True)
class Judged:
    """A document's passages, its score if all of them are embedded, its scores by the cascade at depths full and lean (-1: refused), which tier
    refused its best passage, and that passage's text."""

    passages: int
    everything: float
    cascade: float
    lean: float
    refused: str
    text: str


def drawn(folder: Path, passages: int) -> list[str]:
    """Documents of a folder in an order of chance, until they hold that many passages."""
    texts = [
        t for f in sorted(folder.glob("*.parquet")) for t in pq.read_table(f, columns=["text"])["text"].to_pylist() if t
    ]
    if not texts:
        sys.exit(f"{folder} holds no .parquet with a column text")
    out, count = [], 0
    for i in np.random.default_rng(0).permutation(len(texts)).tolist():
        if count >= passages:
            break
        out.append(texts[i])
        count += len(cut(texts[i]))
    return out


def batch(texts: list[str]) -> pa.RecordBatch:
    """Texts as documents."""
    return pa.RecordBatch.from_arrays([pa.array(texts, pa.large_string())], names=["text"])


def judge(texts: list[str], model: str, options: dict[str, Any]) -> list[Judged]:
    """Both ways of scoring some documents, in this process."""
    global _SCANNERS
    if _SCANNERS is None:
        _SCANNERS = tuple(Scanner(model, depth="full", audit=audit, threads=1, **options) for audit in (1.0, 0.0))
    every, own = _SCANNERS
    pieces = [[t[a:b] for a, b in cut(t)] for t in texts]
    scored = every.scan(batch([p for some in pieces for p in some]))["hits"].to_pylist()
    found = own.scan(batch(texts)).select(["score", "hits"]).to_pylist()
    floor = own.model.fast_floor("lean")
    out, at = [], 0
    for some, row in zip(pieces, found, strict=True):
        hits = [h | {"at": i} for i, given in enumerate(scored[at : at + len(some)]) for h in given]
        at += len(some)
        lean = max((h["score"] for h in row["hits"] if h["fast_score"] >= floor), default=-1.0)
        # passages below the hit floor are not listed unless audited: those that no tier refused, and are no finds either way
        best: dict[str, Any] = max(hits, key=lambda h: h["score"], default={"score": 0.0, "audited": None, "at": 0})
        score = -1.0 if row["score"] is None else row["score"]
        out.append(Judged(len(some), best["score"], score, lean, best["audited"] or "", some[best["at"]]))
    return out


_SCANNERS: tuple[Scanner, ...] | None = None


def judged(texts: list[str], model: str, workers: int, options: dict[str, Any]) -> Iterator[Judged]:
    """As `judge`, over processes; tells how far it is."""
    some = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    begun = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for i, found in enumerate(pool.imap(partial(judge, model=model, options=options), some), 1):
            yield from found
            print(f"{i} of {len(some)} batches, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)


def row(name: str, found: list[Judged], threshold: float) -> list[str]:
    """One row of the table."""
    positive = [j for j in found if j.everything >= threshold]
    kept = [j for j in positive if j.cascade >= threshold]
    lost = [j for j in positive if j.cascade < threshold]
    low, high = wilson(len(kept), len(positive)) if positive else (0.0, 1.0)
    gate, fast = (sum(j.refused == tier for j in lost) for tier in ("gate", "fast"))
    extra = sum(j.cascade >= threshold > j.everything for j in found)
    counts = [f"{len(found):,}", f"{sum(j.passages for j in found):,}", f"{len(positive):,}", f"{len(kept):,}"]
    share = f"{len(kept) / len(positive):.2%}, {low:.1%} to {high:.1%}" if positive else "-"
    both = sum(j.lean >= threshold for j in kept)
    lean = f"{both:,}, {both / len(positive):.2%}" if positive else "-"
    return [name, *counts, share, f"{gate} / {fast} / {len(lost) - gate - fast}", str(extra), lean]


def main() -> None:
    """Parses, measures, prints."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--folders", type=Path, nargs="*", default=[], help="folders of Parquet shards with a column text"
    )
    options.add_argument("--passages", type=int, default=10_000, help="of each folder (default: 10,000)")
    options.add_argument("--labels", nargs="*", default=[], help="labelled passages, taken as documents")
    options.add_argument(
        "--texts", type=Path, nargs="+", default=[], help="where labels that are pointers find their texts"
    )
    options.add_argument("--model", default="evil-ai")
    options.add_argument("--device", default="cpu")
    options.add_argument(
        "--workers",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )
    options.add_argument("--report", type=Path, help="the Markdown file whose section to write")
    options.add_argument("--losses", type=Path, help="a file of JSON lines for the texts of what is lost")
    given = options.parse_args()
    if not given.folders and not given.labels:
        options.error("nothing to judge: give --folders or --labels")
    state = machine()
    sets = [(str(f), drawn(f, given.passages)) for f in given.folders]
    said: list[str] = []
    if given.labels:
        # every passage as one document: `load` gives those whose text is there, and says what it could not resolve
        sets.append(
            (
                f"labels: {len(given.labels)} files",
                [p.text for p in corpus.load(given.labels, given.texts, said.append)],
            )
        )
    scanner = Scanner(given.model, depth="full")
    rows, every = [], []
    for name, texts in sets:
        found = list(judged(texts, given.model, given.workers, {"device": given.device}))
        rows.append(row(name, found, scanner.threshold))
        every += found
    if len(sets) > 1:
        rows.append(row("all", every, scanner.threshold))
    if given.losses:
        lost = [j for j in every if j.everything >= scanner.threshold > j.cascade]
        given.losses.write_bytes(b"".join(orjson.dumps(vars(j)) + b"\n" for j in lost))
    header = [
        "documents of",
        "documents",
        "passages",
        "positive if all is embedded",
        "found by the cascade",
        "share, 95 % interval (Wilson)",
    ]
    header += ["lost: best passage refused by gate / fast tier / neither", "cascade alone", "found at depth lean"]
    lines = [
        *[
            f"`{command()}`",
            "",
            f"{state} {versions()}",
            "",
            f"Model {scanner.key}, threshold {scanner.threshold:g}. {' '.join(said)}".rstrip(),
            "",
        ],
        *table(header, rows),
        "",
        "Wanted: at least 98 %. Intervals take documents as independent. A document may be lost though its best passage passes, and the cascade may flag "
        "one that the other way does not: passages cut out and scored alone lose the terms that lie across a cut, no more.",
    ]
    print("\n".join(lines))
    if given.report:
        put(given.report, "What the cascade loses", lines)


if __name__ == "__main__":
    main()
