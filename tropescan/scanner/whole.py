"""Whether a model folder is whole: told before the first document is read."""

from __future__ import annotations

import numpy as np

from tropescan.detector import OUTPUTS
from tropescan.errors import DamagedModel
from tropescan.persistence import Model


def require_whole(model: Model) -> None:
    """Tells a tier that lacks a tensor or has one of another shape or kind: no default may stand for it; and outputs that are others or in another order.

    Raises DamagedModel.
    """
    if model.config["outputs"] != list(OUTPUTS):
        raise DamagedModel(
            f"{model.folder / 'config.json'}: outputs are not those of this tropescan, in their order: restore the folder, or train it again"
        )
    _require_fast(model)
    for depth, calibration in model.config["calibration"].items():
        unknown = {*calibration["fast"], *calibration["encoder"]} - set(OUTPUTS)
        if unknown:
            raise DamagedModel(
                f"{model.folder / 'config.json'}: the calibration of depth {depth} names outputs that no tier has "
                f"({', '.join(sorted(unknown))}): restore the folder, or train it again"
            )
    reference, tensors, file = model.config["encoder"], model.encoder, model.folder / "encoder.safetensors"
    lacking = [name for name in ("weights", "bias", "queries") if name not in tensors]
    if lacking:
        raise DamagedModel(f"{file} lacks {', '.join(lacking)}: restore the folder, or train it again")
    width, queries = int(reference["dimensions"]), tensors["queries"].shape[0] if tensors["queries"].ndim else 0
    wanted = {
        "queries": (queries, width),
        "weights": (width * (1 + queries), len(OUTPUTS)),
        "bias": (len(OUTPUTS),),
    }
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise DamagedModel(
                f"{file}: {name} is of shape {tensors[name].shape}, not {shape}: restore the folder, or train it again"
            )
    layers = {name.split(".")[1] for name in tensors if name.startswith("layer.")}
    if len(layers) != reference.get("tuned_layers", 0):
        raise DamagedModel(
            f"{file} holds {len(layers)} tuned layers, not {reference.get('tuned_layers', 0)} as config.json says: "
            "restore the folder, or train it again"
        )


def _require_fast(model: Model) -> None:
    kinds = {"keys": "u", "anchors": "u", "idf": "f", "weights": "f", "bias": "f"}
    wrong = [name for name, kind in kinds.items() if name in model.fast and model.fast[name].dtype.kind != kind]
    if model.fast.get("weights", np.zeros((0, 0))).shape[-1:] != (len(OUTPUTS),):
        wrong.append("weights")
    if wrong:
        raise DamagedModel(
            f"{model.folder / 'fast.safetensors'} lacks or garbles {', '.join(wrong)}: restore the folder, or train it again"
        )
