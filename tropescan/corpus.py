"""Labelled passages: load, check against the codebook, find near-duplicates, split by source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tropescan.detector import LEVELS, OUTPUTS
from tropescan.errors import InputError, LabelError, NoSuchPath
from tropescan.pointers import Say, resolve
from tropescan.schema import FACETS, FRAMES, Floats, Ints

POSITIVE_FROM = 3
"""Intensity from which a passage counts as showing the trope (the codebook's positive class)."""
LONGEST = 1 << 16
"""Bytes of a labelled text: some forty passages as the scanner cuts them."""

_POINTER = {"id", "corpus", "shard", "document", "start_char", "end_char", "sha256"}
_MARK = {"id", "deciding"}


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
    deciding: tuple[tuple[int, int], ...] = ()

    @property
    def positive(self) -> bool:
        """Intensity 3 or 4."""
        return self.intensity >= POSITIVE_FROM


def load(paths: Iterable[str | Path], texts: Sequence[str | Path] = (), say: Say = print) -> list[Passage]:
    """The passages of labels files (JSON Lines; docs/labels.md has the keys).

    Lines without text are pointers: they are resolved against the folders `texts`, and `say` is told how many could not be. Lines with `id` and
    `deciding` alone mark the deciding sentences of a passage of another line, where that line marks none itself. An id is told once.
    Raises NoSuchPath, LabelError with file and line.
    """
    rows: list[tuple[dict[str, Any], str]] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise NoSuchPath(f"no labels file {path}")
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if line.strip():
                rows.append((_row(line, f"{path} line {number}"), f"{path} line {number}"))
    marks: dict[str, list[Any]] = {}
    for row, where in rows:
        if set(row) == _MARK:
            marks.setdefault(str(row["id"]), []).extend(_spans(row["deciding"], where))
    rows = [(row, where) for row, where in rows if set(row) != _MARK]
    _require_once(rows)
    pointing = [{**row, "at": k} for k, (row, _) in enumerate(rows) if "text" not in row]
    if pointing and not texts:
        where = rows[pointing[0]["at"]][1]
        raise LabelError(f"{where} points to a text: name the folder of the texts with --texts")
    found = _resolved(pointing, [*map(Path, texts)], say) if pointing else {}
    passages = []
    for k, (row, where) in enumerate(rows):
        lost = "text" not in row and k not in found
        whole = {**row, "text": "" if lost else row.get("text", found.get(k))}
        if whole.get("deciding", []) == []:  # an empty list says no more than none at all
            whole["deciding"] = marks.get(str(row.get("id")), [])
        passage = _passage(whole, where)  # a label is checked even where its text is lost
        if not lost:
            if any(end > len(passage.text) for _, end in passage.deciding):
                raise LabelError(
                    f"{where} (id {passage.id}): deciding sentences end after the text of {len(passage.text)} characters"
                )
            passages.append(passage)
    unknown = len(set(marks) - {str(row.get("id")) for row, _ in rows})
    if unknown:
        say(f"{unknown} of {len(marks)} passages whose deciding sentences are marked are in none of these files")
    if not passages:
        raise LabelError(f"no labelled passage in {', '.join(map(str, paths)) or 'no file at all'}")
    return passages


def _require_once(rows: list[tuple[dict[str, Any], str]]) -> None:
    """Raises LabelError where an id is told twice: under two texts it names neither, and under one the passage would be measured twice."""
    told: dict[str, tuple[str, str]] = {}
    for row, where in rows:
        if "id" not in row:  # told with the other keys that lack
            continue
        text = hashlib.sha256(str(row["text"]).encode()).hexdigest() if "text" in row else str(row["sha256"])
        first, before = told.setdefault(str(row["id"]), (where, text))
        if first != where:
            which = "the same text" if before == text else "another text"
            raise LabelError(
                f"{where} tells the id {row['id']!r} with {which}, which {first} tells: give every passage once, under an id of its own"
            )


def _resolved(pointing: list[dict[str, Any]], texts: list[Path], say: Say) -> dict[int, str]:
    """The texts of the pointers that resolve, by their `at`."""
    try:
        return {r["at"]: r["text"] for r in resolve(pointing, texts, say)}
    except (OSError, ValueError) as error:
        raise InputError(f"the pointers cannot be resolved against {', '.join(map(str, texts))}: {error}") from None


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise LabelError(f"{where} is no JSON object") from None
    if not isinstance(row, dict):
        raise LabelError(f"{where} is no JSON object")
    if "text" not in row and not set(row) >= _POINTER and set(row) != _MARK:
        raise LabelError(f"{where} has neither text nor a pointer to one ({', '.join(sorted(_POINTER))})")
    start, end = row.get("start_char", 0), row.get("end_char", 0)
    if "text" not in row and not (type(start) is type(end) is int and 0 <= start <= end):
        raise LabelError(
            f"{where} has no span of characters: start_char and end_char are whole numbers, 0 <= start <= end"
        )
    if "text" not in row and any("\0" in str(row.get(key)) for key in ("corpus", "shard")):
        raise LabelError(f"{where} points to no shard: corpus and shard are names of a folder and of a file in it")
    return row


def _passage(row: dict[str, Any], where: str) -> Passage:
    try:
        passage = Passage(
            id=str(row["id"]),
            text=row["text"],
            intensity=row["intensity"],
            facets=tuple(row["facets"]),
            frame=row["frame"],
            admirable=row["admirable"],
            source=str(row["id"] if row.get("source") is None else row["source"]),
            register=str(row.get("register", "unknown")),
            readings=tuple(r["intensity"] for r in row.get("readings", [])),
            deciding=_spans(row.get("deciding", []), where),
        )
    except (KeyError, TypeError) as error:
        raise LabelError(
            f"{where} lacks or garbles {error}: a label needs id, text, intensity, facets, frame, admirable"
        ) from None
    # lists are searched by ==, never hashed: JSON may hold a list or an object anywhere
    known = all(
        (
            isinstance(passage.text, str),
            all(_is_level(value, 5) for value in (passage.intensity, *passage.readings)),
            _is_level(passage.admirable, 2),
            isinstance(row["facets"], list) and all(f in FACETS for f in passage.facets),
            not (passage.facets and passage.intensity in (0, 1)),
            passage.frame in FRAMES,
        )
    )
    if not known:
        raise LabelError(
            f"{where} (id {passage.id}) is not in the codebook's values: intensity 0-4, of every reading too, a list of its facets, "
            "none below intensity 2, one of its frames, admirable 0 or 1"
        )
    if len(passage.text.encode()) > LONGEST:
        raise LabelError(
            f"{where} (id {passage.id}) has a text of more than {LONGEST:,} bytes: give passages, not documents"
        )
    return passage


def _is_level(value: Any, levels: int) -> bool:
    """A whole number from 0 to levels - 1; JSON's true and 1.0 are none."""
    return type(value) is int and value in range(levels)


def _spans(deciding: Any, where: str) -> tuple[tuple[int, int], ...]:
    """One span [start, end] or several."""
    several = [deciding] if isinstance(deciding, list) and deciding and isinstance(deciding[0], int) else deciding
    try:
        spans = tuple((a, b) for a, b in several)
    except (TypeError, ValueError):
        spans = ((1, 0),)
    if any(not (type(a) is type(b) is int and 0 <= a <= b) for a, b in spans):
        raise LabelError(f"{where}: deciding is no [start, end] in characters, nor a list of such")
    return spans


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
    member = numbered(sources)
    counts = np.bincount(member)
    size, place = np.zeros(n, np.int64), np.zeros(len(counts), np.int64)
    for i in np.argsort(-counts, kind="stable"):
        place[i] = np.argmin(size)
        size[place[i]] += counts[i]
    return place[member]


def numbered(sources: list[str]) -> Ints:
    """The number (n,) of each passage's source, counted from 0 in the order of their names. (NumPy's strings would lose a NUL at the end of one.)"""
    number = {name: i for i, name in enumerate(sorted(set(sources)))}
    return np.array([number[s] for s in sources], np.int64)


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
    """The percentile interval of bootstrap replicates; nan replicates (a resample without positives) are left out.

    Where all replicates agree there is no interval (nan): what a resample cannot change, a single source with positives say, another sample could.
    """
    inside = values[~np.isnan(values)]
    if not len(inside) or inside.min() == inside.max():
        return float("nan"), float("nan")
    low, high = np.quantile(inside, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def source_key(source: str) -> str:
    """What a model folder keeps of the name of a source it was trained on: the first 12 hex digits of its sha256."""
    return hashlib.sha256(source.encode()).hexdigest()[:12]
