"""A small SVG writer: one chart with both axes from 0 to 1, readable on light and dark pages, without any library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[float, float]

_LEFT, _TOP, _SIDE, _WIDTH, _LINE = (
    64,
    44,
    400,
    520,
    20,
)  # pixels: margins, side of the plot, width of the picture, a legend's line
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b58900",
    "#3d9bd6",
    "#8a63d2",
    "#7f7f7f",
)  # told apart by the colour-blind, too
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4")  # as many as have no factor in common with the colours
_STYLE = (
    ".page{fill:#ffffff}.ink{fill:#1f2328}.axis{stroke:#1f2328}.grid{stroke:#d0d7de}"
    "@media (prefers-color-scheme:dark){.page{fill:#0d1117}.ink{fill:#e6edf3}.axis{stroke:#e6edf3}.grid{stroke:#30363d}}"
)


@dataclass(frozen=True)
class Series:
    """Points (x, y) within 0 to 1 under one name; `line` joins them, `marks` shows each."""

    name: str
    points: Sequence[Point]
    line: bool = True
    marks: bool = False


def chart(title: str, x: str, y: str, series: Sequence[Series], diagonal: str = "") -> str:
    """The chart as an SVG document; `diagonal`, where given, is the legend of a line from (0, 0) to (1, 1). The legend lies under the plot."""
    entries = len(series) + bool(diagonal)
    height = _TOP + _SIDE + 60 + entries * _LINE + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title, {chr(34): "&quot;"})}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="page" fill="#ffffff" width="{_WIDTH}" height="{height}"/>',
        _text(_LEFT, 26, title, size=15),
        *_axes(x, y),
    ]
    if diagonal:
        parts.append(
            f'<path class="axis" d="M{_at(0, 0)} L{_at(1, 1)}" fill="none" stroke="#1f2328" stroke-dasharray="3 4"/>'
        )
    for i, one in enumerate(series):
        parts += _drawn(one, *_look(i))
    for i in range(entries):
        middle = _TOP + _SIDE + 66 + i * _LINE
        if i < len(series):
            colour, dash = _look(i)
            if series[i].line:
                parts.append(_path(f"M{_LEFT},{middle} h30", colour, dash))
            if series[i].marks:
                parts.append(_dot(_LEFT + 15, middle, colour))
            parts.append(_text(_LEFT + 40, middle + 4, series[i].name))
        else:
            parts.append(f'<path class="axis" d="M{_LEFT},{middle} h30" stroke="#1f2328" stroke-dasharray="3 4"/>')
            parts.append(_text(_LEFT + 40, middle + 4, diagonal))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(x: str, y: str) -> list[str]:
    parts = []
    for step in range(6):
        v = step / 5
        parts.append(f'<path class="grid" d="M{_at(v, 0)} L{_at(v, 1)} M{_at(0, v)} L{_at(1, v)}" stroke="#d0d7de"/>')
        across, up = _xy(v, v)
        parts.append(f'<path class="axis" d="M{across},{_TOP + _SIDE} v5 M{_LEFT},{up} h-5" stroke="#1f2328"/>')
        parts.append(_text(across, _TOP + _SIDE + 20, f"{v:.1f}", "middle"))
        parts.append(_text(_LEFT - 10, up + 4, f"{v:.1f}", "end"))
    parts.append(f'<path class="axis" d="M{_at(0, 1)} L{_at(0, 0)} L{_at(1, 0)}" fill="none" stroke="#1f2328"/>')
    parts.append(_text(_LEFT + _SIDE / 2, _TOP + _SIDE + 42, x, "middle"))
    middle = _TOP + _SIDE / 2
    return [*parts, _text(18, middle, y, "middle", turn=f' transform="rotate(-90 18 {middle:g})"')]


def _drawn(one: Series, colour: str, dash: str) -> list[str]:
    parts = []
    if one.line and len(one.points) > 1:
        parts.append(_path("M" + " L".join(_at(*p) for p in one.points), colour, dash))
    if one.marks:
        parts += [_dot(*_xy(*p), colour) for p in one.points]
    return parts


def _look(i: int) -> tuple[str, str]:
    return _COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)]


def _xy(x: float, y: float) -> tuple[float, float]:
    return round(_LEFT + x * _SIDE, 1), round(_TOP + (1 - y) * _SIDE, 1)


def _at(x: float, y: float) -> str:
    across, down = _xy(x, y)
    return f"{across:g},{down:g}"


def _path(d: str, colour: str, dash: str) -> str:
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" stroke-dasharray="{dash or "none"}"/>'


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 13, turn: str = "") -> str:
    return f'<text class="ink" fill="#1f2328" x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}"{turn}>{escape(text)}</text>'
