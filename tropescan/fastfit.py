"""Fits the fast tier: its vocabulary, its linear model, its words' vectors and the network on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from tropescan.detector import OUTPUTS, POSITIVE
from tropescan.fast import FastTier, features
from tropescan.lexicon import Keys, Known, Lexicon, gather, keys, mentions, nearness, placeable
from tropescan.schema import Bytes, Floats, Ints, buffers, texts

Vectors = Callable[[list[str]], Floats]
"""Gives words (n,) their vectors (n, width): tuning.Bench.vectors."""

MIN_PASSAGES = 3  # a word or mention seen in fewer passages is left out
C = 8.0  # inverse regularisation strength, chosen by average precision out of source (reports/log.md), as is what follows
SOFT = 2.0  # weight of an unlabelled passage, judged by the encoder, against a labelled one
DIMENSIONS, HIDDEN, EPOCHS, BATCH, RATE, DECAY, DROPOUT = 256, 128, 20, 64, 3e-3, 1e-2, (0.15, 0.3)
POSITIVE_LOSS = 2.0  # weight of the output that is wanted most, against 1 for the others
ANCHORS = (
    "ai ais agi asi robot robots android androids computer computers machine machines bot bots chatbot chatbots llm llms model models agent agents "
    "assistant system systems superintelligence superintelligent intelligence algorithm program programs mind minds drone drones cyborg cyborgs "
    "droid droids automaton automata cylon cylons replicant replicants skynet hal terminator ultron glados claude gpt chatgpt gemini grok opus sonnet"
)


def packed(written: list[str]) -> tuple[Bytes, Ints]:
    """The bytes of these texts and where each begins (n + 1)."""
    values, offsets = buffers(texts(pa.array(written, pa.large_string()))[0])
    return gather(values, offsets[:-1], offsets[1:])


def fit_fast(written: list[str], target: Floats, labelled: int, vectors: Vectors) -> dict[str, Any]:
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
    spelled = _spelled([*written, ANCHORS], known)
    table = _reduced(vectors(list(spelled.values())), idf[list(spelled)].astype(np.float64))
    place = np.full(len(known), -1, np.int32)
    place[list(spelled)] = np.arange(len(spelled))
    arrays: dict[str, Any] = {
        "keys": known,
        "anchors": marks,
        "idf": idf,
        "weights": weights.astype(np.float16),
        "bias": bias.astype(np.float32),
        "vectors": table,
        "place": place,
        "hidden": np.zeros((3 * table.shape[1], HIDDEN), np.float32),
        "hidden_bias": np.zeros(HIDDEN, np.float32),
        "out": np.zeros((HIDDEN, len(OUTPUTS)), np.float32),
        "out_bias": np.zeros(len(OUTPUTS), np.float32),
    }
    return arrays | _network(FastTier(arrays).pooled(read), target, weight)


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


def _spelled(written: list[str], known: Keys) -> dict[int, str]:
    """The known words by their number: what was hashed, spelled out. (Mentions have no vector.)"""
    # words as the scan finds them: only ASCII letters are made small, and quotes and dashes are of none
    small = (text.encode().lower().decode() for text in written)
    word = re.compile("[a-z0-9\u00c0-\u1fff\u2080-\U0010ffff]+")
    found = {w for text in small for w in word.findall(text) if len(w) < 60}
    spelled = sorted(found)
    key = _hashed(spelled)
    number = np.minimum(np.searchsorted(known, key), len(known) - 1)
    return dict(sorted((int(k), w) for k, w, h in zip(number, spelled, key, strict=True) if known[k] == h))


def _hashed(spelled: list[str]) -> Keys:
    """The keys (n,) of these words, each of which is one word."""
    found = keys(*packed(spelled)).key
    if len(found) != len(spelled):
        raise ValueError("what is hashed is not one word each")
    return found


def _reduced(wide: Floats, idf: Floats) -> Any:
    """Word vectors (v, width) as int8 (v, DIMENSIONS): what frequent words have in common taken out, then the principal components."""
    often = 1.0 / idf[:, None]
    wide = wide - (wide * often).sum(axis=0) / often.sum()
    _, _, axes = np.linalg.svd(wide, full_matrices=False)
    turned = wide @ axes[:DIMENSIONS].T
    return np.clip(np.round(turned / np.quantile(np.abs(turned), 0.9995) * 127), -127, 127).astype(np.int8)


def _network(pooled: Floats, target: Floats, weight: Floats) -> dict[str, Any]:
    """One hidden layer, all outputs at once, by AdamW (Loshchilov and Hutter 2019) with a rate that falls to zero."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order give another network
    torch.manual_seed(0)
    first, last = torch.nn.Linear(pooled.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, target.shape[1])
    net = torch.nn.Sequential(torch.nn.Dropout(DROPOUT[0]), first, torch.nn.ReLU(), torch.nn.Dropout(DROPOUT[1]), last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    scale = torch.ones(target.shape[1])
    scale[POSITIVE] = POSITIVE_LOSS
    inputs, goal, share = (torch.tensor(a, dtype=torch.float32) for a in (pooled, target, weight / weight.mean()))
    batches, step = -(-len(inputs) // BATCH), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(BATCH):
            each = torch.nn.functional.binary_cross_entropy_with_logits(net(inputs[rows]), goal[rows], reduction="none")
            ((each * scale).sum(dim=1) * share[rows]).mean().backward()
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / (EPOCHS * batches))
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    torch.set_num_threads(threads)
    taken = {"hidden": first.weight.T, "hidden_bias": first.bias, "out": last.weight.T, "out_bias": last.bias}
    return {name: np.ascontiguousarray(value.detach().numpy()) for name, value in taken.items()}
