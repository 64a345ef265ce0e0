"""The same tests on every deployment: Milvus Lite, and a real server where one can be started.

With `LANDBRIDGE_MILVUS=docker` in the environment they run on Milvus 2.6 in a container instead.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.collection import Collection
from extractor.features import ImageFeatures, LocalFeatures


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


milvus_standalone = _load("milvus_standalone")
milvus_docker = _load("milvus_docker")

DOCKER = os.environ.get("LANDBRIDGE_MILVUS") == "docker"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DOCKER and (reason := milvus_docker.Container.unavailable()):
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Deployment:
    """Where a Milvus is, and what opens it."""

    uri: str
    token: str = ""

    @property
    def lite(self) -> bool:
        return self.uri.endswith(".db")

    def create(self, name: str = "landbridge", **arguments: Any) -> Collection:
        return Collection.create(
            self.uri, name, **{"token": self.token, "dimension": 16, "extractor": "xfeat@1", **arguments}
        )

    def open(self, name: str = "landbridge", **arguments: Any) -> Collection:
        return Collection.open(self.uri, name, **{"token": self.token, **arguments})


@pytest.fixture(scope="session")
def standalone_class() -> Any:
    """For tests that start a server of their own settings."""
    _need_own_server()
    return milvus_standalone.Standalone


@pytest.fixture(scope="session")
def standalone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with _started(request, tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture
def own_standalone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A server that one test may kill: with the collections of all tests it would be slow to come back."""
    with _started(request, tmp_path) as server:
        yield server


def _need_own_server() -> None:
    if DOCKER:
        pytest.skip("it is about the Milvus 2.3.5 that `make test` starts")


@contextmanager
def _started(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    _need_own_server()
    if reason := milvus_standalone.Standalone.unavailable():
        pytest.skip(reason)
    server = milvus_standalone.Standalone(folder, request.config.cache.mkdir("milvus-2.3.5"))
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session", params=["docker"] if DOCKER else ["lite", "server"])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    if request.param == "lite":
        return Deployment(str(tmp_path_factory.mktemp("lite") / "photos.db"))
    if request.param == "server":
        return Deployment(request.getfixturevalue("standalone").uri, milvus_standalone.TOKEN)
    return request.getfixturevalue("container")


@pytest.fixture(scope="session")
def container() -> Iterator[Deployment]:
    with milvus_docker.Container() as server:
        yield Deployment(server.uri, milvus_docker.TOKEN)


@pytest.fixture(scope="session")
def collection(deployment: Deployment) -> Iterator[Collection]:
    """One collection for all tests of a deployment; each test uses image ids of its own."""
    with deployment.create() as opened:
        yield opened


@pytest.fixture(scope="session")
def photo() -> Callable[..., ImageFeatures]:
    def make(image_id: str, seed: int = 0, keypoints: int = 30) -> ImageFeatures:
        random = np.random.default_rng(seed)
        vector = random.normal(size=16).astype(np.float32)
        local = LocalFeatures(
            keypoints=(random.random((keypoints, 2)) * (640, 480)).astype(np.float32),
            scales=(1 + random.random(keypoints)).astype(np.float32),
            scores=np.sort(random.random(keypoints))[::-1].astype(np.float32),
            descriptors=random.integers(-127, 128, (keypoints, 64), np.int8),
        )
        return ImageFeatures(image_id, (640, 480), vector / np.linalg.norm(vector), local, "xfeat@1")

    return make
