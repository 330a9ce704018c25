"""The tables of benchmarks/scan.py: from the runs to Markdown."""

from __future__ import annotations

from collections.abc import Callable

import corpus
from contestants import CONTESTANTS, Field, Measured
from memory import BOUND
from page import figure, table
from timing import ALL, median, spread

Runs = dict[tuple[str, int], list[Measured]]
"""All runs by contestant and cores, in the order of the rounds."""


def ratio(found: Runs, name: str, other: str, cores: int, other_cores: int | None = None) -> float | None:
    """The median over rounds of one contestant's speed over another's; None where one did not run."""
    a, b = found.get((name, cores)), found.get((other, other_cores or cores))
    return median([x.rate / y.rate for x, y in zip(a, b, strict=True)]) if a and b else None


def speeds(field: Field, found: Runs, cores: int) -> list[str]:
    """The table of one number of cores."""
    total = len(field.corpus.shards)
    rows = []
    for one in CONTESTANTS:
        runs = found.get((one.name, cores))
        if not runs:
            continue
        parts = field.share[one.name]
        share = "all" if len(parts) == total and parts[0] in field.corpus.shards else f"{len(parts)} of {total} shards"
        if parts[0] in field.corpus.pieces:
            share = f"{len(parts)} pieces" if one.name != "embed" else f"{runs[0].told['passages']:,} passages"
        limit, fast = ratio(found, one.name, "read", cores), ratio(found, one.name, "fasttext", cores)
        used = [r.bytes / 1e6 / r.processor for r in runs if r.processor]
        rows.append(
            [
                one.title,
                f"{runs[0].bytes / 1e6:,.{0 if runs[0].bytes > 1e7 else 2}f} MB ({share})",
                f"{median([r.seconds for r in runs]):.2f} ({spread([r.seconds for r in runs])})",
                f"**{figure(median([r.rate for r in runs]))}**",
                figure(limit) if limit else "-",
                figure(fast) if fast else "-",
                figure(median(used)) if used else "-",
            ]
        )
    header = [
        "what",
        "measured on",
        "wall s (range)",
        "MB/s",
        "of the read limit",
        "times datatrove + fastText",
        "MB per processor s",
    ]
    return table(header, rows)


def cascade(found: Runs, cores: int) -> list[str]:
    """What the tiers pass on, and K: passages the encoder sees for a MB of text."""
    rows = []
    for depth in ("fast", "lean", "full"):
        runs = found.get((depth, cores))
        if runs:
            told, mb = runs[0].told, runs[0].bytes / 1e6
            counts = [
                f"{told[n]:,}"
                for n in ("documents", "gated_documents", "candidate_passages", "encoded_passages", "flagged")
            ]
            rows.append([depth, *counts, f"{told['encoded_passages'] / mb:.3f}" if depth != "fast" else "-"])
    header = [
        "depth",
        "documents",
        "past the gate",
        "passages to the fast tier",
        "to the encoder",
        "documents flagged",
        "K, a MB",
    ]
    return table(header, rows) if rows else []


def targets(found: Runs, start: dict[str, float], peak: float) -> list[str]:
    """What was to be reached, and whether it was; - where it was not measured."""
    two = 2 if len(ALL) >= 2 else 0
    wanted: list[tuple[str, str, float | None, Callable[[float], bool]]] = [
        ("fast over the read limit, one core", "0.40", ratio(found, "fast", "read", 1), lambda v: v >= 0.4),
        (
            "fast over datatrove + fastText, one core",
            "20 times",
            ratio(found, "fast", "fasttext", 1),
            lambda v: v >= 20,
        ),
        ("full over datatrove + fastText, one core", "3 times", ratio(found, "full", "fasttext", 1), lambda v: v >= 3),
        ("two workers over one, fast", "1.8 times", ratio(found, "fast", "fast", two, 1), lambda v: v >= 1.8),
        ("two workers over one, full", "1.8 times", ratio(found, "full", "full", two, 1), lambda v: v >= 1.8),
        ("resident memory a worker", "under 1.5 GB", peak / 1e9 or None, lambda v: v < BOUND / 1e9),
        ("tropescan --help", "under 0.1 s", start.get("help"), lambda v: v < 0.1),
        ("scan of one small shard, fast", "under 1.5 s", start.get("fast"), lambda v: v < 1.5),
    ]
    rows = [
        [what, least, figure(v) if v else "-", ("yes" if ok(v) else "**no**") if v else "-"]
        for what, least, v, ok in wanted
    ]
    return table(["what", "wanted", "measured", "reached"], rows)


def notes(field: Field, found: Runs, repeat: int) -> list[str]:
    """What the tables rest on."""
    made = field.corpus
    size, rows = sum(s.bytes for s in made.shards) / 1e6, sum(s.rows for s in made.shards)
    lines = [
        f"Corpus: {size:,.0f} MB of text (1 MB = 10^6 bytes of the text column), {rows:,} documents, {len(made.shards)} zstd shards with row groups of "
        f"{corpus.GROUP:,} rows: {made.copies:.2f} copies of the source, order and paragraphs shuffled. Page cache warm. Medians of {repeat} interleaved "
        "rounds; ratios are medians of the rounds' own ratios. tropescan: whole processes with start and commits; the others without imports and "
        f"start. A piece is {made.pieces[0].rows:,} rows."
    ]
    cache = [r.told for (name, _), runs in found.items() if name == "tfidf" for r in runs]
    if cache:
        lines.append(
            f"datasets: building its cache is {median([t['cache_seconds'] / t['seconds'] for t in cache]):.0%} of its time and in it."
        )
    return ["", *lines]
