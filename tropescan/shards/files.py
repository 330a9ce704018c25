"""Where shards lie: paths, directories, globs and URLs of any fsspec filesystem; and what identifies their content."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import xxhash

from tropescan.errors import CorpusChanged, InputError, MissingExtra, NoShards, NoSuchPath, UnreadableShard

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".json.gz": "jsonl.gz",
    ".json.zst": "jsonl.zst",
}
_BLOCK = 1 << 22
_REMOTE_BLOCK = 1 << 23


@dataclass(frozen=True)
class File:
    """A shard as it lies there: full path or URL, size in bytes, and a tag that changes when the file is written again."""

    path: str
    bytes: int
    tag: str

    @property
    def format(self) -> str:
        """parquet, jsonl, jsonl.gz or jsonl.zst, by the name; empty where the name says nothing."""
        name = self.path.lower().split("?")[0]
        return next((f for end, f in FORMATS.items() if name.endswith(end)), "")


def find(paths: Iterable[str | os.PathLike[str]]) -> list[File]:
    """The shards under these paths, each once, in the order of their paths.

    A path is a file, a directory (searched to the bottom; names that begin with '.' or '_' are passed over), a glob, or a URL of an
    fsspec filesystem with any of these. A file named outright is a shard whatever its name. Raises NoSuchPath, NoShards, MissingExtra.
    """
    found: dict[str, File] = {}
    for path in paths:
        for file in _under(os.fspath(path)):
            found.setdefault(file.path, file)
    return [found[p] for p in sorted(found)]


def _under(path: str) -> list[File]:
    fs, root = _filesystem(path)
    try:
        globbed = any(c in path for c in "*?[") and not (_is_local(fs) and os.path.exists(root))
        if globbed:
            infos = fs.glob(root, detail=True)
            if not infos:
                raise NoSuchPath(f"no file matches {path}: check the pattern, and quote it from the shell")
            files = [i for i in infos.values() if i["type"] == "file"]
            for info in [i for i in infos.values() if i["type"] == "directory"]:
                files += fs.find(info["name"], detail=True).values()
            named = False
        else:
            info = fs.info(root)
            named = info["type"] != "directory"
            files = [info] if named else list(fs.find(root, detail=True).values())
    except FileNotFoundError:
        raise NoSuchPath(f"no such path: {path}") from None
    except PermissionError as error:
        raise UnreadableShard(f"{path} cannot be listed: {error.strerror or error}") from None
    except (OSError, ValueError) as error:
        raise NoSuchPath(f"{path} cannot be listed: {type(error).__name__} {error}") from None
    # what the caller wrote out is no hidden name, only what was found below it is
    below = root.rstrip("/") + "/"
    if globbed:
        below = root[: min(root.index(c) for c in "*?[" if c in root)].rpartition("/")[0] + "/"
    shards = [_file(fs, i) for i in files if named or not _hidden(i["name"].removeprefix(below))]
    shards = [s for s in shards if named or s.format]
    if not shards:
        raise NoShards(f"no shard under {path}: looked for {', '.join(FORMATS)}")
    return shards


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        return fsspec.core.url_to_fs(path)  # type: ignore[no-any-return]
    except ImportError as error:
        scheme = path.split("://")[0]
        extra = {"http": "http", "https": "http", "s3": "s3"}.get(scheme)
        how = f"pip install 'tropescan[{extra}]'" if extra else f"pip install 'fsspec[{scheme}]'"
        raise MissingExtra(
            f"reading {scheme}:// needs a package that is not installed ({error}): run `{how}`"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _is_local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _file(fs: Any, info: dict[str, Any]) -> File:
    tag = next(
        (
            str(info[k])
            for k in ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "last_modified")
            if info.get(k)
        ),
        "",
    )
    if _is_local(fs):
        tag = str(os.stat(info["name"]).st_mtime_ns) if os.path.exists(info["name"]) else ""
    return File(
        str(fs.unstrip_protocol(info["name"])) if not _is_local(fs) else info["name"], int(info.get("size") or 0), tag
    )


def open_file(path: str) -> IO[bytes]:
    """The file for reading, local or remote. Raises UnreadableShard."""
    fs, name = _filesystem(path)
    try:
        if not _is_local(fs):
            return fs.open(name, "rb", block_size=_REMOTE_BLOCK)  # type: ignore[no-any-return]
        if not stat.S_ISREG(os.stat(name).st_mode):  # a pipe would be waited for, for ever
            raise UnreadableShard(f"{path} cannot be opened: it is a pipe, a device or a folder: remove or rename it")
        return open(name, "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableShard(f"{path} cannot be opened: {reason}") from None


def unchanged(path: str, shard: str, size: int, tag: str) -> File:
    """The file at a path, which still is the shard that was scanned there. Raises CorpusChanged, InputError, UnreadableShard."""
    (now,) = find([path])
    if (now.bytes, now.tag) != (size, tag) and fingerprint(now) != shard:
        raise CorpusChanged(f"{path} changed since it was scanned: scan it again")
    return now


def fingerprint(file: File) -> str:
    """What identifies a shard's content: the XXH3 hash (128 bits) of all its bytes where it is local.

    A remote file is not read twice: there it is the hash of its size and of the tag (ETag, checksum or time) that its store gives, and of its
    URL where the store gives none. Raises UnreadableShard.
    """
    digest = xxhash.xxh3_128()
    if not _is_local(_filesystem(file.path)[0]):
        digest.update(f"{file.bytes} {file.tag or file.path}".encode())
        return f"r{digest.hexdigest()}"
    try:
        with open_file(file.path) as raw:
            block = bytearray(_BLOCK)
            view = memoryview(block)
            while n := raw.readinto(block):  # type: ignore[attr-defined]
                digest.update(view[:n])
    except OSError as error:
        raise UnreadableShard(f"{file.path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()
