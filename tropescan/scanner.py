"""The compute seam: one Arrow batch of documents in, one row of scores a document out, same order.

A Scanner knows no path, database, process or screen. Every host calls the same `scan` and gets the same scores, whatever its batches:
passages are cut by their own text, each passage is scored by itself, and audits are drawn by a hash of the document.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tropescan import passages, persistence
from tropescan.detector import OUTPUTS, Calibration, Heads, judgement
from tropescan.embedding import Embedding, encoder, require_encoder
from tropescan.errors import DamagedModel, InputError, ModelError
from tropescan.fast import FastTier
from tropescan.gate import Gate, parse
from tropescan.lexicon import gather
from tropescan.schema import FACETS, PASSAGE, SCORES, Bytes, Floats, Ints, buffers, texts

_GROUP = 2048  # passages scored at a time: bounds the fast tier's work arrays
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass
class _Chosen:
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


class Scanner:
    """Scores documents with one model folder at one depth.

    `model` is a folder or the name of a shipped model, `depth` one of persistence.DEPTHS, `audit` the share (0 to 1) of documents and of
    passages refused by the fast tier that are scored all the same (None: the model's own), `threads` those of the encoder
    and `backend` what runs it (embedding.BACKENDS): scores agree between backends to 0.01.
    Raises ModelError, DamagedModel, MissingExtra, InputError. Not thread-safe; make one a thread or process.
    """

    def __init__(
        self,
        model: str | Path = "evil-ai",
        *,
        depth: str = "full",
        audit: float | None = None,
        device: str = "cpu",
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        if depth not in persistence.DEPTHS:
            raise InputError(f"no such depth '{depth}': {', '.join(persistence.DEPTHS)}")
        self._backend = require_encoder(backend, device) if depth != "fast" else None
        self.model = persistence.load(model)
        self.depth = depth
        self.key = self.model.key(depth)
        config = self.model.config
        if config["passage"] != {"target": passages.TARGET, "reach": passages.REACH}:
            raise ModelError(
                f"model {self.model.name} cuts passages otherwise than this tropescan ({config['passage']}): train it again"
            )
        self.audit = float(config["audit"] if audit is None else audit)
        self._floor = 0.0 if depth == "fast" else self.model.fast_floor(depth)
        self.threshold = float(self.model.thresholds[depth]["default"]["threshold"])
        self.gate = Gate(parse(self.model.gate))
        fast, full = self.model.fast, self.model.encoder
        _require_whole(self.model)
        try:
            self._fast_tier = FastTier(fast)
        except (KeyError, ValueError, IndexError) as error:
            raise DamagedModel(
                f"{self.model.folder / 'fast.safetensors'} lacks or garbles {error}: restore the folder, or train it again"
            ) from None
        self._heads = Heads(full["weights"].astype(np.float64), full["bias"].astype(np.float64))
        self._fast = Calibration(**config["calibration"]["fast"])
        self._full = Calibration(**config["calibration"]["full"])
        self._device, self._threads = device, threads
        self._encoder: Embedding | None = None

    @property
    def backend(self) -> str | None:
        """What ran the encoder (embedding.Embedding.backend); None while it has not run."""
        return self._encoder.backend if self._encoder else None

    def scan(self, documents: pa.RecordBatch) -> pa.Table:
        """Scores a batch whose column `text` holds the documents; see schema.SCORES for the rows that come back, one a document.

        `score` is the calibrated P(intensity >= 3) of the document's strongest passage, null where no passage reached the last tier of
        this depth; `fast_score` likewise for the fast tier. `hits` lists the passages at or above the model's hit floor, and those audited.
        Passages drawn by an audit never change a document's own score. Raises WrongColumnType.
        """
        column, null, repaired = texts(documents.column("text"))
        values, offsets = buffers(column)
        lengths = np.diff(offsets)
        chosen = self._choose(values, offsets)
        candidates = np.bincount(chosen.row[chosen.audited == ""], minlength=len(column))
        encoded = self._judge(values, chosen)
        counted = {
            "characters": passages.lengths(values, offsets),
            "passages": passages.count(lengths),
            "candidates": candidates,
            "encoded": np.bincount(chosen.row[encoded], minlength=len(column)),
            "null_text": null,
            "repaired": repaired,
        }
        return _assemble(counted, chosen, values, offsets, float(self.model.config["hit_floor"]))

    def _choose(self, values: Bytes, offsets: Ints) -> _Chosen:
        """The passages that pass the gate, and those its audit draws."""
        lengths = np.diff(offsets)
        stride = int(passages.count(lengths).max(initial=0)) + 1
        cells: list[Ints] = []
        bits: list[Bytes] = []
        for position, group in self.gate.hits(values, offsets):
            row = np.searchsorted(offsets, position, side="right") - 1
            cell = row * stride + passages.holding(values, offsets[row], lengths[row], position)
            # a passage's groups united within the segment: the lists stay as short as the passages are many
            unique, inverse = np.unique(cell, return_inverse=True)
            united = np.zeros(len(unique), np.uint8)
            np.bitwise_or.at(united, inverse, group)
            cells.append(unique)
            bits.append(united)
        unique, inverse = np.unique(np.concatenate(cells), return_inverse=True)
        united = np.zeros(len(unique), np.uint8)
        np.bitwise_or.at(united, inverse, np.concatenate(bits))
        begin, end = self._spans(values, offsets, unique // stride, unique % stride)
        low, high = offsets[unique // stride], offsets[unique // stride + 1]
        passes = self.gate.passes(values, united, begin, end, low, high)
        passed = unique[passes]
        drawn, weight = self._draw(values, offsets, stride)
        fresh = ~np.isin(drawn, passed)
        cell = np.concatenate([passed, drawn[fresh]])
        order = np.argsort(cell, kind="stable")
        cell = cell[order]
        audited = np.array([""] * len(passed) + ["gate"] * int(fresh.sum()), dtype="<U4")[order]
        row, number = cell // stride, cell % stride
        first, last = self._spans(values, offsets, drawn[fresh] // stride, drawn[fresh] % stride)
        start = np.concatenate([begin[passes], first])[order]
        end = np.concatenate([end[passes], last])[order]
        blank = np.full(len(cell), np.nan)
        weights = np.concatenate([np.ones(len(passed)), weight[fresh]])[order]
        return _Chosen(row, number, start, end, audited, weights, blank, blank.copy(), {})

    def _spans(self, values: Bytes, offsets: Ints, row: Ints, number: Ints) -> tuple[Ints, Ints]:
        """Where these passages begin and end in `values`."""
        begin, length = offsets[row], offsets[row + 1] - offsets[row]
        return passages.cuts(values, begin, length, number), passages.cuts(values, begin, length, number + 1)

    def _draw(self, values: Bytes, offsets: Ints, stride: int) -> tuple[Ints, Floats]:
        """One passage each of the documents whose hash falls under the audit share, with the passages each stands for."""
        lengths = np.diff(offsets)
        hashes = _hash(values, offsets)
        share = (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53
        row = np.flatnonzero((share < self.audit) & (lengths > 0))
        n = passages.count(lengths[row])
        number = (_mixed(hashes[row]) % np.maximum(n, 1).astype(np.uint64)).astype(np.int64)
        return row * stride + number, n / max(self.audit, 1e-300)

    def _judge(self, values: Bytes, chosen: _Chosen) -> np.ndarray:
        """Fills in the scores, tier by tier; returns which passages the encoder saw."""
        encoded = np.zeros(len(chosen.row), bool)
        for i in range(0, len(chosen.row), _GROUP):
            part = slice(i, i + _GROUP)
            start, end = chosen.start[part], chosen.end[part]
            buffer, offsets = gather(values, start, end)
            logits = self._fast_tier.logits(buffer, offsets)
            chosen.fast_score[part] = self._fast.score(logits)
            if self.depth != "fast":
                refused = (chosen.fast_score[part] < self._floor) & (chosen.audited[part] == "")
                drawn = refused & (self._passage_share(values, start, end) < self.audit)
                chosen.audited[part][drawn] = "fast"
                chosen.weight[part][drawn] = 1.0 / max(self.audit, 1e-300)
                see = np.flatnonzero(~refused | drawn)
                fast = logits[see]
                logits = np.zeros_like(logits)  # rows the encoder did not see are masked by their missing score
                logits[see] = self._encode(values, start[see], end[see])
                chosen.score[part][see] = self._full.score(fast, logits[see])
                encoded[part][see] = True
            else:
                chosen.score[part] = chosen.fast_score[part]
            columns = judgement(logits, np.nan_to_num(chosen.score[part]))
            for name, column in columns.items():
                chosen.columns.setdefault(name, []).extend(list(column))
        return encoded

    def _encode(self, values: Bytes, start: Ints, end: Ints) -> Floats:
        """The encoder tier's logits (n, outputs) of the passages at these byte spans."""
        if not len(start):
            return np.zeros((0, len(OUTPUTS)))
        if self._encoder is None:
            reference, tensors = self.model.config["encoder"], self.model.encoder
            self._encoder = encoder(reference, tensors, self._backend or "auto", self._device, self._threads)
        spans = zip(start.tolist(), end.tolist(), strict=True)
        return self._heads.logits(self._encoder.encode([values[a:b].tobytes().decode() for a, b in spans]))

    def _passage_share(self, values: Bytes, start: Ints, end: Ints) -> Floats:
        buffer, offsets = gather(values, start, end)
        return np.asarray((_mixed(_hash(buffer, offsets)) >> np.uint64(11)).astype(np.float64) / 2.0**53)


def _require_whole(model: persistence.Model) -> None:
    """Tells an encoder tier that lacks a tensor or has one of another shape: no default may stand for it. Raises DamagedModel."""
    reference, tensors, file = model.config["encoder"], model.encoder, model.folder / "encoder.safetensors"
    lacking = [name for name in ("weights", "bias", "queries") if name not in tensors]
    if lacking:
        raise DamagedModel(f"{file} lacks {', '.join(lacking)}: restore the folder, or train it again")
    width, queries = int(reference["dimensions"]), tensors["queries"].shape[0] if tensors["queries"].ndim else 0
    wanted = {
        "queries": (queries, width),
        "weights": (width * (1 + queries), len(OUTPUTS)),
        "bias": (len(OUTPUTS),),
    }
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise DamagedModel(
                f"{file}: {name} is of shape {tensors[name].shape}, not {shape}: restore the folder, or train it again"
            )
    layers = {name.split(".")[1] for name in tensors if name.startswith("layer.")}
    if len(layers) != reference.get("tuned_layers", 0):
        raise DamagedModel(
            f"{file} holds {len(layers)} tuned layers, not {reference.get('tuned_layers', 0)} as config.json says: "
            "restore the folder, or train it again"
        )


def _mixed(h: np.ndarray) -> np.ndarray:
    h = (h ^ (h >> np.uint64(30))) * _MIX[0]
    h = (h ^ (h >> np.uint64(27))) * _MIX[1]
    return np.asarray(h ^ (h >> np.uint64(31)))


def _hash(values: Bytes, offsets: Ints) -> np.ndarray:
    """A hash (uint64) of each document's length and of 8 bytes each at its beginning, middle and end: cheap, and no function of its place."""
    begin, n = offsets[:-1], np.diff(offsets)
    h = _mixed(n.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    if not len(values):
        return h
    for at in (np.zeros_like(n), n // 2, n - 8):
        column = np.clip(at[:, None] + np.arange(8), 0, np.maximum(n - 1, 0)[:, None])
        eight = values[np.minimum(begin[:, None] + column, len(values) - 1)]
        eight[n == 0] = 0
        h = _mixed(h ^ np.ascontiguousarray(eight).view(np.uint64)[:, 0])
    return h


def _assemble(counted: dict[str, Any], chosen: _Chosen, values: Bytes, offsets: Ints, hit_floor: float) -> pa.Table:
    """The rows of schema.SCORES: each document's strongest passage, and its passages worth keeping."""
    n = len(offsets) - 1
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
    keep = np.flatnonzero((np.nan_to_num(chosen.score) >= hit_floor) | (chosen.audited != ""))
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
        "hits": pa.ListArray.from_arrays(pa.array(list_offsets), _hits(chosen, keep, values, offsets)),
    }
    return pa.table(
        [
            pa.array(columns[f.name], f.type) if not isinstance(columns[f.name], pa.Array) else columns[f.name]
            for f in SCORES
        ],
        schema=SCORES,
    )


def _hits(chosen: _Chosen, keep: Ints, values: Bytes, offsets: Ints) -> pa.StructArray:
    row, start, end = chosen.row[keep], chosen.start[keep], chosen.end[keep]
    edges = passages.characters(values, np.repeat(offsets[row], 2), np.stack([start, end], 1).reshape(-1)).reshape(
        -1, 2
    )
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
