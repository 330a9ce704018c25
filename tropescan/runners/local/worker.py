"""A scanning process: reads orders from its pipe, holds one Scanner, sends parts back. It never touches the database or the screen."""

from __future__ import annotations

import gc
import os
import signal
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import orjson

from tropescan.errors import TropescanError, printable
from tropescan.runners.orders import planned, scanned, unit_of
from tropescan.scanner import Scanner
from tropescan.shards import Columns, File

TICK = 0.25  # seconds between two reports of progress


def work(pipe: Connection, setup: dict[str, Any]) -> None:
    """The life of a worker: makes its Scanner, then answers orders until the pipe closes.

    Orders and answers are JSON; a part follows its head as Arrow IPC. A parent that is gone closes the pipe, and the worker ends.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent alone decides
    columns = Columns(**setup["columns"])
    try:
        scanner = _loaded(setup)
        _send(pipe, {"say": "ready"})
        while True:
            order = orjson.loads(pipe.recv_bytes())
            gc.freeze()  # what lives between two orders lives on: the collector need not look at it again and again
            file = File(**order["file"])
            if order["do"] == "plan":
                _send(pipe, planned(file, columns))
            else:
                unit, tick = unit_of(order["unit"]), _Ticker(pipe)
                part = scanned(scanner, file, columns, unit, setup["limit"], tick, order["shard"])
                head, *tables = part.to_buffers()
                _send(pipe, {"say": "part"})
                for buffer in (head, *tables):
                    pipe.send_bytes(buffer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the parent is gone
    except TropescanError as error:
        _send(pipe, {"say": "fatal", "kind": type(error).__name__, "error": printable(str(error))})


def _loaded(setup: dict[str, Any]) -> Scanner:
    """The worker's scanner. Raises TropescanError, for what should not be, too: a worker that only died would be taken for one without memory."""
    try:
        return Scanner(setup["model"], **{k: setup[k] for k in ("depth", "audit", "device", "backend", "threads")})
    except (TropescanError, MemoryError, OSError):
        raise
    except Exception as error:
        raise TropescanError(f"{type(error).__name__} while {setup['model']} is loaded: {error} (a defect)") from error


class _Ticker:
    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._next = pipe, monotonic() + TICK

    def __call__(self, counters: dict[str, int]) -> None:
        if monotonic() >= self._next:
            _send(self._pipe, {"say": "tick", "counters": counters})
            self._next = monotonic() + TICK


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    pipe.send_bytes(orjson.dumps(message))
