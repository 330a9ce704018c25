"""tropescan scan."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

import orjson

from tropescan.errors import exit_code
from tropescan.report import Display, console
from tropescan.runners.local import Summary, run
from tropescan.shards import Columns, find
from tropescan.store import Store


def scan(given: argparse.Namespace) -> int:
    """Scans and prints what was done; the exit code tells whether shards failed."""
    columns = Columns(given.text_column, given.id_column or "id", given.url_column, given.id_column is not None)
    files = find(given.path)
    display = Display(console(sys.stderr), quiet=given.json)
    try:
        summary = run(
            files,
            Store(given.db, given.wait),
            display,
            model=given.model,
            depth=given.depth,
            workers=given.workers,
            columns=columns,
            limit=given.limit,
            audit=given.audit,
            retry_failed=given.retry_failed,
            device=given.device,
        )
    finally:
        display.end()
    if given.json:
        print(orjson.dumps(asdict(summary)).decode())
    else:
        _print(summary, given.db)
    return exit_code(set(summary.failed.values()))


def _print(done: Summary, db: str) -> None:
    speed = done.characters / 1e6 / max(done.seconds, 1e-9)
    print(
        f"{done.scanned} of {done.shards} shards scanned now, {done.done_before} were done before, {len(done.failed)} failed"
        + (f", {len(done.duplicates)} hold the same bytes as another" if done.duplicates else "")
    )
    print(
        f"{done.documents:,} documents, {done.characters:,} characters in {done.seconds:.1f} s ({speed:,.1f} M characters/s) -> {db}"
    )
    if done.bad_lines:
        print(f"{done.bad_lines} lines were no JSON object with a text and were passed over")
    if done.failed:
        code = exit_code(set(done.failed.values()))
        print(f"failed (exit code {code}): `tropescan status --db {db}` gives the reasons, --retry-failed tries again")
