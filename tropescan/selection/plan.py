"""A selection as it was asked for, and what the rules make of each shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tropescan.errors import InputError, RuleError
from tropescan.selection import decisions, rules, spans
from tropescan.selection.changes import Change
from tropescan.selection.decisions import Decisions
from tropescan.selection.rules import Rule
from tropescan.selection.sources import Source
from tropescan.shards import Columns
from tropescan.store import Store

MODES = ("drop", "mask", "tag", "replace")
ROUNDS = 8
"""How often a masked document is scored and cut again before it is removed (mask with `until_clean`)."""


TOKEN = "<|ai-trope|>"


@dataclass(frozen=True)
class Request:
    """What to do with the documents that a rule holds for.

    `where` or `preset` is the rule; `pool` chooses the replacements (replace); `marker` stands for what is cut (mask); `token`, `end_token` and
    `around` mark documents, or passages (tag). `until_clean`: masked documents are scored again, by the model in `model_dir`, and cut until the
    rule holds for none of their passages. `unscanned` says what becomes of shards without a whole scan.
    """

    mode: str = "drop"
    where: str | None = None
    preset: str | None = None
    pool: str = rules.POOL
    marker: str = ""
    token: str = TOKEN
    end_token: str | None = None
    around: bool = False
    until_clean: bool = False
    model_dir: str | Path | None = None
    unscanned: str = "refuse"
    columns: Columns = field(default_factory=Columns)

    @property
    def by_passage(self) -> bool:
        return self.mode == "mask" or (self.mode == "tag" and self.around)

    @property
    def closing(self) -> str:
        """The token behind a passage."""
        return self.token if self.end_token is None else self.end_token

    def options(self) -> dict[str, Any]:
        """What tells this selection from another with the same rule and mode."""
        told: dict[str, Any] = {
            "unscanned": self.unscanned,
            "text_column": self.columns.text,
            "id_column": self.columns.id,
        }
        if self.mode == "mask":
            told |= {"marker": self.marker, "until_clean": self.until_clean}
        if self.mode == "tag":
            told |= {"token": self.token, "end_token": self.closing, "around": self.around}
        if self.mode == "replace":
            told |= {"pool": self.pool}
        return told


class Plan:
    """The checked rules of a request on one model's scores. Raises RuleError, InputError."""

    def __init__(self, store: Store, model: dict[str, Any], request: Request) -> None:
        if (request.where is None) == (request.preset is None):
            raise InputError(f"a selection needs one rule: --where SQL or --preset {'|'.join(rules.PRESETS)}")
        if request.mode == "tag" and not request.token:
            raise InputError("--token is empty: a tag has to say something")
        self.store, self.model, self.request = store, model, request
        text = request.where if request.where is not None else rules.preset(str(request.preset), model)
        self.rule = rules.condition(text, rules.PASSAGE if request.by_passage else rules.DOCUMENT)
        self.pool = rules.condition(request.pool, rules.DOCUMENT) if request.mode == "replace" else None
        self.whole: Rule | None = None  # the rule asked of documents, where the request asks it of passages
        if request.by_passage:
            try:
                self.whole = rules.condition(text, rules.DOCUMENT)
            except RuleError:
                self.whole = None  # the rule names what only passages have
        self._recheck: Any = None
        if request.mode == "mask" and request.until_clean:
            from tropescan.selection.recheck import Recheck

            self._recheck = Recheck(model, request.model_dir or model["name"], self.rule)

    def decide(self, source: Source) -> Decisions:
        """What the rule makes of a shard; nothing of one that has no whole scan."""
        if not source.scanned:
            return decisions.none()
        how = decisions.passages if self.request.by_passage else decisions.documents
        return how(self.store, self.model["model"], source, self.rule)

    def untouched(self, source: Source, decided: Decisions) -> int:
        """Documents that the rule holds for though none of their stored passages is flagged (all lie below the hit floor): those stay as they are."""
        if self.whole is None or not source.scanned:
            return 0
        whole = decisions.documents(self.store, self.model["model"], source, self.whole)
        return int((~np.isin(whole.rows, decided.rows)).sum())

    def replacements(self, sources: Sequence[Source], characters: int) -> dict[str, Decisions]:
        """The pool of replacement documents by shard: as many characters, at most, as were removed."""
        if self.pool is None:
            return {}
        return decisions.pool(self.store, self.model["model"], sources, self.rule, self.pool, characters)

    def change(self, source: Source, decided: Decisions, pool: Decisions | None) -> Change:
        """What to do with the shard's rows."""
        request = self.request
        change = Change(decided, self.rule.text)
        if pool is not None:
            change.pool = pool.rows
        if request.mode == "mask":
            facts = {f["row"]: f | {"path": source.file.path} for f in decided.facts.to_pylist()}
            change.rewrite = partial(self._masked, decided, facts)
        elif request.mode == "tag":
            change.rewrite = partial(self._tagged, decided)
        return change

    def _masked(
        self, decided: Decisions, facts: dict[int, dict[str, Any]], rows: list[int], texts: list[str]
    ) -> list[str | None]:
        marker = self.request.marker
        new: list[str | None] = [
            spans.cut(text, spans.widened(text, decided.spans[row]), marker)
            for row, text in zip(rows, texts, strict=True)
        ]
        for attempt in range(ROUNDS if self._recheck else 0):
            here = [i for i, text in enumerate(new) if text]
            again = self._recheck.spans([new[i] for i in here], [facts[rows[i]] for i in here])
            flagged = [(i, s) for i, s in zip(here, again, strict=True) if s]
            if not flagged:
                break
            for i, found in flagged:
                text = str(new[i])
                new[i] = spans.cut(text, spans.widened(text, found), marker) if attempt < ROUNDS - 1 else None
        return new

    def _tagged(self, decided: Decisions, rows: list[int], texts: list[str]) -> list[str | None]:
        token, end = self.request.token, self.request.closing
        if not self.request.around:
            return [token + text for text in texts]
        return [
            spans.wrapped(text, spans.widened(text, decided.spans[row]), token, end)
            for row, text in zip(rows, texts, strict=True)
        ]
