"""A scanning actor: holds one Scanner, answers orders, and leaves its parts in a folder. It never touches the database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tropescan.errors import ModelError, ShardError, TropescanError
from tropescan.parts import Part, unforeseen
from tropescan.runners import score_parts
from tropescan.runners.folder import Folder
from tropescan.runners.orders import Message, planned, scanned, unit_of
from tropescan.scanner import Scanner
from tropescan.shards import Columns, File, Plan
from tropescan.store import Entry


class Worker:
    """One actor. What goes in and out is JSON-like; of a part, only the name."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup, self._columns = setup, Columns(**setup["columns"])
        self._scanner: Scanner | None = None
        self._folder: Folder | None = None

    def ready(self) -> Message:
        """Loads the model, and holds it against the driver's."""
        setup = self._setup
        try:
            self._scanner = Scanner(
                setup["model"], threads=1, **{k: setup[k] for k in ("depth", "audit", "device", "backend")}
            )
            if self._scanner.key != setup["told"]["model"]:
                raise ModelError(
                    f"a Ray worker has model {self._scanner.key}, the driver {setup['told']['model']}: install the same tropescan and model everywhere"
                )
            if not Path(setup["parts"]).parent.is_dir():  # the folder itself may be gone: whoever writes makes it again
                raise ModelError(
                    f"a Ray worker finds no place for {setup['parts']}: give --parts a folder that all nodes share"
                )
            self._folder = Folder(setup["parts"])
            self._folder.describe(setup["told"])
        except TropescanError as error:
            return _fatal(error)
        return {"say": "ready"}

    def do(self, order: Message) -> Message:
        """Carries out an order (runners.orders)."""
        file = File(**order["file"])
        try:
            if order["do"] == "plan":
                return planned(file, self._columns)
            return {"say": "part", "name": self._scan(file, order)}
        except TropescanError as error:
            return _fatal(error)

    def _scan(self, file: File, order: Message) -> str:
        assert self._scanner is not None and self._folder is not None
        unit, setup = unit_of(order["unit"]), self._setup
        try:
            part = scanned(self._scanner, file, self._columns, unit, setup["limit"], shard=order["shard"])
        except (EOFError, OSError) as error:
            part = Part(status="failed", kind=ShardError.__name__, error=unforeseen(file, error, "scanning"))
        plan = Plan(order["plan"]["rows"], tuple(map(unit_of, order["plan"]["units"])))
        entry = Entry(order["shard"], self._scanner.key, file, plan, setup["audit"])
        self._folder.note(entry)
        self._folder.commit([(entry.shard, entry.model, unit, part)])
        return score_parts.name(entry, unit)


def _fatal(error: TropescanError) -> Message:
    return {"say": "fatal", "kind": type(error).__name__, "error": str(error)}
