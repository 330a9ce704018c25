"""The local host: scans shards in spawned processes and commits their parts, exactly once, in this one."""

from __future__ import annotations

from tropescan.runners.local.run import run

__all__ = ["run"]
