"""The lines of a JSON Lines shard as bytes, decompressed; what of a damaged one is whole, and what is no JSON Lines whatever its name says."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa

from tropescan.errors import DamagedShard, NotAShard, ShardError, UnreadableShard
from tropescan.shards.files import File, filesystem, is_local, open_file

_BLOCK = 1 << 20
CODECS = {"jsonl.gz": "gzip", "jsonl.zst": "zstd"}
FAULTS = (pa.ArrowException, OSError, EOFError, zlib.error)
"""What reading a damaged shard raises."""
_MAGIC = {  # how a file begins, what it is, and its name's ending
    b"\x1f\x8b": ("gzip", ".jsonl.gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".jsonl.zst"),
    b"PAR1": ("Parquet", ".parquet"),
}


def lines(file: File, damage: list[ShardError]) -> Iterator[bytes]:
    """The lines, to the shard's end or to where it is damaged; what is wrong there comes to `damage`. Raises UnreadableShard, NotAShard."""
    rest: list[bytes] = []
    try:
        for block in blocks(file):
            first, *others = block.split(b"\n")
            rest.append(first)
            if others:
                line, rest = b"".join(rest), [others.pop()]
                yield line
                del line  # may be long: not held while the next is gathered
                yield from others
    except MemoryError:  # Arrow's is an ArrowException as well
        raise
    except FAULTS as error:
        damage.append(damaged(file, error))
        return
    if any(rest):
        yield b"".join(rest)


def blocks(file: File) -> Iterator[bytes]:
    """The shard decompressed, in pieces, to its end or to where it is damaged. Raises FAULTS there, UnreadableShard, NotAShard."""
    codec, given = CODECS.get(file.format), 0
    try:
        with open_file(file.path) as raw, _decompressed(raw, codec) as stream:
            while block := stream.read(_BLOCK):
                if not given and not codec:
                    _require(file, block)
                given += len(block)
                yield block
        return
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        if codec != "gzip" or getattr(error, "errno", None) is not None:
            raise
    # Arrow gives nothing of the block where a file is damaged, and calls damage the zeros that gzip lets one be padded with
    with open_file(file.path) as raw, gzip.open(raw) as slow:
        while given and (again := slow.read(min(given, _BLOCK))):
            given -= len(again)
        while block := slow.read1(_BLOCK):
            yield block


def _decompressed(raw: IO[bytes], codec: str | None) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec) if codec else raw


def damaged(file: File, error: Exception) -> ShardError:
    """What is told of one of FAULTS."""
    reason = str(error).split("\n")[0][:200]
    if "too much memory" in reason:
        return UnreadableShard(
            f"{file.path} needs a larger window than is read ({reason}): compress it again without --long"
        )
    return DamagedShard(f"{file.path} is truncated or damaged ({reason}): fetch it again")


def require_form(file: File) -> None:
    """That a file of this machine is no other kind of shard under a wrong name, of which all lines would be bad. Raises NotAShard, UnreadableShard."""
    if not is_local(filesystem(file.path)[0]):
        return  # one request more: there it is told when it is read
    try:
        with open_file(file.path) as raw:
            _require(file, raw.read(4))
    except OSError as error:
        raise UnreadableShard(f"{file.path} cannot be read: {error.strerror}") from None


def _require(file: File, begin: bytes) -> None:
    kind, ending = next((told for magic, told in _MAGIC.items() if begin.startswith(magic)), ("", ""))
    codec = CODECS.get(file.format)
    if kind and kind != codec:
        raise NotAShard(f"{file.path} is a {kind} file, not what its name says: rename it to end in {ending}")
    if codec and begin.startswith(b"{"):
        raise NotAShard(f"{file.path} is not compressed as its name says: rename it to end in .jsonl")
