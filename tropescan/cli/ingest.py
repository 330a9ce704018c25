"""tropescan ingest."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

import orjson

from tropescan.errors import PartError, printable
from tropescan.report import console
from tropescan.runners import ingest as intake
from tropescan.runners.ingest import Ingested
from tropescan.store import Store

_WHOLE = "SELECT count(*) AS shards, count(*) FILTER (status = 'done') AS done, count(*) FILTER (status = 'failed') AS failed FROM shards"


def ingest(given: argparse.Namespace) -> int:
    """Commits score parts and prints what became of them; the exit code tells whether some are damaged or cannot be read."""
    store, out = Store(given.db, given.wait), console(sys.stderr)
    told = intake.ingest(given.folder, store, lambda line: out.print(f"warning: {line}", soft_wrap=True))
    there = store.rows(_WHOLE)[0] if store.path.is_file() else {"shards": 0, "done": 0, "failed": 0}
    if given.json:
        print(orjson.dumps(asdict(told) | {"database": there}).decode())
    else:
        _print(told, there, printable(given.db))
    return PartError.code if told.damaged or told.unreadable else 0


def _print(told: Ingested, there: dict[str, int], db: str) -> None:
    print(
        f"{told.parts} score parts: {told.committed} committed now, {told.before} stored before, {told.superseded} of contents scanned anew since, "
        f"{len(told.damaged)} damaged" + (f", {len(told.unreadable)} could not be read" if told.unreadable else "")
    )
    print(f"{told.documents:,} documents, {told.characters:,} characters -> {db}")
    print(f"{there['done']} of {there['shards']} shards in it are whole, {there['failed']} failed")
