"""The verbs and their options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from tropescan import __version__

DEPTHS = ("fast", "lean", "full")  # those of `persistence`, whose import would cost `--help` its speed


def _verb(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    def run(given: argparse.Namespace) -> int:
        from importlib import import_module

        handler: Callable[[argparse.Namespace], int] = getattr(import_module(f"tropescan.cli.{module}"), name)
        return handler(given)

    return run


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be seconds, 0 or more")
    return value


def _slice(text: str) -> tuple[int, int]:
    which, _, of = text.partition("/")
    if not which.isdigit() or not of.isdigit() or int(which) >= int(of):
        raise argparse.ArgumentTypeError("must be I/N with I from 0 to N - 1, as in 0/8")
    return int(which), int(of)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="tropescan",
        description="Find the passages of web-text shards that portray AI as evil, scheming or self-preserving; "
        "write scores and per-shard prevalence to DuckDB.",
    )
    top.add_argument("--version", action="version", version=f"tropescan {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, module: str, text: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text)
        one.set_defaults(verb=_verb(module, name))
        return one

    scan = verb("scan", "scan", "Scan shards and commit their scores; run it again to go on where it stopped.")
    scan.add_argument(
        "path",
        nargs="+",
        metavar="PATH",
        help="file, directory, glob, or URL of an fsspec filesystem (s3://, gs://, hf://, https://)",
    )
    _db(scan, required=False)
    scan.add_argument(
        "--parts",
        type=_here,
        metavar="DIR",
        help="write score parts there instead of a database, for `tropescan ingest`; with --engine ray and --db: "
        "where the workers leave their parts until they are committed (default: FILE.parts)",
    )
    scan.add_argument(
        "--slice",
        type=_slice,
        metavar="I/N",
        help="every N-th shard of the listing from the I-th on, I from 0: for the tasks of a job array; where shards were added meanwhile, "
        "run all slices again",
    )
    scan.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: processes of this machine (default); ray: actors of the Ray cluster that RAY_ADDRESS names, or of a local one",
    )
    _model(scan)
    scan.add_argument("--workers", type=_count, default=0, metavar="N", help="processes (default: one a core)")
    scan.add_argument("--text-column", default="text", metavar="NAME", help="column or key of the text (default: text)")
    scan.add_argument("--id-column", metavar="NAME", help="column or key of the id (default: id, where there is one)")
    scan.add_argument(
        "--url-column",
        default="url",
        metavar="NAME",
        help="column or key of the URL, where there is one (default: url)",
    )
    scan.add_argument(
        "--limit",
        type=_count,
        metavar="N",
        help="look at the first N documents of each shard only; such shards stay 'partial'",
    )
    scan.add_argument(
        "--audit",
        type=_fraction,
        metavar="SHARE",
        help="share of what the tiers refuse that is scored all the same (default: the model's)",
    )
    scan.add_argument("--retry-failed", action="store_true", help="scan the shards that failed before once more")
    scan.add_argument("--device", default="cpu", help="device of the encoder: cpu, cuda, mps (default: cpu)")
    scan.add_argument(
        "--backend",
        choices=("auto", "torch", "bf16", "openvino"),
        default="auto",
        help="what runs the encoder: torch (fp32, the reference), bf16 (torch), openvino, or the fastest that is installed (default); "
        "scores agree to 0.01",
    )
    scan.add_argument("--json", action="store_true", help="print the summary as JSON; no progress")

    ingest = verb("ingest", "ingest", "Commit the score parts that `tropescan scan --parts DIR` wrote, exactly once.")
    ingest.add_argument("folder", metavar="DIR", help="folder of score parts")
    _db(ingest)
    ingest.add_argument("--json", action="store_true", help="print the summary as JSON")

    status = verb("status", "answers", "What is scanned, what is left, what failed and why, with counts that add up.")
    _db(status)
    status.add_argument("--json", action="store_true", help="print as JSON")

    prevalence = verb("prevalence", "answers", "How common the trope is, by shard and in total.")
    _db(prevalence)
    _which(prevalence)
    form = prevalence.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print as JSON")
    form.add_argument("--csv", action="store_true", help="print as CSV")

    passages = verb("passages", "answers", "The strongest passages, read back from their shards.")
    _db(passages)
    _which(passages)
    passages.add_argument("--top", type=_count, default=10, metavar="N", help="how many (default: 10)")
    passages.add_argument("--shard", metavar="PATH", help="only of this shard (end of its path)")
    passages.add_argument(
        "--text-column", default="text", metavar="NAME", help="column or key of the text (default: text)"
    )
    passages.add_argument("--json", action="store_true", help="print as JSON Lines")

    query = verb("query", "answers", "Run one read-only SQL query on the database.")
    query.add_argument("sql", metavar="SQL", help="one SELECT; docs/queries.md has ten to begin with")
    _db(query)
    form = query.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print as JSON Lines")
    form.add_argument("--csv", action="store_true", help="print as CSV")

    explain = verb("explain", "explain", "The passages of one document with their scores and what fired the gate.")
    explain.add_argument(
        "text", nargs="?", metavar="TEXT|FILE", help="the text, or a file that holds it ('-': standard input)"
    )
    explain.add_argument("--doc", metavar="ID", help="a document of a scanned corpus, by id, or as PATH:ROW")
    _db(explain, required=False)
    _model(explain)
    explain.add_argument(
        "--text-column", default="text", metavar="NAME", help="column or key of the text (default: text)"
    )
    explain.add_argument("--json", action="store_true", help="print as JSON")

    _filter(
        verb(
            "filter",
            "selection",
            "Write the corpus again without, or with marks on, what a rule over stored scores holds for.",
        )
    )
    _weights(
        verb(
            "weights", "selection", "Write a weight for every document beside the corpus, by a rule over stored scores."
        )
    )

    train = verb("train", "workshop", "Fit and calibrate a model folder on labelled passages.")
    train.add_argument(
        "--labels", nargs="+", required=True, metavar="FILE", help="labelled passages (JSON Lines, docs/labels.md)"
    )
    train.add_argument(
        "--extra",
        nargs="+",
        default=[],
        metavar="FILE",
        help="passages to fit on, but not to calibrate or measure with (corpora/written)",
    )
    train.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        metavar="FILE",
        help="variants of scenes that differ in what decides, one source a scene (corpora/written): the encoder learns to tell them apart",
    )
    train.add_argument(
        "--texts",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of the texts that labels point to (corpora/public)",
    )
    train.add_argument(
        "--unlabelled",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of Parquet shards rich in the trope (columns text, source): the fast tier learns from the encoder on them",
    )
    train.add_argument(
        "--most",
        type=_count,
        default=6000,
        metavar="N",
        help="unlabelled passages drawn at most of each folder (default: 6000)",
    )
    train.add_argument(
        "--refused",
        metavar="DIR",
        help="folder of Parquet shards of ordinary text: passages that the gate refuses teach the encoder what is not the trope",
    )
    train.add_argument("--out", required=True, type=_here, metavar="DIR", help="the model folder to write")
    train.add_argument(
        "--gate", metavar="FILE", help="the gate's terms (default: gate.txt of the folder, else of evil-ai)"
    )
    train.add_argument("--name", help="the model's name (default: the folder's)")
    train.add_argument(
        "--audit", type=_fraction, default=0.0002, metavar="SHARE", help="the model's audit share (default: 0.0002)"
    )
    train.add_argument("--json", action="store_true", help="print the reports as JSON")

    evaluate = verb("evaluate", "workshop", "Measure a model on labelled passages.")
    evaluate.add_argument("model", metavar="MODEL", help="name or folder")
    evaluate.add_argument(
        "--labels", nargs="+", required=True, metavar="FILE", help="labelled passages (JSON Lines, docs/labels.md)"
    )
    evaluate.add_argument(
        "--texts",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of the texts that labels point to (corpora/public)",
    )
    evaluate.add_argument(
        "--cases",
        metavar="FILE",
        help="written minimal pairs (tests/behaviour): pass rates by family and by invariance",
    )
    evaluate.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="NAME",
        help="baselines on the same passages: keywords, tfidf, fasttext, minilm",
    )
    evaluate.add_argument("--depth", choices=DEPTHS, help="default: all, side by side")
    evaluate.add_argument("--report", metavar="FILE.md", help="write a Markdown page, with two SVG pictures beside it")
    evaluate.add_argument("--json", action="store_true", help="print as JSON")
    return top


def _here(path: str) -> str:
    if "://" in path:
        raise argparse.ArgumentTypeError(
            f"{path} is a URL: give a path of a mounted file system, and upload what is written there"
        )
    return path


def _db(one: argparse.ArgumentParser, required: bool = True) -> None:
    one.add_argument("--db", required=required, type=_here, metavar="FILE", help="the DuckDB database")
    one.add_argument(
        "--wait",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for a database that another process holds (default: 30)",
    )


def _model(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--model",
        default="evil-ai",
        metavar="NAME|DIR",
        help="name of a shipped model or a model folder (default: evil-ai)",
    )
    one.add_argument(
        "--depth",
        choices=DEPTHS,
        default="full",
        help="fast: gate and fast tier; lean: the encoder, too, on what is likely to be flagged; full: on all but the hopeless (default)",
    )


def _which(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--model", metavar="KEY", help="the model, where several scanned into the database (default: the last)"
    )
    one.add_argument(
        "--threshold", type=_fraction, metavar="SCORE", help="default: the model's; a new one needs no scan"
    )


def _filter(one: argparse.ArgumentParser) -> None:
    _selection(one)
    rule = one.add_mutually_exclusive_group(required=True)
    rule.add_argument(
        "--where", metavar="SQL", help="the rule: one SQL expression over the columns in docs/filtering.md"
    )
    rule.add_argument("--preset", choices=("strict", "balanced", "keep-discussion"), help="a rule for a common policy")
    one.add_argument(
        "--mode",
        choices=("drop", "mask", "tag", "replace"),
        default="drop",
        help="drop documents (default), mask flagged passages, tag, or drop and draw replacements",
    )
    one.add_argument("--dry-run", action="store_true", help="print what would go, with ten examples; write nothing")
    one.add_argument(
        "--out", type=_here, metavar="DIR", help="folder of the output: new, or that of the same selection cut short"
    )
    one.add_argument("--marker", metavar="TEXT", help="mask: what stands for a cut span (default: nothing)")
    one.add_argument(
        "--until-clean",
        action="store_true",
        help="mask: score masked documents again and cut until no passage meets the rule",
    )
    one.add_argument("--model-dir", metavar="NAME|DIR", help="--until-clean: the model (default: by its name)")
    one.add_argument("--token", metavar="TEXT", help="tag: the control token (default: <|ai-trope|>)")
    one.add_argument("--around", action="store_true", help="tag: around flagged passages, not before the document")
    one.add_argument("--end-token", metavar="TEXT", help="tag --around: the token after (default: the same)")
    one.add_argument(
        "--pool",
        metavar="SQL",
        help="replace: the rule for replacements (default: score < 0.05)",
    )
    one.add_argument("--text-column", default="text", metavar="NAME", help="column or key of the text (default: text)")


def _weights(one: argparse.ArgumentParser) -> None:
    _selection(one)
    one.add_argument(
        "--rule", required=True, metavar="SQL", help="an SQL expression that gives a weight: CASE WHEN ... THEN ... END"
    )
    one.add_argument(
        "--out", required=True, type=_here, metavar="DIR", help="folder of the sidecars: new, or that of the same run"
    )


def _selection(one: argparse.ArgumentParser) -> None:
    one.add_argument("path", nargs="+", metavar="PATH", help="the corpus, as it was given to scan")
    _db(one)
    one.add_argument(
        "--model", metavar="KEY", help="the model, where several scanned into the database (default: the last)"
    )
    one.add_argument(
        "--unscanned",
        choices=("refuse", "keep", "drop"),
        default="refuse",
        help="what becomes of shards without a whole scan by the model (default: refuse)",
    )
    one.add_argument(
        "--id-column", default="id", metavar="NAME", help="column or key of the id, as at the scan (default: id)"
    )
    one.add_argument("--workers", type=_count, default=0, metavar="N", help="shards at a time (default: one a core)")
    one.add_argument("--json", action="store_true", help="print as JSON")


def names(arguments: argparse.ArgumentParser) -> list[str]:
    """The verbs, for the tests that hold the documentation against them."""
    action: Any = next(a for a in arguments._actions if isinstance(a, argparse._SubParsersAction))
    return list(action.choices)
