"""What a worker does with an order, wherever it runs: plans a shard, or scans a unit of one."""

from __future__ import annotations

import os
from typing import Any

from tropescan.errors import ShardError, TropescanError
from tropescan.parts import Part, Tick, scan_unit, unforeseen
from tropescan.scanner import Scanner
from tropescan.shards import Columns, File, Unit, fingerprint, plan

Message = dict[str, Any]
"""An order or what comes of it, as JSON holds it."""


def planned(file: File, columns: Columns) -> Message:
    """The answer to an order to plan: the shard's fingerprint, rows and units, or why there are none.

    Raises TropescanError that no other shard could escape.
    """
    try:
        made = plan(file, columns)
        units = [vars(u) for u in made.units]
        return {"say": "plan", "shard": fingerprint(file), "rows": made.rows, "units": units}
    except ShardError as error:
        return {"say": "failed", "kind": type(error).__name__, "error": str(error)}
    except MemoryError:
        os._exit(1)  # as if killed for memory: the shard is tried again alone
    except TropescanError:
        raise
    except Exception as error:  # what a server answers, or a library makes of a file, must cost one shard
        return {"say": "failed", "kind": ShardError.__name__, "error": unforeseen(file, error, "planning")}


def scanned(
    scanner: Scanner, file: File, columns: Columns, unit: Unit, limit: int | None, tick: Tick | None = None
) -> Part:
    """The part of a unit. Raises TropescanError that no other unit could escape, and what `tick` raises."""
    try:
        return scan_unit(scanner, file, columns, unit, limit, tick)
    except MemoryError:
        os._exit(1)  # as if killed for memory: the unit is tried again alone


def unit_of(given: Message) -> Unit:
    """A unit out of JSON."""
    return Unit(**{**given, "groups": tuple(given["groups"])})
