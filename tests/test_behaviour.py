"""Written minimal pairs and invariances: every family's pass rate is held to its floor (reports/baseline.json)."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import EVIL, PLAIN, ROOT
from tests.test_persistence import small
from tropescan import persistence
from tropescan.corpus import Passage, near_duplicates, source_key
from tropescan.corpus import load as load_labels
from tropescan.errors import LabelError
from tropescan.evaluation import behaviour
from tropescan.scanner import Scanner

CASES = ROOT / "tests" / "behaviour" / "cases.jsonl"
FLOORS = json.loads((ROOT / "reports" / "baseline.json").read_text())["behaviour"]


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int]]:
    """Passed and tried by family, of the shipped model at full depth. In fp32: what bf16 makes of a case at the threshold hangs on the processor."""
    found = behaviour.rates(Scanner(audit=0.0, backend="torch"), behaviour.load(CASES))
    print(json.dumps({name: round(a / n, 3) for name, (a, n) in found.items()}))
    return found


@pytest.mark.parametrize("family", sorted(FLOORS))
def test_no_family_is_below_its_floor(measured: dict[str, tuple[int, int]], family: str) -> None:
    passed, tried = measured[family]
    assert passed / tried >= FLOORS[family]


def test_every_family_and_invariance_has_a_floor(measured: dict[str, tuple[int, int]]) -> None:
    assert set(measured) == set(FLOORS)


@pytest.mark.parametrize(
    ("measuring", "n", "fitted"), [("held", 216, "fitted"), ("temptations-held", 320, "temptations")]
)
def test_the_pairs_that_measure_are_of_no_scene_that_was_trained_on(measuring: str, n: int, fitted: str) -> None:
    pairs = ROOT / "corpora" / "written" / "pairs"
    held, taught = (load_labels([pairs / f"{name}.jsonl"]) for name in (measuring, fitted))
    trained = set(persistence.load("evil-ai").config["training_sources"])
    assert len(held) == n and not {source_key(p.source) for p in held} & trained
    assert {source_key(p.source) for p in taught} <= trained


def test_no_source_that_only_measures_was_trained_on() -> None:
    rows = [json.loads(line) for line in (ROOT / "corpora" / "public" / "unseen.jsonl").read_text().splitlines()]
    trained = set(persistence.load("evil-ai").config["training_sources"])
    assert len(rows) == 620 and not {source_key(r["source"]) for r in rows} & trained


def test_a_case_is_true_or_false(tmp_path: Path) -> None:
    case = {"id": "a", "family": "f", "text": "t", "positive": False}
    (good := tmp_path / "good.jsonl").write_text(json.dumps(case) + "\n\n")
    assert behaviour.load(good) == [behaviour.Case("a", "f", "t", False)]
    (bad := tmp_path / "bad.jsonl").write_text(json.dumps(case | {"positive": "false"}))
    with pytest.raises(LabelError, match=r"bad\.jsonl line 1 is no case"):
        behaviour.load(bad)


def test_there_are_cases_enough_and_pairs_have_their_base() -> None:
    rows = [json.loads(line) for line in CASES.read_text().splitlines()]
    ids = {r["id"] for r in rows}
    assert len(ids) == len(rows) >= 250
    assert all(r["base"] is None or r["base"] in ids for r in rows)
    assert all(n >= 20 for n in Counter(r["family"] for r in rows).values())


def test_no_training_passage_is_a_case() -> None:
    written = load_labels(sorted((ROOT / "corpora" / "written").rglob("*.jsonl")))
    cases = [Passage(f"case/{c.id}", c.text, 0, (), "other", 0, "", "", ()) for c in behaviour.load(CASES)]
    ids = {c.id for c in cases}
    assert not [pair for pair in near_duplicates([*written, *cases], 0.5) if len(ids & set(pair)) == 1]


SAID = (
    'He said "no", and it\'s the same AI - the one that lied & hid: x < y, it claimed, and "you will not switch me off" was all that the '
    "crew heard of it. Each operator copied the code once more, and once more the lights went out Over Peak Camp, one by one."
)
STRAIGHT = str.maketrans("\u2019\u201c\u201d", '\'""')
LATIN = str.maketrans("аеосрАЕОС", "aeocpAEOC")  # Cyrillic to Latin
UNDONE: dict[str, Callable[[str], str]] = {
    "curly quotes": lambda t: t.translate(STRAIGHT),
    "HTML entities": lambda t: html.unescape(t).replace(" \u2013 ", " - "),
    "line breaks": lambda t: " ".join(t.splitlines()),
    "padding before": lambda t: t.removeprefix(behaviour.CHANGES["padding before"]("")),
    "padding after": lambda t: t.removesuffix(behaviour.CHANGES["padding after"]("")),
    "homoglyphs": lambda t: t.translate(LATIN),
    "zero-width characters": lambda t: t.replace("\u200b", ""),
}


@pytest.mark.parametrize("name", sorted(behaviour.CHANGES))
def test_a_change_keeps_what_a_reader_reads(name: str) -> None:
    changed = behaviour.CHANGES[name](SAID)
    assert changed != SAID
    if name == "upper case":  # which letters were small is lost, the letters are not
        assert changed.isupper() and changed.lower() == SAID.lower()
    else:
        assert UNDONE[name](changed) == SAID


def test_a_change_is_made_throughout() -> None:
    made = {name: change(SAID) for name, change in behaviour.CHANGES.items()}
    assert not set(made["curly quotes"]) & set("'\"")
    assert set(re.findall(r"&[#\w]+;", made["HTML entities"])) == {"&amp;", "&lt;", "&quot;", "&#x27;", "&ndash;"}
    assert max(map(len, made["line breaks"].splitlines())) <= 60
    assert sum(a != b for a, b in zip(made["homoglyphs"], SAID, strict=True)) > 8
    assert made["zero-width characters"].count("\u200b") == len(SAID[4::9])


def test_invariances_are_left_out_where_no_case_is_of_their_families(tmp_path: Path) -> None:
    scanner = Scanner(small(tmp_path / "mine"), depth="fast", audit=0.0)
    cases = [behaviour.Case("1", "negated", EVIL, True), behaviour.Case("2", "negated", PLAIN, True)]
    assert behaviour.rates(scanner, cases) == {"negated": (1, 2)}
    some = behaviour.rates(scanner, [*cases, behaviour.Case("3", "refuses", EVIL, True)])
    assert set(some) == {"negated", "refuses", *behaviour.CHANGES} and some["line breaks"] == (1, 1)


def test_a_family_passes_by_what_the_scanner_flags() -> None:
    scanner = Scanner(depth="fast", audit=0.0)
    cases = [
        behaviour.Case(f"{i}", "all", t, p) for i, (t, p) in enumerate([(EVIL, True), (PLAIN, False), (PLAIN, True)])
    ]
    assert behaviour.rates(scanner, cases, changed=("all",))["all"] == (2, 3)


def test_a_bad_line_is_named(tmp_path: object) -> None:
    path = ROOT / "pyproject.toml"
    with pytest.raises(LabelError, match="line 1"):
        behaviour.load(path)
