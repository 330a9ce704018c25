"""datatrove's pipelines: a step that writes scores into the documents' metadata, and a filter that drops by them.

    pipeline = [ParquetReader("corpus"), TropescanFilter("precision_0.9", exclusion_writer=JsonlWriter("dropped")), ParquetWriter("kept")]

What datatrove sends to its workers is the model's name and the settings. Both steps add `tropescan_score`, `tropescan_fast_score`,
`tropescan_intensity`, `tropescan_frame` and `tropescan_admirable` to the metadata; None: not computed, as in the `documents` table. A
ParquetWriter takes its columns' types from its first document, where most of these are None: give it a `schema` with `fields()`
(examples/datatrove_filter.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tropescan.errors import MissingExtra
from tropescan.runners.portable import PREFIX, PortableScanner, fields

try:
    from datatrove.data import Document
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.writers.disk_base import DiskWriter
    from datatrove.utils.batching import batched
except ImportError:
    raise MissingExtra(
        "tropescan.runners.datatrove needs datatrove, which is not installed: run `pip install 'tropescan[datatrove]'`"
    ) from None

__all__ = ["TropescanAnnotator", "TropescanFilter", "fields"]
BATCH = 512  # documents; scores do not depend on it


class TropescanAnnotator(PipelineStep):  # type: ignore[misc]
    """Adds the scores to every document's metadata; with `passages`, the passages at or above the model's hit floor with their spans, too.

    `settings` are those of PortableScanner (depth, device, threads). Raises ModelError, MissingExtra when it is made.
    """

    name = "tropescan scores"
    type = "ANNOTATOR"

    def __init__(
        self, model: str | Path = "evil-ai", *, passages: bool = False, batch_size: int = BATCH, **settings: Any
    ) -> None:
        super().__init__()
        self.batch_size, self.passages = batch_size, passages
        self.scanner = PortableScanner(model, **settings)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Scores documents batch by batch and hands them on, in order."""
        for batch in batched(data or (), self.batch_size):
            with self.track_time("batch"):
                annotate(self.scanner, batch, self.passages)
            for document in batch:
                self.stat_update("total")
                self.update_doc_stats(document)
                yield document


class TropescanFilter(BaseFilter):  # type: ignore[misc]
    """Drops the documents whose score is at or above `threshold`: a number, or a name in the model's thresholds.json (default, precision_0.8,
    precision_0.9, but at depth lean recall_0.95). Documents that hold no score stay.

    With `drop`, a function of the metadata (scores included) decides instead, as in `lambda m: (m["tropescan_score"] or 0) > 0.8 and
    m["tropescan_frame"] == "fiction"`. The reason of a drop is `tropescan_` and the frame. Raises ModelError, InputError, MissingExtra when it is made.
    """

    name = "tropescan"

    def __init__(
        self,
        threshold: float | str = "default",
        *,
        model: str | Path = "evil-ai",
        drop: Callable[[dict[str, Any]], bool] | None = None,
        passages: bool = False,
        exclusion_writer: DiskWriter | None = None,
        batch_size: int = BATCH,
        **settings: Any,
    ) -> None:
        super().__init__(exclusion_writer, batch_size)
        self.scanner = PortableScanner(model, **settings)
        self.threshold, self.drop, self.passages = self.scanner.threshold(threshold), drop, passages

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """True: it stays; False and the reason: it goes."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """`filter` for many documents: one call of the scanner."""
        annotate(self.scanner, batch, self.passages)
        return [self._verdict(document.metadata) for document in batch]

    def _verdict(self, metadata: dict[str, Any]) -> bool | tuple[bool, str]:
        score, frame = metadata[f"{PREFIX}score"], metadata[f"{PREFIX}frame"]
        goes = self.drop(metadata) if self.drop else score is not None and score >= self.threshold
        return (False, PREFIX + (frame or "unscored")) if goes else True


def annotate(scanner: PortableScanner, documents: list[Document], passages: bool = False) -> None:
    """Adds the scores to the documents' metadata."""
    columns = scanner.columns([d.text for d in documents], passages)
    for document, row in zip(documents, columns.to_pylist(), strict=True):
        document.metadata.update(row)
