"""tropescan status, prevalence, passages and query: questions to a database."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import orjson

from tropescan.errors import QueryError
from tropescan.prevalence import measure
from tropescan.report import console, passage_text, prevalence_note, prevalence_table, rows_table, short_names
from tropescan.schema import COUNTERS
from tropescan.store import Store


def status(given: argparse.Namespace) -> int:
    """Counts by model that add up, and every shard that is not done."""
    store = Store(given.db, given.wait)
    counters = ", ".join(
        f"sum({'documents' if c == 'rows' else c})::BIGINT AS {'documents' if c == 'rows' else c}" for c in COUNTERS
    )
    states = ", ".join(f"count(*) FILTER (status = '{s}') AS {s}" for s in ("done", "partial", "failed", "pending"))
    totals = store.rows(
        f"SELECT model, count(*) AS shards, {states}, {counters}, sum(seconds) AS worker_seconds FROM shards GROUP BY model ORDER BY model"
    )
    left = store.rows(
        "SELECT model, path, status, documents, rows, kind, error FROM shards WHERE status <> 'done' ORDER BY model, path"
    )
    twins = store.rows(
        "SELECT model, count(*) AS documents FROM documents JOIN "
        "(SELECT shard, model, id FROM documents WHERE id IS NOT NULL GROUP BY ALL HAVING count(*) > 1) USING (shard, model, id) GROUP BY model"
    )
    if given.json:
        print(orjson.dumps({"models": totals, "not_done": left, "duplicate_ids": twins}).decode())
        return 0
    out = console()
    for t in totals:
        out.print(
            f"{t['model']}: {t['shards']} shards = {t['done']} done + {t['partial']} partial + {t['failed']} failed + {t['pending']} pending"
        )
        for name in ("documents", *[c for c in COUNTERS if c != "rows"]):
            out.print(f"  {name.replace('_', ' ')}: {t[name]:,}")
    for t in twins:
        out.print(
            f"{t['model']}: {t['documents']} kept documents share an id with another of their shard; they are told apart by row"
        )
    for s in left:
        of = "" if s["rows"] is None else f" of {s['rows']:,}"
        out.print(
            f"{s['status']}: {s['path']} ({s['documents']:,}{of} documents read) {s['error'] or ''}",
            soft_wrap=True,
        )
    return 0


def prevalence(given: argparse.Namespace) -> int:
    """The prevalence table."""
    found = measure(Store(given.db, given.wait), given.model, given.threshold)
    if given.json:
        print(orjson.dumps(asdict(found)).decode())
    elif given.csv:
        rows = [asdict(r) for r in [*found.shards, found.total]]
        _csv(list(rows[0]), [list(r.values()) for r in rows])
    else:
        out = console()
        out.print(prevalence_table(found, short_names([r.path or "" for r in found.shards]), out.width))
        out.print(prevalence_note(found))
    return 0


def passages(given: argparse.Namespace) -> int:
    """The strongest passages with their text, which is read from the shards and never stored."""
    from tropescan.shards import Columns, rows, unchanged

    store = Store(given.db, given.wait)
    model = store.model(given.model)
    floor = model["threshold"] if given.threshold is None else given.threshold
    found = store.rows(
        "SELECT f.path, f.shard, f.bytes, f.tag, p.row, d.id, d.url, p.start_char, p.end_char, p.score, p.intensity, p.frame, p.admirable "
        "FROM passages p JOIN documents d USING (shard, model, row) JOIN files f USING (shard, model) "
        "WHERE p.model = ? AND p.score >= ? AND p.audited IS NULL AND (? IS NULL OR ends_with(f.path, ?)) "
        "ORDER BY p.score DESC, f.path, p.row, p.start_char LIMIT ?",
        [model["model"], floor, given.shard, given.shard, given.top],
    )
    texts: dict[tuple[str, int], str] = {}
    for path in {r["path"] for r in found}:
        wanted = {r["row"] for r in found if r["path"] == path}
        one = next(r for r in found if r["path"] == path)
        file = unchanged(path, one["shard"], one["bytes"], one["tag"])
        for row, text in rows(file, Columns(given.text_column), wanted).items():
            texts[path, row] = text
    out = console()
    names = short_names(sorted({r["path"] for r in found}))
    for r in found:
        text = texts.get((r["path"], r["row"]), "")[r["start_char"] : r["end_char"]]
        if given.json:
            print(
                orjson.dumps(
                    {k: v for k, v in r.items() if k not in ("shard", "bytes", "tag")} | {"text": text}
                ).decode()
            )
            continue
        out.print(f"{r['score']:.4f}", style="bold", end="")
        out.print(f"  intensity {r['intensity']:.1f}  {r['frame']}  ", end="")
        out.print(f"{names[r['path']]} row {r['row']} id {r['id']} characters {r['start_char']}-{r['end_char']}")
        out.print(passage_text(text.strip()))
        out.print()
    if not found and not given.json:
        stored = "" if floor >= model["hit_floor"] else f" is stored (those below {model['hit_floor']:g} never are)"
        out.print(f"no passage with a score of {floor:g} or more{stored}")
    return 0


def query(given: argparse.Namespace) -> int:
    """The rows of one SELECT."""
    table = Store(given.db, given.wait).query(given.sql)
    names = table.column_names
    rows = [list(map(_value, r)) for r in zip(*[c.to_pylist() for c in table.columns], strict=True)] if names else []
    if given.json:
        if twice := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
            raise QueryError(f"two columns are called {twice[0]}, which JSON cannot hold: name them with AS")
        for row in rows:
            print(orjson.dumps(dict(zip(names, row, strict=True)), default=str).decode())
    elif given.csv:
        _csv(names, rows)
    else:
        console().print(rows_table(names, rows))
    return 0


def _value(value: Any) -> Any:
    """A number for DuckDB's sums, whose type holds more than 64 bits."""
    if not isinstance(value, Decimal):
        return value
    return int(value) if value == value.to_integral_value() and abs(value) < 1 << 63 else float(value)


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
