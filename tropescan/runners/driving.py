"""Carries a schedule out: gives its orders to a crew, and commits what comes of them in a thread of its own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from time import monotonic, perf_counter

from tropescan.runners.orders import Message
from tropescan.runners.schedule import EVERY, Crew, Schedule, Scored
from tropescan.store import Entry


def drive(state: Schedule, crew: Crew) -> None:
    """Gives out orders until there is nothing left, and hands on what comes of them. Raises what the sink or a worker's start raises."""
    parts: list[Scored] = []
    writer = _Writer(state)
    try:
        _drive(state, crew, parts, writer)
    finally:
        writer.end(parts)  # after a Ctrl-C, too: what has arrived is not scanned again


class _Writer:
    """Commits in a thread of its own, one commit after another: no worker waits for an order while the database is slow."""

    def __init__(self, state: Schedule) -> None:
        self._state = state
        self._thread = ThreadPoolExecutor(1, "commit")
        self._job: Future[float] | None = None
        self._due = monotonic()

    def ready(self) -> bool:
        """Whether it is time for a commit, and the last is done. Raises what that raised."""
        if self._job and self._job.done():
            self.settle()
        return not self._job and monotonic() >= self._due

    def give(self, parts: list[Scored]) -> None:
        """Begins to commit these parts and the schedule's entries, which are taken out of their lists."""
        given, entries = parts[:], self._state.entries[:]
        parts.clear()
        self._state.entries.clear()
        self._job = self._thread.submit(self._commit, given, entries)

    def _commit(self, parts: list[Scored], entries: list[Entry]) -> float:
        begun = monotonic()
        self._state.sink.commit(parts, entries)
        return monotonic() - begun

    def end(self, parts: list[Scored]) -> None:
        """Commits what is left, after what has begun. Raises what a commit raises."""
        with self._thread:
            self.settle()
            self.give(parts)
            self.settle()

    def settle(self) -> None:
        """Waits for the commit that has begun. Raises what it raises."""
        if self._job:
            wait([self._job])  # a Ctrl-C that comes meanwhile leaves it where it is
            job, self._job = self._job, None
            took = job.result()
            self._due = monotonic() + _pause(took, perf_counter() - self._state.begun)


def _drive(state: Schedule, crew: Crew, parts: list[Scored], writer: _Writer) -> None:
    shown = monotonic()
    while True:
        for worker in crew.free():
            busy = any(w.order is not None for w in crew.workers)
            task = state.next(busy)
            if task is None:
                break
            order: Message = {"do": "scan" if task.unit else "plan", "file": asdict(task.file), "shard": task.shard}
            worker.give(task, order | ({"unit": asdict(task.unit)} if task.unit else {}))
        # units come faster than the database opens: what arrives meanwhile is committed while it is open once
        if writer.ready():
            writer.give(parts)
        if monotonic() >= shown:
            state.show()
            shown = monotonic() + EVERY
        if not state.waiting() and all(w.order is None for w in crew.workers):
            return
        for task, message in crew.events(0.2):
            if task is None or message is None:
                continue
            if message["say"] == "tick":
                state.live[task] = message["counters"]
            elif message["say"] in ("plan", "failed"):
                state.answered(task, message)
            elif message["say"] == "part":
                parts.append(state.arrived(task, message["part"]))
            elif message["say"] == "died" and (lost := state.died(task, message["how"], message["ready"])):
                parts.append(lost)


def _pause(took: float, lasted: float) -> float:
    """Seconds until the next commit, after one that `took` so long in a run that `lasted` so long: commits are 2 % of a long run, and one that is
    killed loses no more than 5 seconds, and a fifth of what it did."""
    return max(EVERY, min(50 * took, 5.0, lasted / 4))
