"""A model folder is verified before use: damage to any file is told, with the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tropescan import persistence
from tropescan.errors import DamagedModel, ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(persistence.find("evil-ai"), tmp_path / "mine"))


@pytest.mark.parametrize("name", [*persistence.SCORING, *persistence.BESIDE])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damage_to_any_file_is_told(folder: Path, name: str, damage: str) -> None:
    raw = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    else:
        raw[len(raw) // 2] ^= 1
        (folder / name).write_bytes(raw if damage == "flip" else raw[:-1])
    with pytest.raises(DamagedModel, match=name):
        persistence.load(folder)


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b'{"format": 1, "name": "x", "files": {}}'])
def test_a_damaged_manifest_is_told(folder: Path, manifest: bytes) -> None:
    (folder / "manifest.json").write_bytes(manifest)
    with pytest.raises(DamagedModel, match=r"manifest\.json"):
        persistence.load(folder)


def test_another_format_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | {"format": 99}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="format 99"):
        persistence.load(folder)


def saved(folder: Path, change: dict[str, object], model: persistence.Model) -> str:
    parts = {
        "config": model.config,
        "thresholds": model.thresholds,
        "gate": model.gate,
        "fast": model.fast,
        "encoder": model.encoder,
        "card": "card",
    }
    return persistence.save(folder, "mine", **(parts | change))  # type: ignore[arg-type]


def test_what_changes_a_score_changes_the_fingerprint_and_a_threshold_does_not(folder: Path) -> None:
    model = persistence.load(folder)
    first = saved(folder, {}, model)
    assert persistence.load(folder).config == model.config
    thresholds = json.loads(json.dumps(model.thresholds))
    thresholds["fast"]["default"]["threshold"] = 0.5
    assert saved(folder, {"thresholds": thresholds, "card": "another"}, model) == first
    assert saved(folder, {"gate": model.gate + "\nzyx\n"}, model) != first
    assert saved(folder, {"config": model.config | {"fast_floor": 0.9}}, model) != first
    assert saved(folder, {"fast": model.fast | {"bias": model.fast["bias"] + 1}}, model) != first
    assert model.key("fast") != model.key("full")
