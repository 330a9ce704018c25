"""What a model is fitted on: passages of every kind by number, their folds, and how often the encoder sees each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tropescan.corpus import Passage, folds, targets
from tropescan.detector import OUTPUTS
from tropescan.schema import Floats, Ints

FOLDS = 3
KEEP = {0: 0.12, 1: 0.2}  # share of an intensity's measured passages that an epoch tunes on: most teach little
EXTRA, REFUSED = 0.3, 0.15  # share of the extra passages, and of those that the gate refuses, that an epoch tunes on


@dataclass(frozen=True)
class Corpus:
    """What a model is fitted on, by number: measured passages, extra ones, those that the gate refuses, unlabelled ones.

    The first `labelled` are read by somebody and teach both tiers; those up to `tuning` teach the encoder, each in `share` of the epochs; those up
    to `free` teach the fast tier what the encoder makes of them; the others are the variants of scenes, which the encoder learns to tell apart.
    `target` (all, outputs) is 0 for what nobody read; `deciding` and `share` are of those up to `tuning`. `fold` (all,) is -1 for those that no
    fold leaves out, `scene` (all,) for those that are no variant of a scene.
    """

    texts: list[str]
    target: Ints
    deciding: list[tuple[tuple[int, int], ...]]
    share: Floats
    measured: int
    labelled: int
    tuning: int
    free: int
    fold: Ints
    scene: Ints


def gathered(
    passages: list[Passage],
    extra: list[Passage],
    refused: list[tuple[str, str]],
    unlabelled: list[tuple[str, str]],
    pairs: list[Passage],
) -> Corpus:
    """The corpus of measured passages, extra ones, (text, source) that the gate refuses or nobody has read, and variants of scenes, a scene a
    source; folds keep all sources apart. A scene all of whose variants are positive, or none, is none.
    """
    taken = [Passage("", text, 0, (), "other", 0, source, "unknown", ()) for text, source in refused]
    known = [*passages, *extra, *taken]
    both = {p.source for p in pairs if p.positive} & {p.source for p in pairs if not p.positive}
    variants = [p for p in pairs if p.source in both]
    free = len(known) + len(unlabelled)
    fold, scene = np.full(free + len(variants), -1), np.full(free + len(variants), -1)
    scene[free:] = np.unique([p.source for p in variants], return_inverse=True)[1]
    fold[: len(passages)] = folds([p.source for p in passages], FOLDS)
    where = {p.source: int(f) for p, f in zip(passages, fold, strict=False)}
    others = [*[p.source for p in known[len(passages) :]], *[s for _, s in unlabelled], *[p.source for p in variants]]
    fold[len(passages) :] = [where.get(s, -1) for s in others]
    share = [KEEP.get(p.intensity, 1.0) for p in passages] + [EXTRA] * len(extra) + [REFUSED] * len(refused)
    return Corpus(
        texts=[*[p.text for p in known], *[text for text, _ in unlabelled], *[p.text for p in variants]],
        target=np.concatenate([targets(known), np.zeros((len(unlabelled), len(OUTPUTS)), np.int64), targets(variants)]),
        deciding=[p.deciding for p in known],
        share=np.array(share),
        measured=len(passages),
        labelled=len(passages) + len(extra),
        tuning=len(known),
        free=free,
        fold=fold,
        scene=scene,
    )
