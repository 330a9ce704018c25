"""Fits kept on disk as each is done, so that a training that was cut off goes on with what lacks."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tropescan.errors import InputError
from tropescan.lexicon import Lexicon
from tropescan.material import Corpus
from tropescan.schema import Floats
from tropescan.tuning import Tuned

_PREFIX = ".fits-"


@dataclass(frozen=True)
class Logits:
    """All outputs (n, outputs) of the two tiers, out of source: each row by models that saw no passage of its source."""

    fast: Floats
    encoder: Floats


@dataclass(frozen=True)
class Fitted:
    """Both tiers fitted on all sources but those of a fold, and their outputs (n, outputs) for the measured passages of that fold."""

    lexicon: Lexicon
    tuned: Tuned
    judged: Logits


def place(folder: Path, corpus: Corpus, reference: dict[str, Any]) -> Path:
    """Where in a model folder the fits lie of this corpus, of this encoder, by this code. Fits of anything else are deleted."""
    digest = hashlib.sha256(orjson.dumps([vars(corpus), reference], option=orjson.OPT_SERIALIZE_NUMPY))
    for module in ("fitting", "layers", "lexicon", "tuning"):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    kept = folder / f"{_PREFIX}{digest.hexdigest()[:16]}"
    clear(folder, but=kept)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def clear(folder: Path, but: Path | None = None) -> None:
    """Deletes the fits kept in a model folder."""
    for old in folder.glob(f"{_PREFIX}*"):
        if old != but:
            shutil.rmtree(old)


def keep(fitted: Fitted, path: Path) -> None:
    """Writes a fit, whole or not at all. Raises InputError where there is no room for it."""
    from safetensors.numpy import save_file

    lexicon, tuned, judged = fitted.lexicon, fitted.tuned, fitted.judged
    arrays: dict[str, Any] = {f"tensors.{name}": array for name, array in tuned.tensors.items()}
    arrays |= {"tuned.weights": tuned.weights, "tuned.bias": tuned.bias}
    arrays |= {f"lexicon.{name}": getattr(lexicon, name) for name in ("known", "idf", "weights", "bias")}
    arrays |= {"judged.fast": judged.fast, "judged.encoder": judged.encoder}
    partial = path.with_suffix(".partial")
    try:
        # the numpy writer stores memory as it lies
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"the fit {path} cannot be kept: {error.strerror or error}") from None


def restored(path: Path) -> Fitted:
    """A fit that `keep` wrote."""
    from safetensors.numpy import load_file

    arrays = load_file(path)
    return Fitted(
        Lexicon(*(arrays[f"lexicon.{name}"] for name in ("known", "idf", "weights", "bias"))),
        Tuned(
            {name.removeprefix("tensors."): a for name, a in arrays.items() if name.startswith("tensors.")},
            arrays["tuned.weights"],
            arrays["tuned.bias"],
        ),
        Logits(arrays["judged.fast"], arrays["judged.encoder"]),
    )
