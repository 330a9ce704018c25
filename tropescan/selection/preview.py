"""What a selection would do, out of the stored scores: nothing is written, and no text is read but that of ten examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import md5
from heapq import nsmallest
from typing import Any

import pyarrow.compute as pc

from tropescan.selection.decisions import Decisions
from tropescan.selection.plan import Plan
from tropescan.selection.sources import Source
from tropescan.selection.spans import Span
from tropescan.shards import rows

EXAMPLES = 10


@dataclass
class Preview:
    """What a selection would do. `shards`, `domains` and `frames` give documents and characters that go (or change), and those they are a share of:
    of a shard all that was scanned, of a domain or frame all that the gate passed. `unscanned` says why shards have no whole scan: those are copied
    or left out as they are, and counted nowhere. `examples` are drawn by a hash."""

    documents: int = 0
    characters: int = 0
    passages: int = 0
    untouched: int = 0
    shards: dict[str, dict[str, int]] = field(default_factory=dict)
    domains: dict[str, dict[str, int]] = field(default_factory=dict)
    frames: dict[str, dict[str, int]] = field(default_factory=dict)
    unscanned: dict[str, str] = field(default_factory=dict)
    pool_documents: int = 0
    pool_characters: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


def preview(plan: Plan, sources: Sequence[Source]) -> Preview:
    """Asks the rule of every shard and writes nothing; no text is read but that of the examples."""
    out = Preview(unscanned={s.name: s.state for s in sources if not s.scanned})
    model = plan.model["model"]
    totals = {
        r["shard"]: r
        for r in plan.store.rows("SELECT shard, documents, characters FROM shards WHERE model = ?", [model])
    }
    counted: dict[str, Counter[str]] = {
        k: Counter() for k in ("domain", "frame", "domain characters", "frame characters")
    }
    drawn: list[tuple[str, Source, dict[str, Any], list[Span]]] = []
    for source in sources:
        decided = plan.decide(source)
        size, documents = _size(decided, plan.request.by_passage), len(decided.rows)
        total = totals.get(source.shard, {}) if source.scanned else {}
        of = {f"of_{n}": int(total.get(n, 0)) for n in ("documents", "characters")}
        out.shards[source.name] = {"documents": documents, "characters": size, **of}
        out.documents, out.characters = out.documents + documents, out.characters + size
        out.passages += sum(map(len, decided.spans.values()))
        out.untouched += plan.untouched(source, decided)
        for fact in decided.facts.to_pylist():
            flagged = decided.spans.get(fact["row"], [])
            for name in ("domain", "frame"):
                counted[name][fact[name] or ""] += 1
                size = _length(flagged) if plan.request.by_passage else fact["characters"]
                counted[f"{name} characters"][fact[name] or ""] += size
            key = md5(f"{source.shard}:{fact['row']}".encode(), usedforsecurity=False).hexdigest()
            drawn.append((key, source, fact, flagged))
        drawn = nsmallest(EXAMPLES, drawn, key=lambda d: d[0])
    scanned = [s.shard for s in sources if s.scanned]  # twice, and counted twice, where two files are the same shard
    for name, into in (("domain", out.domains), ("frame", out.frames)):
        known = {
            r["name"]: r["n"]
            for r in plan.store.rows(
                f"SELECT coalesce({name}, '') AS name, count(*) AS n FROM documents JOIN (SELECT unnest(?::VARCHAR[]) AS shard) USING (shard) "
                "WHERE model = ? AND fast_score IS NOT NULL GROUP BY 1",
                [scanned, model],
            )
        }
        for key, n in counted[name].most_common():
            into[key] = {
                "documents": n,
                "characters": counted[f"{name} characters"][key],
                "of_documents": known.get(key, 0),
            }
    pool = plan.replacements(sources, out.characters)
    out.pool_documents = sum(len(d.rows) for d in pool.values())
    out.pool_characters = sum(_size(d, False) for d in pool.values())
    out.examples = list(_examples(plan, drawn))
    return out


def _size(decided: Decisions, by_passage: bool) -> int:
    if by_passage:
        return sum(map(_length, decided.spans.values()))
    return int(pc.sum(decided.facts["characters"]).as_py() or 0)


def _length(spans: Sequence[Span]) -> int:
    return sum(end - start for start, end in spans)


def _examples(plan: Plan, drawn: list[tuple[str, Source, dict[str, Any], list[Span]]]) -> Iterator[dict[str, Any]]:
    for source in {d[1].file.path: d[1] for d in drawn}.values():
        mine = [d for d in drawn if d[1] is source]
        texts = rows(source.file, plan.request.columns, {d[2]["row"] for d in mine})
        for _, _, fact, flagged in mine:
            text = texts.get(fact["row"], "")
            start = flagged[0][0] if flagged else _strongest(plan, source, fact["row"])
            yield {
                **{k: fact[k] for k in ("id", "row", "score", "frame", "domain", "characters")},
                "shard": source.name,
                "text": text[start : start + 300],
            }


def _strongest(plan: Plan, source: Source, row: int) -> int:
    found = plan.store.rows(
        "SELECT start_char FROM passages WHERE shard = ? AND model = ? AND row = ? AND audited IS NULL ORDER BY score DESC NULLS LAST, passage LIMIT 1",
        [source.shard, plan.model["model"], row],
    )
    return int(found[0]["start_char"]) if found else 0
