"""Selection: rules over stored scores that drop, mask, tag, weigh or replace. Input is never changed, and no rule needs a new scan."""

from __future__ import annotations

from tropescan.selection.plan import MODES, Plan, Request
from tropescan.selection.preview import Preview
from tropescan.selection.rules import POOL, PRESETS, preset
from tropescan.selection.run import Done, dry, select, weigh
from tropescan.selection.sources import UNSCANNED

__all__ = [
    "MODES",
    "POOL",
    "PRESETS",
    "UNSCANNED",
    "Done",
    "Plan",
    "Preview",
    "Request",
    "dry",
    "preset",
    "select",
    "weigh",
]
