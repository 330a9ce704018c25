"""Local folders and globs. Links are followed, wherever they lead; what cannot be listed is told, never taken for empty."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase

HIDDEN = (".", "_")
"""How names begin that are passed over."""

Closed = dict[str, str]
"""Folders that could not be listed, and why."""


def below(top: str, closed: Closed) -> list[str]:
    """All but folders below a folder, to the bottom. A folder that links lead to again is looked into once."""
    return [name for _, names in _walk(top, closed) for name in names]


def matching(pattern: str, closed: Closed) -> list[str]:
    """Files and folders that match a full path with `*`, `?`, `[...]`, and `**` for folders at any depth."""
    return list(_matching("/", pattern.strip("/").split("/"), closed))


def _matching(folder: str, parts: list[str], closed: Closed) -> Iterator[str]:
    if not parts or parts == ["**"]:
        yield folder
    elif parts[0] == "**":
        for inner, _ in _walk(folder, closed):
            yield from _matching(inner, parts[1:], closed)
    elif any(c in parts[0] for c in "*?["):
        for entry in _listed(folder, closed):
            if fnmatchcase(entry.name, parts[0]) and (len(parts) == 1 or _is_folder(entry)):
                yield from _matching(entry.path, parts[1:], closed)
    else:
        path = os.path.join(folder, parts[0])
        try:
            os.lstat(path)
        except OSError as error:
            if isinstance(error, PermissionError):
                closed[folder] = str(error.strerror)
            return
        yield from _matching(path, parts[1:], closed)


def _walk(top: str, closed: Closed) -> Iterator[tuple[str, list[str]]]:
    """Every folder from this one down, once, and the other names in it; links come last, so that a folder is known by its own name."""
    seen: set[tuple[int, int]] = set()
    real, linked = deque([top]), deque[str]()
    while real or linked:
        folder = (real or linked).popleft()
        try:
            at = os.stat(folder)
        except OSError as error:
            closed[folder] = str(error.strerror)
            continue
        if (at.st_dev, at.st_ino) in seen:
            continue
        seen.add((at.st_dev, at.st_ino))
        names: list[str] = []
        for entry in _listed(folder, closed):
            if not _is_folder(entry):
                names.append(entry.path)
            else:
                (linked if entry.is_symlink() else real).append(entry.path)
        yield folder, names


def _listed(folder: str, closed: Closed) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(HIDDEN)), key=lambda e: e.name)
    except OSError as error:
        closed[folder] = str(error.strerror)
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
