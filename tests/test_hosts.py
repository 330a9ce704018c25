"""One Scanner, many hosts: the same documents get the same scores everywhere, to the last stored digit."""

from __future__ import annotations

import copy
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tropescan as package
from tests.conftest import EVIL, PLAIN, ROOT, contents, latin_1_column, python, sample_documents, write_shard
from tropescan import persistence
from tropescan.errors import InputError, MissingExtra, ModelError
from tropescan.runners import score_parts
from tropescan.runners.portable import PREFIX, PortableScanner
from tropescan.shards import Columns, find

Run = Callable[..., subprocess.CompletedProcess[str]]
Scores = list[tuple[Any, ...]]
COLUMNS = ("score", "fast_score", "intensity", "frame", "admirable")


def needs(name: str) -> pytest.MarkDecorator:
    """Skips where an optional host is not installed, and says which command would install it."""
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed: pip install 'tropescan[{name}]'")


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Texts with and without the trope, long, short, in other scripts, one twice; the first many hold no score."""
    some = [d["text"] for d in sample_documents()[::14]]
    odd = [
        PLAIN,
        "x",
        "機械は人間を裏切った",
        EVIL,
        EVIL.upper(),
        f"{PLAIN} " * 60 + EVIL,
        EVIL,
        "the AI\0 lied",
        "\ufeff" + EVIL,
    ]
    return [PLAIN] * 5 + some + odd


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Path:
    return write_shard(tmp_path_factory.mktemp("hosts") / "in.parquet", documents, row_group_size=13)


@pytest.fixture(scope="module")
def expected(documents: list[str]) -> Scores:
    """The scores of the plain function, at full depth."""
    table = package.scan_texts(documents)
    assert table["encoded"].to_numpy().sum() > 10
    return rows(table.select(COLUMNS).to_pylist(), "")


def rows(found: list[dict[str, Any]], prefix: str = PREFIX) -> Scores:
    return [tuple(row[prefix + name] for name in COLUMNS) for row in found]


def test_the_plain_function_does_not_depend_on_its_batches(documents: list[str], expected: Scores) -> None:
    one_by_one = [package.scan_texts([text]).select(COLUMNS).to_pylist()[0] for text in documents]
    assert rows(one_by_one, "") == expected


def test_the_command_line(shard: Path, expected: Scores, tmp_path: Path, tropescan: Run) -> None:
    done = tropescan("scan", shard, "--db", tmp_path / "x.duckdb", "--audit", "0.3", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    with duckdb.connect(str(tmp_path / "x.duckdb")) as c:
        stored = {r[0]: r[1:] for r in c.execute(f"SELECT row, {', '.join(COLUMNS)} FROM documents").fetchall()}
    assert [stored.get(i, (None,) * len(COLUMNS)) for i in range(len(expected))] == expected


@needs("datasets")
@pytest.mark.parametrize("how", ["map", "arrow", "stream", "hand"])
def test_datasets(documents: list[str], expected: Scores, how: str) -> None:
    import datasets

    from tropescan.runners.datasets import Annotate, annotate

    datasets.disable_progress_bars()
    data = datasets.Dataset.from_dict({"id": range(len(documents)), "text": documents})
    if how == "stream":
        found = annotate(data.to_iterable_dataset(), batch_size=7)
        assert isinstance(found, datasets.IterableDataset)
    elif how == "hand":
        function = Annotate()
        found = data.map(function, batched=True, batch_size=4, features=function.features(data.features))
    else:
        found = annotate(data.with_format("arrow") if how == "arrow" else data, batch_size=4, passages=True)
        found = found.with_format(None)
    if how == "arrow":  # the cheap plan: all at depth fast, then what is worth it once more
        cheap = annotate(data.with_format("arrow"), depth="fast")
        again = list(annotate(cheap, batch_size=4).with_format(None))
        assert rows(again) == expected
    found = list(found)
    assert rows(found) == expected and [r["text"] for r in found] == documents


@needs("ray")
def test_ray_scans_at_depth_lean_as_the_local_engine_does(tmp_path: Path, tropescan: Any) -> None:
    write_shard(tmp_path / "a.parquet", [EVIL, "A robot that was told to stop, and stopped.", EVIL])
    found = []
    for engine in ("local", "ray"):
        db = tmp_path / f"{engine}.duckdb"
        done = tropescan(
            "scan", tmp_path / "a.parquet", "--db", db, "--depth", "lean", "--engine", engine, "--workers", "1"
        )
        assert done.returncode == 0, done.stderr
        found.append(contents(db)["documents"])
    assert found[0] == found[1] and "lean" in found[0][0]


@needs("datasets")
def test_datasets_in_processes_and_from_its_cache(documents: list[str]) -> None:
    import datasets
    from datasets.fingerprint import Hasher

    from tropescan.runners.datasets import Annotate, annotate

    data = datasets.Dataset.from_dict({"text": documents})
    wanted = rows(package.scan_texts(documents, depth="fast").select(COLUMNS).to_pylist(), "")
    assert rows(list(annotate(data, depth="fast", num_proc=2))) == wanted
    function = Annotate(depth="fast")
    before = Hasher.hash(function)
    function({"text": documents})
    assert Hasher.hash(function) == Hasher.hash(Annotate(depth="fast")) == before
    assert Hasher.hash(Annotate(depth="fast", text_column="body")) != before
    with pytest.raises(InputError, match="no column 'body'; there are text"):
        Annotate(depth="fast", text_column="body")({"text": documents})


@needs("datasets")
@pytest.mark.parametrize("form", [None, "pandas", "arrow"])
def test_datasets_by_split_with_nulls_and_empty(form: str | None) -> None:
    import datasets

    from tropescan.runners.datasets import annotate

    some = datasets.Dataset.from_dict({"text": [EVIL, None], "n": [1, None]})
    by_split = datasets.DatasetDict(some=some.with_format(form), none=some.select([]).with_format(form))
    found = annotate(by_split, depth="fast")
    assert found["none"].format["type"] == found["some"].format["type"] == form
    assert found["none"].features == found["some"].features and len(found["none"]) == 0
    given = found["some"].with_format(None)
    assert (given["text"][:], given["n"][:]) == ([EVIL, None], [1, None])
    wanted = package.scan_texts([EVIL, None], depth="fast").select(COLUMNS).to_pylist()
    assert rows(list(given)) == rows(wanted, "")
    with pytest.raises(InputError, match="annotate takes a Dataset"):
        annotate([EVIL])


@needs("datatrove")
def test_datatrove_annotates(shard: Path, documents: list[str], expected: Scores) -> None:
    from datatrove.pipeline.readers import ParquetReader

    from tropescan.runners.datatrove import TropescanAnnotator

    step = copy.deepcopy(TropescanAnnotator(passages=True, batch_size=6))  # as datatrove does for each task
    found = list(step.run(ParquetReader(str(shard.parent), glob_pattern="*.parquet").run()))
    assert [d.text for d in found] == documents and rows([d.metadata for d in found]) == expected
    hits = [h for d in found for h in d.metadata["tropescan_passages"]]
    assert hits and {"start_char", "end_char", "score"} <= hits[0].keys()


@needs("datatrove")
def test_datatrove_filters_with_reasons(documents: list[str], expected: Scores, tmp_path: Path) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.writers import JsonlWriter

    from tropescan.runners.datatrove import TropescanFilter

    def run(step: Any) -> list[str]:
        return [d.id for d in step.run(iter([Document(t, str(i)) for i, t in enumerate(documents)]))]

    writer = JsonlWriter(str(tmp_path), compression=None)
    step = TropescanFilter("precision_0.8", exclusion_writer=writer, batch_size=9)
    above = [str(i) for i, row in enumerate(expected) if row[0] is not None and row[0] >= step.threshold]
    kept = run(step)
    assert above and kept == [str(i) for i in range(len(documents)) if str(i) not in above]
    dropped = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert [d["id"] for d in dropped] == above
    for d in dropped:
        assert d["metadata"]["filter_reason"] == f"tropescan_{d['metadata']['tropescan_frame']}"
        assert tuple(d["metadata"][PREFIX + n] for n in COLUMNS) == expected[int(d["id"])]
    fiction = TropescanFilter(drop=lambda m: m["tropescan_frame"] == "fiction", depth="fast")
    assert fiction.filter(Document(PLAIN, "a")) is True
    stays = {
        i for i, r in enumerate(package.scan_texts(documents, depth="fast")["frame"].to_pylist()) if r != "fiction"
    }
    assert run(fiction) == [str(i) for i in sorted(stays)]
    with pytest.raises(InputError, match="no threshold 'strict': the model has best_f1, default"):
        TropescanFilter("strict", depth="fast")
    for threshold in (60, -0.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            TropescanFilter(threshold, depth="fast")


@needs("datatrove")
def test_the_datatrove_example_on_two_workers(tmp_path: Path, documents: list[str]) -> None:
    (tmp_path / "in").mkdir()
    for i in range(4):
        part = documents[i::4]
        given: dict[str, Any] = {
            "id": list(range(len(part))),
            "metadata": [{"id": f"inner {k}", "n": 0} for k in range(len(part))],
        }
        if i:  # the first shard lacks what the others have
            given["url"] = [None] * len(part)
        pq.write_table(pa.table({"text": part, **given}), tmp_path / "in" / f"{i}.parquet")

    def run(source: Path, out: Path, workers: int) -> None:
        command = [sys.executable, ROOT / "examples" / "datatrove_filter.py", source, out, "--depth", "fast"]
        command += ["--tasks", workers, "--workers", workers]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]

    run(tmp_path / "in", tmp_path / "out", 2)
    kept, dropped = (
        pa.concat_tables(map(pq.read_table, (tmp_path / "out" / n).glob("*.parquet"))) for n in ("kept", "dropped")
    )
    fast = package.scan_texts(documents, depth="fast").select(COLUMNS).to_pylist()
    by_text = dict(zip(documents, rows(fast, ""), strict=True))
    found = kept.to_pylist() + dropped.to_pylist()
    assert sorted(r["text"] for r in found) == sorted(documents) and len(dropped) > 3
    assert rows(found) == [by_text[r["text"]] for r in found]
    assert kept.schema.field("id").type == pa.int64() and "url" in kept.column_names
    assert all(r["metadata"] == {"id": f"inner {r['id']}", "n": 0} for r in found)
    assert {r["id"] for r in found} >= {0, 1}
    floor = PortableScanner(depth="fast").threshold("default")
    assert min(dropped["tropescan_score"].to_pylist()) >= floor
    assert max(s for s in kept["tropescan_score"].to_pylist() if s is not None) < floor
    assert kept.column_names[:4] == ["text", "id", "metadata", "url"] and "filter_reason" in dropped.column_names
    run(tmp_path / "out" / "dropped", tmp_path / "2", 1)
    twice = pa.concat_tables(map(pq.read_table, (tmp_path / "2" / "dropped").glob("*.parquet")))
    assert twice.schema.equals(dropped.schema) and twice.sort_by("text").equals(dropped.sort_by("text"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A small Ray cluster of this process."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=80 << 20
    )
    yield ray
    ray.shutdown()


@needs("ray")
def test_ray_data(cluster: Any, shard: Path, documents: list[str], expected: Scores) -> None:
    from tropescan.runners.ray import Annotate

    cluster.data.DataContext.get_current().enable_progress_bars = False
    data = cluster.data.read_parquet(str(shard)).map_batches(
        Annotate, batch_format="pyarrow", batch_size=10, concurrency=1, fn_constructor_kwargs={"passages": True}
    )
    found = {r["id"]: r for r in data.take_all()}
    in_order = [found[f"in-{i}"] for i in range(len(documents))]
    assert rows(in_order) == expected and [r["text"] for r in in_order] == documents
    once = Annotate(depth="fast")(pa.table({"text": documents}))
    assert Annotate(depth="fast")(once).equals(once)
    with pytest.raises(InputError, match="batch_format"):
        Annotate(depth="fast")({"text": documents})  # type: ignore[arg-type]


@needs("ray")
def test_a_scan_on_ray_that_was_killed_ends_with_the_tables_of_a_local_one(tmp_path: Path, tropescan: Run) -> None:
    (tmp_path / "in").mkdir()
    texts = [d["text"] for d in sample_documents()]
    for i in range(6):
        write_shard(tmp_path / "in" / f"{i}.parquet", [f"{i} {t}" for t in texts])
    (tmp_path / "in" / "garbage.parquet").write_bytes(b"no shard")
    latin_1_column(tmp_path / "in" / "column.parquet")
    (tmp_path / "in" / "lines.jsonl").write_text(json.dumps({"id": "a", "text": EVIL}) + "\nno JSON\n")
    arguments = ("--depth", "fast", "--audit", "0.02", "--workers", "2", "--json")
    local, db = tmp_path / "local.duckdb", tmp_path / "ray.duckdb"
    assert tropescan("scan", tmp_path / "in", "--db", local, *arguments).returncode == 20
    command = [
        sys.executable,
        "-m",
        "tropescan",
        "scan",
        str(tmp_path / "in"),
        "--db",
        str(db),
        "--engine",
        "ray",
        *arguments,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scan:
        handed_over, deadline = tmp_path / "ray.duckdb.parts", time.monotonic() + 120
        while time.monotonic() < deadline and not list(handed_over.glob("*.parquet")) and scan.poll() is None:
            time.sleep(0.002)
        scan.send_signal(signal.SIGKILL)
    # what a killed run may leave
    left = tropescan("scan", tmp_path / "in" / "5.parquet", "--parts", handed_over, *arguments)
    assert left.returncode == 0 and json.loads(left.stdout)["scanned"] == 1
    half = next(iter(handed_over.glob("*.parquet"))).name
    (handed_over / f".{half}.0123").write_bytes(b"PAR1")
    done = tropescan("scan", tmp_path / "in", "--db", db, "--engine", "ray", *arguments)
    assert done.returncode == 20, done.stderr
    told = json.loads(done.stdout)
    assert told["done_before"] + told["scanned"] == 7 and sorted(told["failed"].values()) == ["NotAShard", "ShardError"]
    assert contents(db) == contents(local)
    assert not handed_over.exists()


@needs("ray")
def test_a_second_scan_on_ray_leaves_the_first_its_folder(tmp_path: Path, tropescan: Run) -> None:
    done, shard, db = write_shard(tmp_path / "done.parquet", [PLAIN]), tmp_path / "a.parquet", tmp_path / "x.duckdb"
    write_shard(shard, [EVIL] * 3)
    fast = ("--db", str(db), "--depth", "fast", "--workers", "1", "--json")
    assert tropescan("scan", done, *fast).returncode == 0
    command = [sys.executable, "-m", "tropescan", "scan", str(shard), *fast, "--engine", "ray"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as scan:
        parts, deadline = tmp_path / "x.duckdb.parts", time.monotonic() + 60
        while time.monotonic() < deadline and not parts.exists():
            time.sleep(0.01)
        second = tropescan("scan", done, *fast, "--engine", "ray")
        assert second.returncode == 0 and json.loads(second.stdout)["done_before"] == 1
        assert parts.exists() or scan.poll() is not None  # Ray takes longer to start, mostly
        out, err = scan.communicate(timeout=200)
    assert scan.returncode == 0 and json.loads(out)["scanned"] == 1, err
    assert not parts.exists()


@needs("ray")
def test_a_ray_worker_keeps_what_is_worth_more(tmp_path: Path) -> None:
    from tropescan.runners.ray.worker import Worker

    (file,) = find([str(write_shard(tmp_path / "a.parquet", [EVIL] * 20))])
    (tmp_path / "parts").mkdir()
    told = score_parts.described(persistence.load("evil-ai"), "fast")
    setup: dict[str, Any] = {"model": "evil-ai", "told": told, "depth": "fast", "audit": 0.0}
    setup |= {"device": "cpu", "backend": "auto", "columns": vars(Columns()), "parts": str(tmp_path / "parts")}
    for limit in None, 3:
        worker = Worker(setup | {"limit": limit})
        assert worker.ready() == {"say": "ready"}
        plan = worker.do({"do": "plan", "file": vars(file)})
        if limit is None:
            (tmp_path / "parts").rmdir()  # as another run would that made it
        order = {"do": "scan", "file": vars(file), "shard": plan["shard"], "unit": plan["units"][0], "plan": plan}
        part = score_parts.read(tmp_path / "parts" / worker.do(order)["name"])[1]
        assert (part.status, part.counters["rows"], len(part.documents)) == ("done", 20, 20)


def test_importing_tropescan_costs_nothing() -> None:
    done = python(
        "import tropescan, sys; print(tropescan.__version__, {'pyarrow', 'numpy', 'duckdb'} & set(sys.modules))"
    )
    assert done.stdout.strip() == f"{package.__version__} set()", done.stderr


def test_the_plain_function_on_odd_input() -> None:
    once = package.scan_texts((t for t in [EVIL, "a \ud800 b"]), depth="fast")  # type: ignore[arg-type]
    assert len(once) == 2
    found = package.scan_texts(["", None, EVIL, "a \ud800 b"], depth="fast")
    assert found["null_text"].to_pylist() == [False, True, False, False] and found["characters"].to_pylist()[3] == 5
    assert found["score"].null_count == 3 and len(package.scan_texts([], depth="fast")) == 0
    for wrong in (EVIL, [1, 2], ["\ud800", 1]):
        with pytest.raises(InputError):
            package.scan_texts(wrong, depth="fast")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no model 'nobody'"):
        package.scan_texts([EVIL], model="nobody")


def test_the_plain_function_on_a_series() -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series([EVIL, None, float("nan"), pandas.NA], dtype=object)
    for given in (series, series.astype("string"), series.astype("category")):
        assert package.scan_texts(given, depth="fast")["null_text"].to_pylist() == [False, True, True, True]


@pytest.mark.parametrize("host", ["datatrove", "ray", "datasets"])
def test_a_missing_extra_is_told_in_one_line(host: str) -> None:
    done = python(f"import sys; sys.modules['{host}'] = None; import tropescan.runners.{host}")
    told = done.stderr.strip().splitlines()[-1]
    assert told.startswith("tropescan.errors.MissingExtra") and f"run `pip install 'tropescan[{host}]'`" in told


def test_the_command_line_tells_a_missing_ray_in_one_line(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.parquet", [EVIL])
    scan = ["scan", str(shard), "--db", str(tmp_path / "x.duckdb"), "--engine", "ray", "--depth", "fast"]
    done = python(f"import sys; sys.modules['ray'] = None; from tropescan.cli import main; sys.exit(main({scan!r}))")
    assert done.returncode == MissingExtra.code and len(done.stderr.splitlines()) == 1, done.stderr
    assert "pip install 'tropescan[ray]'" in done.stderr and not (tmp_path / "x.duckdb.parts").exists()


def test_what_travels_is_a_name_and_settings(tmp_path: Path) -> None:
    scanner = PortableScanner(depth="fast")
    scanner.scan([EVIL])
    state = scanner.__getstate__()
    assert all(isinstance(v, str | float | int | dict | None) for v in state.values()) and len(str(state)) < 1000
    other = copy.copy(scanner)
    other.fingerprint = "0" * 64
    with pytest.raises(ModelError, match="is another one here"):
        copy.deepcopy(other).scan([EVIL])
