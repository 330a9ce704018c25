"""Measures a detector on labelled passages: figures with bootstrap intervals over sources."""

from __future__ import annotations

from tropescan.evaluation.agreement import Agreement, agreement
from tropescan.evaluation.figures import (
    SLACK,
    Estimate,
    average_precision,
    best_threshold,
    bootstrap,
    calibration_error,
    cell,
    chance_calibration_error,
    choose_thresholds,
    curve,
    f1,
    ratio,
    recall_at,
    reliability,
    spell,
)
from tropescan.evaluation.judging import Judged, judge, unjudged
from tropescan.evaluation.measuring import Report, measure
from tropescan.evaluation.mistakes import Errors

__all__ = [
    "SLACK",
    "Agreement",
    "Errors",
    "Estimate",
    "Judged",
    "Report",
    "agreement",
    "average_precision",
    "best_threshold",
    "bootstrap",
    "calibration_error",
    "cell",
    "chance_calibration_error",
    "choose_thresholds",
    "curve",
    "f1",
    "judge",
    "measure",
    "ratio",
    "recall_at",
    "reliability",
    "spell",
    "unjudged",
]
