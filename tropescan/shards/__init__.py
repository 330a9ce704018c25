"""Finds shards on any filesystem, fingerprints them, and streams them as document batches in bounded memory."""

from __future__ import annotations

from tropescan.shards.files import File, fingerprint
from tropescan.shards.finding import find, unchanged
from tropescan.shards.stream import Columns, Plan, Unit, plan, read, rows

__all__ = ["Columns", "File", "Plan", "Unit", "find", "fingerprint", "plan", "read", "rows", "unchanged"]
