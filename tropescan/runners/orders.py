"""What a worker does with an order, wherever it runs: plans a shard, or scans a unit of one."""

from __future__ import annotations

import os
from typing import Any

from tropescan.errors import ShardError, TropescanError, printable
from tropescan.parts import Part, Tick, scan_unit, unforeseen
from tropescan.scanner import Scanner
from tropescan.shards import Columns, File, Unit, changed, fingerprint, on_disk, plan

Message = dict[str, Any]
"""An order or what comes of it, as JSON holds it."""


def planned(file: File, columns: Columns) -> Message:
    """The answer to an order to plan: the shard's fingerprint, rows and units, or why there are none.

    Raises TropescanError that no other shard could escape.
    """
    try:
        before = on_disk(file)
        made, shard = plan(file, columns), fingerprint(file)
        if on_disk(file) != before:
            raise changed(file)
        return {"say": "plan", "shard": shard, "rows": made.rows, "units": [vars(u) for u in made.units]}
    except ShardError as error:
        return {"say": "failed", "kind": type(error).__name__, "error": printable(str(error))}
    except MemoryError:
        os._exit(1)  # as if killed for memory: the shard is tried again alone
    except TropescanError:
        raise
    except Exception as error:  # what a server answers, or a library makes of a file, must cost one shard
        return {"say": "failed", "kind": ShardError.__name__, "error": unforeseen(file, error, "planning")}


def scanned(
    scanner: Scanner,
    file: File,
    columns: Columns,
    unit: Unit,
    limit: int | None,
    tick: Tick | None = None,
    shard: str = "",
) -> Part:
    """The part of a unit; the fingerprint of its `shard` tells where the file was only touched meanwhile.

    Raises TropescanError that no other unit could escape, and what `tick` raises.
    """
    try:
        return scan_unit(scanner, file, columns, unit, limit, tick, shard)
    except MemoryError:
        os._exit(1)  # as if killed for memory: the unit is tried again alone


def unit_of(given: Message) -> Unit:
    """A unit out of JSON."""
    return Unit(**{**given, "groups": tuple(given["groups"])})
