"""What a worker does with an order, wherever it runs: plans a shard, or scans a unit of one."""

from __future__ import annotations

import os
from typing import Any

from tropescan.errors import ShardError, TropescanError
from tropescan.parts import Part, Tick, scan_unit
from tropescan.scanner import Scanner
from tropescan.shards import Columns, File, Unit, fingerprint, plan

Message = dict[str, Any]
"""An order or what comes of it, as JSON holds it."""


def planned(file: File, columns: Columns) -> Message:
    """The answer to an order to plan: the shard's fingerprint, rows and units, or why there are none."""
    try:
        made = plan(file, columns)
        units = [vars(u) for u in made.units]
        return {"say": "plan", "shard": fingerprint(file), "rows": made.rows, "units": units}
    except ShardError as error:
        return {"say": "failed", "kind": type(error).__name__, "error": str(error)}


def scanned(
    scanner: Scanner, file: File, columns: Columns, unit: Unit, limit: int | None, tick: Tick | None = None
) -> Part:
    """The part of a unit. Raises TropescanError that no other unit could escape, and what `tick` raises."""
    try:
        return scan_unit(scanner, file, columns, unit, limit, tick)
    except MemoryError:
        os._exit(1)  # as if killed for memory: the unit is tried again alone
    except (TropescanError, EOFError, OSError):
        raise
    except Exception as error:  # a defect of ours or of a library must cost one unit, not the run
        return defect(file, error)


def defect(file: File, error: Exception) -> Part:
    """A part that tells of an error that should not be."""
    told = f"{file.path}: {type(error).__name__} while scanning: {error}"
    return Part(status="failed", kind=ShardError.__name__, error=told)


def unit_of(given: Message) -> Unit:
    """A unit out of JSON."""
    return Unit(**{**given, "groups": tuple(given["groups"])})
