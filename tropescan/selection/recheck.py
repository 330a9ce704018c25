"""Scores masked documents anew: cutting moves the borders of passages, so what was below a rule may come to meet it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tropescan.errors import ModelError
from tropescan.scanner import Scanner
from tropescan.schema import PASSAGE
from tropescan.selection.rules import PASSAGE as COLUMNS
from tropescan.selection.rules import Rule
from tropescan.selection.spans import Span
from tropescan.store.expressions import over

_ABOUT = ("path", "id", "url", "domain")


class Recheck:
    """Asks a rule of documents that were changed, with the model that scored the corpus. Raises ModelError."""

    def __init__(self, model: dict[str, Any], folder: str | Path, rule: Rule) -> None:
        self._scanner = Scanner(folder, depth=model["depth"], audit=0.0)
        if self._scanner.key != model["model"]:
            raise ModelError(
                f"model {folder} is {self._scanner.key}, the corpus was scanned by {model['model']}: name its folder with --model-dir"
            )
        self._rule, self._lock = rule, threading.Lock()

    def spans(self, texts: list[str], facts: list[dict[str, Any]]) -> list[list[Span]]:
        """The flagged passages of each of these texts; `facts` say what the store knows of its document (row, path, id, url, domain)."""
        with self._lock:  # a Scanner serves one thread
            scores = self._scanner.scan(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
        lists = scores["hits"].combine_chunks()
        owner, hits = pc.list_parent_indices(lists), lists.flatten()
        columns: dict[str, Any] = {"document": owner.cast(pa.int64())}
        for name in COLUMNS:
            if name in _ABOUT:
                columns[name] = pa.array([f[name] for f in facts], pa.string()).take(owner)
            elif name == "row":
                columns[name] = pa.array([f[name] for f in facts], pa.int64()).take(owner)
            elif name in ("characters", "passages", "audited"):
                columns[name] = scores[name].combine_chunks().take(owner)
            else:
                columns[name] = hits.field(PASSAGE.get_field_index(name))
        found = over(pa.table(columns), f"SELECT document, start_char, end_char FROM units WHERE {self._rule.sql}")
        spans: list[list[Span]] = [[] for _ in texts]
        for at, start, end in zip(*(found[n].to_pylist() for n in ("document", "start_char", "end_char")), strict=True):
            spans[at].append((start, end))
        return spans
