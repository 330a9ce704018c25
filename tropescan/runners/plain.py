"""The plainest host: a function over a list of texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import pyarrow as pa

from tropescan.errors import InputError
from tropescan.runners.portable import PortableScanner

_ONE_AT_A_TIME = Lock()  # a Scanner is not thread-safe


def scan_texts(
    texts: Sequence[str | None],
    *,
    model: str | Path = "evil-ai",
    depth: str = "full",
    audit: float = 0.0,
    device: str = "cpu",
    threads: int | None = None,
    backend: str = "auto",
) -> pa.Table:
    """The scores of some texts: one row a text, in order, with the columns of schema.SCORES.

    `score` is the calibrated P(intensity >= 3) of the text's strongest passage, null where nothing in it reached the last tier; `hits` lists
    the passages worth keeping with their spans. The model is loaded at the first call and kept for the next ones of the same settings.
    Raises ModelError, MissingExtra, InputError.
    """
    if isinstance(texts, str):
        raise InputError("scan_texts takes a list of texts, not one text: put it into a list")
    with _ONE_AT_A_TIME:
        return _scanner(str(model), depth, audit, device, threads, backend).scan(texts)


@lru_cache(maxsize=2)
def _scanner(model: str, depth: str, audit: float, device: str, threads: int | None, backend: str) -> PortableScanner:
    return PortableScanner(model, depth=depth, audit=audit, device=device, threads=threads, backend=backend)
