"""tropescan train and evaluate."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path

import orjson

from tropescan import corpus, persistence, quality
from tropescan.errors import ModelError
from tropescan.evaluation import behaviour
from tropescan.gate import parse
from tropescan.report import console

REFUSED_MOST = 2000  # passages that the gate refuses, drawn for the encoder to learn from


def train(given: argparse.Namespace) -> int:
    """Trains, writes the folder and prints its out-of-source reports."""
    from tropescan.pointers import drawn
    from tropescan.training import passing
    from tropescan.training import train as fit

    folder = Path(given.out)
    gate = Path(given.gate) if given.gate else folder / "gate.txt"
    if not gate.is_file():
        gate = persistence.find("evil-ai") / "gate.txt" if not given.gate else gate
    try:
        terms = gate.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise ModelError(f"the gate's terms {gate} cannot be read: {why}") from None
    parse(terms)  # a bad one is told before texts are read
    passes = partial(passing, terms)
    reports = fit(
        corpus.load(given.labels, given.texts, _say),
        corpus.load(given.extra, given.texts, _say) if given.extra else [],
        drawn(Path(given.refused), lambda texts: ~passes(texts), REFUSED_MOST) if given.refused else [],
        [p for folder in given.unlabelled for p in drawn(Path(folder), passes, given.most)],
        corpus.load(given.pairs, given.texts, _say) if given.pairs else [],
        terms,
        folder,
        name=given.name or folder.resolve().name,
        audit=given.audit,
        say=_say,
    )
    if given.json:
        print(orjson.dumps({depth: r.as_dict() for depth, r in reports.items()}).decode())
    else:
        _tables(quality.report_sheets(reports), "out of source (folds by source)")
    return 0


def evaluate(given: argparse.Namespace) -> int:
    """Measures a model folder on labelled passages and prints, or writes, what came out."""
    if given.report:
        quality.check(Path(given.report))
    found = quality.evaluate(
        given.model,
        corpus.load(given.labels, given.texts, _say),
        (given.depth,) if given.depth else ("full", "lean", "fast"),
        given.against,
        _say,
        behaviour.load(Path(given.cases)) if given.cases else None,
    )
    if given.report:
        for path in quality.write(found, Path(given.report), _command(given)):
            print(f"wrote {path}", file=sys.stderr)
    if given.json:
        print(orjson.dumps(found.as_dict()).decode())
        return 0
    _tables(quality.sheets(found), f"{found.model.name} {found.model.fingerprint[:12]}. {found.provenance}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _command(given: argparse.Namespace) -> str:
    parts = ["tropescan", "evaluate", given.model, "--labels", *given.labels]
    for option in ("texts", "cases", "against", "depth", "report"):
        value = getattr(given, option)
        if value:
            parts += [f"--{option}", *(value if isinstance(value, list) else [value])]
    return shlex.join(map(str, parts))


def _tables(sheets: list[quality.Sheet], title: str) -> None:
    out = console()
    out.print(title, soft_wrap=True)
    for sheet in sheets:
        out.print(quality.as_rich(sheet))
