"""The actors of a scan, as the schedule wants its workers: each has at most one order, and its death is an event."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

from tropescan import errors
from tropescan.errors import StoreError, TropescanError
from tropescan.parts import Part
from tropescan.runners import score_parts
from tropescan.runners.orders import Message
from tropescan.runners.ray.worker import Worker

PATIENCE = 10.0  # seconds until a part that a worker wrote must be visible here: network filesystems lag
SLOW = 60.0  # seconds without any actor after which the user is told why nothing moves


class Hand:
    """One actor; `order` is what it is at (None: free), `ready` whether its model is loaded, `call` what it is asked."""

    def __init__(self, setup: dict[str, Any], plans: dict[str, Message]) -> None:
        gpus = 1 if setup["device"].startswith("cuda") else 0
        self.actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker).remote(setup)
        self.call = self.actor.ready.remote()
        self.ready = False
        self.order: Any = None
        self._plans = plans

    def give(self, order: Any, message: Message) -> None:
        """Sends an order."""
        self.order = order
        plan = self._plans.get(message["shard"])
        self.call = self.actor.do.remote(message | {"plan": plan} if plan else message)


class Crew:
    """`size` actors; a dead one is replaced. Use as a context manager: leaving it kills them all. `note` is told what the user should know."""

    def __init__(self, size: int, setup: dict[str, Any], note: Callable[[str], None]) -> None:
        self._setup, self._note = setup, note
        self._plans: dict[str, Message] = {}  # by shard, for the heads of the parts
        self._stillborn, self._begun = 0, time.monotonic()
        self.workers = [Hand(setup, self._plans) for _ in range(size)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self.workers:
            ray.kill(hand.actor)

    def free(self) -> list[Hand]:
        """The actors that are there and have no order."""
        return [h for h in self.workers if h.ready and h.order is None]

    def events(self, timeout: float) -> Iterator[tuple[Any, Message | None]]:
        """What came within `timeout` seconds: (order, message); 'died' is the message of an actor that died at its order."""
        calls = {h.call: h for h in self.workers if h.order is not None or not h.ready}
        if not calls:
            return
        first, _ = ray.wait(list(calls), num_returns=1, timeout=timeout)
        if not first:
            self._tell_if_slow()
            return
        came, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in came:
            hand = calls[call]
            try:
                message: Message = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                raise TropescanError(
                    f"a Ray worker failed: {type(error.cause).__name__} {error.cause} (a defect)"
                ) from None
            except ray.exceptions.RayError as error:
                ready, order = hand.ready, hand.order
                self._replace(hand, error)
                yield order, {"say": "died", "ready": ready, "how": type(error).__name__}
                continue
            yield from self._heard(hand, message)

    def _heard(self, hand: Hand, message: Message) -> Iterator[tuple[Any, Message | None]]:
        if message["say"] == "fatal":
            raise getattr(errors, message["kind"], TropescanError)(message["error"])
        if message["say"] == "ready":
            hand.ready = True
            self._stillborn = 0
            return
        if message["say"] == "plan":
            self._plans[message["shard"]] = {"rows": message["rows"], "units": message["units"]}
        elif message["say"] == "part":
            message["part"] = self._fetched(Path(self._setup["parts"]) / message["name"])
        order, hand.order = hand.order, None
        yield order, message

    def _fetched(self, path: Path) -> Part:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return score_parts.read(path)[1]
            except FileNotFoundError:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{path}, written by a Ray worker, is not to be seen here: give --parts a folder that all nodes share"
                    ) from None
            except OSError as error:
                raise StoreError(f"{path}, written by a Ray worker, cannot be read here: {error.strerror}") from None
            time.sleep(0.1)

    def _replace(self, hand: Hand, error: Exception) -> None:
        self._stillborn = 0 if hand.ready else self._stillborn + 1
        if self._stillborn > 2:
            raise TropescanError(
                f"Ray actors die while they start ({type(error).__name__}): is there enough memory? try fewer --workers or --depth fast"
            )
        self.workers[self.workers.index(hand)] = Hand(self._setup, self._plans)

    def _tell_if_slow(self) -> None:
        if time.monotonic() - self._begun > SLOW and not any(h.ready for h in self.workers):
            self._begun = float("inf")
            self._note(f"no Ray actor has started yet: {len(self.workers)} wait for a CPU each (`ray status` tells)")
