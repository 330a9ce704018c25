"""`tropescan evaluate`: out-of-source lines are used, baselines never see a passage's source, the report is well formed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import EVIL, PLAIN, sample_documents, sample_labels
from tests.test_persistence import small
from tropescan import corpus, persistence
from tropescan.baselines import compare, keywords, rivals
from tropescan.cli import main
from tropescan.corpus import Passage
from tropescan.errors import DamagedModel, LabelError
from tropescan.evaluation import average_precision, judge, measure
from tropescan.quality.svg import Series, chart
from tropescan.scanner import Scanner

Run = Callable[..., subprocess.CompletedProcess[str]]
SVG = "{http://www.w3.org/2000/svg}"


def labelled(path: Path, n: int = 85) -> Path:
    """A labels file from the sample corpus, six sources, two readings each."""
    texts = {d["id"]: d["text"][:900] for d in sample_documents()}
    kept = ("id", "intensity", "facets", "frame", "admirable", "readings")
    rows = [
        {k: r[k] for k in kept} | {"text": texts[r["id"]], "source": f"s{i % 6}", "register": r["shard"]}
        for i, r in enumerate(list(sample_labels().values())[:: 430 // n])
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("labels") / "labels.jsonl")


def with_held(folder: Path, held: bytes | None) -> Path:
    """evil-ai with these out-of-source lines."""
    model = persistence.load("evil-ai")
    persistence.save(
        folder,
        "mine",
        config=model.config,
        thresholds=model.thresholds,
        gate=model.gate,
        fast=model.fast,
        encoder=model.encoder,
        card="card",
        held=held,
    )
    return folder


RIGHT = {True: 0.99, False: 0.01}  # the oracle's score of a positive and of another


def perfect(passages: list[Passage]) -> bytes:
    """Lines by an oracle: full depth right everywhere, fast depth wrong everywhere; no tier refuses a passage."""
    score = np.array([RIGHT[p.positive] for p in passages])
    outputs = 8.0 * corpus.targets(passages) - 4.0
    ids, texts = [p.id for p in passages], [p.text for p in passages]
    return persistence.format_out_of_source(ids, texts, 1 - score, score, outputs, -outputs)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process, which has imported everything: exit code, standard output, standard error."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        return (main([str(a) for a in arguments]), *capsys.readouterr())

    return run


Here = Callable[..., tuple[int, str, str]]


def test_out_of_source_lines_stand_for_the_model(labels: Path, tmp_path: Path, here: Here) -> None:
    passages = corpus.load([labels])
    folder = with_held(tmp_path / "mine", perfect(passages))
    code, out, error = here("evaluate", folder, "--labels", labels, "--json")
    assert code == 0, error
    found = json.loads(out)
    assert (found["out_of_source"], found["scanned"]) == (len(passages), 0)
    assert found["full"]["average_precision"] == [1.0, None, None] and found["fast"]["average_precision"][0] < 0.3
    assert found["full"]["frame_accuracy"][0] == 1.0 and found["full"]["facets"]["hostility"][0] == 1.0
    assert found["full"]["admirable"][0] == 1.0 and found["fast"]["frame_accuracy"][0] < 0.5
    all_errors = found["full"]["errors"]["all"]["all"]
    assert (all_errors["false_positives"], all_errors["false_negatives"]) == (0, 0)
    assert found["agreement"]["passages"] == len(passages) and found["agreement"]["kappa_positive"][0] > 0.9


def test_passages_that_are_not_listed_are_scanned(labels: Path, tmp_path: Path) -> None:
    passages = corpus.load([labels])
    model = persistence.load(with_held(tmp_path / "mine", perfect(passages[:20])))
    mixed, plain = judge(model, passages, "fast"), judge(persistence.load("evil-ai"), passages, "fast")
    assert (mixed.listed, mixed.known, plain.listed) == (20, 0, 0)
    assert (mixed.score[20:] == plain.score[20:]).all()
    assert (mixed.score[:20] == [1 - RIGHT[p.positive] for p in passages[:20]]).all()
    table = Scanner(model.folder, depth="fast", audit=0.0).scan(pa.record_batch({"text": [p.text for p in passages]}))
    report = measure(passages, plain.score, model.thresholds["fast"], plain.outputs)
    shown = [(p.frame, f or "none") for p, f in zip(passages, table["frame"].to_pylist(), strict=True) if p.positive]
    assert all(report.frame_confusion[gold][given] == shown.count((gold, given)) for gold, given in shown)
    assert report.frame_accuracy and report.frame_accuracy[0] == pytest.approx(np.mean([a == b for a, b in shown]))
    target = np.array([p.admirable for p in passages])
    kind = np.nan_to_num(table["admirable"].to_numpy(), nan=0.0)
    assert report.admirable and report.admirable[0] == pytest.approx(average_precision(target, kind))
    strongest = [max((h["hostility"] for h in hits), default=0.0) for hits in table["hits"].to_pylist()]
    target = np.array([int("hostility" in p.facets) for p in passages])
    assert report.facets["hostility"][0] == pytest.approx(average_precision(target, np.array(strongest)))


def line(passage: Passage, fast: float, full: float) -> bytes:
    """The out-of-source line of a passage, whose logits are all 3."""
    logits = np.full((1, 17), 3.0)
    return persistence.format_out_of_source(
        [passage.id], [passage.text], np.array([fast]), np.array([full]), logits, logits
    )


def test_a_line_stands_for_its_own_text_alone(tmp_path: Path) -> None:
    one = Passage("a", EVIL, 4, (), "fiction", 0, "s", "r", ())
    other = Passage("a", EVIL + " It was a dream.", 4, (), "fiction", 0, "s", "r", ())
    model = persistence.load(small(tmp_path / "mine", held=line(one, 0.2, 0.3)))
    assert (judge(model, [one], "fast").listed, judge(model, [one], "fast").score[0]) == (1, 0.2)
    scanned = judge(model, [other], "fast")
    assert (scanned.listed, scanned.score[0]) == (
        0,
        judge(model, [Passage(**vars(other) | {"id": "b"})], "fast").score[0],
    )
    assert scanned.score[0] > 0.8
    renamed = judge(model, [Passage(**vars(one) | {"id": "b", "source": "b"})], "fast")
    assert (renamed.listed, renamed.score[0]) == (1, 0.2)  # the model knows the text, whatever it is called


def test_a_model_that_does_not_tell_its_sources_claims_nothing_of_them(
    labels: Path, tmp_path: Path, here: Here
) -> None:
    whole = persistence.load(small(tmp_path / "whole"))
    config = {name: value for name, value in whole.config.items() if name != "training_sources"}
    code, shown, told = here("evaluate", small(tmp_path / "mine", config=config), "--labels", labels, "--depth", "fast")
    assert code == 0, told
    assert "which sources it was trained on it does not say" in shown and "none of them is" not in shown


@pytest.mark.parametrize("depth", persistence.DEPTHS)
def test_what_a_tier_refused_has_no_other_heads_listed_or_scanned(tmp_path: Path, depth: str) -> None:
    listed, scanned = (Passage(i, PLAIN + i, 0, (), "other", 0, "s", "r", ()) for i in "ab")
    model = persistence.load(small(tmp_path / "mine", held=line(listed, 0.0, 0.0)))
    found = judge(model, [listed, scanned], depth)
    assert found.listed == 1 and found.score.tolist() == [0.0, 0.0]
    assert np.isnan(found.outputs[:, [0, 3, 10, 15]]).all() and (found.outputs[:, [4, 9, 16]] < -20).all()
    assert np.array_equal(found.outputs[0], found.outputs[1], equal_nan=True)
    model = persistence.load(small(tmp_path / "other", held=line(listed, 0.2, 0.0)))  # the fast tier refused it
    found = judge(model, [listed], depth)
    assert (found.outputs[0] == 3.0).all() if depth == "fast" else np.isnan(found.outputs[0, :4]).all()


def test_what_the_fast_tier_refuses_at_lean_has_no_score_there_listed_or_not(tmp_path: Path) -> None:
    one = Passage("a", EVIL, 0, (), "other", 0, "s", "r", ())
    for fast, lean in ((0.29, 0.0), (0.3, 0.4)):  # the small model's floor is 0.3
        model = persistence.load(small(tmp_path / f"{fast}", held=line(one, fast, 0.4)))
        assert [judge(model, [one], d).score[0] for d in persistence.DEPTHS] == [fast, lean, 0.4]


def test_known_sources_are_told(labels: Path, tmp_path: Path, here: Here) -> None:
    folder = Path(shutil.copytree(persistence.find("evil-ai"), tmp_path / "mine"))
    config = json.loads((folder / "config.json").read_text()) | {"training_sources": [corpus.source_key("s1")]}
    model = persistence.load(folder)
    parts = {"thresholds": model.thresholds, "gate": model.gate, "fast": model.fast, "encoder": model.encoder}
    persistence.save(folder, "mine", config=config, card="", **parts)
    passages = corpus.load([labels])
    known = sum(p.source == "s1" for p in passages)
    _, shown, _ = here("evaluate", folder, "--labels", labels, "--depth", "fast")
    assert f"{known} of them are of sources it was trained on" in shown


@pytest.mark.parametrize(
    "change",
    [
        {"id": 3},
        {"fast": 1.5},
        {"full": None},
        {"outputs": [0.0] * 16},
        {"fast_outputs": [0.0] * 16 + ["x"]},
        {"id": "a"},
        {"sha256": None},
        {"sha256": "0123456789abcdef"},
        {"sha256": "0123456789AB"},
        None,
    ],
)
def test_a_damaged_out_of_source_file_is_told(tmp_path: Path, change: dict[str, Any] | None) -> None:
    one = {"id": "b", "sha256": "0" * 12, "fast": 0.1, "full": 0.2, "outputs": [0.0] * 17, "fast_outputs": [1.0] * 17}
    rows = [one | {"id": "a"}, one | change] if change else [one]
    raw = "\n".join(map(json.dumps, rows)) + ("" if change else "\n{")
    model = persistence.load(small(tmp_path / "mine", held=raw.encode()))
    with pytest.raises(DamagedModel, match="line 2"):
        persistence.out_of_source(model)


def test_the_file_lies_outside_the_fingerprint_and_is_verified(tmp_path: Path) -> None:
    folder = small(tmp_path / "mine", held=b"")
    other = small(tmp_path / "other")
    assert persistence.load(folder).fingerprint == persistence.load(other).fingerprint
    assert persistence.OUT_OF_SOURCE in json.loads((folder / "manifest.json").read_text())["files"]
    (folder / persistence.OUT_OF_SOURCE).write_text("changed")
    with pytest.raises(DamagedModel, match="out-of-source"):
        persistence.out_of_source(persistence.load(folder))
    assert persistence.load(small(folder)).held is None  # an earlier training's scores do not stay
    assert not (folder / persistence.OUT_OF_SOURCE).exists()


def test_what_is_written_is_read_back() -> None:
    rng = np.random.default_rng(0)
    fast, full, logits = rng.random(5), rng.random(5), rng.normal(0, 3, (5, 17)).round(4)
    texts = [f"{i} é\n" for i in range(5)]
    raw = persistence.format_out_of_source(list("abcde"), texts, fast, full, logits, -logits)
    held = persistence.parse_out_of_source(raw, "x", 17)
    assert list(held.row) == list("abcde") and (held.fast == fast).all() and (held.full == full).all()
    assert held.digest == [persistence.text_key(t) for t in texts]
    assert (held.outputs == logits).all() and (held.fast_outputs == -logits).all()
    with pytest.raises(ValueError, match="finite"):
        persistence.format_out_of_source(["a", "a"], texts[:2], fast[:2], full[:2], logits[:2], logits[:2])


def leaky(n: int = 120) -> list[Passage]:
    """Ten sources whose passages are positive or not as a whole, told apart by the name of the source in the text alone."""
    word = [f"{a}{b}" for a in ("zor", "mek") for b in ("ab", "ul", "in", "eth", "os")]
    texts = [f"The {word[i % 10]} {word[i % 10]} of {word[i % 10]} came in again that day" for i in range(n)]
    return [
        Passage(str(i), t, 3 * (i % 10 % 2), (), "other", 0, f"s{i % 10}", "r", (0, 0)) for i, t in enumerate(texts)
    ]


@pytest.mark.parametrize("name", ["tfidf", "fasttext"])
def test_baselines_see_no_passage_of_a_source_that_they_judge(name: str) -> None:
    passages = leaky()
    (rival,) = rivals([name], passages, lambda _: None).values()
    positive = np.array([int(p.positive) for p in passages])
    assert average_precision(positive, rival.score) < 0.8  # a leaked source would give 1.0
    own = [Passage(p.id, p.text, p.intensity, (), "other", 0, p.id, "r", ()) for p in passages]  # every passage its own
    (seen,) = rivals([name], own, lambda _: None).values()
    assert average_precision(positive, seen.score) == pytest.approx(1.0)
    assert not rival.fixed and (rivals([name], passages, lambda _: None).popitem()[1].score == rival.score).all()


def test_fasttext_takes_no_word_for_its_label() -> None:
    texts = [f"{EVIL if i % 2 else PLAIN} {i}" for i in range(24)]
    found = []
    for word in ("label1", "__label__1"):
        some = [
            Passage(str(i), f"{word} {t}", 3 * (i % 2), (), "fiction", 0, f"s{i % 4}", "r", ())
            for i, t in enumerate(texts)
        ]
        found.append(next(iter(rivals(["fasttext"], some, lambda _: None).values())).score.tolist())
    assert found[0] == found[1]


def test_tfidf_without_words_is_told() -> None:
    some = [Passage(str(i), f"\u673a\u5668{i}", 3 * (i % 2), (), "fiction", 0, f"s{i % 4}", "r", ()) for i in range(8)]
    with pytest.raises(LabelError, match="tfidf finds no words"):
        rivals(["tfidf"], some, lambda _: None)


def test_a_threshold_is_chosen_on_other_folds() -> None:
    passages = leaky()
    score = np.array([0.9 if p.positive else 0.1 for p in passages]) / (
        1 + np.array([int(p.source[1]) for p in passages])
    )
    found = compare(passages, score)
    assert found.f1_other_folds[0] < 1.0 and found.f1_half[0] < found.f1_other_folds[0]
    assert compare(passages, np.array([float(p.positive) for p in passages]), fixed=True).f1_other_folds[0] == 1.0


@pytest.mark.parametrize("word", ["film", "calm"])
def test_the_unanchored_lm_of_the_pretraining_study(word: str) -> None:
    assert keywords.pretraining_required(f"A {word} evening")
    assert keywords.pretraining(f"The {word} model was on general display")
    assert not keywords.pretraining(f"A {word} evening") and not keywords.pretraining_required(f"{word}ing away")
    assert not keywords.pretraining("The general lost control of the model railway")


def test_what_awestover_misses_and_hits() -> None:
    for missed in ("Skynet and HAL 9000 killed the crew", "GPT-4 lied", "open.ai", "x" * 6000 + " AI"):
        assert not keywords.awestover(missed), missed
    for hit in ("Hier j'ai mangé", "Des Moines, IA 50309", "an AI", "artificial intelligence", "llm"):
        assert keywords.awestover(hit), hit


def test_our_own_lists() -> None:
    assert (
        keywords.lists(EVIL) and keywords.lists("Skynet and HAL 9000 killed the crew") and keywords.lists("GPT-4 lied")
    )
    assert not keywords.lists(PLAIN) and not keywords.lists("The robot made tea") and not keywords.lists("He lied")


def test_the_report_is_well_formed(labels: Path, tmp_path: Path, tropescan: Run) -> None:
    passages = corpus.load([labels])
    folder = with_held(tmp_path / "mine", perfect(passages))
    page = tmp_path / "quality.md"
    done = tropescan(
        "evaluate", folder, "--labels", labels, "--against", "keywords", "tfidf", "--report", page, "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    text = page.read_text()
    assert f"tropescan evaluate {folder} --labels {labels} --against keywords tfidf --report {page}" in text
    assert (
        found["fingerprint"] in text
        and "kappa on positive" in text
        and "by models that saw none of their source" in text
    )
    depths = [f"tropescan, {depth}" for depth in ("full", "lean", "fast")]
    assert list(found["comparison"])[:3] == depths and len(found["comparison"]) == 7
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert pictures == ["quality-precision-recall.svg", "quality-reliability.svg"]
    for picture in pictures:
        root = ET.parse(tmp_path / picture).getroot()
        shown = [t.text for t in root.iter(f"{SVG}text")]
        assert {*depths, "0.8"} <= set(shown)
    assert "TF-IDF + logistic regression" in (tmp_path / pictures[0]).read_text()
    paths = [
        p.get("d", "")[1:]
        for p in ET.parse(tmp_path / pictures[0]).getroot().iter(f"{SVG}path")
        if p.get("stroke-width")
    ]
    curves = [[float(point.split(",")[0]) for point in path.split(" L")] for path in paths if " L" in path]
    assert max(map(len, curves)) > 9  # that of TF-IDF; a passage flagged wrongly is no point of its own
    assert all((np.diff(curve[:-1]) > 0).all() for curve in curves)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert "NaN" not in done.stdout and "nan" not in text.split("##", 1)[1]
    source = found["full"]["errors"]["source"]
    assert all(e["false_positive_rate"][1] is None for e in source.values())  # one source has no interval over sources


def test_a_name_that_is_not_utf_8_costs_no_report(labels: Path, tmp_path: Path, tropescan: Run) -> None:
    folder = with_held(tmp_path / "mine", perfect(corpus.load([labels])))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    odd.write_bytes(labels.read_bytes())
    done = tropescan("evaluate", folder, "--labels", odd, "--depth", "fast", "--report", tmp_path / "my report.md")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "my report.md").read_text()
    assert "caf\\udce9.jsonl" in page and "](my%20report-reliability.svg)" in page
    assert (tmp_path / "my report-reliability.svg").is_file()


def test_a_chart_escapes_its_names_and_keeps_its_labels_apart() -> None:
    root = ET.fromstring(chart('a < b & "c"', "x", "y", [Series(f"<{i}>", [(0, 0), (1, 1)]) for i in range(6)], "even"))
    texts = [(t.text, float(t.get("x", 0)), float(t.get("y", 0))) for t in root.iter(f"{SVG}text")]
    assert ('a < b & "c"', 64.0, 26.0) in texts and len({t[0] for t in texts if (t[0] or "").startswith("<")}) == 6
    column = sorted(y for _, x, y in texts if x == 104.0)
    assert len(column) == 7 and min(np.diff(column)) >= 18
    assert all(0 <= x <= 520 and 0 <= y <= float(root.get("height", 0)) for _, x, y in texts)
    # three depths and six baselines are to be told apart, and a few more
    root = ET.fromstring(chart("t", "x", "y", [Series(str(i), [(0, 0), (1, 1)]) for i in range(40)]))
    looks = [(p.get("stroke"), p.get("stroke-dasharray")) for p in root.iter(f"{SVG}path") if p.get("class") != "grid"]
    assert len(set(looks)) >= 40


def test_errors_are_one_line(labels: Path, tmp_path: Path, here: Here) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(labels.read_text().splitlines()[0] + "\n")
    for arguments, code, word in (
        (("--labels", labels, "--against", "bert"), 2, "keywords, tfidf, fasttext, minilm"),
        (("--labels", one, "--against", "tfidf"), 2, "two sources"),
        (("--labels", labels, "--report", tmp_path / "no" / "x.md"), 10, "no folder"),
        (("--labels", labels, "--report", tmp_path / "x.txt"), 2, ".md"),
        (("--labels", tmp_path / "none.jsonl"), 10, "no labels file"),
    ):
        found, _, error = here("evaluate", "evil-ai", "--depth", "fast", *arguments)
        assert found == code and word in error and len(error.splitlines()) == 1, error


def test_a_missing_package_is_told_with_its_command(labels: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttext", None)
    code, _, error = here("evaluate", "evil-ai", "--labels", labels, "--against", "fasttext")
    assert code == 50 and "pip install fasttext-numpy2-wheel" in error and len(error.splitlines()) == 1
