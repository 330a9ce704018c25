"""Words, what is near an anchor, and the fast tier's outputs: those of an obvious reference, and no function of a passage's neighbours."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tropescan import lexicon
from tropescan.detector import OUTPUTS
from tropescan.fast import FastTier
from tropescan.fastfit import fit_fast
from tropescan.schema import Bytes, Ints

TEXTS = st.lists(
    st.text(st.sampled_from("abcXYZ09 .,'\n\té漢\U0001f916-’“\u00a0»⁰₀"), max_size=80), min_size=1, max_size=8
)
MASK = (1 << 64) - 1


def gathered(texts: list[str]) -> tuple[Bytes, Ints]:
    return lexicon.gather(*laid(texts))


def laid(texts: list[str]) -> tuple[Bytes, Ints, Ints]:
    """The texts side by side, with where each begins and ends."""
    raw = [t.encode() for t in texts]
    ends = np.cumsum([len(r) for r in raw])
    return np.frombuffer(b"".join(raw), np.uint8), ends - [len(r) for r in raw], ends


def mix(h: int) -> int:
    h = ((h ^ (h >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    return h ^ (h >> 29)


def reference(text: str) -> list[tuple[int, int]]:
    """The keys of a text's words, and those of their first bytes before they are mixed."""
    out = []
    bare_text = re.sub("[\u0080-\u00bf\u2000-\u207f]", " ", text)
    for word in re.findall(rb"[a-z0-9\x80-\xff]+", bare_text.encode().lower()):
        bare = [
            sum(byte * pow(0x9E3779B97F4A7C15, i, 1 << 64) for i, byte in enumerate(part)) & MASK
            for part in (word, word[: lexicon.PREFIX])
        ]
        out.append((mix(bare[0]), bare[1]))
    return out


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_keys_are_those_of_the_reference(texts: list[str]) -> None:
    found = lexicon.keys(*gathered(texts))
    for i, text in enumerate(texts):
        mine = found.owner == i
        assert list(zip(found.key[mine].tolist(), found.prefix[mine].tolist(), strict=True)) == reference(text)
    assert (np.diff(found.owner) >= 0).all()


def test_blocks_join_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"passage number {i} holds some words of its own" for i in range(50)]
    whole = lexicon.keys(*gathered(texts))
    monkeypatch.setattr(lexicon, "_BLOCK", 128)
    parts = lexicon.keys(*gathered(texts))
    assert all((getattr(whole, c) == getattr(parts, c)).all() for c in ("key", "prefix", "owner"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=120))
def test_what_is_near_an_anchor_is_so_in_its_own_passage(words: list[tuple[int, bool]]) -> None:
    words.sort(key=lambda w: w[0])
    owner, anchor = np.array([w[0] for w in words], np.int64), np.array([w[1] for w in words], bool)
    near = lexicon.nearness(owner, anchor)
    for j in range(len(words)):
        gaps = [j - i for i in range(len(words)) if anchor[i] and owner[i] == owner[j]]
        levels = [k for k, (before, after) in enumerate(lexicon.REACH, 1) if any(-before <= g <= after for g in gaps)]
        assert near[j] == max(levels, default=0)


def tier(known: np.ndarray, seed: int) -> FastTier:
    """A fast tier of random weights on these keys."""
    rng, k = np.random.default_rng(seed), len(known)
    return FastTier(
        {
            "keys": known,
            "anchors": known[::7],
            "idf": rng.random(k) * 9,
            "weights": rng.normal(size=(k, 3)).astype("f2"),
            "bias": rng.normal(size=3),
        }
    )


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(0, 2**32 - 1))
def test_outputs_do_not_depend_on_neighbours(texts: list[str], seed: int) -> None:
    found = lexicon.keys(*gathered(texts))
    mention, _ = lexicon.mentions(found, np.full(len(found.key), 2, np.int8))
    model = tier(np.unique(np.concatenate([found.key, mention])), seed)
    together = model.logits(*laid(texts))
    alone = np.concatenate([model.logits(*laid([t])) for t in texts])
    assert together.tobytes() == alone.tobytes()


def test_outputs_are_those_of_the_formula_in_plain_python() -> None:
    text = "the robot lied and the robot hid while the crew slept in the cold dark ship far from home"
    words = text.split()
    spelled = sorted(set(words))
    key, prefix, _ = lexicon.words(np.frombuffer("\n".join([*spelled, ""]).encode(), np.uint8))
    known = np.sort(np.unique(np.concatenate([key, *(lexicon._mixed(prefix * m) for m in lexicon._NEAR)])))
    rng = np.random.default_rng(3)
    at = {w: int(np.searchsorted(known, k)) for w, k in zip(spelled, key, strict=True)}
    arrays = {
        "keys": known,
        "anchors": known[[at["robot"]]],
        "idf": rng.random(len(known)) * 4 + 1,
        "weights": rng.normal(size=(len(known), 2)),
        "bias": rng.normal(size=2),
    }
    robots = [i for i, w in enumerate(words) if w == "robot"]
    near = [
        max((k for k, (b, a) in enumerate(lexicon.REACH, 1) if any(-b <= j - i <= a for i in robots)), default=0)
        for j in range(len(words))
    ]
    counted: Counter[int] = Counter(at[w] for w in words)
    for w, level in zip(words, near, strict=True):
        for k in range(level):
            mixed = lexicon._mixed(prefix[spelled.index(w)][None] * lexicon._NEAR[k])
            counted[int(np.searchsorted(known, mixed[0]))] += 1
    value = np.zeros(len(known))
    for number, times in counted.items():
        value[number] = arrays["idf"][number] * (1 + np.log(times))
    wanted = value / np.linalg.norm(value) @ arrays["weights"] + arrays["bias"]
    assert near.count(1) > 0 and near.count(2) > 0
    assert np.abs(FastTier(arrays).logits(*laid([text]))[0] - wanted).max() < 0.01


def test_the_fast_tier_is_fitted_on_words_that_are_long_and_not_ascii() -> None:
    rng = np.random.default_rng(0)
    many = ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, 58))) for _ in range(4200)]  # 730 KB of words
    texts = [" ".join(many[i : i + 60]) for i in range(0, len(many), 60)] * 3
    target = np.tile(np.arange(len(texts))[:, None] % 2, len(OUTPUTS)).astype(np.float64)
    arrays = fit_fast(texts, target, len(texts))
    key = lexicon.keys(*gathered(many)).key
    assert len(key) == len(many) and np.isin(key, arrays["keys"]).all() and np.isfinite(arrays["weights"]).all()


def test_unknown_words_are_unknown_and_shared_slots_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 1 << 63, 60_000, dtype=np.uint64) * np.uint64(2))
    keys = keys[lexicon.placeable(keys)]
    assert len(keys) > 59_900
    model = lexicon.Lexicon(keys, keys[:1])
    assert (model.find(keys) == np.arange(len(keys))).all()
    assert (model.find(keys + np.uint64(1)) == -1).all()
