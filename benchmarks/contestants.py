"""What benchmarks/scan.py measures: the limits, tropescan itself and its peers, with the command of each and the share of the shards it gets."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import Corpus, Part
from timing import ALL, run

HERE = Path(__file__).resolve().parent
WORDS = r"(?i)(?<![\w.])(?:ai|ia|llm|artificial intelligence|人工智能|人工知能)(?!\w)"
"""The first stage of awestover/filtering-for-misalignment, reconstructed (tropescan/baselines/keywords.py)."""


@dataclass(frozen=True)
class Contestant:
    """One row of the tables. `rough` is the speed (MB/s on one core) by which its share is chosen, None where it gets every shard."""

    name: str
    title: str
    rough: float | None = None
    times: float = 1.0
    """How many budgets of time it gets: more where a start, or a ratio that hangs on it, weighs more."""

    @property
    def ours(self) -> bool:
        """Whether it is tropescan, timed as a whole process."""
        return self.name in ("fast", "lean", "full")

    @property
    def in_peers(self) -> bool:
        """Whether it runs in the interpreter of the peers."""
        return self.name in ("words", "terms", "fasttext", "tfidf")


CONTESTANTS = (
    Contestant("read", "pyarrow, the text column alone: the read limit"),
    Contestant("gate", "read + gate"),
    Contestant("fast", "tropescan scan --depth fast"),
    Contestant("lean", "tropescan scan --depth lean", times=3),
    Contestant("full", "tropescan scan --depth full", times=3),
    Contestant("words", "datatrove, published keyword regex (6 words)", 15),
    Contestant("terms", "datatrove, our strong gate terms as one regex", 0.5),
    Contestant("fasttext", "datatrove, FastTextClassifierFilter", 23, times=2),
    Contestant("tfidf", "datasets.map, scikit-learn TF-IDF", 8),
    Contestant("embed", "sentence-transformers on every passage", 0.02),
)


@dataclass(frozen=True)
class Measured:
    """One run: bytes of text, wall seconds, processor seconds where known, and what the contestant told."""

    bytes: int
    seconds: float
    processor: float | None
    told: dict[str, Any]

    @property
    def rate(self) -> float:
        """MB/s."""
        return self.bytes / 1e6 / self.seconds


@dataclass
class Field:
    """The corpus and all that commands need. `share` fills as shares are chosen: the same for every number of cores."""

    corpus: Corpus
    work: Path
    peers: str
    labels: list[str]
    budget: float
    scan_options: list[str]
    full_options: list[str]
    share: dict[str, list[Part]] = field(default_factory=dict)

    def prepare(self, names: list[str]) -> None:
        """Trains the fastText model, writes the patterns and has tropescan compile, where needed; chooses the shares."""
        (self.work / "words.txt").write_text(WORDS)
        if "terms" in names:
            (self.work / "terms.txt").write_text(strong_terms())
        if "fasttext" in names:
            self._peer(Contestant("train", ""), [], 1)
        if "fast" in names:
            # compiles the gate and the loops, which is done once a machine
            self._scan("fast", self.corpus.shards[:1], 1)
        for one in CONTESTANTS:
            if one.name in names:
                self.share[one.name] = self._share(one)

    def _share(self, one: Contestant) -> list[Part]:
        """Whole shards as far as the time goes, else pieces; as many for each core, so that none waits for another."""
        rough = self._rough(one.name) if one.name in ("lean", "full") else one.rough
        if rough is None:
            return self.corpus.shards
        affordable, cores = rough * self.budget * one.times * 1e6, len(ALL)
        for parts in (self.corpus.shards, self.corpus.pieces):
            count = min(len(parts), int(affordable / parts[0].bytes)) // cores * cores
            if count:
                return parts[:count]
        return self.corpus.pieces[:cores]

    def _rough(self, depth: str) -> float:
        """MB/s of a scan with the encoder on one core less its start, from two scans of pieces."""
        few, more = self.corpus.pieces[:1], self.corpus.pieces[:12]
        a, b = (self._scan(depth, parts, 1) for parts in (few, more))
        return (b.bytes - a.bytes) / 1e6 / max(b.seconds - a.seconds, 0.1)

    def measure(self, name: str, cores: int) -> Measured:
        """Runs a contestant once on its share."""
        one = next(c for c in CONTESTANTS if c.name == name)
        if one.ours:
            return self._scan(name, self.share[name], cores)
        if one.name in ("read", "gate"):
            parts = self.share[name]
            command = [sys.executable, str(HERE / "limits.py"), name, *[p.path for p in parts], "--workers", str(cores)]
            told = json.loads(run(command, cores).out)
            if told["bytes"] != sum(p.bytes for p in parts):
                sys.exit(
                    f"{name} saw {told['bytes']} bytes of text, not {sum(p.bytes for p in parts)}: remove the cache folder"
                )
            return Measured(told["bytes"], told["seconds"], told["processor"], told)
        return self._peer(one, self.share[name], cores)

    def _peer(self, one: Contestant, parts: list[Part], cores: int) -> Measured:
        python = self.peers if one.in_peers or one.name == "train" else sys.executable
        with tempfile.TemporaryDirectory(dir=self.work) as out:
            options = ["--workers", str(cores), "--out", out, "--work", str(self.work), "--seconds", str(self.budget)]
            command = [python, str(HERE / "peers.py"), one.name, *[p.path for p in parts], *options]
            told = json.loads(run([*command, "--labels", *self.labels], cores).out)
        return Measured(told.get("bytes", sum(p.bytes for p in parts)), told["seconds"], None, told)

    def _scan(self, depth: str, parts: list[Part], cores: int) -> Measured:
        out = tempfile.mkdtemp(dir=self.work)
        try:
            db = Path(out) / "scan.duckdb"
            ran = run(self.scan_command(depth, [p.path for p in parts], db, cores), cores)
            told = json.loads(ran.out) | counted(db)
        finally:
            shutil.rmtree(out)
        rows = sum(p.rows for p in parts)
        if told["documents"] != rows:
            sys.exit(f"tropescan scanned {told['documents']:,} of {rows:,} documents: no figure is told")
        return Measured(sum(p.bytes for p in parts), ran.seconds, ran.processor, told)

    def scan_command(self, depth: str, paths: list[str], db: Path, workers: int) -> list[str]:
        """The whole process that is timed."""
        options = [*self.scan_options, *(self.full_options if depth != "fast" else [])]
        command = [sys.executable, "-m", "tropescan", "scan", *paths, "--db", str(db), "--depth", depth]
        return [*command, "--workers", str(workers), "--json", *options]


def counted(db: Path) -> dict[str, int]:
    """What a scan stored of the cascade, from the database itself."""
    from tropescan.store import Store

    names = ("gated_documents", "passages", "candidate_passages", "encoded_passages")
    sums = ", ".join(f"coalesce(sum({n}), 0)::BIGINT AS {n}" for n in names)
    store = Store(db)
    found: dict[str, int] = store.rows(f"SELECT {sums} FROM shards")[0]
    return found | {"flagged": store.rows("SELECT count(*) AS n FROM flagged")[0]["n"]}


def strong_terms() -> str:
    """The gate's strong terms as one regular expression; its weak terms, which count beside others only, are left out, in the peer's favour."""
    from tropescan import persistence
    from tropescan.gate import STRONG, parse

    terms = [t for t in parse(persistence.load("evil-ai").gate) if t.group == STRONG]
    return "|".join(t.pattern.decode() if t.exact else f"(?i:{t.pattern.decode()})" for t in terms)
