"""Whether the readers of several labels files judge alike: how positive passages are beside what the detector says of them, and the same passages read again.

    python benchmarks/readers.py --labels FILE... --texts DIR... [--again corpora/public/again.jsonl] [--model evil-ai] [--report reports/readers.md]

Only passages that the model has out-of-source scores for. A line of `--again` is a further reading, by other readers, of a passage of the labels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import page

from tropescan import persistence
from tropescan.corpus import POSITIVE_FROM, Passage, load
from tropescan.evaluation import average_precision, calibration_error, chance_calibration_error, spell
from tropescan.evaluation.agreement import kappa


def by_file(model: persistence.Model, files: dict[str, list[Passage]]) -> list[list[str]]:
    """A row a labels file: passages, share of positives, mean score, average precision, calibration error and that of chance."""
    held = persistence.out_of_source(model)
    rows, before = [], set[str]()
    for file, labelled in files.items():
        new = [p for p in labelled if p.id in held.row and p.id not in before]
        passages = [p for p in new if held.digest[held.row[p.id]] == persistence.text_key(p.text)]
        before |= {p.id for p in passages}
        if not passages:
            rows.append([file, "0", *["-"] * 6])
            continue
        positive = np.array([int(p.positive) for p in passages])
        score = held.full[[held.row[p.id] for p in passages]]
        rows.append(
            [
                file,
                f"{len(passages):,}",
                f"{len({p.source for p in passages})}",
                f"{positive.mean():.3f}",
                f"{score.mean():.3f}",
                f"{average_precision(positive, score):.3f}",
                f"{calibration_error(positive, score):.3f}",
                spell(chance_calibration_error(score)),
            ]
        )
    return rows


def reread(passages: list[Passage], again: dict[str, int]) -> list[list[str]]:
    """What the further readings make of the passages."""
    mine = list({p.id: p for p in passages if p.id in again}.values())
    first, second = np.array([p.intensity for p in mine]), np.array([again[p.id] for p in mine])
    a, b = first >= POSITIVE_FROM, second >= POSITIVE_FROM
    return [
        ["passages read again", f"{len(mine)}"],
        ["positive as labelled / as read again", f"{a.sum()} / {b.sum()}"],
        ["positive as labelled alone / as read again alone", f"{(a & ~b).sum()} / {(b & ~a).sum()}"],
        ["kappa on positive", f"{kappa(a.astype(int), b.astype(int), 2):.3f}"],
        ["quadratic kappa on intensity", f"{kappa(first, second, 5, 2):.3f}"],
    ]


def main() -> None:
    """Reads, compares and prints."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="evil-ai")
    options.add_argument("--labels", nargs="+", required=True)
    options.add_argument("--texts", nargs="+", type=Path, required=True)
    options.add_argument("--again", type=Path, default=Path("corpora/public/again.jsonl"))
    options.add_argument("--report", type=Path)
    given = options.parse_args()
    model = persistence.load(given.model)
    files = {file: load([file], given.texts, lambda line: None) for file in given.labels}
    again = {r["id"]: int(r["intensity"]) for r in map(json.loads, given.again.read_text().splitlines())}
    head = [
        "labels",
        "passages",
        "sources",
        "positive",
        "mean score",
        "average precision",
        "calibration error",
        "that of chance, 95 % of draws",
    ]
    lines = [
        "# Readers",
        "",
        f"`{page.command()}`: model `{model.name}`, fingerprint `{model.fingerprint[:12]}`, depth full, out of source.",
        "",
        *page.table(head, by_file(model, files)),
        "",
        f"Passages of the labels that {given.again} judges again, drawn among those whose score was 0.1 to 0.6, text alone, in random order:",
        "",
        *page.table(["", ""], reread([p for labelled in files.values() for p in labelled], again)),
        "",
        "The readers of all files are language models under one codebook. Where one file's passages are positive more often than the score says and",
        "another's less, their readers draw the line elsewhere or the passages come from other text: the second table tells how much is the first.",
    ]
    page.tell(lines, given.report)


if __name__ == "__main__":
    main()
