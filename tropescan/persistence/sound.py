"""Whether what a model folder holds can be a model: settings of the right kinds, numbers that are numbers. A sum that agrees says nothing of that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tropescan.errors import DamagedModel

_KINDS = {"calibration": dict, "encoder": dict, "fast_floor": dict, "outputs": list, "passage": dict}
_RESTORE = "restore the folder, or train it again"


def require_settings(file: Path, config: dict[str, Any]) -> None:
    """What config.json must hold for a scan. Raises DamagedModel."""
    for name, kind in _KINDS.items():
        if not isinstance(config.get(name), kind):
            raise DamagedModel(f"{file} lacks or garbles {name}: {_RESTORE}")
    for depth in ("fast", "full"):
        fitted = config["calibration"].get(depth)
        told = set(fitted) == {"fast", "encoder", "shift"} if isinstance(fitted, dict) else False
        if not told or not all(isinstance(fitted[tier], dict) for tier in ("fast", "encoder")):
            raise DamagedModel(f"{file} lacks or garbles the calibration of depth {depth}: {_RESTORE}")
        weights = [*fitted["fast"].items(), *fitted["encoder"].items(), ("shift", fitted["shift"])]
        _numbers(file, f"calibration, {depth}", weights)
    _shares(file, "fast_floor", config["fast_floor"].items())
    _shares(file, "", [(name, config.get(name)) for name in ("audit", "hit_floor")])
    sources = config.get("training_sources", [])
    if not isinstance(sources, list) or not all(isinstance(one, str) for one in sources):
        raise DamagedModel(f"{file} garbles training_sources: {_RESTORE}")
    _numbers(file, "encoder", [("dimensions", config["encoder"].get("dimensions"))])


def require_thresholds(file: Path, thresholds: dict[str, Any], depths: Iterable[str]) -> None:
    """What thresholds.json must hold. Raises DamagedModel."""
    for depth in depths:
        named = thresholds.get(depth)
        if not isinstance(named, dict) or "default" not in named:
            raise DamagedModel(f"{file} has no default threshold of depth {depth}: {_RESTORE}")
        for name, told in named.items():
            given = told if isinstance(told, dict) else {}
            _shares(file, f"{depth}, {name}", [("threshold", given.get("threshold"))])
            if not given["threshold"]:  # it would flag what the tiers refuse, whose score is 0
                raise DamagedModel(f"{file}: {depth}, {name}, threshold is 0: {_RESTORE}")


def tensors(file: Path, raw: bytes) -> dict[str, Any]:
    """The arrays of a safetensors file, all of whose numbers are finite. Raises DamagedModel."""
    from safetensors.numpy import load

    try:
        arrays = dict(load(raw))
    except Exception as error:  # whatever the library makes of such bytes: there is one thing to be done
        raise DamagedModel(f"{file} cannot be read ({type(error).__name__}: {error}): {_RESTORE}") from None
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DamagedModel(f"{file}: {name} holds what is no finite number: {_RESTORE}")
    return arrays


def _numbers(file: Path, where: str, given: Iterable[tuple[str, Any]]) -> None:
    for name, value in given:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise DamagedModel(f"{file}: {where + ', ' if where else ''}{name} is no finite number: {_RESTORE}")


def _shares(file: Path, where: str, given: Iterable[tuple[str, Any]]) -> None:
    told = list(given)
    _numbers(file, where, told)
    for name, value in told:
        if not 0 <= value <= 1:
            raise DamagedModel(f"{file}: {where + ', ' if where else ''}{name} is not between 0 and 1: {_RESTORE}")


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's whole numbers know no end
        return False
