"""Gets the scores to measure: from the model's out-of-source file where it lists a passage, else by running the cascade."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tropescan import corpus
from tropescan.corpus import Passage
from tropescan.detector import LEVELS, OUTPUTS
from tropescan.persistence import Model, out_of_source
from tropescan.scanner import Scanner
from tropescan.schema import FACETS, FRAMES, Floats

_FACET = len(LEVELS)
_FRAME = _FACET + len(FACETS)
_LEAST = 1e-5  # probabilities are rounded to 4 decimals: what is 0 there may be anything below this
_NEVER = -30.0  # the logit of what no tier judged: below every judged one


@dataclass(frozen=True)
class Judged:
    """Scores (n,) and logits of all heads (n, detector.OUTPUTS) of n passages at one depth.

    `listed` of them are by models that saw no passage of their source; of the others, which the cascade scored, `known` are of sources whose names
    the model was trained on (None: it does not say on which), so that the figures on them flatter it.
    """

    score: Floats
    outputs: Floats
    listed: int
    known: int | None


def judge(model: Model, passages: list[Passage], depth: str) -> Judged:
    """Each passage as a document of its own; what no tier let through counts as 0 (it cannot be flagged).

    An out-of-source line stands for every passage of the text that was judged, whole and under whatever id: the model knows the text, not its name.
    (A scan cuts a text of more than some 1,500 bytes, and its strongest part may score otherwise.) Raises ModelError, DamagedModel.
    """
    held = out_of_source(model)
    given = {"fast": held.fast, "full": held.full}
    given["lean"] = np.where(held.fast >= model.fast_floor("lean"), held.full, 0.0)
    score, outputs = np.zeros(len(passages)), np.zeros((len(passages), len(OUTPUTS)))
    rest = []
    for i, p in enumerate(passages):
        at = held.place(p.id, p.text)
        if at is None:
            rest.append(i)
            continue
        score[i] = given[depth][at]
        # what a tier refused has no other heads, whoever judged it; a score rounded to 0 cannot be told from it, and is no more to a user
        outputs[i] = (held.fast_outputs if depth == "fast" else held.outputs)[at] if score[i] else unjudged()
    if rest:
        scanner = Scanner(model.folder, depth=depth, audit=0.0)
        score[rest], outputs[rest] = scan(scanner, [passages[i] for i in rest])
    known = None
    if (told := model.config.get("training_sources")) is not None:
        seen = set(told)
        known = sum(corpus.source_key(passages[i].source) in seen for i in rest)
    return Judged(score, outputs, len(passages) - len(rest), known)


def scan(scanner: Scanner, passages: list[Passage]) -> tuple[Floats, Floats]:
    """The cascade's scores (n,) and logits (n, detector.OUTPUTS).

    The logits are made back from the columns of the scan: of the strongest passage where a text is cut in two. The levels are left nan (the
    score stands for them), as are the frames of a text that no tier judged or whose score is 0; facets below the model's hit floor are not
    kept by a scan, and count as never.
    """
    table = scanner.scan(pa.record_batch({"text": pa.array([p.text for p in passages], pa.large_string())}))
    score = np.asarray(np.nan_to_num(table["score"].to_numpy(), nan=0.0))
    outputs = np.tile(unjudged(), (len(passages), 1))
    columns = (table[name].to_pylist() for name in ("frame", "admirable", "hits"))
    for row, (frame, admirable, hits) in enumerate(zip(*columns, strict=True)):
        if frame is None or not score[row]:
            continue
        outputs[row, _FRAME:-1] = [float(f == frame) for f in FRAMES]
        outputs[row, -1] = _logit(admirable)
        strongest = max((h for h in hits if h["score"] is not None), key=lambda h: float(h["score"]), default=None)
        if strongest:
            outputs[row, _FACET:_FRAME] = [_logit(strongest[f]) for f in FACETS]
    return score, outputs


def unjudged() -> Floats:
    """The logits (detector.OUTPUTS,) of a passage that no tier judged: no levels, no frame, no facet, nothing admirable."""
    row = np.full(len(OUTPUTS), np.nan)
    row[_FACET:_FRAME] = _NEVER
    row[-1] = _NEVER
    return row


def _logit(probability: float) -> float:
    p = min(max(probability, _LEAST), 1 - _LEAST)
    return float(np.log(p / (1 - p)))
