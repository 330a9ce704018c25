"""corpora/collect.py: texts of public repositories, each at its commit, as shards that pointers resolve against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import EVIL, PLAIN, ROOT

LONG = " ".join([EVIL, PLAIN] * 4)
FILES = {
    "posts/one.md": f"---\ntitle: x\n---\n# A robot\n\n[{LONG}](https://example.org/away) <b>bold</b>\n\n\n\nEnd.  \r\n",
    "posts/page.html": f"<html><style>p {{}}</style><script>no()</script><p>{LONG}</p><p>two &amp; three</p></html>",
    "posts/short.md": "Too short to be a document.",
    "film.srt": "".join(f"{i}\n00:00:0{i},000 --> 00:00:09,000\n<i>{LONG}</i>\n\n" for i in (1, 2)),
    "paper.tex": f"\\section{{Minds}} % a remark\n{LONG}\\cite{{him}}\n\\begin{{quote}}{PLAIN}\\end{{quote}}",
    "chats.json": json.dumps([{"turns": [{"say": LONG}, {"say": PLAIN}], "not": "this"}, {"turns": []}]),
    "broken.json": "{",
    "table.csv": f'name,plot\n"a","{LONG}"\n',
}
FORMS = {
    "md": ["posts/*.md"],
    "html": ["*.html"],
    "srt": ["*.srt"],
    "tex": ["*.tex"],
    "csv": ["*.csv"],
    "json": ["*.json"],
}
FIELDS = {"json": ["turns[].say"], "csv": ["plot"]}


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True
    ).stdout.strip()


def collected(tmp_path: Path, sources: list[dict[str, object]]) -> subprocess.CompletedProcess[str]:
    told = tmp_path / "sources.jsonl"
    told.write_text("".join(json.dumps(source) + "\n" for source in sources))
    command = [
        sys.executable,
        ROOT / "corpora" / "collect.py",
        tmp_path / "texts",
        "--sources",
        told,
        "--mirrors",
        tmp_path,
    ]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_texts_are_those_of_the_commit_in_every_format(tmp_path: Path) -> None:
    sources: list[dict[str, object]] = []
    for form, paths in FORMS.items():
        repo = tmp_path / f"o+{form}" / "repo"
        repo.mkdir(parents=True)
        git(repo, "init", "-q")
        for name, text in FILES.items():
            (repo / name).parent.mkdir(exist_ok=True)
            (repo / name).write_bytes(text.encode())
        git(repo, "add", ".")
        git(repo, "commit", "-qm", "one")
        fields: dict[str, object] = {"fields": FIELDS[form]} if form in FIELDS else {}
        if form == "tex":
            fields["corpus"] = "unseen"
        commit = git(repo, "rev-parse", "HEAD")
        sources.append(
            {"repo": f"o/{form}", "commit": commit, "paths": paths, "format": form, "register": "blog", **fields}
        )
        (repo / "posts" / "one.md").write_text("changed afterwards")
        git(repo, "commit", "-qam", "two")
    done = collected(tmp_path, sources)
    assert done.returncode == 0, done.stderr
    assert "o/json: broken.json is left out" in done.stderr and done.stderr.count("\n") == 1
    where = {form: tmp_path / "texts" / ("unseen" if form == "tex" else "more") for form in FORMS}
    tables = {form: pq.read_table(where[form] / f"o+{form}.parquet") for form in FORMS}
    assert [len(t) for t in tables.values()] == [1] * 6
    texts = {form: t["text"][0].as_py() for form, t in tables.items()}
    assert texts["md"] == f"# A robot\n\n{LONG} bold\n\nEnd."
    assert texts["html"] == f"{LONG}\n\ntwo & three"
    assert texts["srt"] == f"{LONG}\n\n{LONG}"
    assert texts["tex"] == f"Minds\n{LONG}\n{PLAIN}"
    assert (texts["csv"], texts["json"]) == (LONG, f"{LONG}\n\n{PLAIN}")
    urls = [t["url"][0].as_py() for t in tables.values()]
    assert urls[0] == f"https://github.com/o/md/blob/{sources[0]['commit']}/posts/one.md#0"
    assert {t["source"][0].as_py() for t in tables.values()} == {f"o/{form}" for form in FORMS}


def test_an_odd_file_costs_itself_alone(tmp_path: Path) -> None:
    odd = {
        b"a.html": b"<![foo[ " + LONG.encode(),
        b"b.json": b"[" * 100_000 + b"]" * 100_000,
        b"caf\xe9.md": LONG.encode(),
    }
    sources: list[dict[str, object]] = []
    for number, form in enumerate(("html", "json", "md")):
        repo = tmp_path / f"o+{number}" / "repo"
        repo.mkdir(parents=True)
        git(repo, "init", "-q")
        for name, raw in odd.items():
            Path(os.fsdecode(os.fsencode(repo) + b"/" + name)).write_bytes(raw)
        git(repo, "add", ".")
        git(repo, "commit", "-qm", "one")
        about = {"repo": f"o/{number}", "commit": git(repo, "rev-parse", "HEAD"), "register": "blog", "fields": ["x"]}
        sources.append(about | {"paths": [f"*.{form}"], "format": form})
    done = collected(tmp_path, sources)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert [line.split(" left out")[0] for line in done.stderr.splitlines()] == ["o/0: a.html is", "o/1: b.json is"]
    (url,) = pq.read_table(tmp_path / "texts" / "more" / "o+2.parquet")["url"].to_pylist()
    assert url.endswith("/caf\\xe9.md#0")


def test_a_repository_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "o+gone" / "repo").mkdir(parents=True)
    done = collected(
        tmp_path, [{"repo": "o/gone", "commit": "0" * 40, "paths": ["*"], "format": "md", "register": "blog"}]
    )
    assert done.returncode == 1 and "o/gone could not be had" in done.stderr and "Traceback" not in done.stderr
