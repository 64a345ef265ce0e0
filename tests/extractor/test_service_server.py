"""A service under load, told to stop, killed, and started wrongly; and the extractor that uses one."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import PhotoError, read_photo
from extractor.remote import RemoteExtractor, ServiceError

spec = importlib.util.spec_from_file_location("toy_service", Path(__file__).with_name("toy_service.py"))
toy: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

SIZES = [(160, 120), (90, 200), (300, 300), (31, 47), (640, 480)]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def photos(tmp_path: Path) -> list[tuple[str, Path]]:
    """Twenty photos of mixed sizes, ids that no URL would like, and one file that is none."""
    named = []
    for i in range(20):
        path = tmp_path / f"{i}.jpg"
        width, height = SIZES[i % len(SIZES)]
        noise = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(path)
        named.append((f"a/ü {i}?&\udcff", path))
    named[7][1].write_bytes(named[7][1].read_bytes()[:-500])
    return named


def assert_as_local(
    found: list[ImageFeatures | PhotoError],
    photos: list[tuple[str, Path]],
    extractor: Extractor,
) -> None:
    assert len(found) == len(photos)
    for one, (image_id, path) in zip(found, photos, strict=True):
        (expected,) = extractor.extract_many([(image_id, path)])
        if isinstance(expected, PhotoError):
            assert isinstance(one, PhotoError)
            assert str(one) == str(expected)
        else:
            assert isinstance(one, ImageFeatures)
            assert (one.image_id, one.size, one.extractor) == (image_id, expected.size, expected.extractor)
            assert np.array_equal(one.global_descriptor, expected.global_descriptor)
            for name in ("keypoints", "scales", "scores", "descriptors"):
                assert np.array_equal(getattr(one.local, name), getattr(expected.local, name))


def posted(url: str, data: bytes, statuses: list[int]) -> None:
    statuses.append(httpx.post(f"{url}/v1/extract", content=data, timeout=60, trust_env=False).status_code)


def waiting(url: str) -> int:
    return int(httpx.get(f"{url}/readyz", trust_env=False, timeout=10).json()["waiting"])


def test_a_remote_extractor_is_as_the_local_one(photos: list[tuple[str, Path]], tmp_path: Path) -> None:
    photos.append(("missing", tmp_path / "missing.jpg"))
    photos.append(("empty", tmp_path / "empty.jpg"))
    (tmp_path / "empty.jpg").touch()
    with toy.started(token="t") as service:
        remote = RemoteExtractor(service.url + "/", "t")
        local = toy.ColourExtractor()
        for name in (
            "name",
            "fingerprint",
            "dimension",
            "local_dimension",
            "longest_side",
            "learns",
            "learnt",
        ):
            assert getattr(remote, name) == getattr(local, name)
        assert_as_local(list(remote.extract_many(iter(photos))), photos, local)
        large = read_photo(photos[4][1])
        expected = local.extract(large.reduced(local.longest_side), "large")
        for found in (remote.extract(large, "large"), *remote.extract_batch([("large", large)])):
            assert (found.image_id, found.size) == ("large", (640, 480))
            assert np.array_equal(found.global_descriptor, expected.global_descriptor)
            assert np.array_equal(found.local.keypoints, expected.local.keypoints)
        with pytest.raises(ServiceError, match="refuses the token: set LANDBRIDGE_EXTRACTOR_TOKEN"):
            RemoteExtractor(service.url, "wrong")
        with pytest.raises(ValueError, match="no network to move"):
            remote.to("cuda")


def test_the_client_needs_neither_torch_nor_a_server() -> None:
    code = (
        "import sys, extractor.remote; sys.exit(bool({'torch', 'fastapi', 'uvicorn'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_a_service_learnt_goes_with_its_extractor() -> None:
    with toy.started(toy={"learns": True}, learnt="tower castle") as service:
        remote = RemoteExtractor(service.url)
        assert (remote.learnt, remote.learns) == (b"tower castle", False)
        assert remote.fingerprint == "colours-12"


def test_too_much_is_refused_and_comes_through_with_retries(photos: list[tuple[str, Path]]) -> None:
    limits = {"photos": 1, "waiting_photos": 6, "batch": 2}
    with toy.started(toy={"seconds": 0.01}, limits=limits) as service:
        data = photos[0][1].read_bytes()
        answers: list[httpx.Response] = []

        def post(_: int) -> None:
            answers.append(httpx.post(f"{service.url}/v1/extract", content=data, timeout=30, trust_env=False))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(post, range(32)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert len(answers) == 32
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert "try again in" in refused[0].json()["detail"]
        remote = RemoteExtractor(service.url, in_flight=16)
        assert_as_local(list(remote.extract_many(photos)), photos, toy.ColourExtractor())
        assert waiting(service.url) == 0


def test_readyz_says_when_there_is_no_room(photos: list[tuple[str, Path]]) -> None:
    with toy.started(toy={"seconds": 1.0}, limits={"photos": 1, "waiting_photos": 2}) as service:
        statuses: list[int] = []
        data = photos[0][1].read_bytes()
        threads = [threading.Thread(target=posted, args=(service.url, data, statuses)) for _ in range(2)]
        for thread in threads:
            thread.start()
        toy.until(lambda: waiting(service.url) == 2)
        assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 503
        assert httpx.get(f"{service.url}/healthz", trust_env=False).status_code == 200
        for thread in threads:
            thread.join()
        assert statuses == [200, 200]
        assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200


def test_sigterm_answers_what_came_and_refuses_what_comes(photos: list[tuple[str, Path]]) -> None:
    with toy.started(toy={"seconds": 0.4}) as service:
        data = photos[0][1].read_bytes()
        statuses: list[int] = []
        threads = [threading.Thread(target=posted, args=(service.url, data, statuses)) for _ in range(6)]
        for thread in threads:
            thread.start()
        toy.until(lambda: waiting(service.url) == 6)
        service.process.terminate()
        service.says("Shutting down")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{service.url}/healthz", trust_env=False)
        assert service.process.poll() is None
        for thread in threads:
            thread.join()
        assert statuses == [200] * 6
        assert service.process.wait(10) == 0


def test_a_killed_worker_is_replaced_and_nothing_is_lost(photos: list[tuple[str, Path]]) -> None:
    with toy.started(toy={"seconds": 0.05}) as service:
        remote = RemoteExtractor(service.url, in_flight=8)
        features = remote.extract_many(photos)
        found = [next(features)]
        os.kill(service.workers()[0], signal.SIGKILL)
        found += features
        assert_as_local(found, photos, toy.ColourExtractor())
        text = httpx.get(f"{service.url}/metrics", trust_env=False, timeout=20).text
        assert "landbridge_worker_starts_total 2.0" in text
        assert "landbridge_waiting_photos 0.0" in text
        service.process.terminate()
        assert service.process.wait(10) == 0


def test_workers_share_a_port_and_the_figures(photos: list[tuple[str, Path]]) -> None:
    with toy.started(workers=2) as service:
        toy.until(lambda: len(service.workers()) == 2)
        found = RemoteExtractor(service.url, in_flight=8).extract_many(photos)
        assert_as_local(list(found), photos, toy.ColourExtractor())
        text = httpx.get(f"{service.url}/metrics", trust_env=False).text
        assert 'landbridge_photos_total{status="200"} 19.0' in text
        assert "landbridge_worker_starts_total 2.0" in text
        service.process.terminate()
        assert service.process.wait(10) == 0


def test_no_worker_outlives_a_service_that_was_killed() -> None:
    with toy.started() as service:
        (worker,) = service.workers()
        service.process.kill()
        service.process.wait()
        toy.until(lambda: not Path(f"/proc/{worker}/cmdline").exists() or not _running(worker))


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_service_that_cannot_start_says_why_once_and_ends() -> None:
    with toy.started(toy={"learns": True}) as service:
        assert service.process.wait(30) == 1
        text = service.log.read_text()
        assert "colours must learn from photos before it can serve: give --learn" in text
        assert "Traceback" not in text
        assert text.count("must learn") == 1


def test_a_service_that_is_not_there_is_an_error_that_names_it(
    photos: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with toy.started() as service:
        url = service.url
        remote = RemoteExtractor(url, patience=1.0)
        assert isinstance(remote.extract(read_photo(photos[0][1]), "a"), ImageFeatures)
    with pytest.raises(ServiceError, match=rf"{url} cannot be reached .* for 1 s \(.*0\.jpg\): see that"):
        list(remote.extract_many(photos[:1]))
    with pytest.raises(ServiceError, match="cannot be reached"):
        RemoteExtractor(url, patience=0.5)


@pytest.mark.parametrize("url", ["127.0.0.1:8420", "ftp://x", "", "http://x:port"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL of an extractor service"):
        RemoteExtractor(url)


class Scripted(httpx.BaseTransport):
    """Answers as told, one after the other, and notes the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


ABOUT = {
    "name": "toy",
    "fingerprint": "toy-1",
    "dimension": 2,
    "local_dimension": 2,
    "longest_side": 64,
    "learnt": None,
    "at_once": 96,
    "limits": {"photo_bytes": 1000, "waiting_photos": 128},
}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Scripted, list[float]]]:
    """What a client is answered, and for how long it waited each time."""
    transport, pauses = Scripted(), []
    real = httpx.Client
    monkeypatch.setattr("httpx.Client", lambda **given: real(transport=transport, **given))
    monkeypatch.setattr("time.sleep", pauses.append)
    yield transport, pauses
    assert not transport.answers


@pytest.mark.parametrize(
    ("at_once", "waiting", "given", "expected"),
    [(96, 128, None, 96), (3, 128, None, 8), (96, 64, None, 64), (96, 64, 2, 2)],
)
def test_as_many_photos_are_in_flight_as_keep_the_service_busy(
    scripted: Any, at_once: int, waiting: int, given: int | None, expected: int
) -> None:
    limits = {"photo_bytes": 1000, "waiting_photos": waiting}
    scripted[0].answers = [httpx.Response(200, json=ABOUT | {"at_once": at_once, "limits": limits})]
    assert RemoteExtractor("http://service", in_flight=given).in_flight == expected


def test_retries_wait_as_long_as_they_are_told_else_longer_each_time(scripted: Any) -> None:
    transport, pauses = scripted
    transport.answers = [
        httpx.ConnectError("refused"),
        httpx.Response(429, headers={"Retry-After": "3"}),
        httpx.Response(503),
        httpx.ReadError("reset"),
        httpx.Response(200, json=ABOUT),
    ]
    assert RemoteExtractor("http://service", "secret").name == "toy"
    assert [request.headers["authorization"] for request in transport.requests] == ["Bearer secret"] * 5
    for pause, least in zip(pauses, (0.25, 3.0, 0.5, 1.0), strict=True):
        assert least <= pause <= 1.25 * least


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(404, text="no page"), "service at http://service answers 404: no page"),
        (httpx.Response(200, json={"name": "x"}), "is no extractor service of this release"),
        (httpx.Response(200, text="<html>"), "is no extractor service of this release"),
    ],
)
def test_what_is_no_extractor_service(scripted: Any, answer: httpx.Response, message: str) -> None:
    scripted[0].answers = [answer]
    with pytest.raises(ServiceError, match=message):
        RemoteExtractor("http://service")
    assert scripted[1] == []


def test_a_service_that_became_another_is_noticed(scripted: Any, photos: list[tuple[str, Path]]) -> None:
    from extractor.service.wire import to_npz

    other = toy.ColourExtractor().extract(read_photo(photos[3][1]), "photo")
    transport, _ = scripted
    transport.answers = [
        httpx.Response(200, json=ABOUT),
        httpx.Response(200, content=to_npz([other], other.extractor)),
    ]
    remote = RemoteExtractor("http://service")
    path = photos[3][1]
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(ServiceError, match="has become colours-1, it was toy-1"):
        list(remote.extract_many([("a", path)]))


def test_a_photo_that_the_service_would_refuse_is_not_sent(scripted: Any, tmp_path: Path) -> None:
    transport, _ = scripted
    transport.answers = [httpx.Response(200, json=ABOUT)]
    remote = RemoteExtractor("http://service")
    path = tmp_path / "long.jpg"
    path.write_bytes(bytes(2000))
    (found,) = remote.extract_many([("a", path)])
    assert isinstance(found, PhotoError)
    assert "takes photos of at most" in found.reason


def test_learnt_that_changed_on_the_way_is_refused(scripted: Any) -> None:
    transport, _ = scripted
    about = ABOUT | {"learnt": {"bytes": 3, "sha256": "0" * 64}}
    transport.answers = [httpx.Response(200, json=about), httpx.Response(200, content=b"abc")]
    with pytest.raises(ServiceError, match="something else as learnt"):
        _ = RemoteExtractor("http://service").learnt
