"""What a step of tropescan costs inside other people's pipelines: documents a second with and without it, next to the plain function.

    python benchmarks/corpus.py --source ../shared/data/web --gb 0.5 --work /tmp/corpus     # shards to read
    python benchmarks/hosts.py /tmp/corpus/*/ [--depth fast|lean|full] [--cores 1] [--repeat 5] [--limit 20000] [--report reports/hosts.md]

Every host runs in a process of its own and does the same: read Parquet, hand every document through Python or Arrow as its users do, write nothing.
The process runs over a shard of half of --limit documents, to start all that starts once (imports, a cluster), then over it again and over a
shard of all --limit, both timed. What every run starts anew (an executor, an actor with its model) is in both, so the difference is the time of
the other half: that gives the documents a second; the rest is given as the start of a run. Interleaved rounds, medians of the rounds' own
differences. A host that is not installed is left out and named. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import page
import pyarrow as pa
import pyarrow.parquet as pq
from timing import median, run

BATCH = 512


def batches(path: str) -> Iterator[pa.RecordBatch]:
    """The shard as pyarrow gives it."""
    yield from pq.ParquetFile(path).iter_batches(batch_size=BATCH, columns=["id", "text"])


def arrow(path: str, depth: str, step: bool) -> int:
    """The scanner over Arrow batches: what any host could reach at best."""
    from tropescan.runners.portable import PortableScanner

    scanner = PortableScanner(depth=depth, threads=1)
    return sum(len(scanner.scan(b["text"]) if step else b) for b in batches(path))


def plain(path: str, depth: str, step: bool) -> int:
    """tropescan.scan_texts over lists of str."""
    from tropescan import scan_texts

    count = 0
    for batch in batches(path):
        texts = batch["text"].to_pylist()
        count += len(scan_texts(texts, depth=depth, threads=1) if step else texts)
    return count


def datatrove(path: str, depth: str, step: bool) -> int:
    """datatrove: ParquetReader, then TropescanAnnotator, in its own executor with one worker."""
    import os

    os.environ["LOGURU_LEVEL"] = "ERROR"
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader

    from tropescan.runners.datatrove import TropescanAnnotator

    where = Path(path)
    steps: list[Any] = [ParquetReader(str(where.parent), glob_pattern=where.name)]
    if step:
        steps.append(TropescanAnnotator(depth=depth, batch_size=BATCH, threads=1))
    with tempfile.TemporaryDirectory() as logs:
        stats = LocalPipelineExecutor(steps, workers=1, logging_dir=logs).run()
    return int(stats.stats[0]["documents"].total)


def _unchanged(batch: dict[str, Any]) -> dict[str, Any]:
    return {"seen": [len(text) for text in batch["text"]]}


def datasets_map(path: str, depth: str, step: bool) -> int:
    """datasets: Dataset.map(batched=True); without the step, the same with the length of each text as a column."""
    import datasets

    from tropescan.runners.datasets import annotate

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.Dataset.from_parquet(path, cache_dir=cache)
        if step:
            return len(annotate(data, depth=depth, batch_size=BATCH, threads=1))
        return len(data.map(_unchanged, batched=True, batch_size=BATCH))


def datasets_stream(path: str, depth: str, step: bool) -> int:
    """datasets: streaming IterableDataset.map(batched=True); without the step, the same with the length of each text as a column."""
    import datasets

    from tropescan.runners.datasets import annotate

    data = datasets.load_dataset("parquet", data_files=path, split="train", streaming=True)
    if step:
        return sum(1 for _ in annotate(data, depth=depth, batch_size=BATCH, threads=1))
    return sum(1 for _ in data.map(_unchanged, batched=True, batch_size=BATCH))


class _Unchanged:
    def __call__(self, table: pa.Table) -> pa.Table:
        return table


def ray_data(path: str, depth: str, step: bool) -> int:
    """Ray Data: read_parquet, map_batches in one actor."""
    import ray

    from tropescan.runners.ray import Annotate

    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": BATCH, "concurrency": 1}
    data = ray.data.read_parquet(path)
    what: dict[str, Any] = {"fn": Annotate, "fn_constructor_kwargs": {"depth": depth}} if step else {"fn": _Unchanged}
    data = data.map_batches(**what, **options)
    return sum(len(b) for b in data.iter_batches(batch_size=None, batch_format="pyarrow"))


HOSTS: dict[str, tuple[str, Callable[[str, str, bool], int]]] = {
    "plain function": ("", plain),
    "Arrow batches": ("", arrow),
    "datatrove": ("datatrove", datatrove),
    "datasets map": ("datasets", datasets_map),
    "datasets streaming": ("datasets", datasets_stream),
    "Ray Data": ("ray", ray_data),
}


def shards(folder: Path, limit: int, work: Path) -> tuple[list[Path], list[int]]:
    """Two shards out of a folder's: half of the documents, and all of them."""
    tables, rows = [], 0
    for file in sorted(folder.glob("*.parquet")):
        if rows < limit:
            tables.append(pq.read_table(file, columns=["id", "text"]))
            rows += len(tables[-1])
    if not tables:
        raise SystemExit(f"no .parquet in {folder}: benchmarks/corpus.py makes some")
    whole = pa.concat_tables(tables).slice(0, limit)
    counts = [len(whole) // 2, len(whole)]
    paths = [work / "half" / "a.parquet", work / "all" / "a.parquet"]
    for path, count in zip(paths, counts, strict=True):
        path.parent.mkdir()
        pq.write_table(whole.slice(0, count), path, compression="zstd", row_group_size=5_000)
    return paths, counts


def measured(paths: list[Path], counts: list[int], given: argparse.Namespace) -> dict[tuple[str, bool], list[float]]:
    """Of each host without and with the step: [seconds a run takes to start, seconds a document], medians of the rounds."""
    there = [n for n, (needs, _) in HOSTS.items() if not needs or importlib.util.find_spec(needs)]
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for number in range(given.repeat):
        for name in there:
            for step in (False, True):
                order = ["--host", name, "--depth", given.depth, *(["--step"] if step else [])]
                ran = run([sys.executable, __file__, *map(str, paths), *order], given.cores)
                half, whole = json.loads(ran.out.splitlines()[-1])
                if [half[0], whole[0]] != counts:
                    raise SystemExit(f"{name} handed on {half[0]} and {whole[0]} documents of {counts}")
                each = (whole[1] - half[1]) / (counts[1] - counts[0])
                found.setdefault((name, step), []).append((whole[1] - each * counts[1], each))
        print(f"round {number + 1} of {given.repeat}", file=sys.stderr, flush=True)
    return {key: [median([r[i] for r in rounds]) for i in (0, 1)] for key, rounds in found.items()}


def timed(host: Callable[[str, str, bool], int], paths: list[str], depth: str, step: bool) -> list[tuple[int, float]]:
    """Documents and seconds of a run over each shard, after one over the first that is not timed."""
    host(paths[0], depth, step)
    told = []
    for path in paths:
        begun = time.perf_counter()
        told.append((host(path, depth, step), time.perf_counter() - begun))
    return told


def lines(found: dict[tuple[str, bool], list[float]], counts: list[int], given: argparse.Namespace) -> list[str]:
    """The table and what it means."""

    def speed(each: float) -> str:
        return f"{1 / each:,.0f}" if each > 0 else "too fast to tell"

    step_alone = found["plain function", True][1] - found["plain function", False][1]
    rows = []
    for name in dict.fromkeys(n for n, _ in found):
        without, with_step = found[name, False], found[name, True]
        step = with_step[1] - without[1]
        cells = [speed(without[1]), speed(with_step[1]), f"{1e3 * without[1]:.3f}", f"{1e3 * step:.3f}"]
        rows.append([name, *cells, f"{1e3 * (step - step_alone):+.3f}", f"{with_step[0]:.1f}"])
    head = ["host", "documents/s without", "documents/s with", "host, ms a document", "step, ms a document"]
    missing = [n for n, (needs, _) in HOSTS.items() if (n, True) not in found]
    return [
        f"`{page.command()}`: {counts[1]:,} documents, depth {given.depth}, {given.cores} core(s) for the whole host, {given.repeat} rounds, medians.",
        "",
        f"{page.machine()} {page.versions()} "
        + ", ".join(f"{n} {v}" for n in ("datatrove", "datasets", "ray") if (v := page._version(n)))
        + ".",
        "",
        *page.table([*head, "of it, host's own share", "start of a run, s"], rows),
        "",
        "'host' is what it costs to take a document through the host with no step of ours, 'step' what the step adds, 'host's own share' what the step "
        "adds beyond what it adds to the plain function (lists and dicts made, metadata, serialisation; negative: less). Ray's own processes run on "
        "the same cores." + (f" Not installed, hence not measured: {', '.join(missing)}." if missing else ""),
    ]


def main() -> None:
    """Measures and prints; with --host, is one of the processes measured."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("shards", type=Path, nargs="+")
    options.add_argument("--depth", choices=("fast", "lean", "full"), default="fast")
    options.add_argument("--cores", type=int, default=1)
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--limit", type=int, default=20_000)
    options.add_argument("--report", type=Path)
    options.add_argument("--host", choices=HOSTS, help=argparse.SUPPRESS)
    options.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.host:
        print(json.dumps(timed(HOSTS[given.host][1], list(map(str, given.shards)), given.depth, given.step)))
        return
    with tempfile.TemporaryDirectory() as work:
        paths, counts = shards(given.shards[0], given.limit, Path(work))
        text = lines(measured(paths, counts, given), counts, given)
    if given.report:
        given.report.write_text("\n".join(["# Hosts", "", *text, ""]))
    print("\n".join(text))


if __name__ == "__main__":
    main()
