"""The tuned layers as a model folder keeps them: what tuning changed of the encoder's own weights, in eight bits a number.

Tuning moves a weight by 0.0016 (root mean square) and 0.016 at the most, so that a step of a row's largest change over 127 comes within 0.0004 of a matrix
(root mean square, relative), ten times as near as bf16, in which it is run: half of the size of halves, and vectors of a cosine of 0.9999996 to
theirs (reports/log.md). Vectors of biases and norms are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tropescan.errors import DamagedModel

_SCALE = ".scale"
LAYER = "layer."


def base(folder: Path) -> dict[str, Any]:
    """The weights of the encoder in a folder, float32, by their names there. Raises DamagedModel."""
    from safetensors.numpy import load_file

    try:
        return dict(load_file(str(folder / "model.safetensors")))
    except (OSError, ValueError) as error:
        raise DamagedModel(f"the encoder in {folder} cannot be loaded: {error}") from None


def narrowed(tensors: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Of `tensors`, each matrix `layer.N.*` as int8 (rows, columns) and float32 `layer.N.*.scale` (rows,): its change against the encoder's own
    `weights` is one times the other. All else as it is."""
    kept = dict(tensors)
    for name, tuned in tensors.items():
        if name.startswith(LAYER) and tuned.ndim == 2:
            change = tuned.astype(np.float32) - weights[f"encoder.{name}"]
            scale = np.abs(change).max(axis=1) / 127
            step = np.where(scale > 0, scale, 1.0)[:, None]
            kept |= {name: np.rint(change / step).astype(np.int8), name + _SCALE: scale.astype(np.float32)}
    return kept


def widened(tensors: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors `layer.N.*` whole, as the encoder takes them, of what `narrowed` gives (or of whole ones). Raises DamagedModel."""
    layers = {name.split(".")[1] for name in tensors if name.startswith(LAYER)}
    own_names = [name.removeprefix("encoder.") for name in weights if name.startswith("encoder." + LAYER)]
    lacking = [name for name in own_names if name.split(".")[1] in layers and name not in tensors]
    if lacking:  # the encoder's own would stand for it
        raise DamagedModel(f"the tuned {lacking[0]} is not there: restore the folder, or train it again")
    whole: dict[str, Any] = {}
    for name, kept in tensors.items():
        if not name.startswith(LAYER) or name.endswith(_SCALE):
            continue
        own = weights.get(f"encoder.{name}")
        if own is None or own.shape != kept.shape:
            raise DamagedModel(f"the tuned {name} does not fit the encoder")
        if kept.dtype == np.int8:
            scale = tensors.get(name + _SCALE)
            if scale is None or scale.shape != kept.shape[:1]:
                raise DamagedModel(f"the tuned {name} lacks its scale: restore the folder, or train it again")
            kept = own.astype(np.float32) + kept * scale[:, None]
        whole[name] = kept
    return whole
