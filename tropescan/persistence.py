"""Model folders: written whole, verified before use, fingerprinted. JSON, text and safetensors only."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tropescan.errors import DamagedModel, ModelError
from tropescan.schema import Floats

MANIFEST = "manifest.json"
FORMAT = 6
READ = (5, FORMAT)
"""1 had encoder tensors of another meaning, 2 a fast tier of words and pairs. 3: the fast tier's arrays as fast.FastTier takes them; of the encoder
weights (width * (1 + queries), outputs), bias, queries, and the tuned layers, layer.N.*. 4: a score on several outputs. 5: a fast floor for each
depth that has an encoder tier. 6: the tuned layers as embedding.deltas keeps them; 5, which has them whole, is read, too."""
SCORING = ("config.json", "gate.txt", "fast.safetensors", "encoder.safetensors")
"""The files that change a score, and hence the fingerprint. Thresholds and the model card lie beside them, outside it."""
BESIDE = ("thresholds.json", "README.md")
OUT_OF_SOURCE = "out-of-source.jsonl"
"""Beside, too, and listed where it is there. Only `out_of_source` reads it: no scan needs it."""
DEPTHS = ("fast", "lean", "full")
"""fast: no encoder. lean and full: the encoder on what the fast tier gives at least that depth's `fast_floor` (config.json); scores are the same."""
_KEY = re.compile("[0-9a-f]{12}")


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
        except (KeyError, TypeError, ValueError):
            raise DamagedModel(
                f"{self.folder / 'config.json'} has no fast_floor for depth {depth}: restore the folder, or train it again"
            ) from None


@dataclass(frozen=True)
class OutOfSource:
    """Scores of training passages by models that saw no passage of their source.

    `row` gives the row of a passage's id in `digest` (n), the `text_key` of its text, in `fast`, `full` (n,), the calibrated scores of these
    depths, and in `outputs`, `fast_outputs` (n, outputs), the logits of the encoder tier and of the fast tier in the order of detector.OUTPUTS.
    """

    row: dict[str, int]
    digest: list[str]
    fast: Floats
    full: Floats
    outputs: Floats
    fast_outputs: Floats


def find(model: str | Path) -> Path:
    """The folder of a model given by path or by name (a model that comes with tropescan). Raises ModelError."""
    path = Path(model)
    if path.is_dir():
        return path
    shipped = [Path(str(files("tropescan"))) / "models", Path(__file__).resolve().parent.parent / "models"]
    if path.name == str(model):
        for root in shipped:
            if (root / path.name / MANIFEST).is_file():
                return root / path.name
    known = sorted({p.parent.name for root in shipped for p in root.glob(f"*/{MANIFEST}")})
    raise ModelError(f"no model '{model}': give a model folder, or one of {', '.join(known) or '(none is installed)'}")


def text_key(text: str) -> str:
    """What an out-of-source line keeps of a passage's text: the first 12 hex digits of the sha256 of its UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load(model: str | Path) -> Model:
    """Reads a model folder and verifies every file that it reads against the manifest: all but the out-of-source scores.

    Raises ModelError or DamagedModel.
    """
    from safetensors.numpy import load as tensors

    folder = find(model)
    manifest = _json(folder, MANIFEST, (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b"")
    if manifest.get("format") not in READ:
        raise ModelError(
            f"{folder}: model format {manifest.get('format')!r}; this tropescan reads format {FORMAT}: train it again"
        )
    content = {}
    for name in (*SCORING, *BESIDE):
        entry = manifest.get("files", {}).get(name)
        if entry is None:
            raise DamagedModel(f"{folder / MANIFEST} does not list {name}: restore the folder, or train it again")
        content[name] = _verified(folder / name, entry)
    fingerprint = hashlib.sha256(
        "".join(f"{n} {manifest['files'][n]['sha256']}\n" for n in SCORING).encode()
    ).hexdigest()
    return Model(
        name=str(manifest["name"]),
        folder=folder,
        fingerprint=fingerprint,
        config=_json(folder, "config.json", content["config.json"]),
        thresholds=_json(folder, "thresholds.json", content["thresholds.json"]),
        gate=content["gate.txt"].decode(),
        fast=tensors(content["fast.safetensors"]),
        encoder=tensors(content["encoder.safetensors"]),
        held=manifest["files"].get(OUT_OF_SOURCE),
    )


def _verified(path: Path, entry: dict[str, Any]) -> bytes:
    """The bytes of a file, which are those that the manifest's entry tells of. Raises DamagedModel."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DamagedModel(f"{path} cannot be read ({error.strerror}): restore the folder, or train it again") from None
    if len(raw) != entry["bytes"] or hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise DamagedModel(
            f"{path} is not what the manifest says (size or sha256 differs): restore the folder, or train it again"
        )
    return raw


def out_of_source(model: Model) -> OutOfSource:
    """The out-of-source scores of a model folder, verified; none where it has no such file. Raises DamagedModel."""
    path = model.folder / OUT_OF_SOURCE
    raw = b"" if model.held is None else _verified(path, model.held)
    return parse_out_of_source(raw, str(path), len(model.config["outputs"]))


def parse_out_of_source(raw: bytes, where: str, outputs: int) -> OutOfSource:
    """Reads what `format_out_of_source` writes; `outputs` is the number of logits a tier. Raises DamagedModel, with the line."""
    row: dict[str, int] = {}
    digest: list[str] = []
    scores, logits = [], []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            one = orjson.loads(line)
            score = [float(one["fast"]), float(one["full"])]
            both = np.array([one["outputs"], one["fast_outputs"]], np.float64)
            sound = both.shape == (2, outputs) and np.isfinite(both).all() and all(0 <= s <= 1 for s in score)
            if not sound or not isinstance(one["id"], str) or one["id"] in row or not _KEY.fullmatch(one["sha256"]):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DamagedModel(
                f"{where} line {number} is no out-of-source score, or tells an id twice: train the model again"
            ) from None
        row[one["id"]] = len(row)
        digest.append(one["sha256"])
        scores.append(score)
        logits.append(both)
    table = np.array(scores, np.float64).reshape(len(row), 2)
    cube = np.array(logits, np.float64).reshape(len(row), 2, outputs)
    return OutOfSource(row, digest, table[:, 0], table[:, 1], cube[:, 0], cube[:, 1])


def format_out_of_source(
    ids: list[str], texts: list[str], fast: Floats, full: Floats, outputs: Floats, fast_outputs: Floats
) -> bytes:
    """The lines of out-of-source.jsonl, one a passage; shapes are those of `OutOfSource`, logits are rounded to 4 decimals.

    Of a text its `text_key` alone is kept: a line holds for the passage that was judged, not for another under the same id.

    Raises ValueError where a number is not finite or an id is told twice.
    """
    if len(set(ids)) < len(ids) or not all(np.isfinite(x).all() for x in (fast, full, outputs, fast_outputs)):
        raise ValueError("out-of-source scores must be finite, and each id told once")
    columns = zip(ids, texts, fast, full, np.round(outputs, 4), np.round(fast_outputs, 4), strict=True)
    lines = [
        orjson.dumps(
            {
                "id": i,
                "sha256": text_key(t),
                "fast": float(a),
                "full": float(b),
                "outputs": o.tolist(),
                "fast_outputs": f.tolist(),
            }
        )
        for i, t, a, b, o, f in columns
    ]
    return b"".join(line + b"\n" for line in lines)


def _json(folder: Path, name: str, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
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
    from safetensors.numpy import save as tensors

    content = {
        "config.json": (json.dumps(config, indent=1, sort_keys=True) + "\n").encode(),
        "thresholds.json": (json.dumps(thresholds, indent=1, sort_keys=True) + "\n").encode(),
        "gate.txt": gate.encode(),
        "fast.safetensors": tensors(_narrow(fast)),
        "encoder.safetensors": tensors(_narrow(encoder)),
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
