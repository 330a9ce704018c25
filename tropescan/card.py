"""The model card that training writes: what a model was trained on, what its score means, and where it fails."""

from __future__ import annotations

from typing import Any

from tropescan.corpus import Passage
from tropescan.evaluation import Report, cell, spell
from tropescan.material import FOLDS


def card(
    name: str,
    encoder: dict[str, Any],
    passages: list[Passage],
    extra: list[Passage],
    beside: tuple[int, int, int],
    reports: dict[str, Report],
    passed: int,
) -> str:
    """The card in Markdown.

    `beside`: how many passages that the gate refuses, unlabelled ones, and variants of scenes were learned from. `passed` of the positive
    `passages` pass the gate; `reports` are out of source, by depth.
    """
    positive, sources = sum(p.positive for p in passages), len({p.source for p in passages})
    twice = sum(len(p.readings) > 1 for p in passages)
    figures = "\n".join(r.markdown_row(depth) for depth, r in reports.items())
    full = reports["full"]
    scenes = (
        f"At last the encoder learned to tell variants of written scenes apart, which differ in what decides ({beside[2]:,} passages, some of those above "
        "among them)."
        if beside[2]
        else ""
    )
    frames = f"Frame accuracy on positives {spell(full.frame_accuracy)}." if full.frame_accuracy else ""
    admirable = (
        f"Average precision of `admirable` {spell(full.admirable)}, where {sum(p.admirable for p in passages) / len(passages):.1%} of the passages are: "
        "not fit to choose documents by."
        if full.admirable
        else ""
    )
    return f"""# {name}

A detector of passages that portray AI as evil, scheming or self-preserving (codebook intensity 3 or 4).

## What the score means

`score` is the calibrated probability that a careful reader would put the passage at intensity 3 or 4, as calibrated on the labelled sample
below, where {positive / len(passages):.0%} of the passages are positive. On ordinary web text, where perhaps one document in a thousand is, a score overstates
the probability (reports/base-rate.md has what was flagged there and read): use it to rank, choose a threshold for your purpose (thresholds.json
has several, with intervals), and audit what you act on.
It is a logistic regression on the encoder's outputs for intensity 2, 3 and 4 or more, and on the fast tier's for 3 or more;
at depth fast, on the fast tier's for 2, 3 and 4 or more. Their weights are in config.json. Depth lean gives the scores
of depth full, but only to passages of which the fast tier thinks that they may reach the default threshold.

## What it was trained on

Made by `tropescan train` (seeds fixed) from {len(passages):,} public passages of {sources} sources, {positive} of them positive,
{twice:,} with two or more independent readings; and fitted, but neither calibrated nor measured, on {len(extra):,} further
passages, {sum(p.positive for p in extra)} of them positive. The encoder also learned that {beside[0]:,} passages drawn from ordinary text
that the gate refuses are not positive, and the fast tier learned from the encoder's view of {beside[1]:,} unlabelled passages.
{scenes}
The labels are readings by language models under the project's codebook. The texts are not in this folder.

- gate.txt: terms; passes {passed} of the {positive} positive passages, with which in view it was chosen.
- fast.safetensors: logistic regressions on TF-IDF values of words, hashed to 64 bits, and of what stands near those that name a machine.
- encoder.safetensors: the uppermost {encoder["tuned_layers"]} layers of {encoder["name"].split("/")[-1]},
  tuned on all outputs at once, attention pooling, and linear heads. Of the layers it holds what tuning changed, in eight bits. What was there
  before, and what lies below them (token embeddings, with all 6 layers tuned), is not in this folder: it comes from the PyPI package or the hub, and
  is verified by sha256.
- out-of-source.jsonl: for every public training passage the scores by models that saw no passage of its source; `tropescan evaluate` uses them.

## How good it is out of source

{FOLDS} folds by source; each passage is judged by models that saw none of its source, and counts as 0 where a tier of the cascade refuses it. 95 % intervals
by bootstrap over sources. The final model is fitted on all folds, so on about half as many passages again. The figures are somewhat hopeful:
settings (pooling, epochs, regularisation) were chosen on folds of these labels, and calibration, the fast tier's floors and the default threshold
on the very scores that are reported. Folds keep the names of sources apart; a few texts stand under two.

| depth | average precision | F1, default threshold | recall at precision 0.8 | Brier | expected calibration error |
| --- | --- | --- | --- | --- | --- |
{figures}

{frames} {admirable}

## Where it fails

At the default threshold of depth full:

{_failures(full)}

Minds that no term of the gate names never reach a score. Text that is not English is hardly covered. Pass rates on written minimal pairs:
`tropescan evaluate {name} --labels FILE --cases tests/behaviour/cases.jsonl`.
"""


def _failures(report: Report) -> str:
    lines = ["| | passages | positive | false positives | missed |", "| --- | --- | --- | --- | --- |"]
    for by in ("register", "frame", "source"):
        for name, e in report.errors[by].items():
            lines.append(
                f"| {by} {cell(name)} | {e.passages:,} | {e.positives:,} | {e.false_positives:,} | {e.false_negatives:,} |"
            )
    return "\n".join(lines)
