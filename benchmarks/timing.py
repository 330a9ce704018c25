"""Runs whole processes on given cores, one at a time, and tells their wall time, processor time and output."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from page import affinity, figure

ALL = affinity()


@dataclass(frozen=True)
class Ran:
    """A process that ended well: wall and processor seconds (its children's, too), and its standard output."""

    seconds: float
    processor: float
    out: str


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Processes started within may use this many cores, the last ones: the first is where most interrupts go."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    os.sched_setaffinity(0, ALL[-cores:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALL)


def run(command: list[str], cores: int) -> Ran:
    """Runs to the end; where that is not code 0, says what came on standard error and ends the benchmark."""
    before = os.times()
    with pinned(cores):
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
    after = os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)[:300]} ... ended with {done.returncode}:\n{done.stderr[-2000:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return Ran(seconds, used, done.stdout)


def spread(values: list[float]) -> str:
    """Smallest and largest."""
    return f"{figure(min(values))} to {figure(max(values))}"


__all__ = ["ALL", "Ran", "median", "pinned", "run", "spread"]
