"""Fits a model's calibration, fast floors and thresholds again, as `tropescan train` does, from the out-of-source outputs that its folder keeps.

    python benchmarks/recalibrate.py MODEL --labels FILE... --extra FILE... --texts DIR... --refused N --unlabelled N --pairs N

For a change of calibration alone: neither tier is trained. `--labels` must be those that the model was trained on, in their order; `--extra`,
`--refused`, `--unlabelled` and `--pairs`, how many such passages it was trained on, are told in the card. Writes the folder in place.
"""

from __future__ import annotations

import argparse
import sys

from tropescan import corpus, persistence
from tropescan.fits import Logits
from tropescan.training import finish


def main() -> None:
    """Reads, fits and writes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--labels", nargs="+", required=True)
    options.add_argument("--extra", nargs="+", default=[])
    options.add_argument("--texts", nargs="+", required=True)
    options.add_argument("--refused", type=int, default=0)
    options.add_argument("--unlabelled", type=int, default=0)
    options.add_argument("--pairs", type=int, default=0)
    given = options.parse_args()
    model = persistence.load(given.model)
    passages = corpus.load(given.labels, given.texts, print)
    held = persistence.out_of_source(model)
    rows = [held.row[p.id] for p in passages if p.id in held.row]
    if rows != list(range(len(held.row))) or [held.digest[i] for i in rows] != [
        persistence.text_key(p.text) for p in passages
    ]:
        sys.exit("the labels are not those that the model was trained on, all of them in their order")
    extra = corpus.load(given.extra, given.texts, print) if given.extra else []
    reports = finish(
        model.folder,
        model.name,
        passages,
        extra,
        (given.refused, given.unlabelled, given.pairs),
        Logits(held.fast_outputs[rows], held.outputs[rows]),
        config=model.config,
        gate=model.gate,
        fast=model.fast,
        encoder=model.encoder,
    )
    print(f"{model.folder}: {persistence.load(model.folder).fingerprint}")
    for depth, report in reports.items():
        print(report.markdown_row(depth))


if __name__ == "__main__":
    main()
