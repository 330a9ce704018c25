"""Fits kept on disk as each is done, so that a training that was cut off goes on with what lacks."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from tropescan import checkpoint
from tropescan.embedding import processor_has_bf16
from tropescan.material import Corpus
from tropescan.schema import Floats
from tropescan.tuning import Tuned

_PREFIX = ".fits-"
_CODE = ("checkpoint", "detector", "fast", "fastfit", "fitting", "layers", "lexicon", "losses", "schema", "tuning")
Kind = TypeVar("Kind", Tuned, "Encoded", "Fast")


@dataclass(frozen=True)
class Logits:
    """All outputs (n, outputs) of the two tiers, out of source: each row by models that saw no passage of its source."""

    fast: Floats
    encoder: Floats


@dataclass(frozen=True)
class Encoded:
    """An encoder tuned on all sources but those of a fold, its outputs (n, outputs) for the measured passages of that fold, and those (m, outputs)
    for the unlabelled passages of other sources."""

    tuned: Tuned
    judged: Floats
    view: Floats

    def arrays(self) -> dict[str, Any]:
        """All of it by name."""
        return {**self.tuned.arrays(), "judged": self.judged, "view": self.view}

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> Encoded:
        """From what `arrays` gives."""
        return cls(Tuned.of(arrays), arrays["judged"], arrays["view"])


@dataclass(frozen=True)
class Fast:
    """The arrays of a fast tier fitted on all sources but those of a fold, and its outputs (n, outputs) for the measured passages of that fold."""

    tier: dict[str, Any]
    judged: Floats

    def arrays(self) -> dict[str, Any]:
        """All of it by name."""
        return {**{f"tier.{name}": array for name, array in self.tier.items()}, "judged": self.judged}

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> Fast:
        """From what `arrays` gives."""
        return cls({n.removeprefix("tier."): a for n, a in arrays.items() if n.startswith("tier.")}, arrays["judged"])


def place(folder: Path, corpus: Corpus, reference: dict[str, Any]) -> Path:
    """Where in a model folder the fits lie of this corpus, of this encoder, by this code. Fits of anything else are deleted."""
    digest = hashlib.sha256(orjson.dumps([vars(corpus), reference], option=orjson.OPT_SERIALIZE_NUMPY))
    here = Path(__file__).parent
    code = [here / f"{module}.py" for module in _CODE] + sorted((here / "embedding").glob("*.py"))
    for file in code:
        digest.update(file.read_bytes())
    digest.update(bytes([processor_has_bf16()]))  # fits of two arithmetics are not mixed
    kept = folder / f"{_PREFIX}{digest.hexdigest()[:16]}"
    clear(folder, but=kept)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def clear(folder: Path, but: Path | None = None) -> None:
    """Deletes the fits kept in a model folder."""
    for old in folder.glob(f"{_PREFIX}*"):
        if old != but:
            shutil.rmtree(old)


def keep(fit: Tuned | Encoded | Fast, path: Path) -> None:
    """Writes a fit, whole or not at all. Raises InputError where there is no room for it."""
    checkpoint.write(path, fit.arrays())


def restored(kind: type[Kind], path: Path) -> Kind:
    """A fit that `keep` wrote."""
    from safetensors.numpy import load_file

    return kind.of(load_file(path))
