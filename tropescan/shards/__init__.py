"""Finds shards on any filesystem, fingerprints them, and streams them as document batches in bounded memory."""

from __future__ import annotations

from tropescan.shards.files import File, fingerprint
from tropescan.shards.finding import changed, find, on_disk, require_unchanged, unchanged
from tropescan.shards.stream import Columns, Plan, Unit, plan, read, rows

__all__ = [
    "Columns",
    "File",
    "Plan",
    "Unit",
    "changed",
    "find",
    "fingerprint",
    "on_disk",
    "plan",
    "read",
    "require_unchanged",
    "rows",
    "unchanged",
]
