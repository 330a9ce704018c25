"""A folder of score parts as the place a scan goes to: many scans, on many machines, can fill one at the same time. See `tropescan ingest`."""

from __future__ import annotations

import contextlib
import os
import time
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

ABANDONED = 3600.0  # seconds after which nobody is still writing a part
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
            self.made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be made a folder of score parts: {error.strerror}") from None

    def register_model(self, model: Model, depth: str) -> None:
        """Notes what the parts will say of the model."""
        self.describe(score_parts.described(model, depth))

    def describe(self, told: dict[str, Any]) -> None:
        """`register_model`, for whoever is told what the parts will say."""
        self._model = told

    def known(self, model: str) -> dict[str, dict[str, Any]]:
        """What is stored of each of the paths, as Store.known tells it. A part that cannot be read counts as not there."""
        here: dict[str, set[str]] = {score_parts.origin(model, p): set() for p in self._paths}
        for file in names(self.path):
            if (begin := file.split("-")[0]) in here:
                here[begin].add(file)
        self._names = here
        self.sweep(here, ABANDONED)
        found: dict[str, dict[str, Any]] = {}
        for files in here.values():
            heads = list(self._heads(files))
            # what was read counts over what was not
            newest = max(heads, key=lambda h: (bool(h.unit) or h.entry.elsewhere, h.at)).entry if heads else None
            if newest and not newest.elsewhere:  # a copy is compared anew: what it is a copy of may have changed
                mine = [h for h in heads if h.entry.shard == newest.shard and not h.entry.elsewhere]
                found[newest.file.path] = _known(mine, newest)
        return found

    def _heads(self, files: Iterable[str]) -> Iterator[Head]:
        for file in sorted(files):
            with contextlib.suppress(PartError, OSError):
                yield score_parts.read_head(self.path / file)

    def commit(self, parts: list[_Scored], entries: list[Entry] | None = None) -> None:
        """Writes parts. Raises StoreError, NoSpace."""
        for entry in entries or []:
            if entry.plan or entry.elsewhere:  # a failure to read is no proof of another content
                self._forget_others(entry)
            if entry.elsewhere:
                # tells `ingest` that what the path held before is gone, whichever folder knows of it
                if score_parts.name(entry, None) not in self._there(entry):
                    self._write(entry, None, Part())
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
            with contextlib.suppress(PartError, OSError):
                before = score_parts.read(self.path / name)[1]
                return replace(before, status=part.status, kind=part.kind, error=part.error) if part.kind else before
        return part

    def discard(self, shard: str, unit: Unit) -> None:
        """Removes a part that has been committed elsewhere."""
        (self.path / score_parts.name(self._entries[shard], unit)).unlink(missing_ok=True)

    def parts(self, origins: Container[str]) -> list[str]:
        """The names of the parts that begin so."""
        return [n for n in names(self.path) if n.split("-")[0] in origins] if self.path.exists() else []

    def clear(self, files: Iterable[str]) -> None:
        """Removes parts by name."""
        for file in files:
            (self.path / file).unlink(missing_ok=True)

    def sweep(self, origins: Container[str], age: float = 0.0) -> None:
        """Removes what writers that were killed left unfinished, `age` seconds ago or more, of parts whose names begin so."""
        for file in self.path.glob(f".*{SUFFIX}.*"):
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                if file.name[1:].split("-")[0] in origins and time.time() - file.stat().st_mtime >= age:
                    file.unlink()

    def note(self, entry: Entry) -> None:
        """Knows an entry, so that its parts can be discarded."""
        self._entries[entry.shard] = entry

    def _there(self, entry: Entry) -> set[str]:
        return self._names.setdefault(score_parts.origin(entry.model, entry.file.path), set())

    def _write(self, entry: Entry, unit: Unit | None, part: Part) -> None:
        self._there(entry).add(score_parts.write(self.path, self._model, entry, unit, part).name)

    def _forget_others(self, entry: Entry) -> None:
        mine, copy = self._there(entry), score_parts.name(replace(entry, elsewhere=True), None)
        for file in [n for n in mine if n.split("-")[1] != entry.shard or (n == copy and not entry.elsewhere)]:
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
