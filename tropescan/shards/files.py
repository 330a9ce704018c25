"""A shard as it lies on any fsspec filesystem: its name, its bytes, and what identifies its content."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import xxhash

from tropescan.errors import InputError, MissingExtra, UnreadableShard, printable

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
_PACKAGES = {
    "http": "'tropescan[http]'",
    "https": "'tropescan[http]'",
    "s3": "'tropescan[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}  # what brings a filesystem
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
    def printable(self) -> str:
        """The path as any table and screen can hold it: other than `path` where that is not UTF-8."""
        return printable(self.path)

    @property
    def format(self) -> str:
        """parquet, jsonl, jsonl.gz or jsonl.zst, by the name; empty where the name says nothing."""
        name = self.name.lower()
        return next((f for end, f in FORMATS.items() if name.endswith(end)), "")


def filesystem(path: str) -> tuple[Any, str]:
    """The filesystem that a path or URL is of, and the path as it calls it. Raises InputError, MissingExtra.

    '::' is part of a name: fsspec's chains of URLs name no place that could be kept.
    """
    scheme = path.split("://")[0] if "://" in path else "file"
    try:
        kind = fsspec.get_filesystem_class(scheme)
        return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(path)), kind._strip_protocol(path)
    except ImportError as error:
        how = _PACKAGES.get(scheme, f"'fsspec[{scheme}]'")
        raise MissingExtra(
            f"reading {scheme}:// needs a package that is not installed ({error}): run `pip install {how}`"
        ) from None
    except (OSError, TypeError, ValueError) as error:  # zip:// and its like say by each of these that they lead nowhere
        chained = "chained URLs (with '::') are not read: unpack or copy what it names, and give the path of that"
        raise InputError(f"{path}: {chained if '::' in path else error}") from None


def is_local(fs: Any) -> bool:
    """Whether it is the filesystem of this machine."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def open_file(path: str) -> IO[bytes]:
    """The file for reading, local or remote. Raises UnreadableShard."""
    fs, name = filesystem(path)
    try:
        if not is_local(fs):
            return fs.open(name, "rb", block_size=_REMOTE_BLOCK)  # type: ignore[no-any-return]
        if not stat.S_ISREG(os.stat(name).st_mode):  # a pipe would be waited for, for ever
            raise UnreadableShard(f"{path} cannot be opened: it is a pipe, a device or a folder: remove or rename it")
        return open(name, "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableShard(f"{path} cannot be opened: {reason}") from None


def fingerprint(file: File) -> str:
    """What identifies a shard's content: the XXH3 hash (128 bits) of all its bytes where it is local.

    A remote file is not read twice: there it is the hash of its size and of the tag (ETag, checksum or time) that its store gives, and of its
    URL where the store gives none. Raises UnreadableShard.
    """
    digest = xxhash.xxh3_128()
    if not is_local(filesystem(file.path)[0]):
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
