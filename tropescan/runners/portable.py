"""A Scanner that travels: pickled, copied or hashed, it is the name of a model and a few settings; the scanner is made where it first scans."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tropescan import persistence
from tropescan.embedding import require_encoder
from tropescan.errors import InputError, ModelError
from tropescan.scanner import Scanner
from tropescan.schema import PASSAGE, SCORES

PREFIX = "tropescan_"
_JUDGED = ("score", "fast_score", "intensity", "frame", "admirable")
_LONE = re.compile("[\ud800-\udfff]")

FIELDS = pa.schema([*[(PREFIX + n, SCORES.field(n).type) for n in _JUDGED], (PREFIX + "passages", pa.list_(PASSAGE))])
"""What a host adds to a document, named as in the `documents` table; `tropescan_passages` only where it is asked for."""


class PortableScanner:
    """The settings of a Scanner, checked here and used elsewhere.

    `model` is a shipped model's name or a folder that every machine has at the same place, `audit` the share of what the tiers refuse that is
    scored all the same: it never changes a document's score, so hosts other than `tropescan scan` leave it at 0. `threads` None: one in a
    process that a host started, the encoder's own choice in the first. `backend` auto is settled here, for all processes; one whose model is
    another than the model checked here is refused: all of a host's workers give the same scores. Raises ModelError, InputError, MissingExtra.
    """

    def __init__(
        self,
        model: str | Path = "evil-ai",
        *,
        depth: str = "full",
        audit: float = 0.0,
        device: str = "cpu",
        threads: int | None = None,
        backend: str = "auto",
    ) -> None:
        if depth not in persistence.DEPTHS:
            raise InputError(f"no such depth '{depth}': {', '.join(persistence.DEPTHS)}")
        if depth != "fast":
            backend = require_encoder(backend, device)
        loaded = persistence.load(model)
        given = Path(model)
        self.model = str(given.resolve()) if given.is_dir() else str(model)
        self.depth, self.audit, self.threads = depth, audit, threads
        self.device, self.backend = device, backend
        self.fingerprint = loaded.fingerprint
        self.thresholds = {n: float(t["threshold"]) for n, t in loaded.thresholds[depth].items()}
        self._home = os.getpid()
        self._made: tuple[int, Scanner] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_made", "_home")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _made=None, _home=-1)

    @property
    def scanner(self) -> Scanner:
        """The scanner of this process; a forked child makes its own."""
        here = os.getpid()
        if self._made is None or self._made[0] != here:
            threads = self.threads or (None if here == self._home else 1)
            where = {"device": self.device, "backend": self.backend}
            scanner = Scanner(self.model, depth=self.depth, audit=self.audit, threads=threads, **where)
            if scanner.model.fingerprint != self.fingerprint:
                raise ModelError(
                    f"model {self.model} is another one here than where the work was given out: install the same tropescan and model everywhere"
                )
            self._made = (here, scanner)
        return self._made[1]

    def threshold(self, given: float | str) -> float:
        """A threshold by number, or by its name in the model's thresholds.json. Raises InputError."""
        if isinstance(given, str):
            if given not in self.thresholds:
                raise InputError(
                    f"no threshold '{given}': the model has {', '.join(self.thresholds)}; or give a number"
                )
            return self.thresholds[given]
        if not 0 <= given <= 1:  # nan, too
            raise InputError(f"no threshold {given}: scores lie between 0 and 1")
        return float(given)

    def scan(self, texts: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> pa.Table:
        """One row of schema.SCORES a text. A lone surrogate, which no UTF-8 can hold, is read as U+FFFD."""
        if isinstance(texts, pa.ChunkedArray):
            chunks = [self.scan(chunk) for chunk in texts.chunks]
            return pa.concat_tables(chunks) if chunks else SCORES.empty_table()
        column = texts if isinstance(texts, pa.Array) else _column(texts)
        return self.scanner.scan(pa.record_batch({"text": column}))

    def columns(self, texts: Sequence[str | None] | pa.Array | pa.ChunkedArray, passages: bool = False) -> pa.Table:
        """The columns that a host adds to its documents (FIELDS)."""
        scores = self.scan(texts)
        table = scores.select(list(_JUDGED)).rename_columns([PREFIX + n for n in _JUDGED])
        return table.append_column(PREFIX + "passages", scores["hits"]) if passages else table


def fields(passages: bool = False) -> pa.Schema:
    """The fields that `PortableScanner.columns` gives."""
    return FIELDS if passages else pa.schema(list(FIELDS)[:-1])


def added(batch: pa.Table, columns: pa.Table) -> pa.Table:
    """The batch with these columns, in place of those of their names that an earlier call added."""
    kept = batch.drop_columns([name for name in columns.column_names if name in batch.column_names])
    for name in columns.column_names:
        kept = kept.append_column(name, columns[name])
    return kept


def _column(texts: Iterable[str | None]) -> pa.Array:
    texts = texts if isinstance(texts, Sequence) else list(texts)  # what gives them once is asked once
    try:
        try:
            return pa.array(texts, pa.large_string(), from_pandas=True)  # where NaN stands for no text
        except UnicodeEncodeError:
            whole = [_LONE.sub("\N{REPLACEMENT CHARACTER}", t) if isinstance(t, str) else t for t in texts]
            return pa.array(whole, pa.large_string(), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise InputError("texts must be a list of str (None where there is no text)") from None
