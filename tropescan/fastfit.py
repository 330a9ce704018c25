"""Fits the fast tier: its vocabulary and its linear model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tropescan.fast import features
from tropescan.lexicon import Keys, Known, Lexicon, gather, keys, mentions, nearness, placeable
from tropescan.schema import Bytes, Floats, Ints, buffers, texts

MIN_PASSAGES = 3  # a word or mention seen in fewer passages is left out
C = 8.0  # inverse regularisation strength, chosen by average precision out of source (reports/log.md), as is what follows
SOFT = 2.0  # weight of an unlabelled passage, judged by the encoder, against a labelled one
ANCHORS = (
    "ai ais agi asi robot robots android androids computer computers machine machines bot bots chatbot chatbots llm llms model models agent agents "
    "assistant system systems superintelligence superintelligent intelligence algorithm program programs mind minds drone drones cyborg cyborgs "
    "droid droids automaton automata cylon cylons replicant replicants skynet hal terminator ultron glados claude gpt chatgpt gemini grok opus sonnet"
)


def packed(written: list[str]) -> tuple[Bytes, Ints]:
    """The bytes of these texts and where each begins (n + 1)."""
    values, offsets = buffers(texts(pa.array(written, pa.large_string()))[0])
    return gather(values, offsets[:-1], offsets[1:])


def fit_fast(written: list[str], target: Floats, labelled: int) -> dict[str, Any]:
    """The arrays of a fast.FastTier.

    `target` (n, outputs) holds 0 or 1 for the first `labelled` passages, for the others the encoder's probability (Hinton et al. 2015,
    distillation).
    """
    values, offsets = packed(written)
    marks = np.sort(_hashed(ANCHORS.split()))
    known, df = _vocabulary(values, offsets, marks)
    idf = (np.log(len(written) / df) + 1.0).astype(np.float32)
    weight = np.where(np.arange(len(written)) < labelled, 1.0, SOFT)
    read = Lexicon(known, marks).read(values, offsets)
    weights, bias = _linear(read, idf.astype(np.float64), target, weight)
    return {
        "keys": known,
        "anchors": marks,
        "idf": idf,
        "weights": weights.astype(np.float16),
        "bias": bias.astype(np.float32),
    }


def _vocabulary(values: Bytes, offsets: Ints, marks: Keys) -> tuple[Keys, Ints]:
    """The keys (k,) of words and mentions that enough passages hold, with how many do; anchors are kept however rare."""
    found = keys(values, offsets)
    mention, owner = mentions(found, nearness(found.owner, np.isin(found.key, marks)))
    pairs = np.stack([np.concatenate([found.key, mention]), np.concatenate([found.owner, owner]).astype(np.uint64)], 1)
    vocabulary, df = np.unique(np.unique(pairs, axis=0)[:, 0], return_counts=True)
    lacking = np.setdiff1d(marks, vocabulary)
    vocabulary, df = np.concatenate([vocabulary, lacking]), np.concatenate([df, np.full(len(lacking), MIN_PASSAGES)])
    keep = (df >= MIN_PASSAGES) | np.isin(vocabulary, marks)
    order = np.argsort(vocabulary[keep])
    vocabulary, df = vocabulary[keep][order], df[keep][order]
    fits = placeable(vocabulary)
    return vocabulary[fits], df[fits]


def _linear(read: Known, idf: Floats, target: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Logistic regressions, one an output: weights (k, outputs) and bias (outputs,)."""
    from scipy.sparse import csr_matrix, vstack
    from sklearn.linear_model import LogisticRegression

    row, column, value = features(read, idf)
    matrix = csr_matrix((value, (row, column)), shape=(read.n, len(idf)))
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    norm[norm == 0] = 1.0
    matrix = csr_matrix(matrix.multiply(1.0 / norm[:, None]))
    weights, bias = np.zeros((len(idf), target.shape[1])), np.zeros(target.shape[1])
    for i in range(target.shape[1]):
        if not 0 < target[:, i].mean() < 1:  # one answer alone teaches nothing but itself
            bias[i] = 10.0 if target[0, i] else -10.0
            continue
        # a probability is a passage twice, once for each answer, weighed by how likely the answer is
        yes, no = np.flatnonzero(target[:, i] > 0), np.flatnonzero(target[:, i] < 1)
        answer = np.concatenate([np.ones(len(yes)), np.zeros(len(no))])
        share = np.concatenate([weight[yes] * target[yes, i], weight[no] * (1 - target[no, i])])
        head = LogisticRegression(C=C, solver="liblinear", random_state=0)
        head.fit(vstack([matrix[yes], matrix[no]]), answer, sample_weight=share)
        weights[:, i], bias[i] = head.coef_[0], head.intercept_[0]
    return weights, bias


def _hashed(spelled: list[str]) -> Keys:
    """The keys (n,) of these words, each of which is one word."""
    found = keys(*packed(spelled)).key
    if len(found) != len(spelled):
        raise ValueError("what is hashed is not one word each")
    return found
