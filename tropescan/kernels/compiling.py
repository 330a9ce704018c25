"""Compiles by Numba, once a machine: the code is kept beside its source, or in the user's cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numba

if numba.config.DISABLE_JIT:  # as Python the loops would be a hundred times slower than numpy
    raise ImportError("Numba is told not to compile (NUMBA_DISABLE_JIT)")


def njit(function: Callable[..., Any]) -> Any:
    """The function, compiled at its first call. What it takes from other files must be an argument: the code kept is known by its own file alone."""
    with contextlib.suppress(RuntimeError):  # raised where neither folder can be written: every process compiles then
        return numba.njit(cache=True)(function)
    return numba.njit(function)
