"""One scan: what is left to do, who does it, what came of it."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Protocol

from tropescan import persistence
from tropescan.embedding import require_encoder
from tropescan.errors import WorkerDied
from tropescan.parts import Part
from tropescan.runners.local.pool import Message, Pool
from tropescan.shards import Columns, File, Plan, Unit
from tropescan.store import Entry, Store

EVERY = 0.25  # seconds between two commits, at least


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
    """What a run did: shards found, already done before, scanned and failed now; documents and seconds of this run; duplicates by path."""

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


class Watcher(Protocol):
    """What shows progress: called with the files to do, then with every change."""

    def begin(self, shards: int, total_bytes: int) -> None: ...
    def moved(self, done_shards: int, done_bytes: float, counters: dict[str, int]) -> None: ...
    def note(self, line: str) -> None: ...


@dataclass
class _Run:
    store: Store
    model: str
    audit: float
    limit: int | None
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
    live: dict[Task, dict[str, int]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    done_bytes: float = 0.0
    finished: int = 0

    def next(self, busy: bool) -> Task | None:
        """The next order: planned units first, so that a file is read while its pages are still warm; the deadly ones last and alone."""
        if self.ready:
            return self.ready.popleft()
        if self.pending:
            return self.pending.popleft()
        return self.alone.popleft() if self.alone and not busy else None

    def planned(self, task: Task, message: Message) -> None:
        """Registers a shard and queues the units that are left of it."""
        shard, file = message["shard"], task.file
        plan = Plan(message["rows"], tuple(Unit(**{**u, "groups": tuple(u["groups"])}) for u in message["units"]))
        twin = self.shards.get(shard)
        if twin is not None and twin != file.path and twin in self.paths:
            self.summary.duplicates[file.path] = twin
            self.watcher.note(f"{file.path} holds the same bytes as {twin}: counted once")
            self.done_bytes += file.bytes
            self.finished += 1
            return
        before = next((k for k in self.known.values() if k["shard"] == shard), None)
        self.shards[shard] = file.path
        self.entries.append(Entry(shard, self.model, file, plan, self.audit))
        if file.path in self.known and self.known[file.path]["shard"] != shard:
            del self.known[file.path]  # its rows went with the registration: a copy elsewhere is scanned anew
        units = [u for u in plan.units if not before or not self._settled(before["units"].get(u.index))]
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
            self.summary.done_before += 1

    def _settled(self, unit: tuple[str, int] | None) -> bool:
        return unit is not None and (
            unit[0] == "done" or (unit[0] == "limited" and self.limit is not None and unit[1] >= self.limit)
        )

    def unreadable(self, task: Task, kind: str, error: str) -> None:
        """Records a file that could not even be planned."""
        shard = "!" + hashlib.sha256(task.file.path.encode()).hexdigest()[:31]
        self.entries.append(Entry(shard, self.model, task.file, None, self.audit, (kind, error)))
        self._failed(task.file, kind, error)
        self.done_bytes += task.file.bytes
        self.finished += 1

    def _failed(self, file: File, kind: str, error: str) -> None:
        self.summary.failed[file.path] = kind
        self.watcher.note(error)

    def arrived(self, task: Task, part: Part) -> tuple[str, str, Unit, Part]:
        """Counts a part; returns what the store commits."""
        assert task.unit is not None
        self.live.pop(task, None)
        if part.kind:
            self._failed(task.file, part.kind, part.error or "")
        for name, value in (part.counters | {"flagged": part.flagged}).items():
            self.totals[name] = self.totals.get(name, 0) + value
        self.done_bytes += task.file.bytes * task.share
        self.left[task.shard] -= 1
        if not self.left[task.shard]:
            self.finished += 1
            self.summary.scanned += task.file.path not in self.summary.failed
        return task.shard, self.model, task.unit, part

    def died(self, task: Task, code: int, ready: bool) -> tuple[str, str, Unit, Part] | None:
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
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        what = f"{task.file.path}: the worker died twice ({how}), the second time with no other at work: too little memory, or a crash in a reader"
        kind = WorkerDied.__name__
        if task.unit is None:
            self.unreadable(task, kind, what)
            return None
        return self.arrived(task, Part(status="failed", kind=kind, error=what))

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


def run(
    files: list[File],
    store: Store,
    watcher: Watcher,
    *,
    model: str | Path = "evil-ai",
    depth: str = "full",
    workers: int = 0,
    columns: Columns | None = None,
    limit: int | None = None,
    audit: float | None = None,
    retry_failed: bool = False,
    device: str = "cpu",
    on_start: Callable[[list[int]], None] | None = None,
) -> Summary:
    """Scans what is not in the store yet, with `workers` processes (0: one a core), and commits unit by unit.

    `limit` is the number of documents of each shard to look at (None: all); such shards stay 'partial' and are scanned again without it.
    Returns what was done. Raises ModelError, StoreError, MissingExtra; a shard that fails is recorded, never raised.
    """
    begun = perf_counter()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or cores
    if depth == "full":
        require_encoder()
    loaded = persistence.load(model)
    key = loaded.key(depth)
    share = float(loaded.config["audit"] if audit is None else audit)
    store.register_model(loaded, depth)
    state = _Run(store, key, share, limit, Summary(key, shards=len(files)), watcher)
    state.known = store.known(key)
    state.paths = {f.path for f in files}
    for file in files:
        _triage(state, file, retry_failed)
    watcher.begin(len(files), sum(f.bytes for f in files))
    state.show()
    setup = {
        "model": str(loaded.folder),
        "depth": depth,
        "audit": share,
        "device": device,
        "threads": max(1, cores // workers),
        "limit": limit,
        "columns": vars(columns or Columns()),
    }
    if state.pending:
        with Pool(min(workers, max(1, _at_most(state))), setup) as pool:
            if on_start:
                on_start([w.process.pid or 0 for w in pool.workers])
            _drive(state, pool)
    state.show()
    summary = state.summary
    summary.documents, summary.characters = state.totals.get("rows", 0), state.totals.get("characters", 0)
    summary.bad_lines, summary.seconds = state.totals.get("bad_lines", 0), perf_counter() - begun
    return summary


def _at_most(state: _Run) -> int:
    """More workers than there can be units are not started: a unit is at least a few megabytes of a file."""
    return sum(1 + t.file.bytes // (16 << 20) for t in state.pending)


def _triage(state: _Run, file: File, retry_failed: bool) -> None:
    """Files that did not change since they were settled are not even opened; the others are planned."""
    before = state.known.get(file.path)
    if before and (before["bytes"], before["tag"]) == (file.bytes, file.tag) and file.tag:
        state.shards[before["shard"]] = file.path
        settled = before["status"] == "done" or (before["status"] == "failed" and not retry_failed)
        if settled:
            state.summary.done_before += before["status"] != "failed"
            state.summary.failed_before += before["status"] == "failed"
            if before["status"] == "failed":
                state.summary.failed[file.path] = before["kind"]
            state.done_bytes += file.bytes
            state.finished += 1
            return
    state.pending.append(Task(file))


def _drive(state: _Run, pool: Pool) -> None:
    parts: list[tuple[str, str, Unit, Part]] = []
    due = monotonic()
    while True:
        for worker in pool.free():
            busy = any(w.order is not None for w in pool.workers)
            task = state.next(busy)
            if task is None:
                break
            order: Message = {"do": "scan" if task.unit else "plan", "file": asdict(task.file)}
            worker.give(task, order | ({"unit": asdict(task.unit)} if task.unit else {}))
        idle = all(w.order is None for w in pool.workers)
        # small shards come faster than the database opens: what arrives within EVERY is committed while it is open once
        if idle or monotonic() >= due:
            entries, state.entries = state.entries, []
            state.store.commit(parts, entries)
            parts, due = [], monotonic() + EVERY
            state.show()
        if idle:
            return
        for task, message in pool.events(0.2):
            if task is None or message is None:
                continue
            if message["say"] == "tick":
                state.live[task] = message["counters"]
            elif message["say"] == "plan":
                state.planned(task, message)
            elif message["say"] == "failed":
                state.unreadable(task, message["kind"], message["error"])
            elif message["say"] == "part":
                parts.append(state.arrived(task, message["part"]))
            elif message["say"] == "died" and (lost := state.died(task, message["code"], message["ready"])):
                parts.append(lost)
