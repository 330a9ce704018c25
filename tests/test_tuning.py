"""The tuned encoder: the same twice, better than before, looking where it was told to, and at run time what it was in training."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.conftest import ROOT, python
from tropescan import corpus, fastfit, fits, fitting, losses, material, tuning
from tropescan.detector import OUTPUTS, POSITIVE, Heads
from tropescan.embedding import SentenceEncoder
from tropescan.errors import DamagedModel
from tropescan.fast import FastTier
from tropescan.lexicon import words
from tropescan.schema import Floats, Ints
from tropescan.training import ENCODER
from tropescan.tuning import Bench, Tuned

NEAR = 0.05  # of a logit, of logits up to 5: the bench's layers may run in bfloat16, the runtime's in float32 (0.01 apart when this was written)
SOURCES = st.lists(st.sampled_from("abcdefghij"), min_size=3, max_size=30)


def quiet(_line: str) -> None:
    pass


def same(a: Tuned, b: Tuned) -> bool:
    """To the last bit."""
    tensors = set(a.tensors) == set(b.tensors) and all(
        v.tobytes() == b.tensors[k].tobytes() for k, v in a.tensors.items()
    )
    return tensors and a.weights.tobytes() == b.weights.tobytes() and a.bias.tobytes() == b.bias.tobytes()


@dataclass(frozen=True)
class Work:
    """Twenty short positive passages with a deciding sentence, twenty short ones that are not positive, and encoders tuned on them."""

    passages: list[corpus.Passage]
    texts: list[str]
    target: Ints
    deciding: list[tuple[tuple[int, int], ...]]
    rows: Ints
    states: Path
    bench: Bench
    untuned: Tuned
    tuned: Tuned
    unguided: Tuned
    said: list[str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    written = corpus.load([ROOT / "corpora" / "written" / f"{n}.jsonl" for n in ("chat", "report")])
    written.sort(key=lambda p: len(p.text))
    passages = [p for p in written if p.positive and p.deciding][:20] + [p for p in written if not p.positive][:20]
    texts, target, deciding = [p.text for p in passages], corpus.targets(passages), [p.deciding for p in passages]
    states = tmp_path_factory.mktemp("tuning") / "states"
    bench, rows, ones, said = Bench(texts, ENCODER, states, threads=1), np.arange(40), np.ones(40), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "EPOCHS", 1)
        patch.setattr(tuning, "RATE", 0.0)
        patch.setattr(tuning, "HEAD_RATE", 0.0)
        untuned = bench.fit(rows[:1], ones[:1], target, deciding, quiet)
        patch.undo()
        patch.setattr(tuning, "EPOCHS", 2)
        patch.setattr(tuning, "BATCH", 4)  # 20 steps on so few passages,
        patch.setattr(tuning, "HEAD_RATE", 5e-3)  # and longer ones, for the heads and queries begin at random
        tuned = bench.fit(rows, ones, target, deciding, said.append)
        unguided = bench.fit(rows, ones, target, [()] * 40, quiet)
    return Work(passages, texts, target, deciding, rows, states, bench, untuned, tuned, unguided, said)


@pytest.fixture(scope="module")
def runtime(work: Work) -> SentenceEncoder:
    return SentenceEncoder(ENCODER, work.tuned.tensors, threads=1)


def test_a_second_bench_takes_the_states_that_are_there(work: Work, tmp_path: Path) -> None:
    before, logits = work.states.read_bytes(), work.bench.logits(work.tuned, work.rows)
    again = Bench(work.texts, ENCODER, work.states, threads=1)
    assert again.logits(work.tuned, work.rows).tobytes() == logits.tobytes()
    assert work.states.read_bytes() == before and len(before) == 768 * sum(map(len, work.bench.tokens))
    # the file is what counts: with all states 0 every passage looks alike
    (tmp_path / "states").write_bytes(bytes(len(before)))
    blank = Bench(work.texts, ENCODER, tmp_path / "states", threads=1).logits(work.tuned, work.rows)
    assert np.ptp(blank[:, POSITIVE]) < 0.05 < np.ptp(logits[:, POSITIVE])


def test_tuning_twice_gives_the_same_tensors(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "EPOCHS", 1)
    some, ones = work.rows[12:28], np.ones(16)
    one = work.bench.fit(some, ones, work.target, work.deciding, quiet)
    other = work.bench.fit(some, ones, work.target, work.deciding, quiet, seed=1)
    two = Bench(work.texts, ENCODER, work.states, threads=1).fit(some, ones, work.target, work.deciding, quiet)
    assert same(one, two) and not same(one, other)
    assert {k.split(".")[1] for k in one.tensors if k != "queries"} == set("012345")
    assert {str(v.dtype) for k, v in one.tensors.items() if k != "queries"} == {"float16"}


def test_with_and_without_bf16_the_same_is_learned(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "EPOCHS", 1)
    has = tuning.processor_has_bf16()
    some, ones, found = work.rows[17:23], np.ones(6), list[Floats]()
    for said in (has, not has):  # what this processor has not, torch emulates
        monkeypatch.setattr(tuning, "processor_has_bf16", lambda said=said: said)
        bench = Bench(work.texts, ENCODER, work.states, threads=1)
        found.append(bench.logits(bench.fit(some, ones, work.target, work.deciding, quiet), some))
        found.append(bench.logits(work.tuned, some))
    one, judged, other, again = found
    assert 0 < np.abs(again - judged).max() < NEAR and 0 < np.abs(one - other).max() < NEAR


def test_a_tuning_that_is_cut_off_goes_on_after_its_last_epoch(work: Work, tmp_path: Path) -> None:
    class CutOff(Exception):
        pass

    def until_the_second(line: str) -> None:
        if line.startswith("epoch 2"):
            raise CutOff

    some, share, said, begun = work.rows[:24], np.full(24, 0.7), list[str](), tmp_path / "begun"
    with pytest.raises(CutOff):
        work.bench.fit(some, share, work.target, work.deciding, until_the_second, begun=begun)
    assert begun.is_file() and not list(tmp_path.glob("*.partial"))
    one = work.bench.fit(some, share, work.target, work.deciding, said.append, begun=begun)
    assert said[0].startswith("epoch 2 of ")
    assert same(one, work.bench.fit(some, share, work.target, work.deciding, quiet))
    again = list[str]()
    assert same(one, work.bench.fit(some, share, work.target, work.deciding, again.append, begun=begun)) and not again


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    code = (
        "import resource, signal, pathlib, numpy; from tropescan import checkpoint, errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        f"try: checkpoint.write(pathlib.Path({str(tmp_path)!r}) / 'fit.safetensors', {{'a': numpy.zeros(1 << 20)}})\n"
        "except errors.InputError as error: print(error)"
    )
    done = python(code)
    assert "fit.safetensors cannot be kept" in done.stdout and not (tmp_path / "fit.safetensors").exists()


def test_what_is_judged_depends_neither_on_the_batch_nor_on_what_was_tuned_before(work: Work) -> None:
    together = work.bench.logits(work.tuned, work.rows)
    assert np.abs(work.bench.logits(work.untuned, work.rows) - together).max() > 0.1
    backwards = work.bench.logits(work.tuned, work.rows[::-1])[::-1]
    alone = np.concatenate([work.bench.logits(work.tuned, work.rows[i : i + 1]) for i in (0, 20, 39)])
    assert np.abs(backwards - together).max() < NEAR and np.abs(alone - together[[0, 20, 39]]).max() < NEAR
    assert work.bench.logits(work.tuned, work.rows[:0]).shape == (0, len(OUTPUTS))


def test_tuning_separates_what_it_is_tuned_on(work: Work) -> None:
    loss = [
        float(re.fullmatch(r"epoch \d of 2, 100%: mean loss (\d+\.\d+)", line)[1])
        for line in work.said
        if "100%" in line
    ]  # type: ignore[index]
    assert len(loss) == 2 and loss[1] < 0.9 * loss[0]
    positive = work.target[:, POSITIVE]
    before, after = (work.bench.logits(t, work.rows)[:, POSITIVE] for t in (work.untuned, work.tuned))
    assert roc_auc_score(positive, after) > max(0.8, roc_auc_score(positive, before) + 0.1)
    assert cross_entropy(after, positive) < cross_entropy(before, positive)


def cross_entropy(z: Floats, positive: Ints) -> float:
    return float(np.mean(np.logaddexp(0, z) - positive * z))


def test_at_run_time_the_outputs_are_those_of_the_bench(work: Work, runtime: SentenceEncoder) -> None:
    vectors = runtime.encode(work.texts)
    assert vectors.shape == (40, runtime.dimensions) == (40, 384 * (1 + tuning.QUERIES))
    bench = work.bench.logits(work.tuned, work.rows)
    outputs = Heads(work.tuned.weights, work.tuned.bias).logits(vectors)
    assert np.abs(outputs - bench).max() < NEAR
    base = SentenceEncoder(ENCODER, {"queries": work.tuned.tensors["queries"]}, threads=1)
    untuned = Heads(work.tuned.weights, work.tuned.bias).logits(base.encode(work.texts[:8]))
    assert np.abs(untuned - bench[:8]).max() > 4 * NEAR  # so the tuned layers are in use


def test_a_layer_that_does_not_fit_is_a_damaged_model(work: Work) -> None:
    name = next(k for k in work.tuned.tensors if k.endswith("attention.self.query.weight"))
    for tensors in (
        {**work.tuned.tensors, name: work.tuned.tensors[name][:7]},
        {k: v for k, v in work.tuned.tensors.items() if k != name},
        {name.replace("layer.0", "layer.30"): work.tuned.tensors[name]},
    ):
        with pytest.raises(DamagedModel, match="does not fit|is not there"):
            SentenceEncoder(ENCODER, tensors, threads=1)


def seen(encoder: SentenceEncoder, queries: Any, passage: corpus.Passage) -> float:
    """The share of the first query's attention that falls on the deciding sentences."""
    import torch

    cut = encoder.tokenizer(passage.text, return_offsets_mapping=True)
    ids = torch.tensor([cut["input_ids"]])
    with torch.inference_mode():
        states = encoder.transformer(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].numpy()
    z = states.astype(np.float64) @ queries[0].astype(np.float64)
    attention = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    inside = [e > s and any(a < e and s < b for a, b in passage.deciding) for s, e in cut["offset_mapping"]]
    return float(attention[inside].sum())


def test_the_first_query_learns_to_look_at_the_deciding_sentence(work: Work) -> None:
    share = {}
    for name, tuned in (("untuned", work.untuned), ("unguided", work.unguided), ("tuned", work.tuned)):
        encoder = SentenceEncoder(ENCODER, tuned.tensors, threads=1)
        share[name] = np.array([seen(encoder, tuned.tensors["queries"], p) for p in work.passages[:15]])
    for other in ("untuned", "unguided"):
        assert share["tuned"].mean() > share[other].mean() + 0.02
        assert (share["tuned"] > share[other]).mean() > 0.8


@pytest.fixture(scope="module")
def labelled() -> tuple[list[str], Ints]:
    """Passages in which every output has both answers."""
    passages = corpus.load([ROOT / "corpora" / "written" / "report.jsonl", ROOT / "corpora" / "written" / "chat.jsonl"])
    target = corpus.targets(passages)
    assert ((target.sum(axis=0) > 0) & (target.sum(axis=0) < len(target))).all()
    return [p.text for p in passages], target


def fitted(texts: list[str], target: Any, labelled: int) -> FastTier:
    return FastTier(fastfit.fit_fast(texts, target.astype(np.float64), labelled))


def test_what_the_fast_tier_learns(labelled: tuple[list[str], Ints]) -> None:
    texts, target = labelled
    (values, offsets), n = fastfit.packed(texts), len(texts)
    spans = values, offsets[:-1], offsets[1:]
    hard = fitted(texts, target, n).logits(*spans)
    assert all(roc_auc_score(target[:, i], hard[:, i]) > 0.95 for i in range(len(OUTPUTS)))
    # an uncertain passage lies between its two answers, and one that nobody has read weighs more, as SOFT says
    which = np.array([3, 90, 200, 333])
    by_value = []
    for value in (0.0, 0.5, 1.0):
        goal = target.astype(np.float64)
        goal[which] = value
        by_value.append(fitted(texts, goal, n).logits(*spans)[which][:, POSITIVE])
    assert (by_value[0] + 0.1 < by_value[1]).all() and (by_value[1] + 0.1 < by_value[2]).all()
    goal = np.concatenate([target, 1.0 - target[which]])
    doubtful = [
        fitted([*texts, *(texts[i] for i in which)], goal, m).logits(*spans)[which] for m in (n + len(which), n)
    ]
    toward = np.where(target[which] == 1, -1.0, 1.0) * (doubtful[1] - doubtful[0])
    assert toward[:, POSITIVE].mean() > 0.1


def test_a_scenes_variants_are_told_apart_and_the_rest_is_kept(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = np.full(40, -1)
    scene[20:24] = [7, 7, 3, 3]  # passages that are not positive, as variants that differ
    target = work.target.copy()
    target[[20, 22], POSITIVE] = 1
    rows = np.setdiff1d(work.rows, np.arange(20, 24))
    monkeypatch.setattr(tuning, "PART_RATE", 1e-4)  # for three steps
    monkeypatch.setattr(tuning, "PART_HEAD_RATE", 1e-3)
    kept = np.ones(len(rows))
    one, two = (
        work.bench.part(work.tuned, rows, kept, target, work.deciding, scene, quiet, seed=seed) for seed in (0, 0)
    )
    assert same(one, two) and not same(one, work.tuned)
    before, after = (work.bench.logits(t, work.rows)[:, POSITIVE] for t in (work.tuned, one))
    gaps = [z[[20, 22]] - z[[21, 23]] for z in (before, after)]
    assert (gaps[1] > gaps[0] + 0.1).all()
    assert roc_auc_score(work.target[rows, POSITIVE], after[rows]) > 0.9
    blind = work.bench.part(work.tuned, rows, kept, target, work.deciding, np.full(40, -1), quiet)
    assert np.ptp(work.bench.logits(blind, work.rows)[:, POSITIVE] - after) > 0.1  # it is the scenes that did it


def test_only_differences_within_a_scene_count() -> None:
    import torch

    scene, positive = np.array([0, 0, 1, 1, 1]), np.array([1, 0, 0, 1, 0])
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(5, len(OUTPUTS))))
    found = losses.apart(torch, logits, positive, scene)
    moved = logits + torch.tensor([0.0, 0.0, 4.0, 4.0, 4.0])[:, None]  # a whole scene
    assert losses.apart(torch, moved, positive, scene) == pytest.approx(float(found))
    better = logits.clone()
    better[[0, 3], POSITIVE:4] += 2.0
    assert losses.apart(torch, better, positive, scene) < found - 0.5
    lower = better.clone()
    lower[0, :POSITIVE] += 9.0  # that the trope is at issue at all is true of every variant
    assert losses.apart(torch, lower, positive, scene) == losses.apart(torch, better, positive, scene)
    apart = logits.clone()
    apart[[0, 3], POSITIVE:4] += 50.0
    assert float(losses.apart(torch, apart, positive, scene)) < 1e-6


def labels(sources: list[str], name: str) -> list[corpus.Passage]:
    return [corpus.Passage(f"{name}{i}", "t", i % 5, (), "other", 0, s, "r", ()) for i, s in enumerate(sources)]


@settings(max_examples=100, deadline=None)
@given(SOURCES, SOURCES, SOURCES, SOURCES, SOURCES)
def test_no_passage_of_a_source_left_out_is_fitted_on(
    measured: list[str], extra: list[str], refused: list[str], free: list[str], pairs: list[str]
) -> None:
    found = material.gathered(
        labels(measured, "m"),
        labels(extra, "e"),
        [(f"r{i}", s) for i, s in enumerate(refused)],
        [(f"u{i}", s) for i, s in enumerate(free)],
        labels(pairs, "p"),
    )
    assert found.measured == len(measured) and found.labelled == found.measured + len(extra)
    assert found.tuning == found.labelled + len(refused) == len(found.share) == len(found.deciding)
    told = [f"r{i}" for i in range(len(refused))] + [f"u{i}" for i in range(len(free))]
    assert found.texts[found.labelled : found.free] == told and found.free == found.tuning + len(free)
    assert not found.target[found.labelled : found.free, POSITIVE].any()
    both = [s for s in pairs if len({i % 5 >= 3 for i, other in enumerate(pairs) if other == s}) == 2]
    assert len(found.texts) == len(found.target) == len(found.fold) == len(found.scene) == found.free + len(both)
    assert (found.scene[: found.free] == -1).all()
    scenes = found.scene[found.free :]
    assert len({(n, s) for n, s in zip(scenes.tolist(), both, strict=True)}) == len(set(both)) == len(set(scenes))
    for scene in set(scenes):  # positive variants to put above others
        assert set(found.target[found.scene == scene, POSITIVE]) == {0, 1}
    sources = [*measured, *extra, *refused, *free, *both]
    for fold in range(material.FOLDS):
        out = {s for s, f in zip(measured, found.fold, strict=False) if f == fold}
        fitted = {s for s, f in zip(sources, found.fold, strict=True) if f != fold}
        assert not out & fitted
        assert {s for s in sources if s not in out} == fitted  # and nothing else is left out


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=20), st.integers(1, 20), st.integers(0, 99))
def test_a_passage_is_tuned_on_in_its_share_of_the_epochs(share: list[float], epochs: int, seed: int) -> None:
    seen = tuning.turns(np.array(share), epochs, np.random.default_rng(seed))
    times = np.sum(seen, axis=0)
    assert len(seen) == epochs and (np.abs(times - epochs * np.array(share)) < 1 + 1e-9).all()
    assert all(n == epochs for n, s in zip(times, share, strict=True) if s == 1)


def test_a_word_of_a_source_left_out_is_not_learned(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "EPOCHS", 1)
    passages = [replace(p, source=f"s{i % 9}") for i, p in enumerate(work.passages)]
    free = [(f"Zyxwvut {i} came. {p.text}", "s0") for i, p in enumerate(passages[:4])]
    free += [(f"Qponmlk {i} came. {p.text}", "elsewhere") for i, p in enumerate(passages[:4])]
    gathered = material.gathered(passages, [], [], free, [])
    bench = Bench(gathered.texts, ENCODER, tmp_path / "states", threads=1)
    own, known = int(gathered.fold[0]), {}
    for fold in (own, (own + 1) % material.FOLDS):
        encoded = fitting.encode(
            gathered, bench, fitting.tune(gathered, bench, fold, tmp_path / f"begun-{fold}", quiet), fold, quiet
        )
        fast = fitting.distil(gathered, encoded, fold, quiet)
        key, _, _ = words(np.frombuffer(b"zyxwvut qponmlk\n", np.uint8))
        known[fold] = np.isin(key, fast.tier["keys"]).tolist()
        outside = int((gathered.fold[: len(passages)] == fold).sum())
        assert fast.judged.shape == encoded.judged.shape == (outside, len(OUTPUTS)) and outside
        for fit in (encoded, fast):
            fits.keep(fit, tmp_path / "fit.safetensors")
            back = fits.restored(type(fit), tmp_path / "fit.safetensors").arrays()
            assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in fit.arrays().items()}
    assert known == {own: [False, True], (own + 1) % material.FOLDS: [True, True]}


def test_a_scene_of_a_source_left_out_is_not_held_apart(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = [replace(p, source=f"s{i % 9}") for i, p in enumerate(work.passages)]
    pairs = [replace(p, source="s0") for p in (passages[0], passages[30])]
    pairs += [replace(p, source="elsewhere") for p in (passages[1], passages[31])]
    gathered = material.gathered(passages, [], [], [], pairs)
    bench = Bench(gathered.texts, ENCODER, tmp_path / "states", threads=1)
    seen: list[list[int]] = []

    def part(first: Tuned, _rows: Ints, *given: Any, **_: Any) -> Tuned:
        seen.append(np.flatnonzero(given[3] >= 0).tolist())
        return first

    monkeypatch.setattr(bench, "part", part)
    own, free = int(gathered.fold[0]), gathered.free
    for fold in (own, (own + 1) % material.FOLDS, -1):
        fitting.encode(gathered, bench, work.tuned, fold, quiet)
    every = list(range(free, free + 4))
    assert seen == [every[2:], every, every]
