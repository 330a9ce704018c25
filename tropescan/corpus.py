"""Labelled passages: load, check against the codebook, find near-duplicates, split by source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tropescan.detector import LEVELS, OUTPUTS
from tropescan.errors import LabelError, NoSuchPath
from tropescan.schema import FACETS, FRAMES, Floats, Ints

POSITIVE_FROM = 3
"""Intensity from which a passage counts as showing the trope (the codebook's positive class)."""


@dataclass(frozen=True)
class Passage:
    """One labelled passage."""

    id: str
    text: str
    intensity: int
    facets: tuple[str, ...]
    frame: str
    admirable: int
    source: str
    register: str
    readings: tuple[int, ...]

    @property
    def positive(self) -> bool:
        """Intensity 3 or 4."""
        return self.intensity >= POSITIVE_FROM


def load(paths: Iterable[str | Path]) -> list[Passage]:
    """The passages of labels files (JSON Lines; docs/labels.md has the keys). Raises NoSuchPath, LabelError with file and line."""
    found: list[Passage] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise NoSuchPath(f"no labels file {path}")
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if line.strip():
                found.append(_passage(line, f"{path} line {number}"))
    if not found:
        raise LabelError(f"no labelled passage in {', '.join(map(str, paths)) or 'no file at all'}")
    return found


def _passage(line: bytes, where: str) -> Passage:
    try:
        row: dict[str, Any] = orjson.loads(line)
        passage = Passage(
            id=str(row["id"]),
            text=row["text"],
            intensity=row["intensity"],
            facets=tuple(row["facets"]),
            frame=row["frame"],
            admirable=int(row["admirable"]),
            source=str(row.get("source", row["id"])),
            register=str(row.get("register", "unknown")),
            readings=tuple(int(r["intensity"]) for r in row.get("readings", [])),
        )
    except orjson.JSONDecodeError:
        raise LabelError(f"{where} is no JSON object") from None
    except (KeyError, TypeError, ValueError) as error:
        raise LabelError(
            f"{where} lacks or garbles {error}: a label needs id, text, intensity, facets, frame, admirable"
        ) from None
    known = passage.intensity in range(5) and set(passage.facets) <= set(FACETS) and passage.frame in FRAMES
    if not known or not isinstance(passage.text, str):
        raise LabelError(
            f"{where} (id {passage.id}) is not in the codebook's values: intensity 0-4, its facets and its frames"
        )
    return passage


def targets(passages: list[Passage]) -> Ints:
    """The 0/1 targets (n, outputs) of the heads, in the order of detector.OUTPUTS."""
    rows = []
    for p in passages:
        row = [int(p.intensity >= k) for k in range(1, len(LEVELS) + 1)]
        row += [int(f in p.facets) for f in FACETS] + [int(f == p.frame) for f in FRAMES] + [p.admirable]
        rows.append(row)
    return np.array(rows, np.int64).reshape(len(rows), len(OUTPUTS))


def folds(sources: list[str], n: int = 5) -> Ints:
    """A fold (0 to n - 1) for each passage such that no source is in two folds; large sources are dealt first, to the smallest fold."""
    names, counts = np.unique(np.array(sources), return_counts=True)
    size = np.zeros(n, np.int64)
    place: dict[str, int] = {}
    for i in np.lexsort((names, -counts)):
        fold = int(np.argmin(size))
        place[str(names[i])] = fold
        size[fold] += counts[i]
    return np.array([place[s] for s in sources])


def near_duplicates(passages: list[Passage], similarity: float = 0.8) -> list[tuple[str, str]]:
    """Pairs of ids whose word 5-grams have a Jaccard similarity of at least `similarity`, by MinHash LSH (Broder 1997) with 128 permutations."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=similarity, num_perm=128)
    pairs = []
    for p in passages:
        words = p.text.lower().split()
        sketch = MinHash(num_perm=128)
        sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
        pairs += [(str(other), p.id) for other in index.query(sketch)]
        if p.id not in index:
            index.insert(p.id, sketch)
    return pairs


def confidence(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap replicates; nan replicates (a resample without positives) are left out."""
    inside = values[~np.isnan(values)]
    if not len(inside):
        return float("nan"), float("nan")
    low, high = np.quantile(inside, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def source_key(source: str) -> str:
    """What a model folder keeps of the name of a source it was trained on: the first 12 hex digits of its sha256."""
    return hashlib.sha256(source.encode()).hexdigest()[:12]
