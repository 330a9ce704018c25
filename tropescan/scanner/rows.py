"""What became of a batch's passages, and the rows of schema.SCORES made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tropescan.schema import FACETS, PASSAGE, SCORES, Floats, Ints


@dataclass
class Chosen:
    """The passages of a batch that get a score: document row, number, byte span, and for audits which tier refused them."""

    row: Ints
    passage: Ints
    start: Ints
    end: Ints
    audited: np.ndarray  # of str: "" where the gate passed it, "gate" where an audit drew it
    weight: Floats
    fast_score: Floats
    score: Floats  # NaN where the last tier did not run
    columns: dict[str, Any]


def assemble(counted: dict[str, Any], chosen: Chosen, keep: Ints, edges: Ints) -> pa.Table:
    """The rows of schema.SCORES: each document's strongest passage, and its passages worth `keep`ing, whose `edges` (k, 2) are in characters."""
    n = len(counted["passages"])
    own = chosen.audited != "gate"
    # "fast" audits were refused by the fast tier: they mark the document, their encoder score stays out of it
    score = np.where(chosen.audited == "", chosen.score, np.nan)
    best = np.full(n, -1)
    # the last write wins: ascending by score, then later passages first, so that the earliest of the strongest passages stays
    rank = np.lexsort((-chosen.passage, np.nan_to_num(score, nan=-1.0)))
    rank = rank[own[rank]]
    best[chosen.row[rank]] = rank
    has = best >= 0
    at = best[has]
    fast = np.full(n, np.nan)
    np.fmax.at(fast, chosen.row[own], chosen.fast_score[own])
    audited = np.zeros(n, bool)
    audited[chosen.row[chosen.audited != ""]] = True

    def document(name: str) -> pa.Array:
        column = np.full(n, np.nan)
        column[has] = np.where(np.isnan(score[at]), np.nan, np.asarray(chosen.columns.get(name, score))[at])
        return pa.array(column, from_pandas=True)

    frames = np.full(n, None, object)
    if has.any():
        frames[has] = np.where(np.isnan(score[at]), None, np.asarray(chosen.columns["frame"], object)[at])
    kept_row = chosen.row[keep]
    list_offsets = np.searchsorted(kept_row, np.arange(n + 1)).astype(np.int32)
    columns = {
        **counted,
        "fast_score": pa.array(fast, from_pandas=True),
        "score": document("score"),
        "intensity": document("intensity"),
        "frame": pa.array(frames, pa.string()),
        "admirable": document("admirable"),
        "audited": audited,
        "hits": pa.ListArray.from_arrays(pa.array(list_offsets), _hits(chosen, keep, edges)),
    }
    return pa.table(
        [
            pa.array(columns[f.name], f.type) if not isinstance(columns[f.name], pa.Array) else columns[f.name]
            for f in SCORES
        ],
        schema=SCORES,
    )


def _hits(chosen: Chosen, keep: Ints, edges: Ints) -> pa.StructArray:
    unknown = np.isnan(chosen.score[keep])

    def judged(name: str) -> pa.Array:
        column = np.asarray(chosen.columns.get(name, np.zeros(0)), dtype=object if name == "frame" else np.float64)
        return pa.array(column[keep] if len(keep) else column[:0], PASSAGE.field(name).type, mask=unknown)

    given = {
        "passage": pa.array(chosen.passage[keep].astype(np.int32)),
        "start_char": pa.array(edges[:, 0]),
        "end_char": pa.array(edges[:, 1]),
        "fast_score": pa.array(chosen.fast_score[keep]),
        "score": pa.array(chosen.score[keep], from_pandas=True),
        "audited": pa.array([a or None for a in chosen.audited[keep].tolist()], pa.string()),
        "weight": pa.array(chosen.weight[keep]),
        **{name: judged(name) for name in ("intensity", "frame", "admirable", *FACETS)},
    }
    return pa.StructArray.from_arrays([given[f.name] for f in PASSAGE], fields=list(PASSAGE))
