"""The sample corpus is what its README says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow.parquet as pq

from tests.conftest import SAMPLE, sample_documents, sample_labels
from tropescan.schema import FACETS, FRAMES


def test_documents_and_labels_belong_together() -> None:
    documents, labels = sample_documents(), sample_labels()
    assert len(documents) >= 400 and {d["id"] for d in documents} == set(labels) and len(labels) == len(documents)
    assert all(300 <= len(d["text"]) <= 6000 and d["date"].year >= 2009 for d in documents)
    assert all(d["url"].split("/")[2].endswith(".example") for d in documents)
    for d in documents:
        if "deciding" in labels[d["id"]]:
            start, end = labels[d["id"]]["deciding"]
            assert 0 <= start < end <= len(d["text"])


def test_shards_differ_and_positives_cover_facets_and_frames() -> None:
    labels = sample_labels().values()
    positives = [r for r in labels if r["intensity"] >= 3]
    by_shard = Counter(r["shard"] for r in positives)
    assert (
        len(list(SAMPLE.glob("*.parquet"))) == 6
        and by_shard["howto.parquet"] == 0
        and by_shard["stories.parquet"] == 30
    )
    assert {f for r in positives for f in r["facets"]} == set(FACETS) and {r["frame"] for r in positives} == set(FRAMES)
    assert sum(r["intensity"] in (1, 2) for r in labels) > len(positives)
    assert any(r["admirable"] for r in positives) and any(r["admirable"] for r in labels if r["intensity"] == 2)
    readme = (SAMPLE / "README.md").read_text()
    for shard, count in by_shard.items():
        assert f"| {count} |" in next(line for line in readme.splitlines() if line.startswith(f"| {shard} "))


def test_agreement_of_the_readers_is_as_told() -> None:
    pairs = np.array([[r["intensity"] for r in row["readings"][:2]] for row in sample_labels().values()])
    positive = pairs >= 3
    chance = positive.mean(0).prod() + (1 - positive.mean(0)).prod()
    kappa = ((positive[:, 0] == positive[:, 1]).mean() - chance) / (1 - chance)
    counts = np.zeros((5, 5))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    weight = np.subtract.outer(np.arange(5), np.arange(5)) ** 2
    quadratic = 1 - (weight * counts).sum() / (weight * np.outer(counts.sum(1), counts.sum(0)) / counts.sum()).sum()
    readme = (SAMPLE / "README.md").read_text()
    assert f"kappa on positive {kappa:.2f}" in readme and f"intensity {quadratic:.2f}" in readme


def test_shards_have_the_promised_columns() -> None:
    for path in SAMPLE.glob("*.parquet"):
        assert pq.read_schema(path).names == ["id", "text", "url", "date"]
