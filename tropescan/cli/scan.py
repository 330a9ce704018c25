"""tropescan scan."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import Any

import orjson

from tropescan.errors import InputError, UnreadableShard, exit_code, printable
from tropescan.report import Display, console
from tropescan.runners.folder import Folder
from tropescan.runners.schedule import Summary
from tropescan.shards import Columns, File, find
from tropescan.shards.folders import HIDDEN
from tropescan.store import Store


def scan(given: argparse.Namespace) -> int:
    """Scans and prints what was done; the exit code tells whether shards failed."""
    _check(given)
    display = Display(console(sys.stderr), quiet=given.json)
    unlisted: set[str] = set()

    def tell(folder: str, line: str) -> None:
        unlisted.add(printable(folder))
        display.note(line)

    files = find(given.path, tell)
    if given.parts:
        _require_apart(given.parts, given.path, files)
    if given.slice:
        which, of = given.slice
        files = files[which::of]
    try:
        summary = _run(given, files, display)
    finally:
        display.end()
    summary.failed |= dict.fromkeys(sorted(unlisted), UnreadableShard.__name__)
    if given.json:
        print(orjson.dumps(asdict(summary)).decode())
    else:
        _print(summary, given.db, given.parts)
    return exit_code(set(summary.failed.values()))


def _check(given: argparse.Namespace) -> None:
    if not given.db and not given.parts:
        raise InputError("where to? give --db FILE, or --parts DIR for score parts without a database")
    if given.db and given.parts and given.engine == "local":
        raise InputError("give --db or --parts, not both: `tropescan ingest DIR --db FILE` commits parts")


def _require_apart(parts: str, paths: list[str], files: list[File]) -> None:
    """Raises InputError where the next scan would take the score parts for shards."""
    for top in [p for p in paths if os.path.isdir(p)]:
        below = os.path.relpath(os.path.realpath(parts), os.path.realpath(top)).split(os.sep)
        if below[0] != os.pardir and not any(n != os.curdir and n.startswith(HIDDEN) for n in below):
            raise InputError(
                f"--parts {parts} lies in {top}, where the next scan would take the parts for shards: give a folder outside it"
            )
    if file := next((f.path for f in files if f.path.startswith(os.path.join(os.path.abspath(parts), ""))), None):
        raise InputError(f"--parts {parts} holds {file}, which is to be scanned: give a folder outside the corpus")


def _run(given: argparse.Namespace, files: list[File], display: Display) -> Summary:
    settings: dict[str, Any] = {
        "model": given.model,
        "depth": given.depth,
        "workers": given.workers,
        "columns": Columns(given.text_column, given.id_column or "id", given.url_column, given.id_column is not None),
        "limit": given.limit,
        "audit": given.audit,
        "retry_failed": given.retry_failed,
        "device": given.device,
        "backend": given.backend,
    }
    folder = Folder(given.parts, [f.path for f in files]) if given.parts else None
    if given.engine == "ray":
        from tropescan.runners.ray import run as run_on_ray

        folder = folder or Folder(f"{given.db}.parts", [f.path for f in files])
        return run_on_ray(files, folder, Store(given.db, given.wait) if given.db else None, display, **settings)
    from tropescan.runners.local.run import run

    return run(files, folder or Store(given.db, given.wait), display, **settings)


def _print(done: Summary, db: str | None, parts: str | None) -> None:
    ran = f", encoder {done.backend}" if done.backend else ""
    speed = done.characters / 1e6 / max(done.seconds, 1e-9)
    print(
        f"{done.scanned} of {done.shards} shards scanned now, {done.done_before} were done before, {len(done.failed)} failed"
        + (f", {len(done.duplicates)} hold the same bytes as another" if done.duplicates else "")
    )
    print(
        f"{done.documents:,} documents, {done.characters:,} characters in {done.seconds:.1f} s ({speed:,.1f} M characters/s{ran}) -> {db or parts}"
    )
    if done.bad_lines:
        print(f"{done.bad_lines} lines were no JSON object with a text and were passed over")
    if done.failed:
        code = exit_code(set(done.failed.values()))
        how = f"`tropescan status --db {db}` gives the reasons, " if db else ""
        print(f"failed (exit code {code}): {how}--retry-failed tries again")
    if not db:
        print(f"`tropescan ingest {parts} --db FILE` commits them")
