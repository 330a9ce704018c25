"""One scan on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tropescan import persistence
from tropescan.embedding import require_encoder
from tropescan.runners.driving import drive
from tropescan.runners.local.pool import Pool
from tropescan.runners.schedule import Sink, Summary, Watcher, at_most, schedule
from tropescan.shards import Columns, File


def run(
    files: list[File],
    sink: Sink,
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
    on_start: Callable[[list[int]], None] | None = None,
) -> Summary:
    """Scans what is not in the store yet, with `workers` processes (0: one a core), and commits unit by unit.

    `limit` is the number of documents of each shard to look at (None: all); such shards stay 'partial' and are scanned again without it.
    Returns what was done. Raises ModelError, StoreError, MissingExtra; a shard that fails is recorded, never raised.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = workers or cores
    if depth != "fast":
        require_encoder(backend, device)
    loaded = persistence.load(model)
    state = schedule(files, sink, watcher, loaded, depth, audit, limit, retry_failed)
    setup = {
        "model": str(loaded.folder),
        "depth": depth,
        "audit": state.audit,
        "device": device,
        "backend": backend,
        "threads": max(1, cores // workers),
        "limit": limit,
        "columns": vars(columns or Columns()),
    }
    if state.pending:
        with Pool(min(workers, max(1, at_most(state))), setup) as pool:
            if on_start:
                on_start([w.process.pid or 0 for w in pool.workers])
            drive(state, pool)
    return state.ended()
