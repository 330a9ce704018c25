"""The compute seam: one row out for each row in, same scores whatever the batch, spans that slice back."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import EVIL, PLAIN, sample_documents
from tropescan import schema
from tropescan.errors import InputError, ModelError, WrongColumnType
from tropescan.passages import cut
from tropescan.scanner import Scanner

FAST = Scanner(depth="fast", audit=0.2)
TEXTS = [d["text"] for d in sample_documents()]
SOME = st.lists(
    st.one_of(
        st.sampled_from(TEXTS),
        st.sampled_from([EVIL, PLAIN, "", "\r\n", "\x00AI\x00", "e\u0301\U0001f916 robot"]),
        st.text(max_size=300),
    ),
    min_size=1,
    max_size=25,
)


def batch(texts: object, kind: pa.DataType | None = None) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, kind or pa.string())})


@settings(max_examples=25, deadline=None)
@given(SOME, st.integers(1, 7))
def test_batches_do_not_change_a_row(texts: list[str], size: int) -> None:
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    whole = FAST.scan(batch(texts))
    assert whole.schema == schema.SCORES and len(whole) == len(texts)
    parts = [FAST.scan(batch(texts[i : i + size])) for i in range(0, len(texts), size)]
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()


@settings(max_examples=25, deadline=None)
@given(SOME)
def test_spans_slice_back_to_passages(texts: list[str]) -> None:
    texts = [t.encode("utf-8", "replace").decode() for t in texts]
    for text, row in zip(texts, FAST.scan(batch(texts)).to_pylist(), strict=True):
        assert row["characters"] == len(text) and row["passages"] == len(cut(text))
        spans = cut(text)
        for hit in row["hits"]:
            assert spans[hit["passage"]] == (hit["start_char"], hit["end_char"])


def test_full_depth_is_the_same_in_any_batch() -> None:
    scanner = Scanner(depth="full", audit=0.1)
    texts = [EVIL, *[d["text"] for d in sample_documents() if d["id"].startswith("stories")][:20]]
    whole = scanner.scan(batch(texts)).to_pylist()
    assert [scanner.scan(batch([t])).to_pylist()[0] for t in texts] == whole
    assert scanner.scan(batch(texts[::-1])).to_pylist()[::-1] == whole
    assert sum(r["encoded"] for r in whole) > 10 and max(r["score"] or 0 for r in whole) > scanner.threshold


def test_lean_gives_the_scores_of_full_to_fewer_passages() -> None:
    full, lean = (Scanner(depth=d, audit=0.0) for d in ("full", "lean"))
    texts = [EVIL, PLAIN, *TEXTS[::3]]
    hits: list[dict[tuple[int, int], Any]] = []
    every, fewer = full.scan(batch(texts)).to_pylist(), lean.scan(batch(texts)).to_pylist()
    for rows in (every, fewer):
        hits.append({(i, h["passage"]): h for i, r in enumerate(rows) for h in r["hits"]})
    floor = lean.model.config["fast_floor"]["lean"]
    assert {at: h for at, h in hits[0].items() if h["fast_score"] >= floor} == hits[1] and len(hits[1]) < len(hits[0])
    assert 0 < sum(r["encoded"] for r in fewer) < sum(r["encoded"] for r in every)
    assert [r["fast_score"] for r in fewer] == [r["fast_score"] for r in every]
    assert all(r["score"] is None for r in fewer if (r["fast_score"] or 0) < floor)


def test_the_strongest_passage_is_found_deep_in_a_long_document() -> None:
    text = (PLAIN + " ") * 3000 + EVIL + (" " + PLAIN) * 3000
    row = FAST.scan(batch([text])).to_pylist()[0]
    hit = max((h for h in row["hits"] if not h["audited"]), key=lambda h: h["score"])
    assert "kill every human" in text[hit["start_char"] : hit["end_char"]]
    assert row["score"] == hit["score"] and row["score"] > FAST.threshold and row["candidates"] in (1, 2)


def test_null_is_not_zero() -> None:
    rows = Scanner(depth="fast", audit=0.0).scan(batch([PLAIN, None, "", EVIL])).to_pylist()
    assert [r["score"] is None for r in rows] == [True, True, True, False]
    assert [r["null_text"] for r in rows] == [False, True, False, False]
    assert [r["passages"] for r in rows] == [1, 0, 0, 1]
    assert rows[0]["fast_score"] is None and rows[0]["frame"] is None and rows[0]["hits"] == []


def test_the_audit_draws_refused_passages_and_leaves_scores_alone() -> None:
    texts = [f"{PLAIN} Bed number {i}." for i in range(400)]
    rows = FAST.scan(batch(texts)).to_pylist()
    drawn = [r for r in rows if r["audited"]]
    assert 40 < len(drawn) < 130  # 400 documents at a share of 0.2
    assert all(
        r["score"] is None and r["hits"][0]["audited"] == "gate" and r["hits"][0]["weight"] == 5.0 for r in drawn
    )
    assert not any(r["audited"] for r in Scanner(depth="fast", audit=0.0).scan(batch(texts)).to_pylist())


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
)
def test_any_column_that_holds_text(kind: pa.DataType) -> None:
    column = pa.array([EVIL, None, PLAIN], pa.string())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    rows = FAST.scan(pa.record_batch({"text": column})).to_pylist()
    assert rows == FAST.scan(batch([EVIL, None, PLAIN])).to_pylist()


def test_a_null_column_holds_null_texts_and_a_number_is_refused() -> None:
    assert [r["null_text"] for r in FAST.scan(batch([None, None], pa.null())).to_pylist()] == [True, True]
    with pytest.raises(WrongColumnType, match="int64"):
        FAST.scan(batch([1, 2], pa.int64()))


def test_invalid_utf8_is_repaired_and_told() -> None:
    raw = EVIL.encode() + b" \xff\xfe\xc3"
    column = pa.array([PLAIN.encode(), raw]).view(pa.string())
    rows = FAST.scan(pa.record_batch({"text": column})).to_pylist()
    text = raw.decode("utf-8", "replace")
    assert [r["repaired"] for r in rows] == [False, True] and rows[1]["characters"] == len(text)
    assert rows[1]["score"] == FAST.scan(batch([text])).to_pylist()[0]["score"]


def test_a_slice_of_a_batch_is_scanned_as_itself() -> None:
    whole = batch([EVIL, PLAIN, EVIL + PLAIN, "", EVIL])
    assert FAST.scan(whole.slice(2, 2)).to_pylist() == FAST.scan(whole).to_pylist()[2:4]
    assert len(FAST.scan(whole.slice(0, 0))) == 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="no such depth"):
        Scanner(depth="deep")
    with pytest.raises(ModelError, match="no model 'nothing'"):
        Scanner("nothing", depth="fast")
