"""One scan, whatever the host: what is left to do, what came of it, and where that goes (driving.py gives out the orders)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Protocol

from tropescan.errors import UnreadableShard, WorkerDied
from tropescan.parts import Part
from tropescan.persistence import Model
from tropescan.runners.orders import Message
from tropescan.shards import File, Plan, Unit
from tropescan.store import Entry

Scored = tuple[str, str, Unit, Part]
"""A part with its key: shard, model, unit."""

EVERY = 0.25  # seconds between two commits at least, and between two signs of progress


@dataclass(frozen=True)
class Task:
    """An order: plan a file (no unit), or scan a unit of it. `tries` counts the workers that died of it."""

    file: File
    shard: str = ""
    unit: Unit | None = None
    share: float = 1.0
    tries: int = 0


@dataclass
class Summary:
    """What a run did: shards found, already done before, scanned and failed now; documents and seconds of this run; duplicates by path;
    what ran the encoder (None: nothing did)."""

    model: str
    shards: int = 0
    done_before: int = 0
    failed_before: int = 0
    scanned: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    documents: int = 0
    characters: int = 0
    bad_lines: int = 0
    seconds: float = 0.0
    duplicates: dict[str, str] = field(default_factory=dict)
    backend: str | None = None


class Watcher(Protocol):
    """What shows progress: called with the files to do, then with every change (report.Display)."""

    def begin(self, shards: int, total_bytes: int) -> None: ...
    def moved(self, done_shards: int, done_bytes: float, counters: dict[str, int]) -> None: ...
    def note(self, line: str) -> None: ...


class Sink(Protocol):
    """Where parts go: a database (store.Store), or a folder (runners.folder.Folder). `moves`: what it holds of a shard follows it to another path."""

    moves: bool

    def register_model(self, model: Model, depth: str) -> None: ...
    def known(self, model: str) -> dict[str, dict[str, Any]]: ...
    def commit(self, parts: list[Scored], entries: list[Entry] | None = None) -> None: ...


class Hand(Protocol):
    """A worker with at most one order; None: it has none."""

    order: Any

    def give(self, order: Any, message: Message) -> None: ...


class Crew(Protocol):
    """The workers of a host, wherever they are."""

    @property
    def workers(self) -> Sequence[Hand]: ...
    def free(self) -> Sequence[Hand]: ...
    def events(self, timeout: float) -> Iterator[tuple[Any, Message | None]]: ...


@dataclass
class Schedule:
    """The state of a run. Parts and entries go to `sink` as they come."""

    sink: Sink
    model: str
    audit: float
    limit: int | None
    retry_failed: bool
    summary: Summary
    watcher: Watcher
    pending: deque[Task] = field(default_factory=deque)
    ready: deque[Task] = field(default_factory=deque)
    alone: deque[Task] = field(default_factory=deque)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)  # units of a shard that are still to come
    entries: list[Entry] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    shards: dict[str, str] = field(default_factory=dict)  # shard -> path
    kept: dict[str, Entry] = field(default_factory=dict)  # shard -> failure to note of its path, should the shard move
    turns: dict[int, deque[str]] = field(default_factory=dict)  # size -> paths of files to plan, in order
    answers: dict[str, tuple[Task, Message]] = field(default_factory=dict)  # by path: plans that wait for their turn
    live: dict[Task, dict[str, int]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    done_bytes: float = 0.0
    finished: int = 0
    backends: set[str] = field(default_factory=set)
    begun: float = field(default_factory=perf_counter)

    def waiting(self) -> bool:
        """Whether there are orders that nobody has yet."""
        return bool(self.ready or self.pending or self.alone)

    def next(self, busy: bool) -> Task | None:
        """The next order: planned units first, so that a file is read while its pages are still warm; the deadly ones last and alone."""
        if self.ready:
            return self.ready.popleft()
        if self.pending:
            return self.pending.popleft()
        return self.alone.popleft() if self.alone and not busy else None

    def answered(self, task: Task, message: Message) -> None:
        """Takes what came of plans, those of files of one size in the order of their paths: of two copies the first is to count,
        whichever worker was faster."""
        self.answers[task.file.path] = (task, message)
        turn = self.turns[task.file.bytes]
        while turn and turn[0] in self.answers:
            task, message = self.answers.pop(turn.popleft())
            if message["say"] == "plan":
                self._planned(task, message)
            else:
                self._unreadable(task, message["kind"], message["error"])

    def _planned(self, task: Task, message: Message) -> None:
        """Registers a shard and queues the units that are left of it."""
        shard, file = message["shard"], task.file
        plan = Plan(message["rows"], tuple(Unit(**{**u, "groups": tuple(u["groups"])}) for u in message["units"]))
        other = file.path in self.known and self.known[file.path]["shard"] != shard
        if other:
            del self.known[file.path]  # what is stored of it goes with the entry: a copy elsewhere is scanned anew
        twin = self.shards.get(shard)
        if twin is not None and twin != file.path and twin in self.paths:
            if other or not self.sink.moves:  # a folder may not know what an older one told of the path
                self.entries.append(Entry(shard, self.model, file, plan, self.audit, elsewhere=True))
            self.summary.duplicates[file.path] = twin
            self.watcher.note(f"{file.path} holds the same bytes as {twin}: counted once")
            self.done_bytes += file.bytes
            self.finished += 1
            return
        before = self.known.get(file.path)
        if before is None and self.sink.moves:
            before = next((k for k in self.known.values() if k["shard"] == shard), None)
        self.shards[shard] = file.path
        self.entries.append(Entry(shard, self.model, file, plan, self.audit))
        if self.sink.moves and shard in self.kept:
            self.entries.append(self.kept.pop(shard))
        units = [u for u in plan.units if not before or not self.settled(before["units"].get(u.index), u.first_row)]
        if before and before["status"] == "failed" and not self.retry_failed:
            self.summary.failed[file.path] = before["kind"]
        self.left[shard] = len(units)
        rows = max(1, plan.rows)
        self.done_bytes += file.bytes * (len(plan.units) - len(units)) / len(plan.units)
        for unit in units:
            if self.limit is None or unit.first_row < self.limit:
                self.ready.append(Task(file, shard, unit, unit.rows / rows if unit.rows >= 0 else 1.0))
            else:
                self.left[shard] -= 1
        if not self.left[shard]:
            self.finished += 1
            failed = file.path in self.summary.failed
            self.summary.failed_before += failed
            self.summary.done_before += not failed

    def settled(self, unit: tuple[str, int] | None, first_row: int = 0) -> bool:
        """Whether a unit stored with this status and as many rows (None: it is not stored) is left as it is. The limit is of its shard's rows."""
        return unit is not None and (
            unit[0] == "done"
            or (unit[0] == "failed" and not self.retry_failed)
            or (unit[0] == "limited" and self.limit is not None and first_row + unit[1] >= self.limit)
        )

    def _unreadable(self, task: Task, kind: str, error: str) -> None:
        """Records a file that could not even be planned. Whatever its size and time, that is no proof of another content: what is stored of it stays."""
        file, before = task.file, self.known.get(task.file.path)
        shard = "!" + hashlib.sha256(file.path.encode()).hexdigest()[:31]
        entry = Entry(shard, self.model, file, None, self.audit, (kind, error))
        if before is None or before["shard"].startswith("!") or self._moved(before["shard"], file.path):
            self.entries.append(entry)
        else:
            self.kept[before["shard"]] = entry
            error += "; what is stored of it stays"
        self.set_aside(file, kind, error)

    def _moved(self, shard: str, path: str) -> bool:
        """Whether what was stored of this path has been found at another in this run, and follows it there."""
        return self.sink.moves and self.shards.get(shard, path) != path

    def set_aside(self, file: File, kind: str, error: str) -> None:
        """Counts a file of which nothing can be scanned."""
        self._failed(file, kind, error)
        self.done_bytes += file.bytes
        self.finished += 1

    def _failed(self, file: File, kind: str, error: str) -> None:
        self.summary.failed[file.path] = kind
        self.watcher.note(error)

    def arrived(self, task: Task, part: Part) -> Scored:
        """Counts a part; returns what the store commits."""
        assert task.unit is not None
        self.live.pop(task, None)
        if part.kind:
            self._failed(task.file, part.kind, part.error or "")
        for name, value in (part.counters | {"flagged": part.flagged}).items():
            self.totals[name] = self.totals.get(name, 0) + value
        if part.backend:
            self.backends.add(part.backend)
        self.done_bytes += task.file.bytes * task.share
        self.left[task.shard] -= 1
        if not self.left[task.shard]:
            self.finished += 1
            self.summary.scanned += task.file.path not in self.summary.failed
        return task.shard, self.model, task.unit, part

    def died(self, task: Task, how: str, ready: bool) -> Scored | None:
        """A worker died at this order: once, it is tried again with no other at work; twice, it is recorded.

        One that died before it was ready never saw its order: the pool stops the run where that goes on.
        """
        self.live.pop(task, None)
        if not ready:
            (self.ready if task.unit else self.pending).appendleft(task)
            return None
        if not task.tries:
            self.alone.append(Task(task.file, task.shard, task.unit, task.share, 1))
            return None
        what = f"{task.file.path}: the worker died twice ({how}), the second time with no other at work: too little memory, or a crash in a reader"
        kind = WorkerDied.__name__
        if task.unit is None:
            self.answered(task, {"say": "failed", "kind": kind, "error": what})
            return None
        return self.arrived(task, Part(status="failed", kind=kind, error=what))

    def ended(self) -> Summary:
        """The summary, with what the parts add up to."""
        self.show()
        self.summary.documents, self.summary.characters = self.totals.get("rows", 0), self.totals.get("characters", 0)
        self.summary.bad_lines, self.summary.seconds = self.totals.get("bad_lines", 0), perf_counter() - self.begun
        self.summary.backend = ", ".join(sorted(self.backends)) or None
        return self.summary

    def show(self) -> None:
        """Tells the watcher how far it is."""
        counters = dict(self.totals)
        moving = 0.0
        for task, now in self.live.items():
            for name, value in now.items():
                counters[name] = counters.get(name, 0) + value
            if task.unit and task.unit.rows > 0:
                moving += task.file.bytes * task.share * min(1.0, now["rows"] / task.unit.rows)
        self.watcher.moved(self.finished, self.done_bytes + moving, counters)


def schedule(
    files: list[File],
    sink: Sink,
    watcher: Watcher,
    model: Model,
    depth: str,
    audit: float | None,
    limit: int | None,
    retry_failed: bool,
) -> Schedule:
    """What a scan of these files still has to do, by what the sink holds; the model is registered there."""
    share = float(model.config["audit"] if audit is None else audit)
    key = model.key(depth)
    sink.register_model(model, depth)
    state = Schedule(sink, key, share, limit, retry_failed, Summary(key, shards=len(files)), watcher)
    state.known = sink.known(key)
    state.paths = {f.path for f in files}
    for file in files:
        _triage(state, file)
    for task in sorted(state.pending, key=lambda t: t.file.path):
        state.turns.setdefault(task.file.bytes, deque()).append(task.file.path)
    watcher.begin(len(files), sum(f.bytes for f in files))
    state.show()
    return state


def at_most(state: Schedule) -> int:
    """More workers than there can be units are not started: a unit is at least a few megabytes of a file."""
    return sum(1 + t.file.bytes // (16 << 20) for t in state.pending)


def _triage(state: Schedule, file: File) -> None:
    """Files that did not change since they were settled are not even opened; the others are planned."""
    if (name := file.printable) != file.path:  # neither an order nor a table can hold such a name
        why = f"{name} cannot be scanned under a name that is not UTF-8: rename it"
        state.set_aside(replace(file, path=name), UnreadableShard.__name__, why)
        return
    before = state.known.get(file.path)
    if before and (before["bytes"], before["tag"]) == (file.bytes, file.tag) and file.tag:
        state.shards[before["shard"]] = file.path
        failed = before["status"] == "failed"
        # a run may have been stopped between the unit that failed and the others
        whole = all(state.settled(before["units"].get(i)) for i in range(before["planned"]))
        if before["status"] == "done" or (failed and whole and not state.retry_failed):
            state.summary.done_before += not failed
            state.summary.failed_before += failed
            if failed:
                state.summary.failed[file.path] = before["kind"]
            state.done_bytes += file.bytes
            state.finished += 1
            return
    state.pending.append(Task(file))
