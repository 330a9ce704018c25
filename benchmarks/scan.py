"""How fast a scan is, beside what reading costs and beside what people use today, on the same shards, in interleaved rounds.

    python benchmarks/scan.py [--peers .venv-peers/bin/python] [--work DIR] [--report reports/speed.md]

The corpus is made from --source (benchmarks/corpus.py) in --work, once, in about a minute and 1.8 GB; without --work it is made in a temporary
folder and removed. After that the defaults take about 12 minutes on two cores. Each round runs every contestant on one core and then on
all, so that what disturbs the machine disturbs them all; figures are medians of the rounds, ratios medians of the rounds' own ratios. Slow ones get
a share of the shards, chosen once by --budget seconds, and the tables say which. tropescan is timed from process start to exit, with its commits
to DuckDB; the others without imports and the start of their interpreter. All files are in the page cache.

The peers may have an environment of their own:

    python3 -m venv .venv-peers && .venv-peers/bin/pip install 'datatrove[io]' regex fasteners datasets scikit-learn fasttext-numpy2-wheel
"""

from __future__ import annotations

import argparse
import glob
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import corpus
from contestants import CONTESTANTS, HERE, Field
from memory import peak_of_workers
from page import bars, command, figure, machine, put, table, versions
from tables import Runs, cascade, notes, speeds, targets
from timing import ALL, median, pinned, run, spread

NAMES = [c.name for c in CONTESTANTS]


def rounds(field: Field, names: list[str], repeat: int, placements: list[int]) -> Runs:
    """All runs, by contestant and cores, round after round."""
    found: Runs = {(name, cores): [] for cores in placements for name in names}
    for i in range(repeat):
        for cores in placements:
            for name in names:
                one = field.measure(name, cores)
                found[name, cores].append(one)
                say(f"round {i + 1} of {repeat}, {cores} cores, {name}: {figure(one.rate)} MB/s")
    return found


def starts(field: Field, depths: list[str], repeat: int) -> tuple[dict[str, float], list[str]]:
    """Seconds from process start to exit, on one core, files in the page cache."""
    script = Path(sys.executable).with_name("tropescan")
    program = [str(script)] if script.is_file() else [sys.executable, "-m", "tropescan"]
    piece = field.corpus.pieces[0]
    found: dict[str, list[float]] = {}
    for _ in range(repeat):
        found.setdefault("help", []).append(run([*program, "--help"], 1).seconds)
        for depth in depths:
            with tempfile.TemporaryDirectory(dir=field.work) as out:
                ran = run(field.scan_command(depth, [piece.path], Path(out) / "s.duckdb", 1), 1)
            found.setdefault(depth, []).append(ran.seconds)
    titles = {"help": "tropescan --help"} | {
        d: f"scan of one shard of {piece.rows:,} documents, --depth {d}" for d in depths
    }
    rows = [[titles[k], f"{median(v):.3f} s", spread(v)] for k, v in found.items()]
    return {k: median(v) for k, v in found.items()}, table(["from process start to exit", "median", "range"], rows)


def memory(field: Field, depths: list[str]) -> tuple[float, list[str]]:
    """Peak resident memory of one worker and of the parent; the ordinary shards, and the same rows as one row group."""
    rows, highest = [], 0.0
    one = field.corpus.one_group
    for depth in depths:
        cases = [("ordinary row groups", field.share[depth])] + (
            [("one row group", [one])] if one and depth == "fast" else []
        )
        for title, parts in cases:
            with tempfile.TemporaryDirectory(dir=field.work) as out, pinned(1):
                worker, parent, seconds = peak_of_workers(
                    field.scan_command(depth, [p.path for p in parts], Path(out) / "m.duckdb", 1)
                )
            size = sum(p.bytes for p in parts) / 1e6
            highest = max(highest, worker)
            rows.append(
                [
                    depth,
                    f"{title}, {size:,.0f} MB",
                    f"{worker / 1e9:.2f} GB",
                    f"{parent / 1e9:.2f} GB",
                    f"{seconds:.1f} s, {figure(size / seconds)} MB/s",
                ]
            )
    return highest, table(
        ["depth", "shards", "worker, peak resident", "parent", "one worker, one core (watched)"], rows
    )


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def measured(given: argparse.Namespace, work: Path) -> list[str]:
    """Makes the corpus, runs everything, and gives the report's lines."""
    state = machine()
    made = corpus.made_apart(given.source, work, given.gb, one_group=not given.no_one_group)
    names = [n for n in NAMES if n in given.only]
    labels = sorted(glob.glob(given.labels))
    field = Field(
        made, work, given.peers, labels, given.budget, shlex.split(given.scan_options), shlex.split(given.full_options)
    )
    field.prepare(names)
    for part in [*made.shards, *made.pieces, *([made.one_group] if made.one_group else [])]:
        Path(part.path).read_bytes()
    placements = sorted({min(n, len(ALL)) for n in given.cores or (1, 2, len(ALL))})
    found = rounds(field, names, given.repeat, placements)
    depths: list[str] = [n for n in ("fast", "lean", "full") if n in names]
    start, start_lines = starts(field, depths, given.repeat)
    peak, memory_lines = memory(field, depths) if depths else (0.0, [])
    lines = [f"`{command()}`", "", f"{state} {versions(given.peers if _in_peers(names) else None)}"]
    lines += [*notes(field, found, given.repeat), "", *targets(found, start, peak)]
    for cores in placements:
        lines += [
            "",
            f"{'One core' if cores == 1 else f'{cores} cores, as many workers'}:",
            "",
            *speeds(field, found, cores),
        ]
    lines += ["", *cascade(found, placements[0]), "", *start_lines, "", *memory_lines]
    if given.report:
        values = [
            (c.title, median([r.rate for r in found[c.name, placements[0]]]), c.ours)
            for c in CONTESTANTS
            if c.name in names
        ]
        chart = given.report.with_suffix(".svg")
        put(given.report, "Scan", [*lines, "", f"![speed of each]({chart.name})"])
        chart.write_text(bars(f"Text scanned a second, cores: {placements[0]}", "MB/s", values))
    return lines


def _in_peers(names: list[str]) -> bool:
    return any(c.in_peers for c in CONTESTANTS if c.name in names)


def main() -> None:
    """Parses, measures, prints."""
    options = corpus.options(__doc__)
    options.add_argument("--gb", type=float, default=2.0, help="GB of text (default: 2)")
    options.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    options.add_argument(
        "--budget",
        type=float,
        default=8.0,
        help="seconds by which the share of a slow contestant is chosen (default: 8)",
    )
    options.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)"
    )
    options.add_argument(
        "--peers", default=sys.executable, help="interpreter that has datatrove and datasets (default: this one)"
    )
    options.add_argument(
        "--labels",
        default=str(HERE.parent / "corpora" / "written" / "*.jsonl"),
        help="labelled texts for fastText and TF-IDF (glob)",
    )
    options.add_argument("--cores", type=int, nargs="+", help="numbers of cores to run on (default: 1, 2 and all)")
    options.add_argument("--no-one-group", action="store_true", help="leave out the file with a single row group")
    options.add_argument("--scan-options", default="", help="further options of every tropescan scan, as one string")
    options.add_argument("--full-options", default="", help="and of those with an encoder, at depths lean and full")
    options.add_argument("--report", type=Path, help="the Markdown file whose section to write, with a chart beside it")
    given = options.parse_args()
    peers = "import datatrove, datasets, sklearn, fasttext, regex, fasteners"
    if (
        _in_peers(given.only)
        and subprocess.run([given.peers, "-c", peers], stderr=subprocess.DEVNULL, check=False).returncode
    ):
        sys.exit(
            f"{given.peers} lacks one of the peers: name an interpreter that has them with --peers (how to make one: --help), or leave them out with --only"
        )
    with corpus.room(given.work) as work:
        print("\n".join(measured(given, work)))


if __name__ == "__main__":
    main()
