"""Compiles patterns once a machine: a database of Hyperscan is kept in the user's cache under the digest of all that it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import hyperscan

_MODE = hyperscan.HS_MODE_BLOCK


def compiled(patterns: list[bytes], flags: list[int]) -> hyperscan.Database:
    """The database of these patterns, numbered in order; from the cache where it is there and whole, else compiled and kept."""
    spoken = repr((patterns, flags, _MODE, version("hyperscan"), platform.machine(), _processor()))
    kept = _folder() / f"gate-{hashlib.sha256(spoken.encode()).hexdigest()[:32]}.hs"
    with contextlib.suppress(OSError, ValueError, hyperscan.HyperscanError):
        raw = kept.read_bytes()
        # native code reads it: what is not byte for byte what was written must not reach it
        if kept.stat().st_uid == os.getuid() and hashlib.sha256(raw[32:]).digest() == raw[:32]:
            return hyperscan.loadb(raw[32:], _MODE)
    database = hyperscan.Database(mode=_MODE)
    database.compile(expressions=patterns, ids=list(range(len(patterns))), flags=flags)
    with contextlib.suppress(OSError):  # a home that cannot be written costs a second at every start, no more
        _keep(kept, hyperscan.dumpb(database))
    return database


def _keep(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(hashlib.sha256(raw).digest() + raw)
            file.flush()
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)
            raise


def _folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tropescan"
    except RuntimeError:  # a user without a home, as containers run: below this, nothing can be kept
        return Path(os.devnull)


def _processor() -> str:
    """The processor's features: a database is compiled for them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()
