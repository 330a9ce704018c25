"""Every way tropescan can fail, on one page; the class is the policy, and each class has its own exit code.

`InputError`, `ModelError`, `StoreError` and `MissingExtra` stop the run before or between shards: what was committed stays.
`ShardError` is recorded with its shard, the run goes on, and the exit code tells at the end.
Every message is one line: what is wrong, where, and what to do.
"""

from __future__ import annotations


class TropescanError(Exception):
    """Base of all errors a user may see; `str(error)` is one line and `code` the exit code of the process."""

    code = 1

    def __init__(self, message: object) -> None:
        super().__init__(" ".join(str(message).split()))


class InputError(TropescanError):
    """The command cannot start as it was given. Policy: stop."""

    code = 2


class NoSuchPath(InputError):
    """A path, glob or URL names nothing."""

    code = 10


class NoShards(InputError):
    """The paths exist but hold no shard of a known format."""

    code = 11


class QueryError(InputError):
    """An SQL query was refused by DuckDB."""

    code = 12


class LabelError(InputError):
    """A labels file is not what the codebook says."""

    code = 13


class RuleError(InputError):
    """A selection rule is not one read-only expression over the documented columns."""

    code = 14


class CorpusChanged(InputError):
    """Shards are not what they were when they were scanned."""

    code = 15


class NotScanned(InputError):
    """Shards have no whole scan by the model that a selection goes by."""

    code = 16


class OutputError(InputError):
    """The output folder, or a name in it, cannot be used."""

    code = 17


class ShardError(TropescanError):
    """A shard cannot be read to its end. Policy: record it with its reason, go on with the others."""

    code = 20


class NotAShard(ShardError):
    """The file is not of the format that its name says."""

    code = 21


class DamagedShard(ShardError):
    """The file is truncated or its bytes do not decode."""

    code = 22


class UnreadableShard(ShardError):
    """The file cannot be opened: permissions, network, vanished."""

    code = 23


class MissingColumn(ShardError):
    """The text or id column asked for is not there."""

    code = 24


class WrongColumnType(ShardError):
    """The text column does not hold text."""

    code = 25


class WorkerDied(ShardError):
    """The process that scanned a unit was killed twice, the second time alone (out of memory, a crash in native code)."""

    code = 26


class ModelError(TropescanError):
    """The model cannot be used. Policy: stop."""

    code = 30


class DamagedModel(ModelError):
    """A file of the model folder is missing, added or not what the manifest says."""

    code = 31


class StoreError(TropescanError):
    """The database cannot be used. Policy: stop; the transaction under way is rolled back."""

    code = 40


class WrongSchema(StoreError):
    """The database is of another schema version, or no tropescan database."""

    code = 41


class StoreLocked(StoreError):
    """Another process holds the database and did not let go in time."""

    code = 42


class NoSpace(StoreError):
    """The disk of the database or of the output is full."""

    code = 43


class PartError(StoreError):
    """A score part cannot be read. Policy: told with its reason, the others are committed."""

    code = 44


class MissingExtra(TropescanError):
    """An optional dependency is not installed. Policy: stop and name the pip command."""

    code = 50


SHARD_ERRORS: dict[str, type[ShardError]] = {
    c.__name__: c
    for c in (ShardError, NotAShard, DamagedShard, UnreadableShard, MissingColumn, WrongColumnType, WorkerDied)
}


def exit_code(kinds: set[str]) -> int:
    """The exit code of a run whose failed shards have these kinds (class names): the kind's own code where there is one kind only."""
    if not kinds:
        return 0
    return SHARD_ERRORS[kinds.pop()].code if len(kinds) == 1 else ShardError.code


def shown(text: str) -> str:
    """The text with U+FFFD for every control character but line ends and tabs."""
    return "".join(
        c if c.isprintable() or c in "\n\t" or (c.isspace() and c > "\x9f") else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def printable(text: str) -> str:
    """The text as any table and file can hold it: what is no Unicode (a name that is not UTF-8, say) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
