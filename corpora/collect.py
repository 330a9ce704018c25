"""Brings the texts that corpora/public/more.jsonl and unseen.jsonl point to onto this machine: public repositories, each at the commit that was read.

    python corpora/collect.py FOLDER [--mirrors DIR]

Makes FOLDER/more/OWNER+NAME.parquet of every line of corpora/public/sources.jsonl (FOLDER/unseen/... where the line says `"corpus": "unseen"`),
with the columns id, text, url, source, register and licence:
`tropescan train --texts FOLDER` and `evaluate --texts FOLDER` then find the passages there. Every repository is cloned from GitHub, or taken from
DIR/OWNER+NAME/repo where `--mirrors` has it. Texts are plain: markup, time stamps and link targets are taken out, and blanks at the ends of lines.
A repository that cannot be had is named and left out; the exit code is 1 then. The texts are their owners': nothing of them goes into the project.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SOURCES = Path(__file__).parent / "public" / "sources.jsonl"
MOST = 4 << 20  # bytes of a file: what is larger is not in every copy of a repository
COLUMNS = ("id", "text", "url", "source", "register", "licence")
BLOCKS = {
    "p",
    "div",
    "br",
    "li",
    "tr",
    "section",
    "article",
    "blockquote",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "dd",
    "dt",
}


class _Plain(HTMLParser):
    """The text of a page, a line for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style")
        self.parts += ["\n\n"] * (tag in BLOCKS)

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style") and self.hidden > 0
        self.parts += ["\n\n"] * (tag in BLOCKS)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def _html(text: str) -> str:
    reader = _Plain()
    reader.feed(text)
    return "".join(reader.parts)


def _markdown(text: str) -> str:
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->|!\[[^\]]*\]\([^)]*\)|<[^>\n]*>", "", text, flags=re.S)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


def _tex(text: str) -> str:
    text = re.sub(r"(?<!\\)%.*", "", text)
    text = re.sub(r"\\(?:begin|end|label|ref|cite[a-z]*|index|includegraphics)\*?(?:\[[^\]]*\])?\{[^}]*\}", "", text)
    return re.sub(r"\\[a-zA-Z]+\*?(?:\[[^\]]*\])?|[{}]", "", text)


def _subtitles(text: str) -> str:
    return re.sub(r"^\s*(?:\d+|WEBVTT.*|[\d:.,]+ --> .*)\s*$|<[^>\n]*>", "", text, flags=re.M)


PLAIN = {"md": _markdown, "html": _html, "tex": _tex, "srt": _subtitles}


def _tidy(text: str) -> str:
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in text.replace("\r\n", "\n").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _fields(record: Any, path: list[str]) -> Iterator[str]:
    """The strings that a path of keys leads to; [] or * stands for every item of a list or value of an object."""
    if isinstance(record, list) and (not path or path[0] not in ("[]", "*")):
        for item in record:
            yield from _fields(item, path)
    elif not path:
        yield from [record] if isinstance(record, str) else []
    elif path[0] in ("[]", "*"):
        for item in record.values() if isinstance(record, dict) else record if isinstance(record, list) else []:
            yield from _fields(item, path[1:])
    elif isinstance(record, dict) and path[0] in record:
        yield from _fields(record[path[0]], path[1:])


def _records(text: str, form: str) -> list[Any]:
    if form == "csv":
        csv.field_size_limit(MOST)
        return list(csv.DictReader(io.StringIO(text)))
    if form == "jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def documents(text: str, form: str, fields: list[str]) -> list[str]:
    """The documents of a file: one of a page, one a record of JSON, JSON Lines or CSV. Raises ValueError for what is not of its form."""
    if form not in ("json", "jsonl", "csv"):
        return [_tidy(PLAIN.get(form, str)(text))]
    paths = [[key for key in field.replace("[]", ".[]").split(".") if key] for field in fields]
    found = []
    for record in _records(text, form):
        parts = [part for path in paths for part in _fields(record, path)]
        found.append(_tidy("\n\n".join(_html(p) if re.search(r"</\w+>", p) else p for p in parts)))
    return found


def _git(folder: Path, *command: str) -> bytes:
    return subprocess.run(["git", f"--git-dir={folder}", *command], stdout=subprocess.PIPE, check=True).stdout


def _copy(repo: str, commit: str, mirrors: Path | None, room: Path) -> Path:
    """A git directory that holds the commit. Raises CalledProcessError."""
    kept = mirrors / repo.replace("/", "+") / "repo" if mirrors else None
    if kept and kept.is_dir():
        return kept / ".git" if (kept / ".git").is_dir() else kept
    subprocess.run(["git", "init", "-q", "--bare", str(room)], check=True)
    _git(room, "fetch", "-q", "--depth", "1", f"https://github.com/{repo}", commit)
    return room


def collect(source: dict[str, Any], folder: Path) -> list[tuple[str, str, str]]:
    """The documents of a source, (id, text, url), from a git directory that holds its commit. Raises CalledProcessError."""
    repo, commit = source["repo"], source["commit"]
    rows: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for line in _git(folder, "ls-tree", "-r", "-l", "-z", commit).decode("utf-8", "backslashreplace").split("\0"):
        about, _, path = line.partition("\t")
        if not path or not any(fnmatch.fnmatchcase(path, glob) for glob in source["paths"]):
            continue
        _, kind, blob, size = about.split()
        if kind != "blob" or int(size) >= MOST:
            continue
        try:
            text = _git(folder, "cat-file", "blob", blob).decode("utf-8", "replace").replace("\0", "")
            found = documents(text, source["format"], source.get("fields", []))
        # AssertionError: html.parser on some declarations; RecursionError: JSON nested too deep
        except (ValueError, AssertionError, RecursionError, csv.Error, subprocess.CalledProcessError) as error:
            print(f"{repo}: {path} is left out: {type(error).__name__} {error}", file=sys.stderr)
            continue
        for number, document in enumerate(found):
            url = f"https://github.com/{repo}/blob/{commit}/{path}#{number}"
            if len(document) >= 200 and document not in seen:
                seen.add(document)
                rows.append((hashlib.sha1(url.encode()).hexdigest(), document, url))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mirrors", type=Path, help="folder of OWNER+NAME/repo: git directories that are here already")
    parser.add_argument("--sources", type=Path, default=SOURCES)
    given = parser.parse_args()
    lost = 0
    for source in map(json.loads, given.sources.read_text().splitlines()):
        with tempfile.TemporaryDirectory() as room:
            try:
                rows = collect(source, _copy(source["repo"], source["commit"], given.mirrors, Path(room)))
            except subprocess.CalledProcessError as error:
                print(f"{source['repo']} could not be had at {source['commit']}: {error}", file=sys.stderr)
                lost += 1
                continue
        if rows:
            same = (source["repo"], source["register"], source.get("licence", "unknown"))
            table = pa.table([pa.array(column) for column in zip(*(row + same for row in rows), strict=True)], COLUMNS)
            shard = given.folder / source.get("corpus", "more") / f"{source['repo'].replace('/', '+')}.parquet"
            shard.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, shard, compression="zstd", row_group_size=1000)
        print(f"{source['repo']}: {len(rows):,} documents, {sum(len(text) for _, text, _ in rows):,} characters")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
