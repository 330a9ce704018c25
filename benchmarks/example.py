"""The worked example of docs/filtering.md: scans a corpus, applies every mode, scans what came out, and writes the figures, none of the text.

    python benchmarks/example.py [CORPUS] [--work DIR] [--write docs/filtering.md]

CORPUS (default: ../shared/data/web). Exit code 1 where rows do not reconcile, where what is left still meets the rule, or where a document that
nothing touched has another score than before.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- figures: benchmarks/example.py -->", "<!-- end of figures -->"
MODES: dict[str, list[str]] = {
    "drop": [],
    "mask": ["--mode", "mask", "--until-clean"],
    "tag": ["--mode", "tag", "--token", "<|ai-trope|>"],
    "around": ["--mode", "tag", "--around", "--token", "<trope>", "--end-token", "</trope>"],
    "replace": ["--mode", "replace"],
}
WEIGHT = "CASE WHEN score >= 0.6 THEN 0 WHEN score >= 0.3 THEN 0.3 END"


def tropescan(*words: str | Path) -> Any:
    """What a command of tropescan prints as JSON. Exits with its line where it fails."""
    command = [sys.executable, "-m", "tropescan", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout)


def scores(db: Path) -> dict[tuple[str, str], tuple[float | None, float | None]]:
    """The scores of a scan's gated documents by shard name and id."""
    with duckdb.connect(str(db), read_only=True) as c:
        rows = c.execute("SELECT path, id, score, fast_score FROM documents JOIN files USING (shard, model)").fetchall()
    return {(Path(path).name, one): (score, fast) for path, one, score, fast in rows}


def touched(folder: Path) -> set[tuple[str, str]]:
    """Shard name and id of the documents that were removed or masked."""
    return {
        (path.name, one)
        for path in sorted((folder / "_removed").rglob("*.parquet"))
        for one in pq.read_table(path, columns=["id"])["id"].to_pylist()
    }


def worked(corpus: Path, work: Path) -> tuple[list[str], list[str]]:
    """Lines of Markdown, and what went wrong."""
    wrong: list[str] = []
    db = work / "web.duckdb"
    summary = tropescan("scan", corpus, "--db", db)
    dry = tropescan("filter", corpus, "--db", db, "--preset", "strict", "--dry-run")
    before = scores(db)
    with duckdb.connect(str(db), read_only=True) as c:
        documents, characters = c.execute("SELECT sum(documents), sum(characters) FROM shards").fetchone() or (0, 0)
    lines = [
        f"The scan read {documents:,} documents, {characters:,} characters, in {summary['seconds']:.0f} s; model "
        f"`{dry['model'][:12]}`. The rule is `{dry['rule']}`; the dry run finds {dry['documents']:,} documents "
        f"({dry['documents'] / documents:.2%}) with {dry['characters']:,} characters ({dry['characters'] / characters:.2%}). By frame: "
        + ", ".join(f"{name} {one['documents']:,}" for name, one in dry["frames"].items())
        + ".",
        "",
        "| mode | rows in | kept | removed | changed | characters removed | flagged in a new scan "
        "| untouched documents with a score | of them with another score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mode, options in MODES.items():
        out = work / f"web-{mode}"
        done = tropescan("filter", corpus, "--db", db, "--preset", "strict", *options, "--out", out)
        total = {k: sum(r[k] or 0 for r in done["rows"]) for k in (*ROWS, "characters_removed")}
        if total["rows_in"] != total["rows_kept"] + total["rows_removed"] or total["rows_in"] != documents:
            wrong.append(f"{mode}: {total} do not reconcile with {documents} rows")
        again = ["", "", ""]
        if mode in ("drop", "mask"):
            left, same, other = rescanned(out, work / f"web-{mode}.duckdb", dry["rule"], before)
            again = [f"{left:,}", f"{same + other:,}", f"{other:,}"]
            wrong += [f"{mode}: {left} documents still meet the rule"] if left else []
            wrong += [f"{mode}: {other} untouched documents have another score"] if other else []
        cells = [mode, *(f"{total[k]:,}" for k in (*ROWS, "characters_removed")), *again]
        lines.append(f"| {' | '.join(cells)} |")
        if mode == "replace":
            pool = f"The pool of `replace`: {done['pool_documents']:,} documents with {done['pool_characters']:,} characters."
    out = work / "web-weights"
    done = tropescan("weights", corpus, "--db", db, "--rule", WEIGHT, "--out", out)
    weights = duckdb.execute(
        "SELECT weight, count(*) FROM read_parquet(?) GROUP BY ALL ORDER BY ALL", [f"{out}/*.parquet"]
    ).fetchall()
    lines += [
        "",
        f"{pool} `weights` wrote {sum(n for _, n in weights):,} weights: "
        + ", ".join(f"{weight:g} for {n:,}" for weight, n in weights)
        + ".",
    ]
    return lines, wrong


ROWS = ("rows_in", "rows_kept", "rows_removed", "rows_changed")


def rescanned(out: Path, db: Path, rule: str, before: dict[Any, Any]) -> tuple[int, int, int]:
    """Of the output scanned anew: documents that meet the rule, and untouched ones whose scores are the same and are not."""
    tropescan("scan", out, "--db", db)
    with duckdb.connect(str(db), read_only=True) as c:
        (left,) = c.execute(f"SELECT count(*) FROM documents WHERE {rule}").fetchone() or (0,)
    after, gone = scores(db), touched(out)
    kept = [key for key in {**before, **after} if key not in gone]
    same = sum(before.get(key) == after.get(key) for key in kept)
    return left, same, len(kept) - same


def main() -> int:
    """Runs it, prints the lines and writes them where that is asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("corpus", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "web")
    options.add_argument(
        "--work", type=Path, help="an empty folder for databases and outputs (default: a temporary one)"
    )
    options.add_argument("--write", type=Path, metavar="FILE.md", help="put the figures between the file's two marks")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines, wrong = worked(given.corpus.resolve(), (given.work or Path(name)).resolve())
    print("\n".join(lines))
    if given.write:
        page = given.write.read_text()
        head, rest = page.split(BEGIN)
        given.write.write_text("\n".join([head + BEGIN, "", *lines, "", END + rest.split(END)[1]]))
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
