"""The commit seam: scores and counts in DuckDB, one transaction a unit."""

from __future__ import annotations

from tropescan.store.database import Entry, Store

__all__ = ["Entry", "Store"]
