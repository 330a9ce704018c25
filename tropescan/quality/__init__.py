"""A model measured as a whole, and how that is told: terminal tables, JSON, and a Markdown page with two pictures."""

from __future__ import annotations

from tropescan.quality.outcome import Outcome, evaluate
from tropescan.quality.page import check, write
from tropescan.quality.tables import Sheet, as_rich, report_sheets, sheets

__all__ = ["Outcome", "Sheet", "as_rich", "check", "evaluate", "report_sheets", "sheets", "write"]
