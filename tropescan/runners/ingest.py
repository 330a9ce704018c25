"""Commits score parts from a folder, exactly once, in any order: what is stored already stays, and what a newer scan replaced is passed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from tropescan.errors import NoShards, PartError, printable
from tropescan.parts import Part
from tropescan.runners import score_parts
from tropescan.runners.folder import names
from tropescan.runners.score_parts import COPY, SUFFIX, Head
from tropescan.shards import Unit
from tropescan.store import Entry, Store

_AT_ONCE, _BYTES_AT_ONCE = 256, 64 << 20  # parts, and bytes of their rows, committed while the database is open once
_NEVER = datetime.min
_LEFT_OUT = ("damaged", "unreadable", "gone")


@dataclass
class Ingested:
    """What became of the parts: committed now, stored before, left out because a newer scan of their path found other content, damaged, or not
    to be read (path: why). `documents` and `characters` are those of the parts committed now."""

    parts: int = 0
    committed: int = 0
    before: int = 0
    superseded: int = 0
    documents: int = 0
    characters: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def ingest(
    folder: str | Path,
    store: Store,
    note: Callable[[str], None] = lambda line: None,
    only: Container[str] | None = None,
) -> Ingested:
    """Commits the parts of a folder. `only`: those whose names begin so (score_parts.origin). `note` is told of each part that is damaged or
    cannot be read; one that is gone when its turn comes was taken away by a scan, and is passed over.

    A unit that is stored as done stays; of two scans of a unit that is not done, and of two contents of a path, the newer counts; what could be
    read counts over what could not. A copy of a shard counts once, under the path that came first, or under another where there is nothing any
    more; what its own path held before goes. The parts stay where they are. Raises NoSuchPath, NoShards, StoreError.
    """
    files = [n for n in names(Path(folder)) if only is None or n.split("-")[0] in only]
    if not files and only is None:
        raise NoShards(f"no score part in {folder}: `tropescan scan PATH... --parts {folder}` writes them")
    files.sort(key=lambda n: not n.endswith(f"-{COPY}{SUFFIX}"))  # first what tells that older parts do not count
    given = _Intake(Path(folder), store, note)
    given.take(files)
    while given.replaced:  # a shard that went may have been the one of two copies that counted
        given.take(files)
    return given.told()


class _Known:
    """What the database holds of one model: the shard of each path, when it was scanned, and its units; and which paths hold copies."""

    def __init__(self, store: Store, model: str) -> None:
        self.shard: dict[str, str] = {}  # by path
        self.copies: dict[str, str] = {}  # by path: the shard there, which counts under another
        self.at: dict[str, datetime] = {}  # by path: the newest unit found there
        self.units: dict[tuple[str, int], tuple[str, datetime]] = {}
        self.path: dict[str, str] = {}  # by shard: where it counts
        self.audit: dict[str, float | None] = {}  # by shard
        self.fresh: set[str] = set()  # the shards that were noted just now
        if not store.path.is_file():
            return
        with store.connect():  # a kill may have left a file without tables
            pass
        for row in store.rows("SELECT path, shard, audit, scanned_at FROM shards WHERE model = ?", [model]):
            self.shard[row["path"]], self.at[row["path"]] = row["shard"], row["scanned_at"] or _NEVER
            self.audit[row["shard"]] = row["audit"]
        for row in store.rows("SELECT shard, unit, status, scanned_at FROM units WHERE model = ?", [model]):
            self.units[row["shard"], row["unit"]] = (row["status"], row["scanned_at"])
        self.path = {shard: path for path, shard in self.shard.items()}

    def there(self, path: str) -> str | None:
        """The shard that was found at a path last, whether it counts there or elsewhere."""
        return self.copies.get(path, self.shard.get(path))

    def verdict(self, head: Head) -> str:
        """take, before or superseded."""
        shard, path = head.entry.shard, head.entry.file.path
        there = self.there(path)
        read_before = there is not None and there != shard and not there.startswith("!")
        unread = head.unit is None and not head.entry.elsewhere  # what could be read counts over it, whichever is newer
        if read_before and (unread or (head.at, shard) < (self.at.get(path, _NEVER), there)):
            return "superseded"
        if head.unit is None:
            counts = self.replaces(head.entry) if head.entry.elsewhere else there != shard
            return "take" if counts else "before"
        status, at = self.units.get((shard, head.unit.index), ("", _NEVER))
        if status == "done":
            return "before"
        return (
            "take" if head.status == "done" or head.at > at else "before"
        )  # what was read counts over what was not, whichever is newer

    def replaces(self, entry: Entry) -> bool:
        return self.shard.get(entry.file.path, entry.shard) != entry.shard

    def first(self, entry: Entry) -> bool:
        """Whether a shard counts under this path rather than where it is noted: there is none there any more, or this path comes before the
        one that was noted just now."""
        path, noted = entry.file.path, self.path[entry.shard]
        if os.path.exists(path) != os.path.exists(noted):
            return os.path.exists(path)
        return entry.shard in self.fresh and path < noted

    def other_share(self, entry: Entry) -> bool:
        """Whether its shard is noted with another audit."""
        return self.audit.get(entry.shard, entry.audit) != entry.audit

    def registered(self, entry: Entry, at: datetime) -> None:
        path, shard = entry.file.path, entry.shard
        if not entry.elsewhere:
            self.audit[shard] = entry.audit
            if other := self.path.get(shard):
                self.copies[other] = self.shard.pop(other, shard)
            self.path[shard] = path
            self.fresh.add(shard)
        if self.replaces(entry):
            gone = self.shard.pop(path)
            self.path.pop(gone, None)
            self.fresh.discard(gone)
            self.units = {k: v for k, v in self.units.items() if k[0] != gone}
        self.at[path] = max(at, self.at.get(path, _NEVER))
        self.copies.pop(path, None)
        (self.copies if entry.elsewhere else self.shard)[path] = shard

    def arrived(self, head: Head, unit: Unit) -> None:
        path = head.entry.file.path
        self.units[head.entry.shard, unit.index] = (head.status, head.at)
        self.at[path] = max(head.at, self.at.get(path, _NEVER))


class _Intake:
    """Decides part by part and commits them in batches."""

    def __init__(self, folder: Path, store: Store, note: Callable[[str], None]) -> None:
        self._folder, self._store, self._note = folder, store, note
        self._known: dict[str, _Known] = {}
        self._models: dict[str, Head] = {}  # the newest of each, not noted yet
        self._parts: list[tuple[str, str, Unit, Part]] = []
        self._entries: list[Entry] = []
        self._bytes = 0
        self._fate: dict[str, str] = {}
        self._done = Ingested()
        self.replaced = False

    def take(self, files: list[str]) -> None:
        """Commits what is to be committed of these."""
        self.replaced = False
        for file in files:
            if self._fate.get(file) in _LEFT_OUT:
                continue
            path = printable(str(self._folder / file))
            try:
                self._one(file)
            except FileNotFoundError:
                self._fate[file] = "gone"
            except PartError as error:
                self._fate[file], self._done.damaged[path] = "damaged", printable(str(error))
                self._note(str(error))
            except OSError as error:
                self._fate[file], self._done.unreadable[path] = "unreadable", str(error.strerror)
                self._note(f"{path} cannot be read: {error.strerror}: what it holds is not committed")
            if len(self._parts) + len(self._entries) >= _AT_ONCE or self._bytes >= _BYTES_AT_ONCE:
                self._flush()
        self._flush()

    def _one(self, file: str) -> None:
        head = score_parts.read_head(self._folder / file)
        entry, known = head.entry, self._of(head)
        verdict = known.verdict(head)
        part = score_parts.read(self._folder / file)[1] if head.unit and verdict == "take" else None
        new = entry.shard not in known.path
        if verdict != "superseded" and (new or known.there(entry.file.path) != entry.shard):
            entry = replace(entry, elsewhere=entry.elsewhere or not (new or known.first(entry)))
            gone = known.replaces(entry)
            if gone or (not entry.elsewhere and known.other_share(entry)):
                self._flush()  # what waits must be there before its shard goes, or gets another share
            self.replaced |= gone
            known.registered(entry, head.at)
            if gone or not entry.elsewhere:
                self._entries.append(entry)
        elif verdict == "take" and known.shard.get(entry.file.path) and known.other_share(entry):
            self._flush()
            known.audit[entry.shard] = entry.audit
            self._entries.append(entry)
        if verdict != "take":
            self._fate.setdefault(file, verdict)
            return
        if part is not None and head.unit is not None:
            known.arrived(head, head.unit)
            self._parts.append((entry.shard, entry.model, head.unit, part))
            self._bytes += part.documents.nbytes + part.passages.nbytes
            self._done.documents += part.counters["rows"]
            self._done.characters += part.counters["characters"]
        self._fate[file] = "committed"

    def _of(self, head: Head) -> _Known:
        model = head.entry.model
        if model not in self._known:
            self._known[model] = _Known(self._store, model)
        if model not in self._models or head.at > self._models[model].at:
            self._models[model] = head
        return self._known[model]

    def _flush(self) -> None:
        for head in self._models.values():  # before the parts: the views look for it
            self._store.note_model(head.model, head.at)
        self._models = {}
        self._store.commit(self._parts, self._entries)
        self._parts, self._entries, self._bytes = [], [], 0

    def told(self) -> Ingested:
        """The counts."""
        fates = list(self._fate.values())
        self._done.parts, self._done.committed = len(fates) - fates.count("gone"), fates.count("committed")
        self._done.before, self._done.superseded = fates.count("before"), fates.count("superseded")
        return self._done
