"""What the speed benchmarks share in telling: tables, the machine, one chart, and a report in which each benchmark owns one section."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.sax.saxutils import escape

OURS = (
    "tropescan",
    "pyarrow",
    "duckdb",
    "hyperscan",
    "numpy",
    "torch",
    "sentence-transformers",
    "openvino",
    "onnxruntime",
)
THEIRS = ("datatrove", "datasets", "scikit-learn", "fasttext-numpy2-wheel", "pyarrow")
_INK = (
    ".page{fill:#ffffff}.ink{fill:#1f2328}.ours{fill:#0072b2}.theirs{fill:#b0b8c1}"
    "@media (prefers-color-scheme:dark){.page{fill:#0d1117}.ink{fill:#e6edf3}.ours{fill:#3d9bd6}.theirs{fill:#57606a}}"
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def machine() -> str:
    """Processor, cores that this process may use, memory, system, and how busy the machine was before the run."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    family = [
        line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith(("cpu family", "model\t"))
    ][:2]
    memory = [int(line.split()[1]) / 1e6 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    parts = [
        f"{names[0]} (family {', model '.join(family)})" if names else platform.processor() or platform.machine(),
        f"{len(affinity())} of {os.cpu_count()} cores",
        f"{memory[0]:.0f} GB" if memory else "memory not known",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    ]
    if hasattr(os, "getloadavg"):
        parts.append(f"load {os.getloadavg()[0]:.2f} at the start")
    return "; ".join(parts) + "."


def affinity() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def versions(peers: str | None = None) -> str:
    """Versions in this environment and, where another interpreter runs the peers, in that one."""
    told = ", ".join(f"{n} {v}" for n in OURS if (v := _version(n)))
    if peers is None:
        return told + "."
    code = f"import importlib.metadata as m, json; print(json.dumps({{d.name.lower(): d.version for d in m.distributions() if d.name.lower() in {THEIRS!r}}}))"
    found = json.loads(subprocess.run([peers, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    return f"{told}. Peers: {', '.join(f'{n} {found[n]}' for n in THEIRS if n in found)}."


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def command() -> str:
    """The command as it was given."""
    return f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".strip()


def tell(lines: Sequence[str], report: Path | None) -> None:
    """Prints a page and, where a report is asked for, writes it."""
    print("\n".join(lines))
    if report:
        report.write_text("\n".join(lines) + "\n")


def put(report: Path, title: str, lines: Sequence[str]) -> None:
    """Writes the section `## title` of the report, in place of the one that is there; others stay as they are."""
    old = (
        report.read_text().splitlines()
        if report.is_file()
        else ["# Speed", "", "Each section names the command of `benchmarks/` that made it.", ""]
    )
    head = f"## {title}"
    begin = old.index(head) if head in old else len(old)
    end = next((i for i in range(begin + 1, len(old)) if old[i].startswith("## ")), len(old))
    report.parent.mkdir(parents=True, exist_ok=True)
    section = [head, "", *lines, ""]
    report.write_text("\n".join([*old[:begin], *section, *old[end:]]).rstrip("\n") + "\n")


def bars(title: str, unit: str, values: Sequence[tuple[str, float, bool]]) -> str:
    """A bar chart (name, value > 0, whether it is ours) on a logarithmic scale, as an SVG document."""
    # a wide sans serif has letters of some 8 units; what is left of the picture's edge is cut off
    left, width, line, top = 26 + 8 * max(len(name) for name, _, _ in values), 430, 26, 52
    low = math.floor(math.log10(min(v for _, v, _ in values)))
    high = math.ceil(math.log10(max(v for _, v, _ in values)) + 1e-9)
    height, total = top + line * len(values) + 16, left + width + 90
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" width="{total}" height="{height}" role="img" '
        f'aria-label="{escape(title, {chr(34): "&quot;"})}" font-family="sans-serif" font-size="13">',
        f'<title>{escape(title)}</title><style>{_INK}</style><rect class="page" fill="#ffffff" width="{total}" height="{height}"/>',
        f'<text class="ink" x="16" y="24" font-size="15">{escape(title)}</text>',
        f'<text class="ink" x="16" y="42" font-size="11">{escape(unit)}, logarithmic scale</text>',
    ]
    for i, (name, value, ours) in enumerate(values):
        y = top + i * line
        long = max(2.0, width * (math.log10(value) - low) / max(1, high - low))
        parts += [
            f'<text class="ink" x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{"ours" if ours else "theirs"}" x="{left}" y="{y + 2}" width="{long:.1f}" height="{line - 8}"/>',
            f'<text class="ink" x="{left + long + 6:.1f}" y="{y + 15}">{figure(value)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def figure(value: float) -> str:
    """Three digits, no more than are known."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}" if digits else f"{float(f'{value:.3g}'):,.0f}"
