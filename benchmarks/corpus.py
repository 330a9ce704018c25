"""A corpus of any size with the prevalence of real text: the documents of a folder over and over, their order and their paragraphs shuffled.

    python benchmarks/corpus.py --source ../shared/data/web --gb 2 --work DIR

Every copy holds every document once, under an id of its own, so prevalence does not change; a last copy may be cut short. Shards are zstd with
row groups of 5,000 rows (pyarrow's other defaults), 125 MB of text each: a smaller corpus is the first shards of a larger one. Beside them
lie pieces of 1,000 rows for what is too slow for a shard, and the same rows as one file with a single row group. What is in the folder
already is taken as it is: the folder's name tells the source's content and all that the shards depend on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHARD = 125_000_000  # bytes of text
GROUP, PIECE, PIECES = 5_000, 1_000, 24  # rows, rows, files
_VERSION = 1


@dataclass(frozen=True)
class Part:
    """A file of the corpus: its rows and its bytes of text."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Corpus:
    """The shards, the pieces (rows of the shards, too), and the one file with a single row group where it was asked for."""

    folder: Path
    shards: list[Part]
    pieces: list[Part]
    one_group: Part | None
    copies: float


def make(source: Path, work: Path, gb: float, shard: int = SHARD, one_group: bool = False) -> Corpus:
    """Makes what is not there yet. The corpus holds `gb` GB of text or up to one shard more; a shard is smaller where gb is less than two of it."""
    files = sorted(source.glob("*.parquet"))
    if not files:
        raise SystemExit(f"{source} holds no .parquet: give a folder of shards with --source")
    shard = int(min(shard, gb * 1e9 / 2))
    digest = hashlib.sha256(f"{_VERSION} {shard} {GROUP} {PIECE}".encode())
    for f in files:
        digest.update(f.name.encode() + hashlib.sha256(f.read_bytes()).digest())
    folder = work / f"corpus-{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    count = int(np.ceil(gb * 1e9 / shard - 1e-9))
    lacking = [i for i in range(count) if not _made(folder / f"shard-{i:03}.parquet")]
    total = 0
    if lacking or not (folder / "source.json").is_file():
        # pyarrow without pandas: the columns as Python lists, the texts once
        table = pa.concat_tables([pq.read_table(f, columns=["id", "text", "url"]) for f in files])
        ids, texts, urls = (table[name].to_pylist() for name in ("id", "text", "url"))
        lengths = pc.fill_null(pc.binary_length(table["text"]), 0).to_numpy().astype(np.int64)
        total = int(lengths.sum())
        for i in lacking:
            _shard(folder / f"shard-{i:03}.parquet", i, shard, lengths, ids, texts, urls)
        _write_json(folder / "source.json", {"bytes": total, "documents": len(ids)})
    total = json.loads((folder / "source.json").read_text())["bytes"]
    shards = [_part(folder / f"shard-{i:03}.parquet") for i in range(count)]
    pieces = _pieces(folder, shards[0])
    one = _one_group(folder / f"one-group-{count:03}.parquet", shards) if one_group else None
    return Corpus(folder, shards, pieces, one, sum(s.bytes for s in shards) / total)


def _shard(path: Path, number: int, size: int, lengths: Any, ids: list[str], texts: list[str], urls: list[str]) -> None:
    """The stretch [number * size, (number + 1) * size) of the endless row of copies, to whole documents."""
    drawn = random.Random(f"paragraphs {number}")
    begin, end, total = number * size, (number + 1) * size, int(lengths.sum())
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    for copy in range(begin // total, (end - 1) // total + 1):
        order = np.random.default_rng([_VERSION, copy]).permutation(len(ids))
        starts = copy * total + np.concatenate([[0], np.cumsum(lengths[order])[:-1]])
        for row in order[(starts >= begin) & (starts < end)].tolist():
            columns[0].append(f"{ids[row]}-{copy}")
            columns[1].append(shuffled(texts[row] or "", drawn))
            columns[2].append(urls[row])
    table = pa.table(dict(zip(("id", "text", "url"), columns, strict=True)))
    _write(table, path, GROUP)


def shuffled(text: str, drawn: random.Random) -> str:
    """The paragraphs of a text in another order: what blank lines part, or lines where there is no blank one."""
    parting = "\n\n" if "\n\n" in text else "\n"
    paragraphs = text.split(parting)
    drawn.shuffle(paragraphs)
    return parting.join(paragraphs)


def _pieces(folder: Path, shard: Part) -> list[Part]:
    """The first shard's first rows, PIECE rows a file (fewer where the shard has fewer); documents lie in random order, so they are a fair sample."""
    each = max(1, min(PIECE, shard.rows // PIECES))
    paths = [folder / f"piece-{i:03}.parquet" for i in range(PIECES)]
    if not all(map(_made, paths)):
        table = pq.read_table(shard.path)
        for i, path in enumerate(paths):
            _write(table.slice(i * each, each), path, each)
    return [_part(p) for p in paths]


def _one_group(path: Path, shards: list[Part]) -> Part:
    if not _made(path):
        _write(pa.concat_tables([pq.read_table(s.path) for s in shards]), path, 1 << 40)
    return _part(path)


def _write(table: pa.Table, path: Path, group: int) -> None:
    """Under another name first: a file of the right name is whole. Its figures lie beside it."""
    pq.write_table(table, f"{path}.tmp", row_group_size=group, compression="zstd")
    size = pc.sum(pc.binary_length(table["text"])).as_py() or 0
    os.replace(f"{path}.tmp", path)
    _write_json(path.with_suffix(".json"), {"rows": table.num_rows, "bytes": size})


def _write_json(path: Path, value: dict[str, int]) -> None:
    Path(f"{path}.tmp").write_text(json.dumps(value))
    os.replace(f"{path}.tmp", path)


def _made(path: Path) -> bool:
    return path.is_file() and path.with_suffix(".json").is_file()


def _part(path: Path) -> Part:
    return Part(str(path), **json.loads(path.with_suffix(".json").read_text()))


def main() -> None:
    """Makes a corpus and prints what it holds as JSON, for those that want its files and not the memory that making them took."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--source", type=Path, required=True)
    options.add_argument("--work", type=Path, required=True)
    options.add_argument("--gb", type=float, default=2.0)
    options.add_argument("--shard", type=int, default=SHARD, help="bytes of text a shard")
    options.add_argument("--one-group", action="store_true", help="and the same rows in a single row group")
    given = options.parse_args()
    made = make(given.source, given.work, given.gb, given.shard, given.one_group)
    print(
        json.dumps(
            {
                "folder": str(made.folder),
                "shards": [vars(s) for s in made.shards],
                "pieces": [vars(s) for s in made.pieces],
                "one_group": vars(made.one_group) if made.one_group else None,
                "copies": made.copies,
            }
        )
    )


def options(description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark on this corpus: where its text comes from, and where it is made."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "web",
        help="folder of Parquet shards (id, text, url)",
    )
    parser.add_argument("--work", type=Path, help="folder of the corpus, kept (default: temporary)")
    return parser


@contextmanager
def room(work: Path | None) -> Iterator[Path]:
    """The folder that was named, or a temporary one that goes afterwards."""
    if work:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="tropescan-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def made_apart(source: Path, work: Path, gb: float, shard: int = SHARD, one_group: bool = False) -> Corpus:
    """As `make`, in a process of its own, whose memory goes with it."""
    import subprocess
    import sys

    command = [sys.executable, __file__, "--source", source, "--work", work, "--gb", gb, "--shard", shard]
    done = subprocess.run(
        [*map(str, command), *["--one-group"] * one_group], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    told = json.loads(done.stdout)
    return Corpus(
        Path(told["folder"]),
        [Part(**p) for p in told["shards"]],
        [Part(**p) for p in told["pieces"]],
        Part(**told["one_group"]) if told["one_group"] else None,
        told["copies"],
    )


if __name__ == "__main__":
    main()
