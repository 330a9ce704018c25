"""The compute seam: one Arrow batch of documents in, one row of scores a document out, same order.

A Scanner knows no path, database, process or screen. Every host calls the same `scan` and gets the same scores, whatever its batches:
passages are cut by their own text, each passage is scored by itself, and audits are drawn by a hash of the document.
"""

from __future__ import annotations

import contextlib
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
from tropescan.scanner import draws
from tropescan.scanner.rows import Chosen, assemble
from tropescan.scanner.whole import require_whole
from tropescan.schema import Bytes, Floats, Ints, buffers, texts

_GROUP = 2048  # passages scored at a time: bounds the fast tier's work arrays
_WORTH = 64 << 20  # bytes of text before the compiled loops are loaded, which takes as long as they save in 250 MB


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
        require_whole(self.model)
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
        self._cutter: Any = passages  # or kernels, whose functions do the same
        self._uncompiled = _WORTH

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
        self._compile(values, offsets)
        lengths = np.diff(offsets)
        chosen = self._choose(values, offsets)
        candidates = np.bincount(chosen.row[chosen.audited == ""], minlength=len(column))
        encoded = self._judge(values, chosen)
        counted = {
            "characters": self._cutter.lengths(values, offsets),
            "passages": passages.count(lengths),
            "candidates": candidates,
            "encoded": np.bincount(chosen.row[encoded], minlength=len(column)),
            "null_text": null,
            "repaired": repaired,
        }
        keep = np.flatnonzero((np.nan_to_num(chosen.score) >= self.model.config["hit_floor"]) | (chosen.audited != ""))
        edges = np.stack([chosen.start[keep], chosen.end[keep]], 1).reshape(-1)
        begin = np.repeat(offsets[chosen.row[keep]], 2)
        return assemble(counted, chosen, keep, self._cutter.characters(values, begin, edges).reshape(-1, 2))

    def _compile(self, values: Bytes, offsets: Ints) -> None:
        """Brings in the compiled loops, which give the same scores, once there is enough to do."""
        if self._uncompiled < 0:
            return
        self._uncompiled -= len(values)
        if self._uncompiled < 0:
            # Numba is late for new Pythons; its cache may be damaged, or without room: whatever it is, numpy does the same
            with contextlib.suppress(Exception):
                from tropescan import kernels

                kernels.load(values, offsets)
                self._fast_tier.compile(values)
                self._cutter = kernels

    def _choose(self, values: Bytes, offsets: Ints) -> Chosen:
        """The passages that pass the gate, and those its audit draws."""
        lengths = np.diff(offsets)
        stride = int(passages.count(lengths).max(initial=0)) + 1
        cells: list[Ints] = []
        bits: list[Bytes] = []
        for position, group in self.gate.hits(values, offsets):
            row = np.searchsorted(offsets, position, side="right") - 1
            cell = row * stride + self._cutter.holding(values, offsets[row], lengths[row], position)
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
        row, number, weight = draws.documents(values, offsets, self.audit)
        drawn = row * stride + number
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
        return Chosen(row, number, start, end, audited, weights, blank, blank.copy(), {})

    def _spans(self, values: Bytes, offsets: Ints, row: Ints, number: Ints) -> tuple[Ints, Ints]:
        """Where these passages begin and end in `values`."""
        begin, length = offsets[row], offsets[row + 1] - offsets[row]
        cuts = self._cutter.cuts
        return cuts(values, begin, length, number), cuts(values, begin, length, number + 1)

    def _judge(self, values: Bytes, chosen: Chosen) -> np.ndarray:
        """Fills in the scores, tier by tier; returns which passages the encoder saw."""
        encoded = np.zeros(len(chosen.row), bool)
        for i in range(0, len(chosen.row), _GROUP):
            part = slice(i, i + _GROUP)
            start, end = chosen.start[part], chosen.end[part]
            logits = self._fast_tier.logits(values, start, end)
            chosen.fast_score[part] = self._fast.score(logits)
            if self.depth != "fast":
                refused = (chosen.fast_score[part] < self._floor) & (chosen.audited[part] == "")
                drawn = refused & (draws.shares(values, start, end) < self.audit)
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
