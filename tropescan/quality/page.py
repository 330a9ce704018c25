"""The report of a measured model: a Markdown page with its two pictures beside it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import numpy as np

from tropescan.errors import InputError, NoSuchPath
from tropescan.evaluation import curve
from tropescan.quality.outcome import Outcome
from tropescan.quality.svg import Point, Series, chart
from tropescan.quality.tables import as_markdown, sheets

_POINTS = 300  # of a curve: more are not to be seen


def check(path: Path) -> None:
    """Tells before the work whether a report can be written there. Raises NoSuchPath, InputError."""
    if not path.absolute().parent.is_dir():
        raise NoSuchPath(f"no folder {path.absolute().parent} for the report {path.name}")
    if path.is_dir() or path.suffix != ".md":
        raise InputError(f"the report {path} must be a file whose name ends in .md")


def write(found: Outcome, path: Path, command: str) -> list[Path]:
    """Writes the page and its pictures NAME-precision-recall.svg and NAME-reliability.svg; returns the three. Raises as `check`, InputError."""
    check(path)
    names = [f"{path.stem}-precision-recall.svg", f"{path.stem}-reliability.svg"]
    texts = [_page(found, command, names), _precision_recall(found), _reliability(found)]
    paths = [path, *[path.with_name(n) for n in names]]
    for one, text in zip(paths, texts, strict=True):
        try:
            one.write_bytes(text.encode("utf-8", "backslashreplace"))  # names of files may be no UTF-8
        except OSError as error:
            raise InputError(f"the report {one} cannot be written: {error.strerror}") from None
    return paths


def _page(found: Outcome, command: str, pictures: list[str]) -> str:
    first = next(iter(found.reports.values()))
    head = f"""# {found.model.name}, measured

Made by `{command}`.

- Model `{found.model.name}`, fingerprint `{found.model.fingerprint}`.
- {first.passages:,} labelled passages of {first.sources:,} sources, {first.positives:,} of them positive (intensity 3 or 4).
- {found.provenance}
- Estimates have their 95 % intervals in brackets, by bootstrap over sources (whole sources are drawn). A single source
  has none, nor has what no draw changes; over few sources they are too narrow.
- Readers' agreement is consistency, not truth. The share of positives is that of the labels, not of the web: precision, F1 and average
  precision hold for passages drawn as these were.
{_baseline_note(found)}
![Precision and recall]({quote(pictures[0])})

![Reliability]({quote(pictures[1])})
"""
    return head + "\n" + "\n".join(as_markdown(s) for s in sheets(found))


def _baseline_note(found: Outcome) -> str:
    if not found.rivals:
        return ""
    return (
        "- Baselines that learn were cross-fitted on these labels: each passage is judged by a model that saw none of its source. The few settings\n"
        "  they have were chosen on the project's own labels, by hand, in their favour. The published keyword filters are reconstructions after\n"
        "  their authors' repositories; they were made for documents, as a first stage, and look for more than this trope. 'F1, threshold of other\n"
        "  folds' flags each fold of sources at the threshold that was best on the other folds, for the detector too.\n"
    )


def _precision_recall(found: Outcome) -> str:
    positive = np.array([int(p.positive) for p in found.passages])
    series = [Series(f"tropescan, {d}", _thin(curve(positive, j.score))) for d, j in found.judged.items()]
    for name, rival in found.rivals.items():
        points = curve(positive, rival.score)
        # a filter without a score is one point: its own recall and precision
        series.append(Series(name, points[:1], line=False, marks=True) if rival.fixed else Series(name, _thin(points)))
    return chart(f"Precision and recall, {found.model.name}", "recall", "precision", series)


def _reliability(found: Outcome) -> str:
    series = [
        Series(f"tropescan, {depth}", [(mean, share) for mean, share, _ in r.reliability], marks=True)
        for depth, r in found.reports.items()
    ]
    title = f"Reliability, {found.model.name}: 15 bins of equal size"
    return chart(title, "mean score", "share of positives", series, diagonal="as it should be")


def _thin(points: list[Point]) -> list[Point]:
    """The points of a curve where recall rises, at most _POINTS of them, evenly along recall; the last point is kept."""
    if not points:
        return points
    recall, rises = np.unique([r for r, _ in points], return_index=True)
    if len(rises) > _POINTS:
        rises = rises[np.searchsorted(recall, np.linspace(recall[0], recall[-1], _POINTS))]
    return [points[i] for i in np.unique([*rises, len(points) - 1])]
