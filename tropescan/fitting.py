"""Fits both tiers on a corpus of passages, and once more for every fold of sources left out, a process a core.

Every such process tunes on one thread, so that what it finds does not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from tropescan.detector import OUTPUTS, probabilities
from tropescan.fits import Fitted, Logits, keep, restored
from tropescan.lexicon import Keys, Lexicon, gather, keys, placeable
from tropescan.material import FOLDS, Corpus
from tropescan.pointers import Say
from tropescan.schema import Bytes, Floats, Ints, buffers, texts
from tropescan.tuning import Bench

MIN_PASSAGES = 3  # a word or pair seen in fewer passages is left out
FAST_C = 20.0  # inverse regularisation strength, chosen by average precision out of source (reports/log.md)
SOFT = 2.0  # weight of an unlabelled passage, judged by the encoder, against a labelled one in fitting the fast tier (reports/log.md)


def packed(written: list[str]) -> tuple[Bytes, Ints]:
    """The bytes of these texts and where each begins (n + 1)."""
    values, offsets = buffers(texts(pa.array(written, pa.large_string()))[0])
    return gather(values, offsets[:-1], offsets[1:])


def fit_lexicon(texts: list[str], target: Floats, weight: Floats) -> Lexicon:
    """The fast tier: logistic regressions, one an output, on words and pairs.

    `target` (n, outputs) holds 0, 1, or the encoder's probability (Hinton et al. 2015, distillation); `weight` (n,) is each passage's.
    """
    from scipy.sparse import csr_matrix, vstack
    from sklearn.linear_model import LogisticRegression

    values, offsets = packed(texts)
    key, owner = keys(values, offsets)
    seen = np.unique(np.stack([key, owner.astype(np.uint64)], 1), axis=0)[:, 0]
    vocabulary, df = np.unique(seen, return_counts=True)
    keep = df >= MIN_PASSAGES
    vocabulary, df = vocabulary[keep], df[keep]
    place = placeable(vocabulary)
    known: Keys = vocabulary[place]
    idf = (np.log(len(texts) / df[place]) + 1.0).astype(np.float32).astype(np.float64)
    blank = Lexicon(known, idf, np.zeros((len(known), len(OUTPUTS)), np.float32), np.zeros(len(OUTPUTS)))
    row, column, value = blank.features(values, offsets)
    matrix = csr_matrix((value, (row, column)), shape=(len(texts), len(known)))
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
    norm[norm == 0] = 1.0
    matrix = csr_matrix(matrix.multiply(1.0 / norm[:, None]))
    weights, bias = np.zeros((len(known), len(OUTPUTS)), np.float32), np.zeros(len(OUTPUTS))
    for i in range(len(OUTPUTS)):
        if not 0 < target[:, i].mean() < 1:  # one answer alone teaches nothing but itself
            bias[i] = 10.0 if target[0, i] else -10.0
            continue
        # a probability is a passage twice, once for each answer, weighed by how likely the answer is
        yes, no = np.flatnonzero(target[:, i] > 0), np.flatnonzero(target[:, i] < 1)
        answer = np.concatenate([np.ones(len(yes)), np.zeros(len(no))])
        share = np.concatenate([weight[yes] * target[yes, i], weight[no] * (1 - target[no, i])])
        head = LogisticRegression(C=FAST_C, solver="liblinear", random_state=0)
        head.fit(vstack([matrix[yes], matrix[no]]), answer, sample_weight=share)
        weights[:, i], bias[i] = head.coef_[0], head.intercept_[0]
    return Lexicon(known, idf, weights, bias)


def fit(corpus: Corpus, bench: Bench, fold: int, say: Say) -> Fitted:
    """The encoder on the labels, the fast tier on the labels and on the encoder's view of unlabelled passages; `fold` -1 leaves nothing out."""
    inside = np.flatnonzero((corpus.fold != fold) | (fold < 0))
    outside = np.flatnonzero(corpus.fold[: corpus.measured] == fold) if fold >= 0 else np.zeros(0, np.int64)
    known, free = inside[inside < corpus.labelled], inside[inside >= corpus.tuning]
    taught = inside[inside < corpus.tuning]
    say(f"tuning the encoder on {len(taught)} passages, {len(outside)} to judge")
    tuned = bench.fit(taught, corpus.share[taught], corpus.target, corpus.deciding, say)
    lexicon = fit_lexicon(
        [corpus.texts[i] for i in (*known, *free)],
        np.concatenate([corpus.target[known].astype(np.float64), probabilities(bench.logits(tuned, free))]),
        np.concatenate([np.ones(len(known)), np.full(len(free), SOFT)]),
    )
    fast = lexicon.logits(*packed([corpus.texts[i] for i in outside]))
    return Fitted(lexicon, tuned, Logits(fast, bench.logits(tuned, outside)))


def fit_all(corpus: Corpus, reference: dict[str, Any], kept: Path, say: Say) -> tuple[Fitted, Logits]:
    """The model itself, and the outputs of the measured passages, each by models that saw no passage of its source.

    What is fitted goes to the folder `kept` at once, and is taken from there when the same is asked for again. Raises InputError where the
    temporary folder has no room for the lower layers' states.
    """
    with TemporaryDirectory(prefix="tropescan-") as folder:
        todo = [fold for fold in (-1, *range(FOLDS)) if not _path(kept, fold).is_file()]  # the longest first
        if len(todo) <= FOLDS:
            say(f"{FOLDS + 1 - len(todo)} of {FOLDS + 1} fits are there from a run that was cut off")
        states = Path(folder) / "states"
        if todo:
            say("running what lies below the encoder's tuned layers")
            Bench(corpus.texts, reference, states)
        pool = ProcessPoolExecutor(
            min(len(os.sched_getaffinity(0)), FOLDS + 1),
            multiprocessing.get_context("spawn"),
            _open,
            (corpus, reference, states, kept),
        )
        jobs = [pool.submit(_one, fold) for fold in todo]
        try:
            for done in as_completed(jobs):
                done.result()
        except BaseException:
            for process in multiprocessing.active_children():  # nobody waits an hour for a run that is lost
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    logits = Logits(np.zeros((corpus.measured, len(OUTPUTS))), np.zeros((corpus.measured, len(OUTPUTS))))
    for fold in range(FOLDS):
        outside, judged = np.flatnonzero(corpus.fold[: corpus.measured] == fold), restored(_path(kept, fold)).judged
        logits.fast[outside], logits.encoder[outside] = judged.fast, judged.encoder
    return restored(_path(kept, -1)), logits


def _path(kept: Path, fold: int) -> Path:
    return kept / (f"fold-{fold + 1}.safetensors" if fold >= 0 else "itself.safetensors")


_here: list[tuple[Corpus, Bench, Path]] = []  # what this process works on


def _open(corpus: Corpus, reference: dict[str, Any], states: Path, kept: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    _here.append((corpus, Bench(corpus.texts, reference, states, threads=1), kept))


def _one(fold: int) -> None:
    corpus, bench, kept = _here[0]
    label = f"fold {fold + 1} of {FOLDS}" if fold >= 0 else "the model itself"
    keep(
        fit(corpus, bench, fold, lambda line: print(f"{label}: {line}", file=sys.stderr, flush=True)), _path(kept, fold)
    )
