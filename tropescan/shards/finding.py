"""The shards under paths, directories, globs and URLs of any fsspec filesystem."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from tropescan.errors import CorpusChanged, NoShards, NoSuchPath, UnreadableShard
from tropescan.shards import folders
from tropescan.shards.files import FORMATS, File, filesystem, fingerprint, is_local


def find(paths: Iterable[str | os.PathLike[str]], unlisted: Callable[[str, str], None] | None = None) -> list[File]:
    """The shards under these paths, each once, in the order of their paths.

    A path is a file, a directory (searched to the bottom; names that begin with '.' or '_' are passed over), a glob, or a URL of an
    fsspec filesystem with any of these. A file named outright is a shard whatever its name. `unlisted` gets the path of every local folder
    that cannot be listed, and a line on it; without it that raises UnreadableShard. Raises NoSuchPath, NoShards, InputError, MissingExtra.
    """
    found: dict[str, File] = {}
    for path in paths:
        for file in _under(os.fspath(path), unlisted):
            found.setdefault(file.path, file)
    return [found[p] for p in sorted(found)]


def _under(path: str, unlisted: Callable[[str, str], None] | None) -> list[File]:
    if not path:  # to a filesystem it would be the current folder
        raise NoSuchPath("an empty path names nothing")
    fs, root = filesystem(path)
    globbed = any(c in path for c in "*?[") and not (is_local(fs) and os.path.exists(root))
    closed: folders.Closed = {}
    try:
        files, named = _local(root, globbed, closed) if is_local(fs) else _remote(fs, root, globbed)
    except FileNotFoundError:
        raise NoSuchPath(f"no such path: {path}") from None
    except PermissionError as error:
        raise UnreadableShard(f"{path} cannot be listed: {error.strerror or error}") from None
    except (OSError, ValueError) as error:
        raise NoSuchPath(f"{path} cannot be listed: {type(error).__name__} {error}") from None
    shards = [f for f in files if named or f.format]
    for folder, why in closed.items():
        line = f"{folder} cannot be listed ({why}): let it be read, or give paths that leave it out"
        if unlisted is None or not shards:
            raise UnreadableShard(line)
        unlisted(folder, line)
    if globbed and not files:
        raise NoSuchPath(f"no file matches {path}: check the pattern, and quote it from the shell")
    if not shards:
        raise NoShards(f"no shard under {path}: looked for {', '.join(FORMATS)}")
    return shards


def _local(root: str, globbed: bool, closed: folders.Closed) -> tuple[list[File], bool]:
    """The files under a path, and whether it is one itself."""
    named = not globbed and not os.path.isdir(root)
    if named:
        os.stat(root)  # raises where there is nothing
    tops = folders.matching(root, closed) if globbed else [root]
    paths = [p for top in tops for p in (folders.below(top, closed) if os.path.isdir(top) else [top])]
    return [_on_disk(p) for p in paths], named


def _on_disk(path: str) -> File:
    try:
        at = os.stat(path)
    except OSError:  # a link that leads nowhere: it is told as any shard that cannot be opened
        return File(path, 0, "")
    return File(path, at.st_size, str(at.st_mtime_ns))


def _remote(fs: Any, root: str, globbed: bool) -> tuple[list[File], bool]:
    """As `_local`."""
    # what the caller wrote out is no hidden name, only what was found below it is
    below = root.rstrip("/") + "/"
    if globbed:
        below = root[: min(root.index(c) for c in "*?[" if c in root)].rpartition("/")[0] + "/"
        infos = fs.glob(root, detail=True).values()
        files = [i for i in infos if i["type"] == "file"]
        for info in infos:
            if info["type"] == "directory":
                files += fs.find(info["name"], detail=True).values()
    else:
        info = fs.info(root)
        if info["type"] != "directory":
            return [_in_store(fs, info)], True
        files = list(fs.find(root, detail=True).values())
    hidden = [any(p.startswith(folders.HIDDEN) for p in i["name"].removeprefix(below).split("/")) for i in files]
    return [_in_store(fs, i) for i, passed in zip(files, hidden, strict=True) if not passed], False


def _in_store(fs: Any, info: dict[str, Any]) -> File:
    return File(str(fs.unstrip_protocol(info["name"])), int(info.get("size") or 0), next(iter(_tags(info)), ""))


def _tags(info: dict[str, Any]) -> list[str]:
    tags = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "last_modified")
    return [str(info[k]) for k in tags if info.get(k)]


def unchanged(path: str, shard: str, size: int, tag: str) -> File:
    """The file at a path, which still is the shard that was scanned there. Raises CorpusChanged, InputError, UnreadableShard."""
    (now,) = find([path])
    if (now.bytes, now.tag) != (size, tag) and fingerprint(now) != shard:
        raise CorpusChanged(f"{path} changed since it was scanned: scan it again")
    return now


def on_disk(file: File) -> File:
    """The file as it lies there now, where it is local; any other as it was found."""
    fs, name = filesystem(file.path)
    return _on_disk(name) if is_local(fs) else file


def require_unchanged(file: File, shard: str = "") -> None:
    """That a file, once it is read, is as it was found, or at least of this fingerprint. What is gone, or has no tag, tells nothing.

    Raises UnreadableShard.
    """
    fs, name = filesystem(file.path)
    if is_local(fs):
        now = _on_disk(name)
        same = not (now.tag and file.tag) or (now.bytes, now.tag) == (file.bytes, file.tag) or fingerprint(now) == shard
    else:
        same = not file.tag or _same_in_store(fs, name, file.tag)
    if not same:
        raise changed(file)


def _same_in_store(fs: Any, name: str, tag: str) -> bool:
    try:
        tags = _tags(fs.info(name))
    except Exception:  # it was read to its end: a server that is silent now costs nothing
        return True
    # listings and single answers may give tags of several kinds, with quotes or without
    return not tags or tag.strip('"') in [t.strip('"') for t in tags]


def changed(file: File) -> UnreadableShard:
    """What is told of a file that was written while it was read."""
    return UnreadableShard(f"{file.path} changed while it was read: scan it again with --retry-failed")
