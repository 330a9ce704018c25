"""A scanning process: reads orders from its pipe, holds one Scanner, sends parts back. It never touches the database or the screen."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import orjson

from tropescan.errors import ShardError, TropescanError
from tropescan.parts import Part, scan_unit
from tropescan.scanner import Scanner
from tropescan.shards import Columns, File, Unit, fingerprint, plan

TICK = 0.25  # seconds between two reports of progress


def work(pipe: Connection, setup: dict[str, Any]) -> None:
    """The life of a worker: makes its Scanner, then answers orders until the pipe closes.

    Orders and answers are JSON; a part follows its head as Arrow IPC. A parent that is gone closes the pipe, and the worker ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent alone decides
    columns = Columns(**setup["columns"])
    try:
        scanner = Scanner(
            setup["model"], depth=setup["depth"], audit=setup["audit"], device=setup["device"], threads=setup["threads"]
        )
        _send(pipe, {"say": "ready"})
        while True:
            order = orjson.loads(pipe.recv_bytes())
            file = File(**order["file"])
            if order["do"] == "plan":
                _plan(pipe, file, columns)
            else:
                unit = Unit(**{**order["unit"], "groups": tuple(order["unit"]["groups"])})
                part = _scan(pipe, scanner, file, columns, unit, setup["limit"])
                head, *tables = part.to_buffers()
                _send(pipe, {"say": "part"})
                for buffer in (head, *tables):
                    pipe.send_bytes(buffer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent is gone
    except TropescanError as error:
        _send(pipe, {"say": "fatal", "kind": type(error).__name__, "error": str(error)})


def _scan(pipe: Connection, scanner: Scanner, file: File, columns: Columns, unit: Unit, limit: int | None) -> Part:
    try:
        return scan_unit(scanner, file, columns, unit, limit, _Ticker(pipe))
    except MemoryError:
        os._exit(1)  # as if killed for memory: the unit is tried again alone
    except (TropescanError, EOFError, OSError):
        raise
    except Exception as error:  # a defect of ours or of a library must cost one unit, not the run
        return Part(
            status="failed",
            kind=ShardError.__name__,
            error=f"{file.path}: {type(error).__name__} while scanning: {error}",
        )


def _plan(pipe: Connection, file: File, columns: Columns) -> None:
    try:
        planned = plan(file, columns)
        units = [vars(u) for u in planned.units]
        _send(pipe, {"say": "plan", "shard": fingerprint(file), "rows": planned.rows, "units": units})
    except ShardError as error:
        _send(pipe, {"say": "failed", "kind": type(error).__name__, "error": str(error)})


class _Ticker:
    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._next = pipe, monotonic() + TICK

    def __call__(self, counters: dict[str, int]) -> None:
        if monotonic() >= self._next:
            _send(self._pipe, {"say": "tick", "counters": counters})
            self._next = monotonic() + TICK


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    pipe.send_bytes(orjson.dumps(message))
