"""Passages cover a document without gap or overlap, whatever is in it, and are found without cutting the rest."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tropescan import passages

PIECES = st.sampled_from(
    [
        "word ",
        "A sentence. ",
        "para\n\n",
        "line\r\n",
        "\r\n\r\n",
        "é",
        "e\u0301",
        "\U0001f916",
        "漢字。",
        "\x00",
        "x" * 70,
        "\u200b",
        "“Quoted.” ",
        "\t",
    ]
)
TEXTS = st.lists(PIECES, max_size=900).map("".join)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_spans_slice_back_to_the_document(text: str) -> None:
    spans = passages.cut(text)
    assert "".join(text[a:b] for a, b in spans) == text
    assert all(a < b for a, b in spans)
    assert [a for a, _ in spans[1:]] == [b for _, b in spans[:-1]]


@settings(max_examples=40, deadline=None)
@given(TEXTS.filter(bool), st.data())
def test_the_passage_of_a_byte_is_found_alone(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    values = np.frombuffer(raw, np.uint8)
    position = data.draw(st.integers(0, len(raw) - 1))
    number = int(passages.holding(values, np.array([0]), np.array([len(raw)]), np.array([position]))[0])
    edges = [len(text[:a].encode()) for a, _ in passages.cut(text)] + [len(raw)]
    assert edges[number] <= position < edges[number + 1]


def obvious_cut(raw: bytes, even: int) -> int:
    """The best place for a cut within REACH of `even`, by trying all: the highest rank, then the nearest, then the earlier."""

    def rank(at: int) -> int:
        here, before = raw[at], raw[:at]
        if before.endswith("。".encode()):
            return 2
        if bytes([here]).isspace() or not before[-1:].isspace():
            return -1 if here & 0xC0 == 0x80 else 0
        if before.endswith((b"\n\n", b"\n\r\n")):
            return 3
        stop, close = b".!?:;", tuple(bytes([b]) for b in b"\"')]*_\x9d\x99")
        ended = before[:-1]
        closed = ended.endswith(close) and (ended[-2] in stop or ended[-4] in stop)
        return 2 if ended[-1] in stop or closed else 1

    reach = range(even - passages.REACH, even + passages.REACH + 1)
    return max(reach, key=lambda at: (rank(at), -abs(at - even), at < even))


@settings(max_examples=60, deadline=None)
@given(
    st.text(
        st.sampled_from(["a", "e", " ", " ", ".", "\n", "\r", "é", "。", "”", ")", "!", "界", "😀", "_"]),
        min_size=900,
        max_size=900,
    ),
    st.data(),
)
def test_a_cut_lies_at_the_best_place_near(text: str, data: st.DataObject) -> None:
    raw = (text + " " * 10 + "x" * data.draw(st.integers(800, 1500)) + text).encode()
    n = int(passages.count(np.array([len(raw)]))[0])
    for k in range(1, n):
        even = len(raw) * k // n
        found = passages.cuts(np.frombuffer(raw, np.uint8), np.array([0]), np.array([len(raw)]), np.array([k]))
        assert found.tolist() == [obvious_cut(raw, even)]


@settings(max_examples=30, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_neighbours_in_the_buffer_do_not_move_a_cut(before: str, text: str, after: str) -> None:
    raw = [t.encode() for t in (before, text, after)]
    values = np.frombuffer(b"".join(raw), np.uint8)
    n = int(passages.count(np.array([len(raw[1])]))[0])
    k = np.arange(n + 1)
    start = np.full(n + 1, len(raw[0]))
    inside = passages.cuts(values, start, np.full(n + 1, len(raw[1])), k) - len(raw[0])
    alone = passages.cuts(np.frombuffer(raw[1], np.uint8), k * 0, np.full(n + 1, len(raw[1])), k)
    assert inside.tolist() == alone.tolist()


def test_lengths_stay_near_the_target() -> None:
    text = "This is a sentence of some forty characters. " * 2000
    lengths = [b - a for a, b in passages.cut(text)]
    assert min(lengths) >= passages.TARGET - 2 * passages.REACH and max(lengths) <= passages.TARGET + 2 * passages.REACH
    assert abs(np.mean(lengths) - passages.TARGET) < 10


def test_cuts_prefer_blank_lines_then_sentences() -> None:
    sentence = "Seven words stand in this one sentence. "
    text = sentence * 25 + "End of it.\n\n" + sentence * 26
    spans = passages.cut(text)
    assert text[spans[0][1] - 2 : spans[0][1]] == "\n\n"
    assert all(text[:b].rstrip().endswith(".") for _, b in spans)


def test_an_empty_document_has_no_passage() -> None:
    assert passages.cut("") == []
    assert passages.count(np.array([0, 1, 1499, 1500, 200_000_000])).tolist() == [0, 1, 1, 2, 200_000]
