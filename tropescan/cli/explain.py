"""tropescan explain."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from tropescan.errors import InputError, NoSuchPath
from tropescan.passages import cut
from tropescan.report import console, passage_text
from tropescan.schema import FACETS


def explain(given: argparse.Namespace) -> int:
    """Shows every passage of one document: its scores, and the gate's terms highlighted."""
    text = _text(given)
    from tropescan.scanner import Scanner

    scanner = Scanner(given.model, depth=given.depth, audit=0.0)
    scores = scanner.scan(pa.record_batch({"text": pa.array([text], pa.large_string())})).to_pylist()[0]
    judged = {h["passage"]: h for h in scores["hits"]}
    fired = scanner.gate.fired(text)
    found: list[dict[str, Any]] = []
    for number, (start, end) in enumerate(cut(text)):
        terms = [(a, b, t) for a, b, t in fired if start < b <= end]
        found.append(
            {"passage": number, "start_char": start, "end_char": end, "terms": terms, "judged": judged.get(number)}
        )
    if given.json:
        print(
            orjson.dumps(
                {"model": scanner.key, "score": scores["score"], "fast_score": scores["fast_score"], "passages": found}
            ).decode()
        )
        return 0
    out = console()
    best = "null (no passage reached the last tier)" if scores["score"] is None else f"{scores['score']:.4f}"
    out.print(f"{scanner.key}: document score {best}, {len(found)} passages, threshold {scanner.threshold:g}")
    for p in found:
        out.print(f"\npassage {p['passage']}, characters {p['start_char']}-{p['end_char']}: {_verdict(p)}")
        if p["terms"]:
            out.print("gate: " + ", ".join(sorted({t for _, _, t in p["terms"]})))
        marks = [(max(0, a - p["start_char"]), b - p["start_char"], t) for a, b, t in p["terms"]]
        out.print(passage_text(text[p["start_char"] : p["end_char"]], marks))
    return 0


def _verdict(p: dict[str, Any]) -> str:
    judged = p["judged"]
    if judged is None:
        return "below the hit floor, or not passed by a tier"
    if judged["score"] is None:
        return f"score null, fast tier {judged['fast_score']:.4f}"
    facets = ", ".join(f"{f} {judged[f]:.2f}" for f in FACETS if judged[f] >= 0.3) or "no facet over 0.3"
    head = f"score {judged['score']:.4f}, fast tier {judged['fast_score']:.4f}, intensity {judged['intensity']:.1f}"
    return f"{head}, frame {judged['frame']}, {facets}"


def _text(given: argparse.Namespace) -> str:
    if (given.text is None) == (given.doc is None):
        raise InputError("explain takes a text, a file or --doc ID: give one of them")
    if given.doc is not None:
        return _stored(given)
    if given.text == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    path = Path(given.text)
    try:
        if path.is_file():
            return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        if error.errno != 36:  # a text too long for a file name is a text
            raise NoSuchPath(f"{path} cannot be read: {error.strerror}") from None
    return os.fsencode(given.text).decode("utf-8", "replace")


def _stored(given: argparse.Namespace) -> str:
    from tropescan.shards import Columns, rows, unchanged
    from tropescan.store import Store

    if not given.db:
        raise InputError("--doc needs --db FILE, the database of the corpus")
    store = Store(given.db, given.wait)
    path, _, row = given.doc.rpartition(":")
    # any_value: scans at two depths may have found the same file at two times
    found = store.rows(
        "SELECT path, shard, any_value(bytes) AS bytes, any_value(tag) AS tag, row FROM documents JOIN files USING (shard, model) WHERE id = ? "
        "GROUP BY path, shard, row ORDER BY path, row",
        [given.doc],
    )
    if not found and path and row.isdigit():
        found = store.rows(
            "SELECT path, shard, any_value(bytes) AS bytes, any_value(tag) AS tag, ?::BIGINT AS row FROM files "
            "WHERE path = ? OR ends_with(path, '/' || ?) GROUP BY path, shard ORDER BY path",
            [int(row), path, path],
        )
    if not found:
        raise InputError(
            f"no kept document has id '{given.doc}': documents that the gate refused keep no id, name them as PATH:ROW"
        )
    if len(found) > 1:
        several = ", ".join(f"{r['path']}:{r['row']}" for r in found[:5]) + ", ..." * (len(found) > 5)
        raise InputError(f"'{given.doc}' names {len(found)} documents: give one of {several}")
    one = found[0]
    file = unchanged(one["path"], one["shard"], one["bytes"], one["tag"])
    texts = rows(file, Columns(given.text_column), {one["row"]})
    if one["row"] not in texts:
        raise InputError(f"{one['path']} has no row {one['row']}")
    return texts[one["row"]]
