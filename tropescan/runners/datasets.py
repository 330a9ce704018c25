"""Hugging Face datasets: a function for `Dataset.map(batched=True)` and `IterableDataset.map(batched=True)`, and both calls made for you.

    annotated = annotate(dataset)                                        # Dataset or streaming IterableDataset
    score = Annotate()                                                   # the same by hand
    annotated = dataset.map(score, batched=True, features=score.features(dataset.features))

It adds the columns `tropescan_score`, `tropescan_fast_score`, `tropescan_intensity`, `tropescan_frame`, `tropescan_admirable`; None: not
computed. datasets caches by what the function pickles to, which here is the model's fingerprint and the settings: another model, another cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tropescan.errors import InputError, MissingExtra
from tropescan.runners.portable import PortableScanner, added, fields

try:
    import datasets
except ImportError:
    raise MissingExtra(
        "tropescan.runners.datasets needs datasets, which is not installed: run `pip install 'tropescan[datasets]'`"
    ) from None

__all__ = ["Annotate", "annotate"]
BATCH = 512  # documents; scores do not depend on it


class Annotate:
    """The scores of a batch, given as columns (dict of lists), as an Arrow table (`with_format("arrow")`) or as a frame of pandas or polars.

    A dict gets back the new columns, which datasets adds to its own; the others come back as a table with them. `settings` are those of PortableScanner
    (depth, device, threads). Raises ModelError, MissingExtra when it is made.
    """

    def __init__(
        self, model: str | Path = "evil-ai", *, text_column: str = "text", passages: bool = False, **settings: Any
    ) -> None:
        self.text_column, self.passages = text_column, passages
        self.scanner = PortableScanner(model, **settings)

    def __call__(self, batch: Any) -> Any:
        if not isinstance(batch, Mapping | pa.Table):  # a frame of pandas or polars, to which map would not add columns
            batch = pa.table(batch).replace_schema_metadata(None)
        columns = self.scanner.columns(self._texts(batch), self.passages)
        if not isinstance(batch, pa.Table):
            return columns.to_pydict()
        return added(batch, columns)

    def _texts(self, batch: Any) -> Any:
        try:
            return batch[self.text_column]
        except KeyError:
            names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
            raise InputError(
                f"no column '{self.text_column}'; there are {', '.join(names)}: give the right one as text_column"
            ) from None

    def features(self, before: Any) -> Any:
        """The features after the call, for `map(features=...)`: where the first batch holds no score, datasets could not tell their types."""
        if before is None:
            return None
        return datasets.Features({**before, **datasets.Features.from_arrow_schema(fields(self.passages))})


def annotate(
    dataset: Any,
    model: str | Path = "evil-ai",
    *,
    text_column: str = "text",
    passages: bool = False,
    batch_size: int = BATCH,
    num_proc: int | None = None,
    **settings: Any,
) -> Any:
    """A Dataset or an IterableDataset, or a dict of them by split, with the scores as columns. `num_proc`: processes, for a Dataset only.
    Raises InputError, and what Annotate raises."""
    splits = dataset.values() if isinstance(dataset, dict) else [dataset]
    for split in splits:
        if not isinstance(split, datasets.Dataset | datasets.IterableDataset):
            raise InputError(
                f"annotate takes a Dataset, an IterableDataset or a dict of them, not a {type(split).__name__}"
            )
    function = Annotate(model, text_column=text_column, passages=passages, **settings)
    if isinstance(dataset, dict):
        return type(dataset)({name: _mapped(split, function, batch_size, num_proc) for name, split in dataset.items()})
    return _mapped(dataset, function, batch_size, num_proc)


def _mapped(dataset: Any, function: Annotate, batch_size: int, num_proc: int | None) -> Any:
    features = function.features(dataset.features)
    more: dict[str, Any] = {}
    if isinstance(dataset, datasets.Dataset):
        if not len(dataset):  # which map would give back as it is
            empty = datasets.Dataset.from_dict({n: [] for n in features}, features, split=dataset.split)
            return empty.with_format(dataset.format["type"])
        more["num_proc"] = num_proc
    return dataset.map(function, batched=True, batch_size=batch_size, features=features, **more)
