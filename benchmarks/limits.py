"""The limits of a scan: reading the text column alone, and reading it through the gate. Prints JSON; benchmarks/scan.py runs it.

    python benchmarks/limits.py read|gate SHARD... --workers N

Imports, the gate's compilation and the start of processes are not in the seconds: they begin when all workers are ready.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

ROWS = 1_000  # a batch of 2 to 4 MB stays in the cache


def work(what: str, paths: list[str], ready: Barrier, out: Any) -> None:
    """One worker: reads its shards, puts what it saw on `out`."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    hits = None
    if what == "gate":
        from tropescan import persistence
        from tropescan.gate import Gate, parse
        from tropescan.schema import buffers

        hits = Gate(parse(persistence.load("evil-ai").gate)).hits
    ready.wait()
    begun = time.process_time()
    rows = size = found = 0
    for path in paths:
        file = pq.ParquetFile(path, memory_map=True)
        for batch in file.iter_batches(batch_size=ROWS, columns=["text"], use_threads=False):
            text = batch.column(0)
            rows += len(text)
            if hits is not None:
                values, offsets = buffers(text)
                size += len(values)
                found += sum(len(position) for position, _ in hits(values, offsets))
            else:
                size += pc.sum(pc.binary_length(text)).as_py() or 0
    out.put((rows, size, found, time.process_time() - begun))


def main() -> None:
    """Starts the workers, each with every n-th shard, and prints what they did."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("read", "gate"))
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("shards", nargs="+")
    given = options.parse_args()
    context = multiprocessing.get_context("spawn")
    ready, out = context.Barrier(given.workers + 1), context.Queue()
    workers = [
        context.Process(target=work, args=(given.what, given.shards[i :: given.workers], ready, out), daemon=True)
        for i in range(given.workers)
    ]
    for worker in workers:
        worker.start()
    ready.wait(timeout=120)
    begun = time.perf_counter()
    found = [out.get(timeout=3600) for _ in workers]
    seconds = time.perf_counter() - begun
    for worker in workers:
        worker.join()
    rows, size, hits, processor = (sum(column) for column in zip(*found, strict=True))
    print(json.dumps({"seconds": seconds, "processor": processor, "rows": rows, "bytes": size, "kept": hits}))


if __name__ == "__main__":
    main()
