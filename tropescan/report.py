"""What a person sees in the terminal: tables, highlighted passages, progress. Plain text where the output is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tropescan.errors import shown
from tropescan.prevalence import Prevalence, Row


def console(file: IO[str] | None = None) -> Console:
    """The console to print to; a pipe or a file gets 160 columns, no colour and no control codes. Names and rules are printed as they are: no markup."""
    stream = file or sys.stdout
    width = None if stream.isatty() else 160
    return _Console(
        file=stream,
        width=width,
        force_terminal=stream.isatty(),  # whatever FORCE_COLOR says
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


class _Console(Console):
    """Shows whatever a corpus holds, and sends the terminal nothing of it that it would obey."""

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the process; cli.main knows better


def share(value: float | None) -> str:
    """A share in per cent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.2f} %"


def prevalence_table(found: Prevalence, names: dict[str, str], width: int = 160) -> Table:
    """The prevalence of every shard and in total. `names` gives what to print for each path; a narrow terminal gets fewer columns."""
    table = Table(
        title=f"Prevalence by {found.model}, documents with score >= {found.threshold:g}", title_justify="left"
    )
    table.add_column("shard", overflow="fold", min_width=min(24, max(map(len, names.values()), default=5)))
    shown = [c for c in _COLUMNS if width >= _WIDE or c in _NARROW]
    for column in shown:
        table.add_column(column, justify="right")
    table.add_column("status")
    for row in found.shards:
        table.add_row(names.get(row.path or "", row.path or ""), *[_COLUMNS[c](row) for c in shown], row.status)
    table.add_section()
    table.add_row(f"all {len(found.shards)} shards", *[_COLUMNS[c](found.total) for c in shown], "")
    return table


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "documents": lambda r: f"{r.documents:,}",
    "through gate": lambda r: f"{r.gated:,}",
    "flagged": lambda r: f"{r.flagged:,}",
    "prevalence": lambda r: share(r.prevalence),
    "95 % interval": lambda r: "-" if r.low is None else f"{share(r.low)} to {share(r.high)}",
    "expected": lambda r: share(r.expected),
    "passages": lambda r: "-" if r.passages is None else f"{r.passages:,}",
    "characters in them": lambda r: share(r.character_share),
}
_NARROW, _WIDE = ("documents", "flagged", "prevalence", "95 % interval"), 140


def prevalence_note(found: Prevalence) -> str:
    """What the table covers, in sentences."""
    n = len(found.shards)
    lines = []
    if found.scanned < n:
        lines.append(
            f"Rests on {found.scanned} of {n} shards scanned whole ({found.failed} failed); the rest count as far as they were read."
        )
    if found.threshold < found.hit_floor:
        lines.append(
            f"Passages below the model's hit floor of {found.hit_floor:g} are not stored: how many reach this threshold is not known, nor their characters."
        )
    if found.depth == "lean":
        lines.append(
            "Depth lean scores what may reach the model's default threshold: below that, and in 'expected', much is missing that depth full finds."
        )
    lines.append(
        "Intervals: a shard's covers other documents of the same origin (Wilson), the total's other shards, too (and bootstrap); "
        "neither covers the detector's errors. 'expected' sums the scores; they are calibrated on a sample enriched in the trope."
    )
    return "\n".join(lines)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The paths without the folder that all of them share."""
    if len(paths) < 2:
        return {p: p.rsplit("/", 1)[-1] for p in paths}
    first, last = min(paths), max(paths)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    cut = first.rfind("/", 0, same) + 1
    return {p: p[cut:] for p in paths}


def rows_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """The result of a query."""
    table = Table()
    for i, name in enumerate(names):
        numeric = all(isinstance(r[i], int | float) or r[i] is None for r in rows) and bool(rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text("null" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v)) for v in row])
    return table


def passage_text(text: str, terms: Sequence[tuple[int, int, str]] = ()) -> Text:
    """A passage with the spans that fired the gate marked."""
    marked = Text(shown(text))
    for start, end, _ in terms:
        marked.stylize("bold yellow", start, end)
    return marked


class Display:
    """Progress: a live bar on a terminal, a plain line every few seconds elsewhere. Goes to standard error."""

    EVERY = 5.0

    def __init__(self, out: Console, quiet: bool = False) -> None:
        self._out, self._quiet = out, quiet
        self._bar: Progress | None = None
        self._shards = self._bytes = self._before = 0
        self._begun = self._last = time.monotonic()
        self._start = 0.0

    def begin(self, shards: int, total_bytes: int) -> None:
        """See runners.schedule.Watcher."""
        self._shards, self._bytes, self._begun = shards, total_bytes, time.monotonic()
        self._start = -1.0
        if self._out.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._out)
            self._bar.start()
            self._bar.add_task("scan", total=max(1, total_bytes))

    def moved(self, done_shards: int, done_bytes: float, counters: dict[str, int]) -> None:
        """See runners.schedule.Watcher."""
        if self._start < 0:
            self._start = done_bytes  # what earlier runs did says nothing about this run's speed
        seconds = max(1e-3, time.monotonic() - self._begun)
        speed = counters.get("characters", 0) / 1e6 / seconds
        line = (
            f"{done_shards}/{self._shards} shards, {counters.get('rows', 0):,} documents, {speed:,.1f} M characters/s, "
            f"{counters.get('flagged', 0):,} flagged"
        )
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done_bytes, description=line)
        elif not self._quiet and time.monotonic() - self._last >= self.EVERY:
            self._last = time.monotonic()
            left = (self._bytes - done_bytes) * seconds / max(1.0, done_bytes - self._start)
            self._out.print(f"{line}, {_clock(left)} left")

    def note(self, line: str) -> None:
        """See runners.schedule.Watcher."""
        self._out.print(f"warning: {line}", soft_wrap=True)

    def end(self) -> None:
        """Takes the bar away."""
        if self._bar:
            self._bar.stop()


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole < 360000 else "long"
