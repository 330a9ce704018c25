"""The detector at the base rate of real text: prevalence, flagged documents read and judged by register, and what the tiers refuse.

    python benchmarks/base_rate.py draw PATH --db web.duckdb > passages.jsonl
    python benchmarks/base_rate.py report PATH --db web.duckdb --judged corpora/public/base-rate.jsonl --report reports/base-rate.md

`draw` scans at full depth with an audit of 2 %, draws up to 200 flagged documents by hash, and prints the texts of their strongest passages for
readers, never their scores. The readers' file holds pointers and labels, never text: corpus (the folder's name), shard, document (its id), row,
start_char, end_char, sha256 of the text, intensity, and every reading. `report` times a fast scan of its own, and a full one where the database
does not exist yet (else it takes the database as it is, untimed), checks the judged pointers against what is drawn and the texts that are there
now, and writes the figures. Both take the model of the last full scan in the database, and no other.
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
from typing import Any

import numpy as np
import page
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tropescan import __version__, persistence, shards
from tropescan.corpus import source_key
from tropescan.errors import LabelError, StoreError, TropescanError
from tropescan.evaluation.figures import ratio
from tropescan.prevalence import RESAMPLES, measure, wilson
from tropescan.report import short_names
from tropescan.schema import Floats
from tropescan.store import Store

N = 200
AUDIT = 0.02
Pointer = tuple[str, int, int, int]


def scanned(path: str, db: Path, depth: str) -> float:
    """Scans in a process of its own; its wall time from start to end."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "tropescan", "scan", path, "--db", str(db), "--depth", depth]
    subprocess.run([*command, "--audit", str(AUDIT), "--json"], stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - begun


def checked(store: Store, depth: str, rows: int | None = None) -> dict[str, Any]:
    """The model of the last scan of this depth; all its shards are done, with an audit of AUDIT, and hold `rows` documents. Raises StoreError."""
    model = store.model(depth)
    found = store.rows("SELECT path, status, audit, documents FROM shards WHERE model = ?", [model["model"]])
    undone = [r["path"] for r in found if r["status"] != "done"]
    if undone:
        raise StoreError(
            f"{store.path} is not finished ({len(undone)} shards, {undone[0]} first): `draw` goes on with it"
        )
    shares = {r["audit"] for r in found} - {AUDIT}
    if shares:  # null where an ingest brought parts of several shares
        stored = ", ".join("several" if s is None else f"{s:g}" for s in sorted(shares, key=str))
        raise StoreError(
            f"{store.path} was scanned with an audit share of {stored}, this benchmark needs {AUDIT:g}: give a new file to --db"
        )
    held = sum(r["documents"] for r in found)
    if rows is not None and held != rows:
        raise StoreError(
            f"{store.path} holds {held:,} documents, the path {rows:,}: a document is not accounted for, or it is of another path"
        )
    return model


def drawn(store: Store, key: str) -> list[dict[str, Any]]:
    """Pointers to the strongest passages of N flagged documents, drawn by hash (the same whoever asks), with the texts that are there now."""
    found = store.rows(
        "SELECT x.path, x.bytes, x.tag, f.id, p.row, p.start_char, p.end_char FROM passages p JOIN flagged f USING (shard, model, row) "
        "JOIN files x USING (shard, model) "
        "WHERE p.model = ? AND p.audited IS NULL AND p.score = f.score "
        "QUALIFY row_number() OVER (PARTITION BY p.shard, p.row ORDER BY p.start_char) = 1 "
        f"ORDER BY md5(coalesce(f.id, '') || p.row), p.shard, p.row LIMIT {N}",
        [key],
    )
    texts: dict[tuple[str, int], str] = {}
    sources: dict[tuple[str, int], str] = {}
    for file in {shards.File(r["path"], r["bytes"], r["tag"]) for r in found}:
        wanted = {r["row"] for r in found if r["path"] == file.path}
        texts |= {(file.path, row): text for row, text in shards.rows(file, shards.Columns(), wanted).items()}
        named = pq.read_table(file.path, columns=["source"])["source"]
        sources |= {(file.path, row): named[row].as_py() for row in wanted}
    pointers = []
    for r in found:
        text = texts.get((r["path"], r["row"]), "")[r["start_char"] : r["end_char"]]
        there = {"corpus": Path(r["path"]).parent.name, "shard": Path(r["path"]).name, "document": r["id"]}
        span = {name: r[name] for name in ("row", "start_char", "end_char")}
        read = {
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "source": sources[r["path"], r["row"]],
            "text": text,
        }
        pointers.append(there | span | read)
    return pointers


def draw(path: str, db: Path) -> None:
    """Prints the drawn passages as JSON Lines, in an order that says nothing about their scores."""
    scanned(path, db, "full")
    store = Store(db)
    for pointer in drawn(store, checked(store, "full")["model"]):
        print(json.dumps(pointer, ensure_ascii=False))


def report(path: str, db: Path, judged: Path, out: Path) -> None:
    """Scans what is to be timed, checks the judged pointers against what is drawn now, and writes the report."""
    labels = read(judged)
    files = shards.find([path])
    rows = sum(pq.ParquetFile(f.path).metadata.num_rows for f in files)
    if db.is_file():
        checked(Store(db), "full", rows)  # before the fast scan is paid for
    size = sum(
        pc.sum(pc.binary_length(batch["text"])).as_py() or 0
        for f in files
        for batch in pq.ParquetFile(f.path).iter_batches(columns=["text"])
    )
    cores = len(os.sched_getaffinity(0))
    lines = [
        "# The detector at the base rate of real text",
        "",
        f"`python benchmarks/base_rate.py report {path} --db {db} --judged {judged} --report {out}`, tropescan {__version__}, "
        f"{cores} cores of {platform.machine()}, Python {platform.python_version()}.",
        "",
        f"{len(files)} shards, {rows:,} rows, {size / 1e6:.1f} MB of text.",
        "",
        *timings(path, db, rows, size, cores),
        "",
    ]
    store = Store(db)
    model = checked(store, "full", rows)
    lines += [*prevalence(store, model["model"]), "", *refused(store, model), ""]
    now = drawn(store, model["model"])
    lines += judgement(now, labels, judged)
    if all(at(d) in labels for d in now):
        lines += in_sample(now, labels, float(model["threshold"]))
    page.tell(lines, out)


def timings(path: str, db: Path, rows: int, size: int, cores: int) -> list[str]:
    """A fast scan into a fresh database, and a full one into `db` unless it is there: then its times are not known and not made up."""
    lines = [
        "| depth | workers | wall | MB/s | documents in the database | passages the encoder saw |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    before = db.is_file()
    prints = set()
    with tempfile.TemporaryDirectory() as folder:
        for depth, target in (("fast", Path(folder) / "fast.duckdb"), ("full", db)):
            name, timed = f"{depth}, scanned before", "- | - | -"
            if depth == "fast" or not before:
                seconds = scanned(path, target, depth)
                name, timed = depth, f"{cores} | {seconds:.1f} s | {size / 1e6 / seconds:.1f}"
            store = Store(target)
            model = checked(store, depth, rows)
            prints.add(model["fingerprint"])
            seen = store.rows(
                "SELECT coalesce(sum(encoded_passages), 0)::BIGINT AS n FROM shards WHERE model = ?", [model["model"]]
            )[0]["n"]
            lines.append(f"| {name} | {timed} | {rows:,} of {rows:,} | {seen:,} |")
    if len(prints) > 1:
        raise StoreError(f"{db} was scanned with another model than the one shipped now: give a new file to --db")
    return lines


def prevalence(store: Store, key: str) -> list[str]:
    """Prevalence by shard and in all."""
    found = measure(store, key)
    names = short_names([r.path or "" for r in found.shards])
    lines = [
        f"Model {found.model}, default threshold {found.threshold:g}:",
        "",
        "| shard | documents | through gate | flagged | prevalence | 95 % interval | expected |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in [*found.shards, found.total]:
        interval = "-" if r.low is None or r.high is None else f"{r.low:.3%} to {r.high:.3%}"
        counts = f"{r.documents:,} | {r.gated:,} | {r.flagged:,}"
        lines.append(
            f"| {names.get(r.path or '', 'all')} | {counts} | {r.prevalence or 0:.3%} | {interval} | {r.expected or 0:.3%} |"
        )
    return lines


def refused(store: Store, model: dict[str, Any]) -> list[str]:
    """What the gate and the fast tier refuse although its full score is at or above the threshold, estimated from the audited passages."""
    key, threshold = model["model"], model["threshold"]
    names = ("characters", "passages", "candidate_passages", "encoded_passages")
    sums = ", ".join(f"coalesce(sum({n}), 0)::BIGINT AS {n}" for n in names)
    total = store.rows(f"SELECT {sums} FROM shards WHERE model = ?", [key])[0]
    kept = store.rows(
        "SELECT coalesce(sum(end_char - start_char), 0)::BIGINT AS characters, count(*) FILTER (score >= ?) AS found "
        "FROM passages WHERE model = ? AND audited IS NULL",
        [threshold, key],
    )[0]
    audits: dict[str, list[float]] = {"gate": [], "fast": []}
    for r in store.rows(
        "SELECT audited, CASE WHEN score >= ? THEN weight ELSE 0 END AS missed FROM passages WHERE model = ? AND audited IS NOT NULL "
        "ORDER BY shard, row, passage",
        [threshold, key],
    ):
        audits[r["audited"]].append(r["missed"])
    # the encoder sees what the fast tier passes and every audited passage
    passed = total["encoded_passages"] - sum(map(len, audits.values()))
    totals = {
        "gate": total["passages"] - total["candidate_passages"],
        "fast": total["candidate_passages"] - passed,
    }
    return [
        f"The {total['passages']:,} passages: the gate refuses {totals['gate']:,}, the fast tier {totals['fast']:,} of those that pass the gate, "
        f"the encoder scores the other {passed:,} and {kept['found']:,} of these are found, at or above the threshold. Passages stored at or above "
        f"the hit floor hold {kept['characters'] / max(1, total['characters']):.2%} of the characters.",
        "",
        f"Audit: of {AUDIT:.0%} of the documents one passage, if the gate refused it, and {AUDIT:.0%} of the passages that the fast tier refused are "
        "scored by the encoder all the same; each stands for as many as its weight says (gate: passages of its document / audit share; fast: "
        "1 / audit share). Missed: passages refused by the tier whose full score would be at or above the threshold, estimated as the sum of the "
        "weights of the audited ones whose score is; for the gate these include what the fast tier would have refused in turn. Intervals: 95 %, from "
        f"{RESAMPLES:,} bootstrap resamples of the tier's audited passages, seed 0, united with the exact Poisson interval of the flagged ones times "
        "their mean weight (where none is flagged, refused / audited; for the gate roughly, since its weights differ); the passages found are held "
        "fixed, and the detector's own errors are not covered.",
        "",
        "| refused by | passages refused | audited | of these flagged | missed, 95 % interval | missed / (missed + found), 95 % interval |",
        "| --- | --- | --- | --- | --- | --- |",
        missed("the gate", np.array(audits["gate"]), totals["gate"], kept["found"]),
        missed("the fast tier", np.array(audits["fast"]), totals["fast"], kept["found"]),
    ]


def missed(name: str, weights: Floats, total: int, found: int) -> str:
    """A tier's row: `weights` (audited passages,) are what each stands for, 0 where it is below the threshold."""
    hits, n = int(np.count_nonzero(weights)), len(weights)
    lead = f"| {name} | {total:,} | {n:,} | {hits:,}"
    if not n:
        return f"{lead} | {'not known: none audited | not known' if total else '0: none refused | 0'} |"
    estimate, (low, high) = float(weights.sum()), interval(weights, total)
    share = "-"  # nothing missed and nothing found
    if estimate + found:
        share = "{:.1%}, {:.1%} to {:.1%}".format(*(x / (x + found) if x else 0.0 for x in (estimate, low, high)))
    return f"{lead} | {estimate:,.0f}, {low:,.0f} to {high:,.0f} | {share} |"


def interval(weights: Floats, total: int) -> tuple[float, float]:
    """The 95 % percentile interval of their sum over resamples, seed fixed, united with the exact Poisson interval of the count of those above 0: of
    few hits a bootstrap knows too little (with 3.5 to be expected it covers 87 %)."""
    from scipy.stats import chi2

    random, n, hits = np.random.default_rng(0), len(weights), int(np.count_nonzero(weights))
    low, high = np.quantile([weights[random.integers(0, n, n)].sum() for _ in range(RESAMPLES)], [0.025, 0.975])
    each = weights.sum() / hits if hits else total / n
    least, most = chi2.ppf([0.025, 0.975], [2 * hits, 2 * hits + 2]) / 2 if hits else (0.0, chi2.ppf(0.975, 2) / 2)
    return min(float(low), float(least * each)), max(float(high), float(most * each))


def read(judged: Path) -> dict[Pointer, dict[str, Any]]:
    """The readers' lines by what they point to. Raises LabelError."""
    labels = {}
    for number, line in enumerate(judged.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                r = json.loads(line)
                labels[at(r)] = {"intensity": int(r["intensity"]), "sha256": str(r["sha256"])}
            except (ValueError, TypeError, KeyError) as error:
                raise LabelError(
                    f"{judged} line {number} is no judged pointer: {type(error).__name__} {error}"
                ) from None
    return labels


def at(pointer: dict[str, Any]) -> Pointer:
    """What a pointer names within a folder."""
    return pointer["shard"], pointer["row"], pointer["start_char"], pointer["end_char"]


def judgement(now: list[dict[str, Any]], labels: dict[Pointer, dict[str, Any]], judged: Path) -> list[str]:
    """The share of the drawn passages that the readers put at intensity 3 or 4, in all and by register."""
    if not now:
        return ["No document is flagged: there is nothing to read."]
    known = [(d, labels[at(d)]) for d in now if at(d) in labels]
    if len(known) < len(now):
        return [f"Only {len(known)} of the {len(now)} drawn passages are judged: draw and read again."]
    other = [d for d, label in known if d["sha256"] != label["sha256"]]
    if other:
        first = f"{other[0]['shard']} row {other[0]['row']}"
        return [
            f"{len(other)} of the {len(now)} judged pointers name another text now ({first} first): draw and read again."
        ]
    read_as = [(d["shard"].rsplit("-", 1)[0], label["intensity"], d["source"]) for d, label in known]
    by = ", ".join(f"{sum(intensity == i for _, intensity, _ in read_as)} at {i}" for i in range(5))
    lines = [
        f"{len(now)} flagged documents drawn by hash, their strongest passages read whole under the codebook, twice where {judged} has two readings. "
        f"Intensities: {by}.",
        "",
        "| register | sources | read | right (intensity 3 or 4) | share, 95 % interval | the same over sources | right or allusion (2 to 4) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for register in [*sorted({r for r, _, _ in read_as}), "all"]:
        some = [(intensity, source) for r, intensity, source in read_as if register in ("all", r)]
        right, near = sum(i >= 3 for i, _ in some), sum(i >= 2 for i, _ in some)
        low, high = wilson(right, len(some))
        sources = [source for _, source in some]
        _, least, most = ratio(sources, np.array([int(i >= 3) for i, _ in some]), np.ones(len(some), np.int64))
        over = "-" if np.isnan(least) else f"{least:.0%} to {most:.0%}"
        share = f"{right / len(some):.0%}, {low:.0%} to {high:.0%}"
        lines.append(f"| {register} | {len(set(sources))} | {len(some)} | {right} | {share} | {over} | {near} |")
    lines += [
        "",
        "The first interval (Wilson) takes documents as independent, the second resamples whole sources: a single source has none.",
    ]
    return lines


def in_sample(now: list[dict[str, Any]], labels: dict[Pointer, dict[str, Any]], threshold: float) -> list[str]:
    """How many of the drawn passages the shipped model was fitted on, and what models that saw no passage of their source make of those."""
    model = persistence.load("evil-ai")
    held, sources = persistence.out_of_source(model), set(model.config["training_sources"])
    right = [labels[at(d)]["intensity"] >= 3 for d in now]
    listed = [held.place("", d["text"]) for d in now]
    fitted = [i for i, k in enumerate(listed) if k is not None]
    others = [i for i, k in enumerate(listed) if k is None]
    still = [i for i, k in enumerate(listed) if k is not None and held.full[k] >= threshold]
    of_trained = sum(source_key(d["source"]) in sources for d in now)
    return [
        "",
        f"These figures are in sample: {of_trained} of the {len(now)} documents are of sources that the model was trained on, and {len(fitted)} of the "
        f"passages are, word for word, among those that it was fitted on ({sum(right[i] for i in fitted)} of them right; of the other {len(others)}, "
        f"which may share a part with one, {sum(right[i] for i in others)}). A corpus that the model has not seen holds less of what it finds, and what "
        f"it flags there is right less often. By models that saw no passage of their source {len(still)} of the {len(fitted)} reach the threshold, "
        f"{sum(right[i] for i in still)} of these right. What to expect of new text is in reports/quality.md and reports/unseen.md.",
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
    if given.what == "report":
        if not given.judged or not given.report:
            options.error("report needs --judged FILE and --report FILE")
        if not given.judged.is_file() or not given.report.parent.is_dir():
            options.error(f"no file {given.judged} to read, or no folder {given.report.parent} to write to")
    try:
        if given.what == "draw":
            draw(given.path, given.db)
        else:
            report(given.path, given.db, given.judged, given.report)
    except TropescanError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
