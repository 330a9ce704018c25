"""tropescan filter and weights."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from tropescan.errors import InputError, ShardError, exit_code, printable, shown
from tropescan.report import console, passage_text, rows_table, share
from tropescan.selection import Done, Plan, Preview, Request, dry, select, weigh
from tropescan.selection.plan import TOKEN
from tropescan.selection.rules import POOL
from tropescan.selection.sources import told
from tropescan.shards import Columns
from tropescan.store import Store

_DOMAINS = 20


def filter(given: argparse.Namespace) -> int:
    """Writes the selection, or with --dry-run what it would do."""
    _require_mode(given)
    _require_unicode(given)
    request = Request(
        mode=given.mode,
        where=given.where,
        preset=given.preset,
        pool=POOL if given.pool is None else given.pool,
        marker=given.marker or "",
        token=TOKEN if given.token is None else given.token,
        end_token=given.end_token,
        around=given.around,
        until_clean=given.until_clean,
        model_dir=given.model_dir,
        unscanned=given.unscanned,
        columns=Columns(given.text_column, given.id_column),
    )
    store = Store(given.db, given.wait)
    if given.dry_run:
        plan, found = dry(store, given.path, request, given.model)
        _preview(plan, found, given.json)
        return 0
    if not given.out:
        raise InputError("filter writes to a folder: give --out DIR, or --dry-run to see what would go")
    done = select(
        store, given.path, Path(given.out), request, model=given.model, workers=given.workers, say=_say(given)
    )
    return _print(done, given)


_OF_MODE = {
    "mask": ("marker", "until_clean", "model_dir"),
    "tag": ("token", "around", "end_token"),
    "replace": ("pool",),
}


def _require_mode(given: argparse.Namespace) -> None:
    """Raises InputError for an option of another mode: who gives it means that one."""
    for mode, options in _OF_MODE.items():
        for option in options:
            if mode != given.mode and getattr(given, option) not in (None, False):
                name = option.replace("_", "-")
                raise InputError(f"--{name} is for --mode {mode}, and this is --mode {given.mode}")


def _require_unicode(given: argparse.Namespace) -> None:
    """Raises InputError for an option that no file or table could hold."""
    for option in ("text_column", "id_column", "out", "marker", "token", "end_token"):
        value = str(getattr(given, option, None) or "")
        if value != printable(value):
            raise InputError(f"--{option.replace('_', '-')} {printable(value)} is not UTF-8: give another")


def weights(given: argparse.Namespace) -> int:
    """Writes the sidecars."""
    _require_unicode(given)
    request = Request(unscanned=given.unscanned, columns=Columns(id=given.id_column))
    store = Store(given.db, given.wait)
    done = weigh(
        store,
        given.path,
        Path(given.out),
        given.rule,
        request,
        model=given.model,
        workers=given.workers,
        say=_say(given),
    )
    return _print(done, given)


def _say(given: argparse.Namespace) -> Any:
    def say(line: str) -> None:
        if sys.stderr.isatty() and not given.json:
            print(f"\r{line}", end="", file=sys.stderr, flush=True)

    return say


def _print(done: Done, given: argparse.Namespace) -> int:
    """The reconciliation: rows in = rows kept + rows removed, shard by shard."""
    failed = {path: {"kind": type(error).__name__, "error": str(error)} for path, error in done.failed.items()}
    if given.json:
        told = asdict(done) | {
            "failed": failed,
            "rows": [{k: v for k, v in r.items() if k not in _COMMON} for r in done.rows],
        }
        print(orjson.dumps(told, default=str).decode())
    else:
        out = console()
        print(f"{done.mode} by {done.model}: {done.rule}")  # rich would change its tabs and :names:
        out.print(_table(done))
        for line in _notes(done, given.out):
            out.print(line, soft_wrap=True)
    for path, error in done.failed.items():
        line = str(error) if path in str(error) else f"{path}: {error}"
        print(f"tropescan: not selected from: {shown(line)}", file=sys.stderr)
    codes = {error.code for error in done.failed.values()}
    return codes.pop() if len(codes) == 1 else exit_code(set()) if not codes else ShardError.code


_COMMON = ("selection", "model", "mode", "rule", "options", "tropescan_version", "selected_at")


def _table(done: Done) -> Table:
    names = ["shard", "rows in", "= kept", "+ removed", "changed", "characters removed", "outcome"]
    rows = [
        [
            r["output"] or r["path"],
            r["rows_in"],
            r["rows_kept"],
            r["rows_removed"],
            r["rows_changed"],
            r["characters_removed"],
            r["outcome"],
        ]
        for r in done.rows
    ]
    keys = ("rows_in", "rows_kept", "rows_removed", "rows_changed", "characters_removed")
    rows.append([f"all {len(done.rows)}", *(sum(r[k] or 0 for r in done.rows) for k in keys), ""])
    return rows_table(names, rows)


def _notes(done: Done, out: str) -> list[str]:
    lines = [
        f"selection {done.selection} -> {out}" + (f"; {done.before} shards were done before" if done.before else "")
    ]
    uncounted = sum(r["rows_in"] is None for r in done.rows)
    if uncounted:
        lines.append(f"{uncounted} of {len(done.rows)} shards cannot be read, so their rows are not counted")
    if done.untouched:
        lines.append(
            f"{done.untouched} documents meet the rule, but none of their stored passages does: they stay as they are"
        )
    if done.mode == "replace":
        removed = sum(r["characters_removed"] for r in done.rows)
        short = (
            "" if done.pool_characters >= 0.99 * removed else f"; {removed - done.pool_characters:,} characters short"
        )
        lines.append(
            f"pool: {done.pool_documents:,} documents with {done.pool_characters:,} characters in {out}/_pool for {removed:,} removed{short}"
        )
    return lines


def _preview(plan: Plan, found: Preview, as_json: bool) -> None:
    if as_json:
        print(
            orjson.dumps(
                {"model": plan.model["model"], "rule": plan.rule.text, "mode": plan.request.mode, **asdict(found)}
            ).decode()
        )
        return
    out = console()
    what = "passages masked" if plan.request.mode == "mask" else "passages tagged" if plan.request.by_passage else ""
    verb = {"drop": "removed", "replace": "removed", "mask": "changed", "tag": "tagged"}[plan.request.mode]
    print(f"{plan.request.mode} by {plan.model['model']}: {plan.rule.text}")
    detail = f", {found.passages:,} {what} (before they are widened to whole sentences)" if what else ""
    out.print(
        f"dry run, nothing written: {found.documents:,} documents {verb}{detail}, {found.characters:,} characters",
        soft_wrap=True,
    )
    if found.untouched:
        out.print(
            f"{found.untouched} documents meet the rule, but none of their stored passages does: they stay as they are"
        )
    if found.unscanned:
        becomes = "copied" if plan.request.unscanned == "keep" else "left out, with all their rows"
        names = told([f"{name} ({state})" for name, state in found.unscanned.items()])
        line = (
            f"{len(found.unscanned)} shards without a whole scan would be {becomes}, and are not counted here: {names}"
        )
        print(shown(line), flush=True)  # a name may look like markup
    if plan.request.mode == "replace":
        out.print(f"pool: {found.pool_documents:,} documents, {found.pool_characters:,} characters")
    out.print(_shares("shard", found.shards, "documents of the shard"))
    if not found.documents:
        return
    out.print(_shares("domain", dict(list(found.domains.items())[:_DOMAINS]), "documents of it that passed the gate"))
    if len(found.domains) > _DOMAINS:
        out.print(f"{_DOMAINS} of {len(found.domains)} domains")
    out.print(_shares("frame", found.frames, "documents of it that passed the gate"))
    for one in found.examples:
        score = "null" if one["score"] is None else f"{one['score']:.4f}"
        out.print(
            f"\n{score} {one['frame']} {one['shard']} row {one['row']} id {one['id']}, {one['characters']:,} characters",
            soft_wrap=True,
        )
        out.print(passage_text(" ".join(one["text"].split())), soft_wrap=True)


def _shares(name: str, rows: dict[str, dict[str, int]], of: str) -> Table:
    table = Table()
    table.add_column(name, overflow="fold")
    for column in (
        "documents",
        f"share of the {of}",
        "characters",
        *(["share of its characters"] if name == "shard" else []),
    ):
        table.add_column(column, justify="right")
    for key, r in rows.items():
        cells = [f"{r['documents']:,}", _share(r["documents"], r["of_documents"]), f"{r['characters']:,}"]
        if name == "shard":
            cells.append(_share(r["characters"], r["of_characters"]))
        table.add_row(Text(key or "(none)"), *cells)
    return table


def _share(part: int, whole: int) -> str:
    return share(part / whole if whole else None)
