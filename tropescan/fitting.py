"""Fits both tiers on a corpus of passages, and once more for every fold of sources left out, a process a core.

Every such process tunes on one thread, so that what it finds does not depend on how many there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tropescan.detector import OUTPUTS, probabilities
from tropescan.errors import InputError
from tropescan.fast import FastTier
from tropescan.fastfit import fit_fast, packed
from tropescan.fits import Encoded, Fast, Logits, keep, restored
from tropescan.material import FOLDS, Corpus
from tropescan.pointers import Say
from tropescan.schema import Ints
from tropescan.tuning import Bench, Tuned


def tune(corpus: Corpus, bench: Bench, fold: int, begun: Path, say: Say) -> Tuned:
    """The encoder tuned on the labels, from where `begun` has it; `fold` -1 leaves nothing out."""
    taught = _inside(corpus, fold, 0, corpus.tuning)
    say(f"tuning the encoder on {len(taught)} passages")
    return bench.fit(taught, corpus.share[taught], corpus.target, corpus.deciding, say, begun=begun)


def encode(corpus: Corpus, bench: Bench, tuned: Tuned, fold: int, say: Say) -> Encoded:
    """The tuned encoder after the scenes, what it makes of the fold left out, and of the unlabelled passages."""
    taught, outside = _inside(corpus, fold, 0, corpus.tuning), _outside(corpus, fold)
    variants = _inside(corpus, fold, corpus.free, len(corpus.texts))
    if len(variants):
        scene = np.full(len(corpus.texts), -1)
        scene[variants] = corpus.scene[variants]
        say(f"holding the variants of {len(np.unique(corpus.scene[variants]))} scenes apart")
        tuned = bench.part(tuned, taught, corpus.share[taught], corpus.target, corpus.deciding, scene, say)
    say(f"{len(outside)} passages to judge")
    free = _inside(corpus, fold, corpus.tuning, corpus.free)
    return Encoded(tuned, bench.logits(tuned, outside), bench.logits(tuned, free))


def distil(corpus: Corpus, encoded: Encoded, fold: int, say: Say) -> Fast:
    """The fast tier fitted on the labels and on the encoder's view of unlabelled passages, and what it makes of the fold left out."""
    known, free = _inside(corpus, fold, 0, corpus.labelled), _inside(corpus, fold, corpus.tuning, corpus.free)
    say(f"fitting the fast tier on {len(known)} labelled passages and {len(free)} others")
    arrays = fit_fast(
        [corpus.texts[i] for i in (*known, *free)],
        np.concatenate([corpus.target[known].astype(np.float64), probabilities(encoded.view)]),
        len(known),
    )
    values, offsets = packed([corpus.texts[i] for i in _outside(corpus, fold)])
    return Fast(arrays, FastTier(arrays).logits(values, offsets[:-1], offsets[1:]))


def _inside(corpus: Corpus, fold: int, first: int, last: int) -> Ints:
    """The passages from first to last that no left-out fold holds."""
    return np.flatnonzero((corpus.fold[first:last] != fold) | (fold < 0)) + first


def _outside(corpus: Corpus, fold: int) -> Ints:
    return np.flatnonzero((corpus.fold[: corpus.measured] == fold) & (fold >= 0))


def fit_all(corpus: Corpus, reference: dict[str, Any], kept: Path, say: Say) -> tuple[Encoded, Fast, Logits]:
    """The model itself, and the outputs of the measured passages, each by models that saw no passage of its source.

    What is fitted goes to the folder `kept` at once, and is taken from there when the same is asked for again. Raises InputError where the
    temporary folder has no room for the lower layers' states, and where a process was killed.
    """
    with TemporaryDirectory(prefix="tropescan-") as folder:
        every = (-1, *range(FOLDS))  # the longest first
        todo = [fold for fold in every if not _path(kept, Fast, fold).is_file()]
        there = sum(_path(kept, Encoded, fold).is_file() for fold in every)
        if any(kept.glob("*.safetensors")):
            say(
                f"{there} of {len(every)} encoders and {len(every) - len(todo)} of {len(every)} fast tiers are there from a run that was cut off"
            )
        states = Path(folder) / "states"
        if not all(_path(kept, Encoded, fold).is_file() for fold in todo):
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
        except BaseException as error:
            for process in multiprocessing.active_children():  # nobody waits an hour for a run that is lost
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise InputError(
                    "a process that tuned the encoder was killed, most likely for want of memory: the same command goes on where it was"
                ) from None
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    logits = Logits(np.zeros((corpus.measured, len(OUTPUTS))), np.zeros((corpus.measured, len(OUTPUTS))))
    for fold in range(FOLDS):
        logits.fast[_outside(corpus, fold)] = restored(Fast, _path(kept, Fast, fold)).judged
        logits.encoder[_outside(corpus, fold)] = restored(Encoded, _path(kept, Encoded, fold)).judged
    return restored(Encoded, _path(kept, Encoded, -1)), restored(Fast, _path(kept, Fast, -1)), logits


def _path(kept: Path, kind: type, fold: int) -> Path:
    return kept / f"{kind.__name__.lower()}-{fold + 1 if fold >= 0 else 'itself'}.safetensors"


_here: list[tuple[Corpus, Bench | None, Path]] = []  # what this process works on; no bench where all encoders are there


def _open(corpus: Corpus, reference: dict[str, Any], states: Path, kept: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    _here.append((corpus, Bench(corpus.texts, reference, states, threads=1) if states.is_file() else None, kept))


def _one(fold: int) -> None:
    corpus, bench, kept = _here[0]
    label = f"fold {fold + 1} of {FOLDS}" if fold >= 0 else "the model itself"

    def say(line: str) -> None:
        print(f"{label}: {line}", file=sys.stderr, flush=True)

    path = _path(kept, Encoded, fold)
    if bench and not path.is_file():
        tuned = _path(kept, Tuned, fold)
        if not tuned.is_file():
            begun = tuned.with_suffix(".begun")
            keep(tune(corpus, bench, fold, begun, say), tuned)
            begun.unlink()
        keep(encode(corpus, bench, restored(Tuned, tuned), fold, say), path)
    keep(distil(corpus, restored(Encoded, path), fold, say), _path(kept, Fast, fold))
