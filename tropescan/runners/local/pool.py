"""Worker processes whose death is an event and not the end: each has its own pipe and at most one order."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import orjson

from tropescan import errors
from tropescan.errors import TropescanError
from tropescan.parts import Part
from tropescan.runners.local.worker import work
from tropescan.runners.orders import Message


class Worker:
    """One process with its pipe; `order` is what it is at (None: free), `ready` whether its model is loaded."""

    def __init__(self, setup: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe: Connection
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=work, args=(theirs, setup), daemon=True)
        # until `work` ignores it, a Ctrl-C would end the child in a traceback: it is born with the signal blocked
        resource_tracker.ensure_running()  # which unblocks it in the parent, and comes with the first child
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self.ready = False
        self.order: Any = None

    def give(self, order: Any, message: Message) -> None:
        """Sends an order; a worker that just died shows it at its sentinel."""
        self.order = order
        try:
            self.pipe.send_bytes(orjson.dumps(message))
        except OSError:
            return

    def receive(self) -> Message:
        """The next message; a part comes with its key 'part'. Raises EOFError where the worker is gone."""
        try:
            message: Message = orjson.loads(self.pipe.recv_bytes())
            if message["say"] == "part":
                message["part"] = Part.from_buffers(*(self.pipe.recv_bytes() for _ in range(3)))
        except OSError:
            raise EOFError from None
        if message["say"] == "fatal":
            kind = getattr(errors, message["kind"], TropescanError)
            raise kind(message["error"])
        return message

    def end(self) -> int:
        """Kills the process and returns its exit code (negative: the signal that had ended it before)."""
        self.process.join(timeout=0.2)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()
        self.process.close()
        return code if code is not None else -9


class Pool:
    """`size` workers; a dead one is replaced. Use as a context manager: leaving it kills them all."""

    def __init__(self, size: int, setup: dict[str, Any]) -> None:
        self._setup = setup
        self.workers = [Worker(setup) for _ in range(size)]
        self._stillborn = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.end()

    def free(self) -> list[Worker]:
        """The workers without an order. One whose model still loads counts: it reads its order when it is ready."""
        return [w for w in self.workers if w.order is None]

    def events(self, timeout: float) -> Iterator[tuple[Any, Message | None]]:
        """What came within `timeout` seconds: (order, message), or (order, None) for a worker that died at its order."""
        pipes = {w.pipe: w for w in self.workers}
        for pipe in wait(list(pipes), timeout):
            worker = pipes[pipe]  # type: ignore[index]
            try:
                while worker.pipe.poll():
                    message = worker.receive()
                    order = worker.order
                    if message["say"] == "ready":
                        worker.ready = True
                        continue
                    if message["say"] != "tick":
                        worker.order = None
                    yield order, message
            except EOFError:
                ready, order, code = worker.ready, worker.order, self._replace(worker)
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                yield order, {"say": "died", "ready": ready, "how": how}

    def _replace(self, worker: Worker) -> int:
        at, code = self.workers.index(worker), worker.end()
        del self.workers[at]
        self._stillborn = 0 if worker.ready else self._stillborn + 1
        if self._stillborn > 2:
            raise TropescanError(
                f"workers die while they start (exit code {code}): is there enough memory? try --workers 1 or --depth fast"
            )
        self.workers.insert(at, Worker(self._setup))
        return code
