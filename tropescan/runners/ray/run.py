"""`tropescan scan --engine ray`: actors scan and leave score parts, the driver alone commits them, through the store that the local engine uses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

from tropescan import persistence
from tropescan.embedding import require_encoder
from tropescan.errors import InputError, printable
from tropescan.persistence import Model
from tropescan.runners import score_parts
from tropescan.runners.driving import drive
from tropescan.runners.folder import Folder
from tropescan.runners.ingest import ingest
from tropescan.runners.ray.crew import Crew
from tropescan.runners.schedule import Scored, Sink, Summary, Watcher, at_most, schedule
from tropescan.shards import Columns, File
from tropescan.store import Entry, Store


def run(
    files: list[File],
    folder: Folder,
    store: Store | None,
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
    backend: str = "auto",
) -> Summary:
    """Scans what is not in the store yet on the Ray cluster that RAY_ADDRESS names, else on a local one, with `workers` actors (0: one a CPU).

    The actors write parts into `folder`, which all nodes must see at the same path; they are removed once committed, and what an interrupted run
    left there is committed first. Without a store the parts stay. Otherwise as runners.local.run. Raises InputError where there is no Ray.
    """
    if depth != "fast":
        backend = require_encoder(
            backend, device
        )  # settled here for all nodes, so that their scores agree to the last digit
    loaded = persistence.load(model)
    sink: Sink = _Committer(store, folder, [f.path for f in files], watcher.note) if store else folder
    state = schedule(files, sink, watcher, loaded, depth, audit, limit, retry_failed)
    setup = {
        "model": str(loaded.folder.resolve()) if Path(model).is_dir() else str(model),
        "told": score_parts.described(loaded, depth),
        "depth": depth,
        "audit": state.audit,
        "device": device,
        "backend": backend,
        "limit": limit,
        "columns": vars(columns or Columns()),
        "parts": str(folder.path.resolve()),
    }
    try:
        if state.pending:
            with _cluster():
                size = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
                with Crew(min(size, max(1, at_most(state))), setup, watcher.note) as crew:
                    drive(state, crew)
    finally:
        if store:
            folder.sweep({score_parts.origin(state.model, f.path) for f in files})
            if folder.made:
                with contextlib.suppress(OSError):  # parts that wait for the next run lie there, or what is not ours
                    folder.path.rmdir()
    return state.ended()


class _Committer:
    """Commits to the store and then removes the parts that carried the scores."""

    moves = True

    def __init__(self, store: Store, folder: Folder, paths: list[str], note: Callable[[str], None]) -> None:
        self._store, self._folder, self._paths, self._note = store, folder, paths, note

    def register_model(self, model: Model, depth: str) -> None:
        self._store.register_model(model, depth)

    def known(self, model: str) -> dict[str, dict[str, Any]]:
        """Commits what an interrupted run left, and tells what the store knows then."""
        mine = {score_parts.origin(model, p) for p in self._paths}
        if left := self._folder.parts(mine):
            told = ingest(self._folder.path, self._store, self._note, only=mine)
            # what another run adds meanwhile is its own to fetch
            self._folder.clear(n for n in left if printable(str(self._folder.path / n)) not in told.unreadable)
            self._folder.made = True  # by a run that was killed
        return self._store.known(model)

    def commit(self, parts: list[Scored], entries: list[Entry] | None = None) -> None:
        for entry in entries or []:
            if not entry.elsewhere:
                self._folder.note(entry)
        self._store.commit(parts, entries)
        for shard, _, unit, _ in parts:
            self._folder.discard(shard, unit)


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """A connection to Ray: one that is there stays, one that is made here is ended. What Ray prints of its nodes goes to standard error."""
    if ray.is_initialized():
        yield
        return
    _require_reachable(os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a scan tells nobody that it runs
    before = signal.getsignal(signal.SIGTERM) if threading.current_thread() is threading.main_thread() else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(log_to_driver=False, logging_level="error")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise InputError(f"Ray cannot be reached or started ({told}): see RAY_ADDRESS and `ray status`") from None
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            yield
        finally:
            ray.shutdown()


def _require_reachable(address: str) -> None:
    """Ray itself would try for minutes. Raises InputError."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise InputError(f"no Ray cluster at RAY_ADDRESS={address} ({error}): start one, or unset it") from None
