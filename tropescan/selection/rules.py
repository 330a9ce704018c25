"""Rules: SQL expressions over stored scores, the columns they may name, and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from tropescan.errors import RuleError
from tropescan.schema import FACETS
from tropescan.store.expressions import expression

_ABOUT = {
    "path": "VARCHAR",
    "row": "BIGINT",
    "id": "VARCHAR",
    "url": "VARCHAR",
    "domain": "VARCHAR",
    "characters": "BIGINT",
    "passages": "BIGINT",
    "audited": "BOOLEAN",
}
_JUDGED = {"fast_score": "DOUBLE", "score": "DOUBLE", "intensity": "DOUBLE", "frame": "VARCHAR", "admirable": "DOUBLE"}
_FACETS = {f: "DOUBLE" for f in FACETS}
DOCUMENT = _ABOUT | _JUDGED | _FACETS
"""What a rule over documents may name: columns of `documents`, the path of the shard, and the facets of the strongest passage."""
PASSAGE = DOCUMENT | {"passage": "INTEGER", "start_char": "BIGINT", "end_char": "BIGINT"}
"""What a rule over passages may name: scores, frame and facets are the passage's own, the rest is its document's."""

POOL = "score < 0.05"
"""Which documents replace what was removed, unless told otherwise."""

_PRESETS = {
    "strict": ("default", "score >= {t:g}"),
    "balanced": ("precision_0.8", "score >= {t:g}"),
    "keep-discussion": (
        "precision_0.8",
        "score >= {t:g} AND frame NOT IN ('reference', 'report', 'argument')",
    ),
}
PRESETS = tuple(_PRESETS)


@dataclass(frozen=True)
class Rule:
    """A rule as it was given, and the SQL that DuckDB made of it after it was checked."""

    text: str
    sql: str


def condition(text: str, columns: dict[str, str]) -> Rule:
    """A rule that holds or not; where it gives null it does not hold. Raises RuleError."""
    return Rule(text.strip(), expression(text, columns, "boolean"))


def number(text: str) -> Rule:
    """A rule that gives each document a number. Raises RuleError."""
    return Rule(text.strip(), expression(text, DOCUMENT, "number"))


def preset(name: str, model: dict[str, Any]) -> str:
    """The SQL of a preset at the thresholds stored with this row of `models`; the figures are written out, so that the rule says all by itself."""
    which, sql = _PRESETS[name]
    known = orjson.loads(model["thresholds"])
    if which not in known:
        raise RuleError(
            f"model {model['model']} has no threshold '{which}', which preset {name} needs: give the rule with --where"
        )
    return sql.format(t=known[which]["threshold"])
