"""The tables of a measured model, once, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from tropescan.evaluation import Agreement, Errors, Estimate, Report, cell, spell
from tropescan.quality.outcome import Outcome

_BY = {
    "all": "Errors at the default threshold",
    "register": "Errors by register",
    "frame": "Errors by frame, as labelled",
    "source": "Errors by source, the largest first",
}


@dataclass(frozen=True)
class Sheet:
    """One table; every row has as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(found: Outcome) -> list[Sheet]:
    """All tables of a run, those without rows left out."""
    tables = [*report_sheets(found.reports), _readers(found.agreement)]
    if found.comparison:
        rows = [
            (
                name,
                spell(c.average_precision),
                spell(c.f1_other_folds),
                spell(c.f1_half),
                *[spell(e) for e in c.recall_at_precision.values()],
            )
            for name, c in found.comparison.items()
        ]
        columns = ("", "average precision", "F1, threshold of other folds", "F1 at 0.5")
        tables.insert(
            1, Sheet("Against baselines", (*columns, "recall at precision 0.8", "recall at precision 0.9"), rows)
        )
    if found.behaviour:
        rows = [(name, f"{a} of {n}", f"{a / n:.3f}") for name, (a, n) in found.behaviour.items()]
        depth = next(iter(found.reports))
        tables.append(
            Sheet(f"Behaviour on written pairs and under changes, depth {depth}", ("family", "passed", "rate"), rows)
        )
    return tables


def report_sheets(reports: dict[str, Report]) -> list[Sheet]:
    """The tables of reports by depth, side by side."""
    lines = {depth: _lines(r) for depth, r in reports.items()}
    labels = dict.fromkeys(label for column in lines.values() for label in column)
    rows = [(label, *[column.get(label, "-") for column in lines.values()]) for label in labels]
    tables = [Sheet("Figures, 95 % intervals over sources", ("measure", *reports), rows)]
    for by, title in _BY.items():
        tables.append(_errors(title, {depth: r.errors[by] for depth, r in reports.items()}))
    for depth, r in reports.items():
        if r.frame_confusion:
            given = tuple(next(iter(r.frame_confusion.values())))
            counts = [(gold, *map(str, row.values())) for gold, row in r.frame_confusion.items()]
            tables.append(
                Sheet(f"Frames of the positives, depth {depth}: labelled (rows), given (columns)", ("", *given), counts)
            )
    return tables


def _lines(r: Report) -> dict[str, str]:
    lines = {
        "passages / positives / sources": f"{r.passages:,} / {r.positives:,} / {r.sources:,}",
        "average precision": spell(r.average_precision),
        **{f"F1 at threshold {name}": spell(e) for name, e in r.f1.items()},
        **{f"precision at threshold {name}": spell(e) for name, e in r.precision.items()},
        **{f"recall at threshold {name}": spell(e) for name, e in r.recall.items()},
        **{f"recall at precision {p}": spell(e) for p, e in r.recall_at_precision.items()},
        "Brier": spell(r.brier),
        "expected calibration error": spell(r.calibration_error),
        "that of a perfectly calibrated score on as many (95 % of draws)": spell(r.chance_calibration_error),
    }
    if r.frame_accuracy:
        lines["frame accuracy on positives"] = spell(r.frame_accuracy)
    lines |= {f"average precision, {f}": spell(e) for f, e in r.facets.items()}
    if r.admirable:
        lines["average precision, admirable"] = spell(r.admirable)
    return lines


def _errors(title: str, by_depth: dict[str, dict[str, Errors]]) -> Sheet:
    columns = ["", "passages", "positives"]
    for depth in by_depth:
        columns += [f"{depth}: false positives of the negatives", f"{depth}: false negatives of the positives"]
    rows = []
    for name, first in next(iter(by_depth.values())).items():
        row = [name, f"{first.passages:,}", f"{first.positives:,}"]
        for errors in by_depth.values():
            e = errors[name]
            row += [_rate(e.false_positives, e.false_positive_rate), _rate(e.false_negatives, e.false_negative_rate)]
        rows.append(tuple(row))
    return Sheet(title, tuple(columns), rows)


def _rate(count: int, rate: Estimate) -> str:
    told = spell(rate)
    return told if told == "-" else f"{count:,}: {told}"


def _readers(a: Agreement) -> Sheet:
    rows: list[tuple[str, ...]] = [("passages with two or more readings", f"{a.passages:,}")]
    named = (
        ("kappa on positive", a.kappa_positive),
        ("quadratic kappa on intensity", a.quadratic_kappa_intensity),
        ("F1 of reader 1 against reader 2", a.f1),
    )
    rows += [(name, spell(e)) for name, e in named if e]
    return Sheet("Agreement between readers of the same passages", ("measure", "reader 1 against reader 2"), rows)


def as_rich(sheet: Sheet) -> Table:
    """A sheet for the terminal."""
    table = Table(title=Text(sheet.title), title_justify="left")
    for i, column in enumerate(sheet.columns):
        table.add_column(Text(column), justify="left" if i == 0 else "right", overflow="fold")
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    return table


def as_markdown(sheet: Sheet) -> str:
    """A sheet as a Markdown section."""
    rule = ["---", *["---:"] * (len(sheet.columns) - 1)]
    lines = [_row(sheet.columns), _row(rule), *map(_row, sheet.rows)]
    return f"## {sheet.title}\n\n" + "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(cell, cells)) + " |"
