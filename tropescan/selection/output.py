"""The output folder of a selection: refused unless it is new or holds the same selection, whose finished shards then stay."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tropescan.errors import NoSpace, OutputError
from tropescan.selection.sources import base
from tropescan.shards.files import filesystem, is_local

HEAD = "_selection.json"
REMOVED, POOL = "_removed", "_pool"


@dataclass(frozen=True)
class Output:
    """An output folder, and the id of the selection in it."""

    folder: Path
    selection: str

    def path(self, name: str, under: str = "") -> Path:
        """Where a shard of this name goes (`under` REMOVED or POOL: what belongs to it)."""
        return self.folder / under / name

    def clear(self, name: str) -> None:
        """Takes away what there is of a shard of this name. Raises OutputError."""
        try:
            for under in (REMOVED, POOL, ""):
                self.path(name, under).unlink(missing_ok=True)
        except OSError as error:
            raise _told(error, self.folder) from error

    @contextlib.contextmanager
    def writing(self, name: str, *unders: str) -> Iterator[list[Path]]:
        """Temporary paths for a shard of this name, one for each of `unders`; at the end those that exist get their names, the last one last.

        On any error they are taken away. Raises NoSpace.
        """
        final = [self.path(name, under) for under in unders]
        here = self.path(name).parent
        partial = [here / f".{p.name}{under}.partial" for p, under in zip(final, unders, strict=True)]
        try:
            here.mkdir(parents=True, exist_ok=True)
            for p in partial:
                p.unlink(missing_ok=True)
            yield partial
            for p, there in zip(partial, final, strict=True):
                if not p.exists():
                    there.unlink(missing_ok=True)
                    continue
                there.parent.mkdir(parents=True, exist_ok=True)
                with open(p, "rb+") as written:
                    os.fsync(written.fileno())  # the store notes a shard as written: it must be
                os.replace(p, there)
        except OSError as error:
            raise _told(error, self.folder) from error
        finally:
            for p in partial:
                with contextlib.suppress(OSError):
                    p.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(folder: Path, inputs: Sequence[str], head: dict[str, Any]) -> Iterator[Output]:
    """The folder for this selection, made or gone on with, no other process in it. `head` says what the selection is. Raises OutputError, NoSpace."""
    _outside(folder, inputs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _told(error, folder) from error
    with _alone(folder):
        yield Output(folder, _begun(folder, head))


def _begun(folder: Path, head: dict[str, Any]) -> str:
    """The id of the selection in this folder, which begins here where the folder is empty."""
    there = folder / HEAD
    try:
        if there.is_file():
            return _same(there, head)
        if any(not p.name.endswith(".partial") for p in folder.iterdir()):
            raise OutputError(f"{folder} is not empty: give --out a new folder")
        selection = uuid.uuid4().hex[:12]
        _write(there, {"selection": selection, **head})
    except OSError as error:
        raise _told(error, folder) from error
    return selection


def _write(there: Path, head: dict[str, Any]) -> None:
    partial = there.with_name(f".{HEAD}.partial")
    partial.write_bytes(orjson.dumps(head, option=orjson.OPT_INDENT_2))
    os.replace(partial, there)


def _same(there: Path, head: dict[str, Any]) -> str:
    """The id of the selection that a folder holds. A shard without a fingerprint could not be read: it may be any, and is noted once it can be."""
    try:
        found: dict[str, Any] = orjson.loads(there.read_bytes())
        selection = str(found.pop("selection"))
        stored, given = dict(found["shards"]), head["shards"]
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError, ValueError):
        raise OutputError(f"{there} is damaged: give --out a new folder") from None
    head = head | {"shards": {name: shard or stored.get(name, "") for name, shard in given.items()}}
    found["shards"] = {name: shard or given.get(name, "") for name, shard in stored.items()}
    differing = [k for k in head if found.get(k) != head[k]]
    if differing:
        raise OutputError(
            f"{there.parent} holds another selection (other {', '.join(differing)}): give --out a new folder"
        )
    if found["shards"] != stored:
        _write(there, {"selection": selection, **found})
    return selection


def _outside(folder: Path, inputs: Sequence[str]) -> None:
    here = os.path.realpath(folder)
    for given in inputs:
        fs, place = filesystem(given)
        if not is_local(fs):
            continue
        root = os.path.realpath(base(given))
        within = here == root or (here.startswith(root.rstrip("/") + "/") and not os.path.isfile(place))
        if within or root.startswith(here.rstrip("/") + "/"):
            raise OutputError(f"--out {folder} is, lies inside or holds the input {given}: give a folder apart from it")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise OutputError(
            f"another process is writing into {folder}: wait for it, or give --out a new folder"
        ) from None
    finally:
        os.close(handle)


def _told(error: OSError, folder: Path) -> NoSpace | OutputError:
    reason = error.strerror or str(error)
    if (
        error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        or "No space left" in reason
        or "File too large" in reason
    ):
        return NoSpace(f"no space left in {folder}: free some and run the same command again, it goes on from there")
    return OutputError(f"{folder} cannot be written: {reason}")
