"""Where a tuning stands, kept on disk after every epoch, so that one that was cut off goes on there and comes to the same weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tropescan.errors import InputError
from tropescan.layers import Dropout

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW holds of a weight


def write(path: Path, arrays: dict[str, Any], told: dict[str, str] | None = None) -> None:
    """Writes arrays as safetensors, whole or not at all, with what is `told` of them. Raises InputError where there is no room for them."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    partial = path.with_suffix(".partial")
    try:
        # the numpy writer stores memory as it lies
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, told)
        partial.replace(path)
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        raise InputError(f"the fit {path} cannot be kept: {getattr(error, 'strerror', None) or error}") from None


def keep(path: Path, epoch: int, weights: Sequence[Any], optimizer: Any, drop: Dropout) -> None:
    """Writes what `epoch` epochs came to. Raises InputError where there is no room for it."""
    arrays = {}
    for number, weight in enumerate(weights):
        arrays[f"{number}"] = weight.detach().numpy()
        arrays |= {f"{number}.{name}": optimizer.state[weight][name].numpy() for name in _MOMENTS}
    write(path, arrays, {"epoch": str(epoch), "dropout": json.dumps(drop.rng.bit_generator.state)})


def resume(path: Path, weights: Sequence[Any], optimizer: Any, drop: Dropout) -> int:
    """Puts back what `keep` wrote of the same weights and optimizer, and gives how many epochs that was; 0 where there is nothing."""
    if not path.is_file():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as kept:
        for number, weight in enumerate(weights):
            weight.data.copy_(kept.get_tensor(f"{number}"))
            moments = {name: kept.get_tensor(f"{number}.{name}").clone() for name in _MOMENTS}
            # the numpy writer makes an array of one of a number
            optimizer.state[weight] = moments | {"step": moments["step"].reshape(())}
        told = kept.metadata()
    drop.rng.bit_generator.state = json.loads(told["dropout"])
    return int(told["epoch"])
