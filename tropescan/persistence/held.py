"""The out-of-source scores that a model folder keeps of its training passages."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson

from tropescan.errors import DamagedModel
from tropescan.persistence.folder import OUT_OF_SOURCE, Model, verified
from tropescan.schema import Floats

_KEY = re.compile("[0-9a-f]{12}")


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

    def place(self, id: str, text: str) -> int | None:
        """The row of a passage: that of its id where the text is the same, else that of its text under another id; None where it is not listed."""
        key, at = text_key(text), self.row.get(id)
        return at if at is not None and self.digest[at] == key else self._by_text.get(key)

    @cached_property
    def _by_text(self) -> dict[str, int]:
        return {digest: at for at, digest in enumerate(self.digest)}


def text_key(text: str) -> str:
    """What an out-of-source line keeps of a passage's text: the first 12 hex digits of the sha256 of its UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def out_of_source(model: Model) -> OutOfSource:
    """The out-of-source scores of a model folder, verified; none where it has no such file. Raises DamagedModel."""
    path = model.folder / OUT_OF_SOURCE
    raw = b"" if model.held is None else verified(path, model.held)
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
