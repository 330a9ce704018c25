"""Writes model folders whole, and verifies every file before it is used."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tropescan.errors import DamagedModel, ModelError
from tropescan.persistence.sound import require_settings, require_thresholds, tensors
from tropescan.schema import Floats

MANIFEST = "manifest.json"
FORMAT = 7
"""1 had encoder tensors of another meaning, 2 a fast tier of words and pairs. 3: the fast tier's arrays as fast.FastTier takes them; of the encoder
weights (width * (1 + queries), outputs), bias, queries, and the tuned layers, layer.N.*. 4: a score on several outputs. 5: a fast floor for each
depth that has an encoder tier. 6: the tuned layers as embedding.deltas keeps them.
7: a fast tier without a network."""
SCORING = ("config.json", "gate.txt", "fast.safetensors", "encoder.safetensors")
"""The files that change a score, and hence the fingerprint. Thresholds and the model card lie beside them, outside it."""
BESIDE = ("thresholds.json", "README.md")
OUT_OF_SOURCE = "out-of-source.jsonl"
"""Beside, too, and listed where it is there. Only held.out_of_source reads it: no scan needs it."""
DEPTHS = ("fast", "lean", "full")
"""fast: no encoder. lean and full: the encoder on what the fast tier gives at least that depth's `fast_floor` (config.json); scores are the same."""


@dataclass(frozen=True)
class Model:
    """A verified model folder, read into memory."""

    name: str
    folder: Path
    fingerprint: str
    config: dict[str, Any]
    thresholds: dict[str, Any]
    gate: str
    fast: dict[str, Any]
    encoder: dict[str, Any]
    held: dict[str, Any] | None = None
    """What the manifest says of out-of-source.jsonl; None where the folder has none."""

    def key(self, depth: str) -> str:
        """What identifies the scores of this model at this depth in a database."""
        return f"{self.name}-{self.fingerprint[:12]}-{depth}"

    def fast_floor(self, depth: str) -> float:
        """The fast score from which on the encoder is asked at depth lean or full. Raises DamagedModel."""
        try:
            return float(self.config["fast_floor"][depth])
        except KeyError:
            raise DamagedModel(
                f"{self.folder / 'config.json'} has no fast_floor for depth {depth}: restore the folder, or train it again"
            ) from None


def find(model: str | Path) -> Path:
    """The folder of a model given by path or by name (a model that comes with tropescan). Raises ModelError."""
    path = Path(model)
    if path.is_dir():
        return path
    shipped = [Path(str(files("tropescan"))) / "models", Path(__file__).resolve().parents[2] / "models"]
    if path.name == str(model):
        for root in shipped:
            if (root / path.name / MANIFEST).is_file():
                return root / path.name
    known = sorted({p.parent.name for root in shipped for p in root.glob(f"*/{MANIFEST}")})
    raise ModelError(f"no model '{model}': give a model folder, or one of {', '.join(known) or '(none is installed)'}")


def load(model: str | Path) -> Model:
    """Reads a model folder and verifies every file that it reads against the manifest: all but the out-of-source scores.

    Raises ModelError or DamagedModel.
    """
    folder = find(model)
    manifest = _json(folder, MANIFEST, (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b"")
    if manifest.get("format") != FORMAT:
        raise ModelError(
            f"{folder}: model format {manifest.get('format')!r}; this tropescan reads format {FORMAT}: train it again"
        )
    content, listed = {}, manifest.get("files")
    for name in (*SCORING, *BESIDE):
        entry = listed.get(name) if isinstance(listed, dict) else None
        if not isinstance(entry, dict):
            raise DamagedModel(f"{folder / MANIFEST} does not list {name}: restore the folder, or train it again")
        content[name] = verified(folder / name, entry)
    if not isinstance(manifest["files"].get(OUT_OF_SOURCE, {}), dict):
        raise DamagedModel(f"{folder / MANIFEST} garbles {OUT_OF_SOURCE}: restore the folder, or train it again")
    sums = "".join(f"{n} {manifest['files'][n]['sha256']}\n" for n in SCORING)
    config, thresholds = (_json(folder, name, content[name]) for name in ("config.json", "thresholds.json"))
    require_settings(folder / "config.json", config)
    require_thresholds(folder / "thresholds.json", thresholds, DEPTHS)
    try:
        gate = content["gate.txt"].decode()
    except UnicodeDecodeError:
        raise DamagedModel(f"{folder / 'gate.txt'} is no UTF-8: restore the folder, or train it again") from None
    return Model(
        name=str(manifest.get("name", folder.name)),
        folder=folder,
        fingerprint=hashlib.sha256(sums.encode()).hexdigest(),
        config=config,
        thresholds=thresholds,
        gate=gate,
        fast=tensors(folder / "fast.safetensors", content["fast.safetensors"]),
        encoder=tensors(folder / "encoder.safetensors", content["encoder.safetensors"]),
        held=manifest["files"].get(OUT_OF_SOURCE),
    )


def verified(path: Path, entry: dict[str, Any]) -> bytes:
    """The bytes of a file, which are those that the manifest's entry tells of. Raises DamagedModel."""
    try:
        if not path.is_file():  # a pipe would be waited for, for ever
            raise FileNotFoundError(2, "no such file")
        raw = path.read_bytes()
    except OSError as error:
        raise DamagedModel(f"{path} cannot be read ({error.strerror}): restore the folder, or train it again") from None
    if len(raw) != entry.get("bytes") or hashlib.sha256(raw).hexdigest() != entry.get("sha256"):
        raise DamagedModel(
            f"{path} is not what the manifest says (size or sha256 differs): restore the folder, or train it again"
        )
    return raw


def _json(folder: Path, name: str, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise DamagedModel(f"{folder / name} is missing or is no JSON: restore the folder, or train it again") from None
    if not isinstance(value, dict):
        raise DamagedModel(f"{folder / name} holds no JSON object: restore the folder, or train it again")
    return value


def save(
    folder: Path,
    name: str,
    *,
    config: dict[str, Any],
    thresholds: dict[str, Any],
    gate: str,
    fast: dict[str, Any],
    encoder: dict[str, Floats],
    card: str,
    held: bytes | None = None,
) -> str:
    """Writes a model folder, the manifest last, and returns its fingerprint. A folder without its manifest is no model.

    `held` are the lines of `format_out_of_source`; without them a file of an earlier training is taken away.
    """
    from safetensors.numpy import save as packed

    content = {
        "config.json": (json.dumps(config, indent=1, sort_keys=True) + "\n").encode(),
        "thresholds.json": (json.dumps(thresholds, indent=1, sort_keys=True) + "\n").encode(),
        "gate.txt": gate.encode(),
        "fast.safetensors": packed(_narrow(fast)),
        "encoder.safetensors": packed(_narrow(encoder)),
        "README.md": card.encode("utf-8", "backslashreplace"),  # names of files may be no UTF-8
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    if held is None:
        (folder / OUT_OF_SOURCE).unlink(missing_ok=True)
    else:
        content[OUT_OF_SOURCE] = held
    for file, raw in content.items():
        _write(folder / file, raw)
    listed = {f: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)} for f, raw in content.items()}
    manifest = {"format": FORMAT, "name": name, "files": listed}
    _write(folder / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return load(folder).fingerprint


def _narrow(arrays: dict[str, Any]) -> dict[str, Any]:
    """Float32 for float64, and rows one after the other: safetensors writes memory as it lies, so that a transposed array comes back scrambled."""
    narrow = {k: arrays[k].astype(np.float32) if arrays[k].dtype == np.float64 else arrays[k] for k in sorted(arrays)}
    return {k: np.ascontiguousarray(v) for k, v in narrow.items()}


def _write(path: Path, raw: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
