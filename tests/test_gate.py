"""The gate gives exactly what Python's `re` gives on every document alone, however the documents lie in the buffer."""

from __future__ import annotations

import re
from pathlib import Path

import hyperscan
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tropescan import gate, passages, schema
from tropescan.errors import ModelError
from tropescan.gate import matching

TERMS = gate.parse((ROOT / "models" / "evil-ai" / "gate.txt").read_text())
GATE = gate.Gate(TERMS)
ALL = gate.Matcher(TERMS)
PATTERNS = [re.compile(t.pattern, 0 if t.exact else re.IGNORECASE) for t in TERMS]
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
        for number, pattern in enumerate(PATTERNS):
            at = 0
            while match := pattern.search(raw, at):  # every start is tried: matches may overlap
                found.add((int(offsets[row]) + match.end() - 1, number))
                at = match.start() + 1
    return found


def hits(documents: list[str], sliced: bool = False) -> tuple[list[tuple[int, int]], np.ndarray]:
    column = pa.array(["robot AI" if sliced else "", *documents])[1:]
    values, offsets = schema.buffers(column)
    return [(int(p), int(t)) for ps, ts in ALL.hits(values, offsets) for p, t in zip(ps, ts, strict=True)], offsets


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
        monkeypatch.setattr(matching, "SEGMENT", size)
        assert sorted(hits(documents)[0]) == sorted(whole)


def test_joins_hide_and_make_no_match() -> None:
    found, _ = hits(["a cat", "AI", "s", "kill", "er robot", "war", "machine"])
    assert {TERMS[t].text for _, t in found} == {"ai", "robot*", "kill*", "war", "machine(s)"}
    assert "=AIs" in {t.text for t in TERMS}  # what "AI" and "s" would make


@settings(max_examples=50, deadline=None)
@given(DOCUMENTS, st.integers(5, 40))
def test_a_passage_passes_as_its_own_terms_say(documents: list[str], size: int) -> None:
    """Passages of `size` bytes: those pass in which a strong match ends, or a weak one and one of a trope term."""
    values, offsets = schema.buffers(pa.array(documents))
    spans = [
        (a, min(a + size, high), low, high)
        for low, high in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        for a in range(low, high, size)
    ]
    if not spans:
        return
    begin, end, low, high = np.array(spans).T
    bits = np.zeros(len(spans), np.uint8)
    for position, group in GATE.hits(values, offsets):
        np.bitwise_or.at(bits, np.searchsorted(begin, position, side="right") - 1, group)
    expected = np.zeros(len(spans), np.uint8)
    for place, number in reference(documents, offsets):
        expected[np.searchsorted(begin, place, side="right") - 1] |= TERMS[number].group
    both = gate.WEAK | gate.TROPE
    wanted = ((expected & gate.STRONG) != 0) | ((expected & both) == both)
    assert GATE.passes(values, bits, begin, end, low, high).tolist() == wanted.tolist()


def test_more_spans_than_one_call_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the machine will kill. " * 50 + "the machine hums. " * 50
    values, _ = schema.buffers(pa.array([text]))
    n = int(passages.count(np.array([len(text)]))[0]) * 20
    edge = np.linspace(0, len(text), n + 1).astype(np.int64)
    zero, whole = np.zeros(n, np.int64), np.full(n, len(text))
    weak = np.full(n, gate.WEAK, np.uint8)
    at_once = GATE.passes(values, weak, edge[:-1], edge[1:], zero, whole)
    monkeypatch.setattr(matching, "_BLOCK", 3)
    assert GATE.passes(values, weak, edge[:-1], edge[1:], zero, whole).tolist() == at_once.tolist()
    assert at_once.any() and not at_once.all()


def test_a_kept_database_is_taken_and_a_damaged_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    terms = gate.parse("[strong]\nrobot(s)\n")
    (values, offsets), wanted = schema.buffers(pa.array(["two robots"])), [(9, 0)]

    def found() -> list[tuple[int, int]]:
        return [
            (int(p), int(t))
            for ps, ts in gate.Matcher(terms).hits(values, offsets)
            for p, t in zip(ps, ts, strict=True)
        ]

    assert found() == wanted
    (kept,) = (tmp_path / "tropescan").iterdir()
    whole = kept.read_bytes()
    with monkeypatch.context() as nothing_compiles:
        nothing_compiles.setattr(hyperscan, "Database", None)
        assert found() == wanted
    for damaged in (whole[:-1], whole[:50] + bytes([whole[50] ^ 1]) + whole[51:], b""):
        kept.write_bytes(damaged)
        assert found() == wanted and kept.read_bytes() == whole
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # cannot be written
    assert found() == wanted


def test_what_may_follow_a_term_that_ends_in_no_word() -> None:
    terms = gate.Gate(gate.parse("[strong]\nA.I.(s)\nGPT-*\nrobot(s)\n"))
    for text, wanted in (
        ("the A.I. lied", ["A.I."]),
        ("the A.I.s lied", ["A.I.s"]),
        ("the A.I.x lied", ["A.I."]),
        ("GPT- and GPT-4o", ["GPT-", "GPT-4o"]),
        ("robotss", []),
    ):
        assert [text[a:b] for a, b, _ in terms.fired(text)] == wanted
        values, offsets = schema.buffers(pa.array([text]))
        assert sum(len(p) for p, _ in terms.hits(values, offsets)) >= bool(wanted)


def test_what_fills_up_a_small_gate_is_no_term() -> None:
    terms = gate.Gate(gate.parse("[strong]\nrobot(s)\n[weak]\nmachine\n[trope]\nkill"))
    text = "\0tropescan-filler-0\0 a machine \0tropescan-filler-3\0"
    values, offsets = schema.buffers(pa.array([text]))
    (found,) = [p.tolist() for p, _ in terms.hits(values, offsets) if len(p)]
    assert found == [text.index("machine") + 6]
    edge = np.array([0]), np.array([len(text)])
    assert not terms.passes(values, np.array([gate.WEAK], np.uint8), *edge, *edge).any()


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
        ("[strong]\nrobot\n=", "line 3: '=' names nothing"),
        ("[strong]\n*", "line 2: '*' names nothing"),
        ("[strong]\n(s)", "line 2: '(s)' names nothing"),
        ("[strong]\nro\0bot", "line 2: 'ro\\x00bot' holds a NUL"),
        ("[strong]\n" + "robot " * 4000, "is longer than 200 bytes"),
    ],
)
def test_a_bad_gate_file_is_refused_with_its_line(source: str, said: str) -> None:
    with pytest.raises(ModelError, match=re.escape(said)):
        gate.parse(source)
