"""The shards of a selection: where each lies, what it is called in the output, and whether the store holds a whole scan of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tropescan.errors import CorpusChanged, InputError, NotScanned, OutputError, ShardError
from tropescan.shards import File, find, fingerprint
from tropescan.shards.files import filesystem, is_local
from tropescan.store import Store

UNSCANNED = ("refuse", "keep", "drop")
_SHOWN = 5


@dataclass(frozen=True)
class Source:
    """A shard to select from. `name` is its path below the output folder; `shard` the fingerprint that the store knows it by, '' where it was not read.

    `state` is 'done' where the model scanned all of it, else why there is no such scan; `rows` as the store counted them, None where it did not (JSON Lines).
    """

    file: File
    name: str
    shard: str
    state: str
    rows: int | None = None

    @property
    def scanned(self) -> bool:
        return self.state == "done"


def locate(paths: Sequence[str]) -> list[tuple[File, str]]:
    """The shards under these paths with their names in the output: the path below the directory given. Raises InputError, OutputError."""
    found: dict[str, str] = {}
    files: dict[str, File] = {}
    names: dict[str, str] = {}
    for path in paths:
        top = base(path)
        listed = find([path])
        for file in listed:
            if file.path in files:
                continue
            if file.printable != file.path:
                raise InputError(f"{file.printable} cannot be selected from under a name that is not UTF-8: rename it")
            name = _safe(_below(top, file, alone=len(listed) == 1), file.path)
            if name.lower() in names:
                raise OutputError(
                    f"{file.path} and {names[name.lower()]} would both be written to {name}: select from one corpus at a time, each into its own folder"
                )
            names[name.lower()], found[file.path], files[file.path] = file.path, name, file
    return [(files[p], found[p]) for p in sorted(found)]


def match(store: Store, model: str, located: Sequence[tuple[File, str]], unscanned: str) -> list[Source]:
    """The sources, each with what the store knows of it.

    A file of the size and time that it had when it was scanned is taken to be that shard (its fingerprint is computed again when it is
    read); any other is fingerprinted here. Raises CorpusChanged, and NotScanned where `unscanned` is 'refuse'.
    """
    known = store.rows("SELECT shard, model, path, bytes, tag, rows, status FROM shards ORDER BY path")
    mine = [k for k in known if k["model"] == model]
    by_path = {k["path"]: k for k in mine}
    by_shard = {k["shard"]: k for k in mine}
    elsewhere = {k["shard"]: k["model"] for k in known if k["model"] != model}
    sources: list[Source] = []
    changed: list[str] = []
    for file, name in located:
        at = by_path.get(file.path)
        if at and (at["bytes"], at["tag"]) == (file.bytes, file.tag) and file.tag:
            sources.append(_source(file, name, at))
            continue
        try:
            shard = fingerprint(file)
        except ShardError as error:
            sources.append(Source(file, name, "", f"cannot be read ({type(error).__name__})"))
            continue
        if shard in by_shard:
            sources.append(_source(file, name, by_shard[shard]))
        elif at and not at["shard"].startswith("!"):
            changed.append(file.path)
        elif shard in elsewhere:
            sources.append(Source(file, name, shard, f"scanned by {elsewhere[shard]} only"))
        else:
            sources.append(Source(file, name, shard, at["status"] if at else "not scanned"))
    if changed:
        raise CorpusChanged(f"{told(changed)} changed since the scan into {store.path}: scan again, then select")
    _refuse(store, model, sources, unscanned, bool(mine))
    return sources


def _source(file: File, name: str, known: dict[str, Any]) -> Source:
    shard = "" if known["shard"].startswith("!") else known["shard"]  # of a file that could not be read
    return Source(file, name, shard, known["status"], known["rows"])


def _refuse(store: Store, model: str, sources: Sequence[Source], unscanned: str, any_known: bool) -> None:
    lacking = [s for s in sources if not s.scanned]
    if sources and len(lacking) == len(sources) and (not any_known or all(s.state == "not scanned" for s in lacking)):
        raise NotScanned(
            f"{store.path} holds no scan by {model} of any of these {len(sources)} shards: is it the database of another corpus?"
        )
    if lacking and unscanned == "refuse":
        listed = told([f"{s.file.path} ({s.state})" for s in lacking])
        raise NotScanned(
            f"no whole scan by {model} of {listed}: scan first, or say with --unscanned keep|drop what becomes of them"
        )


def check(source: Source) -> None:
    """That a scanned shard still holds the bytes that were scanned. Raises CorpusChanged, ShardError."""
    if fingerprint(source.file) != source.shard:
        raise CorpusChanged(f"{source.file.path} changed since its scan: scan again, then select")


def told(names: Sequence[str]) -> str:
    """Names in a line, the first few of many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def base(path: str) -> str:
    """The folder that is no part of the names, in the output, of the shards under a path: itself, or the one that the file or glob is in; '/' behind it."""
    fs, root = filesystem(path)
    local = is_local(fs)
    if any(c in root for c in "*?[") and not (local and os.path.exists(root)):
        root = root[: min(root.index(c) for c in "*?[" if c in root)].rpartition("/")[0]
    elif local and not os.path.isdir(root):
        root = os.path.dirname(root)
    full = str(root if local else fs.unstrip_protocol(root))
    return full if full.endswith("/") else full + "/"


def _below(top: str, file: File, alone: bool) -> str:
    """The path of a shard below the folder `top`. Raises OutputError where it does not lie there, unless it is found `alone`."""
    path = file.name
    if "://" not in file.path:  # both begin as the path was given, and may hold '..', '.' and '//'
        top, path = (f"/{os.path.normpath(p).strip('/')}" for p in (top, path))
        top = top.rstrip("/") + "/"
    if path.startswith(top):
        return path.removeprefix(top)
    if alone:
        return path.rpartition("/")[2]
    raise OutputError(f"{file.path} does not lie below {top}: name its folder as it is named in the paths of its files")


def _safe(name: str, path: str) -> str:
    parts = PurePosixPath(name.lstrip("/")).parts
    if not parts or ".." in parts or any(p.startswith(("_", ".")) for p in parts[:1]):
        raise OutputError(
            f"{path} would be written to '{name}': names that begin with '_' or '.' are kept for tropescan's own files"
        )
    return str(Path(*parts))
