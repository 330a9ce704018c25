"""A datatrove pipeline that reads Parquet shards, drops what tropescan flags, and writes the rest and the dropped as Parquet shards.

    python examples/datatrove_filter.py corpora/sample out --threshold precision_0.9 --workers 2

Every column of the input keeps its name, type and values; the scores are added. `out/kept` and `out/dropped` together hold the documents of the input
(datatrove's readers pass over documents without text), `filter_reason` in `out/dropped` tells the frame. A shard without a column that another has
gets nulls in it; shards whose columns of one name differ in type are refused. Scores and reasons of an earlier run in the input are replaced.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

from tropescan.runners.datatrove import TropescanFilter, fields

REASON = "filter_reason"  # datatrove's name for it


def schema(shards: list[Path]) -> pa.Schema:
    """The columns of all shards, and the scores: without it, ParquetWriter would take the types from the first document, where scores are None."""
    try:
        given = pa.unify_schemas([pq.read_schema(shard).remove_metadata() for shard in shards])
    except pa.ArrowException as error:
        raise SystemExit(f"the shards' columns do not go together: {error}") from None
    return pa.schema([*[f for f in given if f.name not in (*fields().names, REASON)], *fields()])


def document(_reader: ParquetReader, row: dict[str, Any], path: str, number: int | str) -> dict[str, Any]:
    """A document with its row beside it: datatrove's own adapter takes `id`, `media` and `metadata` apart, and its writer leaves out what is 0."""
    return {"text": row.get("text") or "", "id": str(row.get("id", f"{path}/{number}")), "metadata": {"row": row}}


def row(_writer: ParquetWriter, scored: Document) -> dict[str, Any]:
    """The row again, with what was added."""
    added = {name: value for name, value in scored.metadata.items() if name != "row"}
    return {**scored.metadata["row"], **added}


def pipeline(source: Path, out: Path, threshold: str, depth: str) -> list[object]:
    """Reader, filter, writer."""
    shards = sorted(source.rglob("*.parquet"))
    if not shards:
        raise SystemExit(f"no Parquet shard under {source}")
    columns = schema(shards)
    reason = columns.append(pa.field(REASON, pa.string()))
    return [
        ParquetReader(str(source), glob_pattern="**/*.parquet", adapter=document),
        TropescanFilter(
            threshold,
            depth=depth,
            exclusion_writer=ParquetWriter(str(out / "dropped"), compression="zstd", adapter=row, schema=reason),
        ),
        ParquetWriter(str(out / "kept"), compression="zstd", adapter=row, schema=columns),
    ]


def main() -> None:
    """Runs it on this machine; SlurmPipelineExecutor takes the same pipeline."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--threshold", default="default", help="a name in the model's thresholds.json")
    options.add_argument("--depth", choices=("fast", "lean", "full"), default="full")
    options.add_argument("--tasks", type=int, default=2)
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    LocalPipelineExecutor(
        pipeline(given.source, given.out, given.threshold, given.depth),
        tasks=given.tasks,
        workers=given.workers,
        logging_dir=str(given.out / "logs"),
    ).run()


if __name__ == "__main__":  # datatrove's workers import this file
    main()
