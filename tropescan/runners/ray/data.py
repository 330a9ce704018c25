"""Ray Data: a class for `map_batches` with batches of Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from tropescan.errors import InputError
from tropescan.runners.portable import PortableScanner, added


class Annotate:
    """Adds the scores to a batch as columns: `tropescan_score`, `tropescan_fast_score`, `tropescan_intensity`, `tropescan_frame`,
    `tropescan_admirable`, null where not computed; with `passages`, the passages at or above the model's hit floor, too.

    Ray makes one in each of its actors. `settings` are those of PortableScanner (depth, device, threads). Raises ModelError, MissingExtra
    when it is made.
    """

    def __init__(
        self, model: str | Path = "evil-ai", *, text_column: str = "text", passages: bool = False, **settings: Any
    ) -> None:
        self.text_column, self.passages = text_column, passages
        self.scanner = PortableScanner(model, threads=settings.pop("threads", 1), **settings)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not isinstance(batch, pa.Table):
            raise InputError('give map_batches batch_format="pyarrow"')
        if self.text_column not in batch.column_names:
            raise InputError(
                f"no column '{self.text_column}'; there are {', '.join(batch.column_names)}: give the right one as text_column"
            )
        return added(batch, self.scanner.columns(batch[self.text_column], self.passages))
