"""Word and pair keys are those of an obvious reference, and a passage's outputs do not depend on its neighbours."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tropescan import lexicon
from tropescan.schema import Bytes, Ints

TEXTS = st.lists(st.text(st.sampled_from("abcXYZ09 .,'\n\té漢\U0001f916-"), max_size=80), min_size=1, max_size=8)
MASK = (1 << 64) - 1


def gathered(texts: list[str]) -> tuple[Bytes, Ints]:
    raw = [t.encode() for t in texts]
    ends = np.cumsum([len(r) for r in raw])
    return lexicon.gather(np.frombuffer(b"".join(raw), np.uint8), ends - [len(r) for r in raw], ends)


def mix(h: int) -> int:
    h = ((h ^ (h >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    return h ^ (h >> 29)


def reference(text: str) -> list[int]:
    """The keys of a text, word by word."""
    words = []
    for word in re.findall(rb"[a-z0-9\x80-\xff]+", text.encode().lower()):
        words.append(mix(sum(byte * pow(0x9E3779B97F4A7C15, i, 1 << 64) for i, byte in enumerate(word)) & MASK))
    return sorted(words + [mix((a * 0xC2B2AE3D27D4EB4F + b) & MASK) for a, b in zip(words, words[1:], strict=False)])


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_keys_are_those_of_the_reference(texts: list[str]) -> None:
    key, owner = lexicon.keys(*gathered(texts))
    for i, text in enumerate(texts):
        assert sorted(int(k) for k in key[owner == i]) == reference(text)


def test_blocks_join_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"passage number {i} holds some words of its own" for i in range(50)]
    whole = lexicon.keys(*gathered(texts))
    monkeypatch.setattr(lexicon, "_BLOCK", 128)
    parts = lexicon.keys(*gathered(texts))
    for i in range(50):
        assert sorted(whole[0][whole[1] == i]) == sorted(parts[0][parts[1] == i])


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(0, 2**32 - 1))
def test_outputs_do_not_depend_on_neighbours(texts: list[str], seed: int) -> None:
    key, _ = lexicon.keys(*gathered(texts))
    known = np.unique(key)
    rng = np.random.default_rng(seed)
    model = lexicon.Lexicon(
        known, rng.random(len(known)) * 9, rng.normal(size=(len(known), 3)).astype("f4"), np.zeros(3)
    )
    together = model.logits(*gathered(texts))
    alone = np.concatenate([model.logits(*gathered([t])) for t in texts])
    assert together.tobytes() == alone.tobytes()


def test_unknown_words_are_unknown_and_shared_slots_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 1 << 63, 60_000, dtype=np.uint64) * np.uint64(2))
    keys = keys[lexicon.placeable(keys)]
    assert len(keys) > 59_900
    model = lexicon.Lexicon(keys, np.ones(len(keys)), np.zeros((len(keys), 1), "f4"), np.zeros(1))
    assert (model.find(keys) == np.arange(len(keys))).all()
    assert (model.find(keys + np.uint64(1)) == -1).all()
