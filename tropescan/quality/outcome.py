"""Measures a model folder on labelled passages, at one depth or several, with readers and baselines beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tropescan import persistence
from tropescan.baselines import Comparison, Rival, check, compare, rivals
from tropescan.corpus import Passage
from tropescan.evaluation import Agreement, Judged, Report, agreement, judge, measure
from tropescan.evaluation.behaviour import Case, rates
from tropescan.persistence import Model
from tropescan.scanner import Scanner


@dataclass(frozen=True)
class Outcome:
    """Everything that was measured in one run; `judged` and `reports` by depth, `rivals` and `comparison` by name in reports."""

    model: Model
    passages: list[Passage]
    judged: dict[str, Judged]
    reports: dict[str, Report]
    agreement: Agreement
    rivals: dict[str, Rival]
    comparison: dict[str, Comparison]
    behaviour: dict[str, tuple[int, int]]
    """Passed and tried, by family of written cases and by invariance, at the first depth; empty where there were no cases."""

    @property
    def provenance(self) -> str:
        """Where the scores are from, in sentences."""
        one = next(iter(self.judged.values()))
        n, scanned = len(self.passages), len(self.passages) - one.listed
        lines = []
        if one.listed:
            lines.append(
                f"{one.listed:,} of the {n:,} passages are measured by models that saw none of their source. Calibration, the fast floors, "
                "the thresholds and the gate's terms were fitted to or chosen on them: what rests on those is hopeful."
            )
        if scanned:
            known = "which sources it was trained on it does not say"
            if one.known:
                known = f"{one.known:,} of them are of sources it was trained on, and figures on those flatter it"
            elif one.known == 0:
                known = "none of them is of a source of a name that it was trained on, nor of a text that its out-of-source scores list"
            lines.append(f"{scanned:,} of the {n:,} are scored by the model itself: {known}.")
        return " ".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """All figures as JSON-ready values (nan stands for null)."""
        one = next(iter(self.judged.values()))
        first = next(iter(self.reports.values()))
        return {
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "passages": first.passages,
            "sources": first.sources,
            "positives": first.positives,
            "out_of_source": one.listed,
            "scanned": len(self.passages) - one.listed,
            "scanned_of_training_sources": one.known,
            **{depth: r.as_dict() for depth, r in self.reports.items()},
            "agreement": asdict(self.agreement),
            "comparison": {name: asdict(c) for name, c in self.comparison.items()},
            "behaviour": {name: {"passed": a, "tried": n} for name, (a, n) in self.behaviour.items()},
        }


def evaluate(
    model: str,
    passages: list[Passage],
    depths: tuple[str, ...],
    against: list[str],
    say: Callable[[str], None],
    cases: list[Case] | None = None,
) -> Outcome:
    """Measures; `against` names baselines (baselines.fitted.NAMES), `cases` are written minimal pairs.

    Raises InputError, ModelError, MissingExtra.
    """
    check(against, passages)
    loaded = persistence.load(model)
    judged, reports = {}, {}
    for depth in depths:
        judged[depth] = judge(loaded, passages, depth)
        reports[depth] = measure(passages, judged[depth].score, loaded.thresholds[depth], judged[depth].outputs)
    found = rivals(against, passages, say)
    comparison = {}
    if against:
        comparison = {f"tropescan, {d}": compare(passages, j.score) for d, j in judged.items()}
        comparison |= {name: compare(passages, r.score, r.fixed) for name, r in found.items()}
    behaviour = rates(Scanner(model, depth=depths[0], audit=0.0), cases) if cases else {}
    return Outcome(loaded, passages, judged, reports, agreement(passages), found, comparison, behaviour)
