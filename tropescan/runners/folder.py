"""A folder of score parts as the place a scan goes to: many scans, on many machines, can fill one at the same time. See `tropescan ingest`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tropescan.errors import NoSuchPath, PartError, StoreError
from tropescan.parts import Part
from tropescan.persistence import Model
from tropescan.runners import score_parts
from tropescan.runners.score_parts import SUFFIX, Head
from tropescan.shards import Unit
from tropescan.store import Entry

_Scored = tuple[str, str, Unit, Part]


class Folder:
    """Takes what a Store takes. `paths` are the shards of this scan: only their parts are looked at. Raises StoreError, NoSpace.

    A part is one file, written under a temporary name and renamed. Parts that are done stay; those of an older content of a path go.
    """

    moves = False  # a part is of its path

    def __init__(self, path: str | Path, paths: Iterable[str] = ()) -> None:
        self.path, self._paths = Path(path), list(paths)
        self._model: dict[str, Any] = {}
        self._entries: dict[str, Entry] = {}
        self._names: dict[str, set[str]] = {}  # by origin
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be made a folder of score parts: {error.strerror}") from None

    def register_model(self, model: Model, depth: str) -> None:
        """Notes what the parts will say of the model."""
        self._model = score_parts.described(model, depth)

    def known(self, model: str) -> dict[str, dict[str, Any]]:
        """What is stored of each of the paths, as Store.known tells it. A part that cannot be read counts as not there."""
        here: dict[str, set[str]] = {score_parts.origin(model, p): set() for p in self._paths}
        for file in names(self.path):
            if (begin := file.split("-")[0]) in here:
                here[begin].add(file)
        self._names = here
        found: dict[str, dict[str, Any]] = {}
        for files in here.values():
            heads = list(self._heads(files))
            if heads:
                newest = max(heads, key=lambda h: h.at).entry
                found[newest.file.path] = _known([h for h in heads if h.entry.shard == newest.shard], newest)
        return found

    def _heads(self, files: Iterable[str]) -> Iterator[Head]:
        for file in sorted(files):
            with contextlib.suppress(PartError):
                yield score_parts.read_head(self.path / file)

    def commit(self, parts: list[_Scored], entries: list[Entry] | None = None) -> None:
        """Writes parts. Raises StoreError, NoSpace."""
        for entry in entries or []:
            self._forget_others(entry)
            if entry.elsewhere and entry.plan:  # a part without rows tells `ingest` that the older content went
                self._write(entry, entry.plan.units[0], Part(status="limited"))
                continue
            self._entries[entry.shard] = entry
            if entry.plan is None:
                self._write(entry, None, Part(status="failed"))
        for shard, _, unit, part in parts:
            entry = self._entries[shard]
            there = next(self._heads([score_parts.name(entry, unit)]), None)
            if there is None or there.status != "done":
                self._write(entry, unit, self._with_rows(part, there, score_parts.name(entry, unit)))

    def _with_rows(self, part: Part, there: Head | None, name: str) -> Part:
        """The part, with the rows that are there where it brings less."""
        if there and part.brings_less(there.part["counters"]["rows"]):
            with contextlib.suppress(PartError):
                before = score_parts.read(self.path / name)[1]
                return replace(before, status=part.status, kind=part.kind, error=part.error, at=None)
        return part

    def discard(self, shard: str, unit: Unit) -> None:
        """Removes a part that has been committed elsewhere."""
        (self.path / score_parts.name(self._entries[shard], unit)).unlink(missing_ok=True)

    def clear(self, origins: Container[str]) -> None:
        """Removes the parts whose names begin so."""
        for file in names(self.path):
            if file.split("-")[0] in origins:
                (self.path / file).unlink(missing_ok=True)

    def sweep(self, origins: Container[str]) -> None:
        """Removes what writers that were killed left unfinished of parts whose names begin so."""
        for file in self.path.glob(f".*{SUFFIX}.*"):
            if file.name[1:].split("-")[0] in origins:
                file.unlink(missing_ok=True)

    def note(self, entry: Entry) -> None:
        """Knows an entry, so that its parts can be discarded."""
        self._entries[entry.shard] = entry

    def _there(self, entry: Entry) -> set[str]:
        return self._names.setdefault(score_parts.origin(entry.model, entry.file.path), set())

    def _write(self, entry: Entry, unit: Unit | None, part: Part) -> None:
        self._there(entry).add(score_parts.write(self.path, self._model, entry, unit, part).name)

    def _forget_others(self, entry: Entry) -> None:
        mine = self._there(entry)
        for file in [n for n in mine if n.split("-")[1] != entry.shard]:
            (self.path / file).unlink(missing_ok=True)
            mine.discard(file)


def names(folder: Path) -> list[str]:
    """The names of the parts in a folder, in order; what is being written is passed over. Raises NoSuchPath."""
    try:
        with os.scandir(folder) as there:
            return sorted(e.name for e in there if e.name.endswith(SUFFIX) and e.name[0] != "." and e.is_file())
    except OSError as error:
        raise NoSuchPath(f"{folder} is not a folder of score parts: {error.strerror}") from None


def _known(heads: list[Head], entry: Entry) -> dict[str, Any]:
    units = {h.unit.index: (h.status, h.part["counters"]["rows"]) for h in heads if h.unit}
    failed = next((h for h in heads if h.status == "failed"), None)
    planned = len(entry.plan.units) if entry.plan else 0
    done = sum(status == "done" for status, _ in units.values())
    return {
        "path": entry.file.path,
        "shard": entry.shard,
        "bytes": entry.file.bytes,
        "tag": entry.file.tag,
        "status": "failed" if failed else "done" if done == planned else "partial",
        "kind": (failed.entry.error[0] if failed.entry.error else failed.part["kind"]) if failed else None,
        "planned": planned,
        "units": units,
    }
