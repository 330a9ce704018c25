"""Where a tuning stands, kept on disk after every epoch, so that one that was cut off goes on there and comes to the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from tropescan.errors import InputError
from tropescan.layers import Dropout

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW holds of a weight


def keep(path: Path, epoch: int, weights: Sequence[Any], optimizer: Any, drop: Dropout) -> None:
    """Writes what `epoch` epochs came to, whole or not at all. Raises InputError where there is no room for it."""
    from safetensors.torch import save_file

    tensors = {}
    for number, weight in enumerate(weights):
        tensors[f"{number}"] = weight.detach().contiguous()
        tensors |= {f"{number}.{name}": optimizer.state[weight][name].contiguous() for name in _MOMENTS}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, {"epoch": str(epoch), "dropout": orjson.dumps(drop.state).hex()})
        partial.replace(path)
    except OSError as error:
        raise InputError(f"the tuning so far cannot be kept in {path}: {error.strerror or error}") from None


def resume(path: Path, weights: Sequence[Any], optimizer: Any, drop: Dropout) -> int:
    """Puts back what `keep` wrote of the same weights and optimizer, and gives how many epochs that was; 0 where there is nothing."""
    if not path.is_file():
        return 0
    from safetensors import safe_open

    with safe_open(path, "pt") as kept:
        for number, weight in enumerate(weights):
            weight.data.copy_(kept.get_tensor(f"{number}"))
            optimizer.state[weight] = {name: kept.get_tensor(f"{number}.{name}").clone() for name in _MOMENTS}
        told = kept.metadata()
    drop.state = orjson.loads(bytes.fromhex(told["dropout"]))
    return int(told["epoch"])
