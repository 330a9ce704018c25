"""What a detector has to beat, measured on the same passages: published keyword filters, and plain classifiers cross-fitted by source."""

from __future__ import annotations

from tropescan.baselines.comparison import Comparison, compare
from tropescan.baselines.fitted import Rival, check, rivals

__all__ = ["Comparison", "Rival", "check", "compare", "rivals"]
