"""Two worlds: a rendered one, indexed once by the real extractor, and a toy whose photos cost nothing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from landbridge import Index, SampleWorld

ROOT = Path(__file__).parent.parent.parent


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_toy = _load("toy_extractor")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The toy world, its extractor the default one during a test."""
    monkeypatch.setattr("extractor.registry.EXTRACTORS", _toy.EXTRACTORS)
    return _toy


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos of the toy world and an index of them, made once: Milvus Lite takes a second for it."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extractor.registry.EXTRACTORS", _toy.EXTRACTORS)
        with Index(folder / "toy.db") as index:
            index.add(_toy.write_photos(folder / "photos"))
    return folder


@pytest.fixture
def toy_photos(toy: Any, tmp_path: Path, toy_template: Path) -> Path:
    """A copy of the toy world's photos: two landmarks, `castle` and `tower`, of four photos each."""
    return Path(shutil.copytree(toy_template / "photos", tmp_path / "photos"))


@pytest.fixture
def toy_index(toy_photos: Path, toy_template: Path, tmp_path: Path) -> Iterator[Index]:
    """An index of `toy_photos` at `toy.db`."""
    for name in ("toy.db", "toy.db.matches"):
        shutil.copytree(toy_template / name, tmp_path / name)
    with Index(tmp_path / "toy.db") as index:
        assert index.add(toy_photos).unchanged == 8
        yield index


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small rendered world in the revisited layout; not to be written into."""
    folder = tmp_path_factory.mktemp("rendered") / "world"
    SampleWorld(
        seed=3,
        landmarks=2,
        photos_per_landmark=14,
        lookalikes=1,
        photos_per_lookalike=2,
        distractors=6,
        queries_per_landmark=2,
        queries_without_match=1,
        size=(320, 240),
    ).write(folder)
    return folder


@pytest.fixture(scope="session")
def landbridge() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a process of its own."""

    def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "landbridge", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)

    return run


@pytest.fixture(scope="session")
def indexed_world(
    world: Path, landbridge: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A folder with `world.db`, made by `landbridge index --json`, and how that command ended."""
    folder = tmp_path_factory.mktemp("indexed")
    return folder, landbridge("index", world / "jpg", "--uri", "world.db", "--json", cwd=folder)


@pytest.fixture
def world_copy(indexed_world: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the indexed world that a test may change."""
    return Path(shutil.copytree(indexed_world[0], tmp_path / "copy"))
