"""The encoder in torch: in fp32 the reference that the others are held to, or in bf16."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tropescan.embedding.backends import require_encoder
from tropescan.embedding.deltas import LAYER, widened
from tropescan.embedding.files import verified
from tropescan.embedding.pooling import Pooling, Window
from tropescan.errors import DamagedModel, ModelError
from tropescan.schema import Floats

_BATCH = 64  # windows run at once on a device that is not the processor


class SentenceEncoder:
    """A sentence-transformers model under the model folder's own upper layers: `tensors` holds them (`layer.N.*`, as deltas keeps them or whole,
    instead of the model's) and the `queries` of the pooling.

    On a processor each window is run alone: batches of one length gain it 0-5 % at these lengths, and padding costs it. Elsewhere windows are run
    in batches by length, padded: there a score may depend on its neighbours in the last of its four decimals, or with `bf16` in the third.
    `transformer` and `tokenizer` are the bare parts.
    """

    def __init__(
        self,
        reference: dict[str, Any],
        tensors: dict[str, Any],
        device: str = "cpu",
        threads: int | None = None,
        bf16: bool = False,
        batch: int | None = None,
    ) -> None:
        require_encoder("torch")
        folder = verified(reference)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with contextlib.suppress(
            ImportError
        ):  # a lock between processes, for bars we never show, would outlive a killed worker
            from tqdm.std import TqdmDefaultWriteLock

            TqdmDefaultWriteLock.mp_lock = None
        import torch
        from sentence_transformers import SentenceTransformer

        with contextlib.suppress(ImportError, AttributeError):
            from transformers.utils import logging as transformers_logging

            transformers_logging.disable_progress_bar()
        if threads:
            torch.set_num_threads(threads)
        self._torch, self._bf16 = torch, bf16
        try:
            self._device = torch.device(device)
            first = SentenceTransformer(str(folder), device=device, trust_remote_code=False)[0]
        except (
            OSError,
            ValueError,
            RuntimeError,
            AssertionError,
        ) as error:  # the last is what a CPU build says of CUDA
            raise ModelError(f"the encoder in {folder} cannot be loaded on the device '{device}': {error}") from None
        self.backend = ("bf16" if bf16 else "torch") + ("" if self._device.type == "cpu" else f"-{self._device.type}")
        self._batch = batch or (1 if self._device.type == "cpu" else _BATCH)
        self.transformer, self.tokenizer = first.auto_model.eval(), first.tokenizer
        self._pooling = Pooling(folder, reference, tensors)
        self.dimensions = self._pooling.dimensions
        self._replace(tensors)

    def _replace(self, tensors: dict[str, Any]) -> None:
        layers = self.transformer.encoder.layer
        own = {f"encoder.{k}": v.cpu().numpy() for k, v in self.transformer.encoder.state_dict().items()}
        whole = widened(tensors, own)
        for number in sorted({int(k.split(".")[1]) for k in whole}):
            head = f"{LAYER}{number}."
            state = {k.removeprefix(head): v for k, v in whole.items() if k.startswith(head)}
            try:
                layers[number].load_state_dict({k: self._torch.tensor(v).float() for k, v in state.items()})
            except (RuntimeError, IndexError) as error:
                raise DamagedModel(f"the tuned layer {number} does not fit the encoder: {error}") from None

    def encode(self, texts: list[str]) -> Floats:
        """See `pooling.Embedding.encode`."""
        return self._pooling.encode(texts, self._states)

    def _states(self, windows: list[Window]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        torch = self._torch
        order = sorted(
            range(len(windows)), key=lambda i: -len(windows[i])
        )  # the longest first: memory is short at once or never
        for at in range(0, len(order), self._batch):
            places = order[at : at + self._batch]
            ids = torch.zeros(len(places), len(windows[places[0]]), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for k, i in enumerate(places):
                ids[k, : len(windows[i])] = torch.tensor(windows[i])
                mask[k, : len(windows[i])] = 1
            ids, mask = ids.to(self._device), mask.to(self._device)
            with (
                torch.inference_mode(),
                torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16),
            ):
                found = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state.float().cpu().numpy()
            for k, i in enumerate(places):
                yield i, found[k, : len(windows[i])]
