"""Passages of texts that may not be copied: pointers to them, resolved against a local copy, and unlabelled ones out of it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tropescan.errors import InputError, NoSuchPath
from tropescan.passages import cut
from tropescan.schema import strings

Say = Callable[[str], None]


def resolve(rows: list[dict[str, Any]], roots: Sequence[Path], say: Say) -> list[dict[str, Any]]:
    """The rows (keys corpus, shard, document, start_char, end_char, sha256) with their `text`, in their order; without those not found.

    A pointer names a Parquet shard corpus/shard in one of the folders `roots`, a document by its id there, a half-open span of characters, and the
    sha256 of the passage in UTF-8. What cannot be resolved, and why, is said. Raises NoSuchPath where a root is no folder, InputError for a
    damaged shard.
    """
    for root in roots:
        if not root.is_dir():
            raise NoSuchPath(f"no folder of texts {root}")
    wanted: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        wanted[str(row["corpus"]), str(row["shard"])].add(str(row["document"]))
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)  # several, where a shard tells an id twice
    for (corpus, shard), ids in sorted(wanted.items()):
        for path in _shards(roots, corpus, shard):
            for document, text in zip(*_columns(path, ("id", "text")), strict=True):
                if str(document) in ids:
                    found[corpus, shard, str(document)].append(text or "")
    resolved: list[dict[str, Any]] = []
    lost: Counter[str] = Counter()
    for row in rows:
        wholes = found.get((str(row["corpus"]), str(row["shard"]), str(row["document"])), [])
        texts = [whole[row["start_char"] : row["end_char"]] for whole in wholes]
        right = [text for text in texts if hashlib.sha256(text.encode()).hexdigest() == row["sha256"]]
        if right:
            resolved.append({**row, "text": right[0]})
        else:
            lost["its text is another now" if wholes else "its shard or document is not there"] += 1
    why = "".join(f"; {n} could not be: {reason}" for reason, n in sorted(lost.items()))
    say(f"{len(resolved)} of {len(rows)} pointers resolved against {', '.join(map(str, roots))}{why}")
    return resolved


def _shards(roots: Sequence[Path], corpus: str, shard: str) -> list[Path]:
    """The shard in every root that has it, for one may hold the text of another day; what a name leads out of a root is none."""
    paths = [(root.resolve(), (root / corpus / shard).resolve()) for root in roots]
    return [path for root, path in paths if path.is_relative_to(root) and path.is_file()]


def drawn(folder: Path, wanted: Callable[[list[str]], Any], most: int) -> list[tuple[str, str]]:
    """Up to `most` passages, drawn at random (seed fixed) from those wanted of the Parquet shards of a folder: (text, source).

    `wanted` says of a list of texts which are. Columns: text, and source where there is one (else the shard's name). Raises NoSuchPath.
    """
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise NoSuchPath(f"no Parquet shard in {folder}")
    found: list[tuple[str, str]] = []
    for shard in shards:
        (texts,) = _columns(shard, ("text",))
        named = "source" in pq.read_schema(shard).names
        sources = _columns(shard, ("source",))[0] if named else [shard.name] * len(texts)
        pieces = [
            (text[a:b], str(source)) for text, source in zip(texts, sources, strict=True) if text for a, b in cut(text)
        ]
        keep = wanted([text for text, _ in pieces])
        found += [p for p, k in zip(pieces, keep, strict=True) if k]
    chosen = np.sort(np.random.default_rng(0).permutation(len(found))[:most])
    return [found[i] for i in chosen]


def _columns(path: Path, names: tuple[str, ...]) -> list[list[str | None]]:
    try:
        table = pq.read_table(path, columns=list(names))
        return [[value for chunk in table[name].chunks for value in strings(chunk)] for name in names]
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise InputError(f"the shard {path} cannot be read for its columns {', '.join(names)}: {error}") from None
