"""`landbridge serve` with real extractors, and the commands that use it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from uvicorn.config import STARTUP_FAILURE

from extractor.features import ImageFeatures
from extractor.registry import create_extractor
from extractor.remote import RemoteExtractor, ServiceError
from extractor.sampling import learn_from_sample
from extractor.service.server import Settings, ready_extractor, worker_app
from landbridge import Index
from landbridge.cli import app, serve
from landbridge.photos import photos_in

spec = importlib.util.spec_from_file_location(
    "toy_service", Path(__file__).parent.parent / "extractor" / "toy_service.py"
)
toy: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

SERVE = (sys.executable, "-m", "landbridge", "serve", "--port", "0")


@pytest.fixture(scope="module", autouse=True)
def _no_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture(scope="module")
def few(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos of the rendered world."""
    folder = tmp_path_factory.mktemp("few")
    for path in sorted((world / "jpg").iterdir())[:8]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The default extractor, behind a token."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("secret\n")
    with toy.started((*SERVE, "--token-file", str(token), "--max-batch", "8")) as started:
        yield started


def assert_close(one: Any, other: ImageFeatures) -> None:
    assert isinstance(one, ImageFeatures)
    assert (one.image_id, one.size, one.extractor) == (other.image_id, other.size, other.extractor)
    assert np.abs(one.global_descriptor - other.global_descriptor).max() < 1e-3
    assert np.abs(one.local.keypoints - other.local.keypoints).max() < 1e-3
    assert np.abs(one.local.descriptors - other.local.descriptors).max() < 1e-3


def test_batches_of_mixed_sizes_are_as_photos_alone(service: Any, few: Path, tmp_path: Path) -> None:
    sizes = [(320, 240), (240, 320), (200, 200), (320, 97), (1500, 1100), (320, 240), (100, 75), (640, 480)]
    photos = []
    for i, (path, size) in enumerate(zip(sorted(few.iterdir()), sizes, strict=False)):
        photos.append((f"{i}", tmp_path / f"{i}.png"))
        Image.open(path).resize(size).save(photos[-1][1])
    remote = RemoteExtractor(service.url, "secret", in_flight=8)
    local = create_extractor()
    assert remote.fingerprint == local.fingerprint
    for one, other in zip(remote.extract_many(photos), local.extract_many(photos), strict=True):
        assert_close(one, other)
    text = httpx.get(
        f"{service.url}/metrics", headers={"Authorization": "Bearer secret"}, trust_env=False
    ).text
    batches = float(text.split("landbridge_batch_photos_count ")[1].split()[0])
    assert batches < len(photos)


def test_an_index_made_over_a_service_is_the_same(
    service: Any, few: Path, tmp_path: Path, landbridge: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDBRIDGE_EXTRACTOR_TOKEN", "secret")
    (few / "broken.jpg").write_bytes(b"no photo")
    run = landbridge(
        "index", few, "--uri", "remote.db", "--json", "--extractor-url", service.url, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    query = sorted(few.iterdir())[1]
    with Index(tmp_path / "local.db") as one, Index(tmp_path / "remote.db") as other:
        added = one.add(few)
        assert json.loads(run.stdout) == {
            "added": 8,
            "unchanged": 0,
            "failed": {str(path): reason for path, reason in added.failed.items()},
            "verified_pairs": added.verified,
            "photos": 8,
        }
        ids, embeddings = one.collection.embeddings()
        ids_there, embeddings_there = other.collection.embeddings()
        assert ids == ids_there
        assert one.collection.extractor == other.collection.extractor
        assert np.abs(embeddings - embeddings_there).max() < 1e-3
        expected = [hit.image_id for hit in one.search(query, 5).hits]
    monkeypatch.setenv("LANDBRIDGE_EXTRACTOR_URL", service.url)
    ranked = landbridge("search", query, "--uri", "remote.db", "--json", "--limit", 5, cwd=tmp_path)
    assert ranked.returncode == 0, ranked.stderr
    assert [hit["image_id"] for hit in json.loads(ranked.stdout)["hits"]] == expected
    text = httpx.get(
        f"{service.url}/metrics", headers={"Authorization": "Bearer secret"}, trust_env=False
    ).text
    assert 'landbridge_photos_total{status="422"} 1.0' in text


def test_a_service_of_another_extractor_is_refused(
    service: Any, few: Path, tmp_path: Path, landbridge: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDBRIDGE_EXTRACTOR_TOKEN", "secret")
    run = landbridge("index", few, "--extractor", "delf", "--extractor-url", service.url, cwd=tmp_path)
    assert run.returncode == 1
    assert f"the service at {service.url} extracts by xfeat-lite2, not by delf" in run.stderr
    with pytest.raises(ServiceError, match="refuses the token"):
        RemoteExtractor(service.url, "wrong")
    assert "secret" not in service.log.read_text()


def test_a_service_learns_what_an_index_of_the_same_photos_would(few: Path) -> None:
    local = create_extractor("rootsift-pca40")
    learn_from_sample(local, photos_in(few)[0], lambda *_: None)
    command = (*SERVE, "--extractor", "rootsift-pca40", "--learn", str(few))
    with toy.started(command) as service:
        remote = RemoteExtractor(service.url)
        assert (remote.fingerprint, remote.learns) == (local.fingerprint, False)
        assert remote.learnt == local.learnt
    assert local.learnt is not None
    taught = ready_extractor(
        Settings(partial(create_extractor, "rootsift-pca40"), learnt=remote.learnt), "cpu"
    )
    assert taught.fingerprint == local.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--extractor", "nope"), "unknown extractor 'nope'"),
        (("--token-file", "{few}/empty"), "must hold a token"),
        (("--max-megapixels", "1000"), "pixels must be at most"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    few: Path, tmp_path: Path, landbridge: Callable[..., Any], options: tuple[str, ...], message: str
) -> None:
    (few / "empty").touch()
    run = landbridge("serve", "--port", "0", *(option.format(few=few) for option in options), cwd=tmp_path)
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rootsift-pca40", {}, "rootsift-pca40 must learn from photos before it can serve: give --learn"),
        ("rootsift-pca40", {"learnt": b"?"}, "not what an extractor learnt"),
        ("xfeat-lite2", {"learnt": b"?"}, "learn"),
        ("xfeat-lite2", {"device": "cuda:63"}, "cuda:63"),
        ("xfeat-lite2", {"dtype": "int3"}, "int3"),
        ("dir", {}, "dir-resnet101.pt"),
    ],
)
def test_a_worker_that_cannot_load_its_extractor_says_why_and_ends(
    name: str, settings: dict, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        worker_app(Settings(partial(create_extractor, name), **settings), tmp_path)
    assert caught.value.code == STARTUP_FAILURE
    assert message in caplog.text
    assert "Traceback" not in caplog.text


def test_an_extractor_that_has_nothing_to_learn_is_not_taught(few: Path) -> None:
    with pytest.raises(ValueError, match="xfeat-lite2 has nothing to learn: leave --learn out"):
        serve._learn("xfeat-lite2", few)


def test_what_must_be_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "extractor.service.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    run = CliRunner().invoke(app, ["serve"])
    assert run.exit_code == 1
    assert "the service needs the package uvicorn: pip install 'landbridge[service]'" in run.output
