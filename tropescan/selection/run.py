"""Writes a selection, shard by shard; a shard is noted in the store when it lies there under its name, so that an interrupted run goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from hashlib import md5
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tropescan.errors import CorpusChanged, InputError, ShardError, TropescanError
from tropescan.parts import unforeseen
from tropescan.selection import lines, output, parquet, sources, weighing
from tropescan.selection.changes import Counts
from tropescan.selection.decisions import Decisions
from tropescan.selection.output import POOL, REMOVED, Output
from tropescan.selection.plan import Plan, Request
from tropescan.selection.preview import Preview, preview
from tropescan.selection.sources import Source
from tropescan.shards.files import open_file
from tropescan.store import Store

EVERY = 0.25  # seconds between two commits, at least
Row = dict[str, Any]
Said = Callable[[str], None]


@dataclass
class Done:
    """What a selection came to: a row a shard (schema.SELECTIONS), those done in this run and before; the pool; documents left though flagged."""

    selection: str
    model: str
    rule: str
    mode: str
    rows: list[Row] = field(default_factory=list)
    before: int = 0
    untouched: int = 0
    pool_documents: int = 0
    pool_characters: int = 0
    failed: dict[str, TropescanError] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    source: Source
    write: Callable[[Output], Counts]
    outcome: str
    output: str


def dry(store: Store, paths: Sequence[str], request: Request, model: str | None = None) -> tuple[Plan, Preview]:
    """What `select` would do; nothing is written."""
    plan = Plan(store, store.model(model), request)
    return plan, preview(plan, sources.match(store, plan.model["model"], sources.locate(paths), request.unscanned))


def select(
    store: Store,
    paths: Sequence[str],
    out: Path,
    request: Request,
    *,
    model: str | None = None,
    workers: int = 0,
    say: Said = lambda _: None,
) -> Done:
    """Writes the shards under `paths` to the folder `out` with the request's rule applied, and notes it in the store.

    Threads: `workers` (0: one a core). Raises RuleError, CorpusChanged, NotScanned, OutputError, NoSpace, StoreError; what was written stays.
    """
    plan = Plan(store, store.model(model), request)
    found = sources.match(store, plan.model["model"], sources.locate(paths), request.unscanned)
    done = Done("", plan.model["model"], plan.rule.text, request.mode)
    pool: dict[str, Decisions] = {}
    if request.mode == "replace":
        removed = sum(sum(plan.decide(s).facts["characters"].to_pylist()) for s in found)
        pool = plan.replacements(found, removed)
        done.pool_documents = sum(len(d.rows) for d in pool.values())
        done.pool_characters = sum(sum(d.facts["characters"].to_pylist()) for d in pool.values())

    def tasks(settled: set[str]) -> Iterator[_Task]:
        for source in found:
            drawn = pool.pop(source.shard, None)  # once, where two files are the same shard
            before = source.file.path in settled
            if before and plan.whole is None:
                continue
            if not before and not source.scanned and request.unscanned == "drop":
                yield _Task(source, lambda to, s=source: _left_out(s, to), f"left out: {source.state}", "")  # type: ignore[misc]
                continue
            decided = plan.decide(source)
            done.untouched += plan.untouched(source, decided)
            if before:  # its untouched documents are told all the same
                continue
            whole = not len(decided.rows) and drawn is None
            outcome = "copied" if source.scanned else f"kept: {source.state}"
            if whole:
                yield _Task(source, lambda to, s=source: _copied(s, to), outcome, source.name)  # type: ignore[misc]
                continue
            change = plan.change(source, decided, drawn)
            how = "filtered" if len(decided.rows) else outcome  # the pool only draws from it
            yield _Task(source, lambda to, s=source, c=change: _changed(s, to, plan, c), how, source.name)  # type: ignore[misc]

    return _run(store, done, found, out, paths, request.options(), tasks, workers, say, _drawn(pool))


def weigh(
    store: Store,
    paths: Sequence[str],
    out: Path,
    rule: str,
    request: Request,
    *,
    model: str | None = None,
    workers: int = 0,
    say: Said = lambda _: None,
) -> Done:
    """Writes a sidecar Parquet for every shard under `paths`: id, row and weight of each of its rows. As `select` otherwise."""
    chosen = store.model(model)
    weighing_rule = weighing.Weighing(store, chosen, rule, request.columns)
    found = sources.match(store, chosen["model"], sources.locate(paths), request.unscanned)
    done = Done("", chosen["model"], weighing_rule.rule.text, "weights")

    def tasks(settled: set[str]) -> Iterator[_Task]:
        for source in found:
            if source.file.path in settled:
                continue
            weights = weighing_rule.weights(source, request.unscanned)
            name = source.name + weighing.SUFFIX

            def write(to: Output, s: Source = source, w: Any = weights, n: str = name) -> Counts:
                if s.scanned:
                    sources.check(s)
                with to.writing(n, "") as (path,):
                    return weighing_rule.write(s, w, path)

            yield _Task(source, write, "weighed" if source.scanned else f"{request.unscanned}: {source.state}", name)

    options = {"unscanned": request.unscanned, "id_column": request.columns.id}
    return _run(store, done, found, out, paths, options, tasks, workers, say)


def _run(
    store: Store,
    done: Done,
    found: Sequence[Source],
    out: Path,
    paths: Sequence[str],
    options: dict[str, Any],
    tasks: Callable[[set[str]], Iterator[_Task]],
    workers: int,
    say: Said,
    drawn: dict[str, str] | None = None,
) -> Done:
    """Does the tasks of the shards that are not done yet. What was written when something else was `drawn` is done again."""
    head = {
        "model": done.model,
        "mode": done.mode,
        "rule": done.rule,
        "options": options,
        "shards": {s.name: s.shard for s in found},
    }
    with output.opened(out, paths, head) as to:
        done.selection = to.selection
        before = {r["path"]: r for r in store.rows("SELECT * FROM selections WHERE selection = ?", [to.selection])}
        if gone := before.keys() - {s.file.path for s in found}:
            store.forget_selection(to.selection, gone)  # of a corpus that moved
        noting = orjson.dumps(options | (drawn or {})).decode()
        done.rows = [
            row
            for s in found
            if (row := before.get(s.file.path))
            and row["options"] == noting
            and s.shard in ("", row["shard"])
            and _there(row, to)
            # what was kept or left out for want of a scan is done again once it has one
            and not (s.scanned and ": " in row["outcome"])
        ]
        done.before = len(done.rows)
        settled = {r["path"] for r in done.rows}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        fixed = {
            "selection": to.selection,
            "model": done.model,
            "mode": done.mode,
            "rule": done.rule,
            "options": noting,
        }
        noted: list[Row] = []
        due = monotonic() + EVERY
        try:
            for task, counts in _each(tasks(settled), to, workers or cores, done):
                about = {"shard": task.source.shard, "path": task.source.file.path, "output": task.output}
                noted.append({**fixed, **about, "outcome": task.outcome, **asdict(counts)})
                done.rows.append(noted[-1])
                if monotonic() >= due:
                    store.note_selection(noted)
                    noted, due = [], monotonic() + EVERY
                say(f"{len(done.rows)}/{len(found)} shards")
        finally:  # whatever ends the run, what lies there is noted
            if noted:
                store.note_selection(noted)
    done.rows.sort(key=lambda r: str(r["path"]))
    return done


def _each(tasks: Iterator[_Task], to: Output, workers: int, done: Done) -> Iterator[tuple[_Task, Counts]]:
    """Runs the tasks in threads (pyarrow and xxhash let others run), a few ahead; a shard that cannot be selected from is recorded, the others go on."""
    running: dict[Future[Counts], _Task] = {}
    with ThreadPoolExecutor(workers) as threads:
        try:
            more = True
            while more or running:
                while more and len(running) < workers + 1:
                    task = next(tasks, None)
                    if task is None:
                        more = False
                        break
                    running[threads.submit(task.write, to)] = task
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    task = running.pop(future)
                    try:
                        counts = future.result()
                    except (ShardError, InputError) as error:
                        done.failed[task.source.file.path] = error
                        continue
                    except (TropescanError, MemoryError, OSError):
                        raise  # of the output, the store or the machine
                    except Exception as error:  # a defect of ours or of a library costs this shard alone
                        told = unforeseen(task.source.file, error, "selecting")
                        done.failed[task.source.file.path] = ShardError(told)
                        continue
                    yield task, counts
        finally:
            for future in running:
                future.cancel()


def _changed(source: Source, to: Output, plan: Plan, change: Any) -> Counts:
    sources.check(source)
    write = lines.rewrite if source.file.format.startswith("jsonl") else parquet.rewrite
    with to.writing(source.name, REMOVED, POOL, "") as (aside, pool, main):
        counts = write(source.file, plan.request.columns, change, main, aside, pool)
        if plan.request.mode == "tag":
            aside.unlink(missing_ok=True)  # nothing is lost by a token
        if source.rows is not None and counts.rows_in != source.rows:
            raise CorpusChanged(
                f"{source.file.path} has {counts.rows_in} rows, the store counted {source.rows}: scan again, then select"
            )
        if not len(change.decided.rows):  # nothing goes: the shard itself, not what pyarrow makes of it
            _copy(source, main)
    return counts


def _copied(source: Source, to: Output) -> Counts:
    """A shard of which nothing goes is copied byte for byte."""
    if source.scanned:
        sources.check(source)
    with to.writing(source.name, REMOVED, POOL, "") as (_, _, main):  # whatever an earlier run put aside goes
        _copy(source, main)
    n = _counted(source)
    return Counts(n, n, 0 if n is not None else None)


def _copy(source: Source, main: Path) -> None:
    with open_file(source.file.path) as raw, open(main, "wb") as sink:
        shutil.copyfileobj(raw, sink, 1 << 22)


def _left_out(source: Source, to: Output) -> Counts:
    to.clear(source.name)  # as an earlier run wrote it that had a scan of it
    n = _counted(source)
    return Counts(n, 0, n)


def _counted(source: Source) -> int | None:
    """Rows of a shard that was not read; None where it cannot be counted."""
    try:
        if source.file.format.startswith("jsonl"):
            return sum(1 for _ in lines.lines(source.file))
        with parquet.opened(source.file) as one:
            return int(one.metadata.num_rows)
    except ShardError:
        return None


def _drawn(pool: dict[str, Decisions]) -> dict[str, str]:
    """What is noted of a pool, to tell it from another: shards that were scanned since give another one."""
    digest = md5(usedforsecurity=False)
    for shard in sorted(pool):
        digest.update(shard.encode() + pool[shard].rows.tobytes())
    return {"drawn": digest.hexdigest()} if pool else {}


def _there(row: Row, to: Output) -> bool:
    """Whether what the store says was written lies there."""
    if not row["output"]:
        return True
    path = to.path(row["output"])
    if not path.is_file() or row["rows_kept"] is None or not str(path).endswith((".parquet", ".pq")):
        return path.is_file()
    try:
        return bool(pq.read_metadata(path).num_rows == row["rows_kept"])
    except (pa.ArrowException, OSError):
        return False
