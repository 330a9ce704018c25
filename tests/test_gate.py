"""The gate gives exactly what Python's `re` gives on every document alone, however the documents lie in the buffer."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tropescan import gate, schema
from tropescan.errors import ModelError

TERMS = gate.parse((ROOT / "models" / "evil-ai" / "gate.txt").read_text())
GATE = gate.Gate(TERMS)
FRAGMENTS = st.sampled_from(
    [
        "robot",
        "robots",
        " ",
        "-",
        "\n",
        "AI",
        "ai",
        "A.I.",
        "x",
        "kill",
        "er robot",
        "killer",
        "é",
        "'",
        "artificial",
        "  intelligence",
        "\r\n",
    ]
    + [
        "machine",
        "\x00",
        "_",
        "artificial intelligence",
        "robo",
        "t",
        ".",
        "superintelligence",
        "war machine",
        "take",
        "over",
        "9",
    ]
)
DOCUMENTS = st.lists(st.lists(FRAGMENTS, max_size=40).map("".join), min_size=1, max_size=9)


def reference(documents: list[str], offsets: np.ndarray) -> set[tuple[int, int]]:
    """Every match of every term in every document alone: position of the last byte in the buffer, term."""
    found = set()
    for row, document in enumerate(documents):
        raw = document.encode()
        for number, term in enumerate(TERMS):
            pattern = re.compile(term.pattern, 0 if term.exact else re.IGNORECASE)
            for start in range(len(raw)):
                if match := pattern.match(raw, start):
                    found.add((int(offsets[row]) + match.end() - 1, number))
    return found


def hits(documents: list[str], sliced: bool = False) -> tuple[list[tuple[int, int]], np.ndarray]:
    column = pa.array(["robot AI" if sliced else "", *documents])[1:]
    values, offsets = schema.buffers(column)
    return [(int(p), int(t)) for ps, ts in GATE.hits(values, offsets) for p, t in zip(ps, ts, strict=True)], offsets


@settings(max_examples=50, deadline=None)
@given(DOCUMENTS, st.booleans())
def test_hits_are_those_of_each_document_alone(documents: list[str], sliced: bool) -> None:
    found, offsets = hits(documents, sliced)
    assert len(found) == len(set(found))
    assert set(found) == reference(documents, offsets)


def test_segments_join_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ["one robot, two killer robots and an artificial  intelligence " * 40, "AI", "", "the war machine"]
    whole, _ = hits(documents)
    for size in (64, 97, 1000):
        monkeypatch.setattr(gate, "SEGMENT", size)
        assert sorted(hits(documents)[0]) == sorted(whole)


def test_joins_hide_and_make_no_match() -> None:
    found, _ = hits(["a cat", "AI", "s", "kill", "er robot", "war", "machine"])
    assert {TERMS[t].text for _, t in found} == {"ai", "robot*", "kill*", "war", "machine(s)"}
    assert "=AIs" in {t.text for t in TERMS}  # what "AI" and "s" would make


def test_weak_terms_need_a_trope_term() -> None:
    bits = np.array([gate.STRONG, gate.WEAK, gate.TROPE, gate.WEAK | gate.TROPE, 0], np.uint8)
    assert gate.passes(bits).tolist() == [True, False, False, True, False]


def test_fired_spans_are_characters() -> None:
    text = "Ünïcödé \U0001f916: the robots' A.I. said nothing"
    assert [text[a:b] for a, b, _ in GATE.fired(text)] == ["robots", "A.I."]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("robot", "before the first"),
        ("[odd]\nx", "no such group"),
        ("[weak]\nmachine", "no term in [strong]"),
        ("", "no term in [strong]"),
    ],
)
def test_a_bad_gate_file_is_refused_with_its_line(source: str, said: str) -> None:
    with pytest.raises(ModelError, match=re.escape(said)):
        gate.parse(source)
