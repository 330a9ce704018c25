"""Where shards lie: paths, directories, globs and URLs of any fsspec filesystem; and what identifies their content."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import xxhash

from tropescan.errors import CorpusChanged, InputError, MissingExtra, NoShards, NoSuchPath, UnreadableShard
from tropescan.shards import folders

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
    def name(self) -> str:
        """The path, less the query of a URL."""
        return self.path.split("?")[0] if "://" in self.path else self.path

    @property
    def format(self) -> str:
        """parquet, jsonl, jsonl.gz or jsonl.zst, by the name; empty where the name says nothing."""
        name = self.name.lower()
        return next((f for end, f in FORMATS.items() if name.endswith(end)), "")


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
    fs, root = _filesystem(path)
    globbed = any(c in path for c in "*?[") and not (_is_local(fs) and os.path.exists(root))
    closed: folders.Closed = {}
    try:
        files, named = _local(root, globbed, closed) if _is_local(fs) else _remote(fs, root, globbed)
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
    tags = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "last_modified")
    tag = next((str(info[k]) for k in tags if info.get(k)), "")
    return File(str(fs.unstrip_protocol(info["name"])), int(info.get("size") or 0), tag)


def _filesystem(path: str) -> tuple[Any, str]:
    """The filesystem, and the path as it calls it. '::' is part of a name: fsspec's chains of URLs name no place that could be kept."""
    scheme = path.split("://")[0] if "://" in path else "file"
    try:
        kind = fsspec.get_filesystem_class(scheme)
        return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(path)), kind._strip_protocol(path)
    except ImportError as error:
        extra = {"http": "http", "https": "http", "s3": "s3"}.get(scheme)
        how = f"pip install 'tropescan[{extra}]'" if extra else f"pip install 'fsspec[{scheme}]'"
        raise MissingExtra(
            f"reading {scheme}:// needs a package that is not installed ({error}): run `{how}`"
        ) from None
    except (OSError, TypeError, ValueError) as error:  # zip:// and its like say by each of these that they lead nowhere
        chained = "chained URLs (with '::') are not read: unpack or copy what it names, and give the path of that"
        raise InputError(f"{path}: {chained if '::' in path else error}") from None


def _is_local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


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
