"""tropescan train and evaluate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson
from rich.table import Table

from tropescan import corpus, persistence
from tropescan.errors import ModelError
from tropescan.evaluation import Report, measure, score_passages, spell
from tropescan.report import console
from tropescan.scanner import Scanner


def train(given: argparse.Namespace) -> int:
    """Trains, writes the folder and prints its out-of-source reports."""
    from tropescan.training import train as fit

    folder = Path(given.out)
    gate = Path(given.gate) if given.gate else folder / "gate.txt"
    if not gate.is_file():
        gate = persistence.find("evil-ai") / "gate.txt" if not given.gate else gate
    try:
        terms = gate.read_text()
    except OSError as error:
        raise ModelError(f"the gate's terms {gate} cannot be read: {error.strerror}") from None
    reports = fit(
        corpus.load(given.labels),
        corpus.load(given.extra) if given.extra else [],
        terms,
        folder,
        name=given.name or folder.resolve().name,
        audit=given.audit,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    _print(reports, given.json, "out of source (five folds by source)")
    return 0


def evaluate(given: argparse.Namespace) -> int:
    """Scores labelled passages with a model folder as it is, and prints the report."""
    passages = corpus.load(given.labels)
    scanner = Scanner(given.model, depth=given.depth, audit=0.0)
    score = score_passages(scanner, passages)
    seen = set(scanner.model.config.get("training_sources", []))
    known = sum(corpus.source_key(p.source) in seen for p in passages)
    report = measure(passages, score, scanner.model.thresholds[given.depth])
    _print(
        {given.depth: report},
        given.json,
        f"{given.model}; {known} of the {len(passages)} passages are of sources it was trained on",
    )
    return 0


def _print(reports: dict[str, Report], as_json: bool, title: str) -> None:
    if as_json:
        print(orjson.dumps({name: r.as_dict() for name, r in reports.items()}).decode())
        return
    out = console()
    out.print(title, markup=False, soft_wrap=True)
    table = Table()
    for column in ("measure (95 % interval over sources)", *reports):
        table.add_column(column)
    rows = {name: _lines(r) for name, r in reports.items()}
    for label in dict.fromkeys(label for lines in rows.values() for label in lines):
        table.add_row(label, *[rows[name].get(label, "-") for name in reports])
    out.print(table)


def _lines(r: Report) -> dict[str, str]:
    lines = {
        "passages, positives, sources": f"{r.passages}, {r.positives}, {r.sources}",
        "average precision": spell(r.average_precision),
        **{f"F1 at {name}": spell(e) for name, e in r.f1.items()},
        **{f"recall at precision {p}": spell(e) for p, e in r.recall_at_precision.items()},
        "Brier": spell(r.brier),
        "expected calibration error": spell(r.calibration_error),
    }
    for register, n in r.by_register.items():
        lines[f"register {register}: flagged right / flagged / positive / all"] = (
            f"{n['right']} / {n['flagged']} / {n['positives']} / {n['passages']}"
        )
    if r.frame_accuracy:
        lines["frame accuracy on positives"] = spell(r.frame_accuracy)
    lines |= {f"average precision, {f}": spell(e) for f, e in r.facets.items()}
    return lines
