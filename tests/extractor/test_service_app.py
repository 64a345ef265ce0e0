"""What the routes of a running service answer."""

from __future__ import annotations

import base64
import importlib.util
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from extractor.features import ImageFeatures
from extractor.photo import decode_photo
from extractor.service.wire import NPZ, Failure, from_npz

spec = importlib.util.spec_from_file_location("toy_service", Path(__file__).with_name("toy_service.py"))
toy: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

TOKEN = "correct horse"


def photo(seed: int, size: tuple[int, int] = (160, 120), kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int], size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def local(data: bytes, image_id: str) -> ImageFeatures:
    extractor = toy.ColourExtractor()
    return extractor.extract(decode_photo(data, image_id, extractor.longest_side), image_id)


def assert_same(one: Any, other: ImageFeatures) -> None:
    assert isinstance(one, ImageFeatures)
    assert (one.image_id, one.size, one.extractor) == (other.image_id, other.size, other.extractor)
    assert np.array_equal(one.global_descriptor, other.global_descriptor)
    for name in ("keypoints", "scales", "scores", "descriptors"):
        assert np.array_equal(getattr(one.local, name), getattr(other.local, name))


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    limits = {
        "photo_bytes": 200_000,
        "request_bytes": 500_000,
        "pixels": 1_000_000,
        "photos": 6,
        "receive_seconds": 1.0,
        "batch": 6,
    }
    with toy.started(token=TOKEN, limits=limits) as started:
        yield started


@pytest.fixture(scope="module")
def client(service: Any) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=service.url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=30
    ) as client:
        yield client


def test_one_photo_as_npz_has_every_bit_of_local_extraction(client: httpx.Client) -> None:
    for size in ((160, 120), (999, 40), (33, 700)):
        data = photo(1, size)
        answer = client.post("/v1/extract", params={"id": "ü"}, content=data, headers={"Accept": NPZ})
        assert (answer.status_code, answer.headers["content-type"]) == (200, NPZ)
        (found,) = from_npz(answer.content)
        assert_same(found, local(data, "ü"))


def test_json_is_the_usual_answer(client: httpx.Client) -> None:
    data = photo(2)
    answer = client.post("/v1/extract?dtype=float16", content=data)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    (found,) = answer.json()["photos"]
    expected = local(data, "photo")
    assert (found["id"], found["size"]) == ("photo", [160, 120])
    assert np.array_equal(np.float32(found["keypoints"]), expected.local.keypoints)
    assert np.array_equal(np.float16(found["descriptors"]), expected.local.descriptors.astype(np.float16))


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("application/octet-stream", NPZ),
        ("text/html, application/json;q=0.9", "application/json"),
        ("*/*", "application/json"),
        ("text/html", None),
    ],
)
def test_kinds_of_answer(client: httpx.Client, accept: str, given: str | None) -> None:
    answer = client.post("/v1/extract", content=photo(1), headers={"Accept": accept})
    assert answer.status_code == (200 if given else 406)
    assert given is None or answer.headers["content-type"] == given


def test_half_precision_on_the_wire(client: httpx.Client) -> None:
    data = photo(3)
    answer = client.post("/v1/extract?dtype=float16", content=data, headers={"Accept": NPZ})
    (found,) = from_npz(answer.content)
    assert isinstance(found, ImageFeatures)
    expected = local(data, "photo").global_descriptor
    assert np.array_equal(found.global_descriptor, expected.astype(np.float16))
    assert client.post("/v1/extract?dtype=int8", content=data).status_code == 422


def test_a_photo_that_was_reduced_before_it_was_sent(client: httpx.Client) -> None:
    data = photo(4)
    answer = client.post("/v1/extract", params={"width": 1600, "height": 1200}, content=data)
    (found,) = answer.json()["photos"]
    assert found["size"] == [1600, 1200]
    assert np.array_equal(np.float32(found["keypoints"]), 10 * local(data, "photo").local.keypoints)


def test_bad_photos_do_not_fail_the_good_ones_beside_them(client: httpx.Client) -> None:
    good = {"a.jpg": photo(5), "b.png": photo(6, (90, 200), "PNG")}
    files = [
        ("p", ("a.jpg", good["a.jpg"])),
        ("p", ("cut.jpg", photo(7)[:-9000])),
        ("p", ("bomb.png", plain((0, 0, 0), (3000, 3000)))),
        ("p", ("magenta.png", plain(toy.MAGENTA, (50, 50)))),
        ("p", ("long.jpg", photo(8) + bytes(200_000))),
        ("p", ("b.png", good["b.png"])),
    ]
    answer = client.post("/v1/extract", files=files, headers={"Accept": NPZ})
    assert answer.status_code == 200
    found = {one.image_id: one for one in from_npz(answer.content)}
    assert found.keys() == {name for _, (name, _) in files}
    for name, data in good.items():
        assert_same(found[name], local(data, name))
    statuses = {name: one.status for name, one in found.items() if isinstance(one, Failure)}
    assert statuses == {"cut.jpg": 422, "bomb.png": 413, "magenta.png": 500, "long.jpg": 413}
    listed = client.post("/v1/extract", files=files).json()["photos"]
    assert [one["id"] for one in listed] == [name for _, (name, _) in files]
    assert listed[1]["error"]["status"] == 422
    assert "truncated" in listed[1]["error"]["reason"]


def test_a_photo_that_is_the_body_fails_the_request(client: httpx.Client) -> None:
    for data, status, reason in (
        (photo(7)[:-9000], 422, "truncated"),
        (b"text", 422, "not a photo"),
        (b"", 422, "the file is empty"),
        (plain((0, 0, 0), (3000, 3000)), 413, "3000 x 3000 is more than 1 megapixels"),
        (plain(toy.MAGENTA, (50, 50)), 500, "the extractor failed"),
    ):
        answer = client.post("/v1/extract", content=data)
        assert answer.status_code == status
        assert reason in answer.json()["detail"]


def test_photos_in_json(client: httpx.Client) -> None:
    data = {"x": photo(9), "y": photo(10, (40, 40))}
    photos = [{"id": name, "image": base64.b64encode(one).decode()} for name, one in data.items()]
    photos[1] |= {"width": 400, "height": 400}
    answer = client.post("/v1/extract", json={"photos": photos}, headers={"Accept": NPZ})
    found = from_npz(answer.content)
    assert_same(found[0], local(data["x"], "x"))
    assert found[1].size == (400, 400)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"photos": []}, 422),
        ({"photos": [{"id": "a", "image": "?"}]}, 422),
        ({"photos": [{"id": "a", "image": "", "wide": 3}]}, 422),
        ({"photos": [{"id": "", "image": ""}]}, 422),
        ({"photos": [{"id": "a\0", "image": ""}]}, 422),
        ({"photos": [{"id": "a", "image": ""}, {"id": "a", "image": ""}]}, 422),
        ({"photos": [{"id": str(i), "image": ""} for i in range(7)]}, 413),
    ],
)
def test_json_that_is_refused(client: httpx.Client, body: dict, status: int) -> None:
    assert client.post("/v1/extract", json=body).status_code == status


def test_forms_that_are_refused(client: httpx.Client) -> None:
    seven = [("p", (f"{i}.jpg", photo(1))) for i in range(7)]
    too_many = client.post("/v1/extract", files=seven)
    assert (too_many.status_code, "Too many files" in too_many.text) == (413, True)
    field = client.post("/v1/extract", files=[("p", ("a", photo(1)))], data={"id": "x"})
    assert (field.status_code, field.json()["detail"]) == (422, "the field 'id' is no file")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        assert client.post("/v1/extract", content=b"?", headers={"Content-Type": kind}).status_code == 422


def test_bodies_that_are_too_large_are_not_taken_in(client: httpx.Client, service: Any) -> None:
    assert client.post("/v1/extract", content=bytes(200_001)).status_code == 413
    unannounced = client.post("/v1/extract", content=iter([bytes(150_000)] * 2))
    assert (unannounced.status_code, unannounced.json()["detail"]) == (413, "a body of more than 0.191 MiB")
    five = [("p", (f"{i}.jpg", bytes(150_000))) for i in range(5)]
    assert client.post("/v1/extract", files=five).status_code == 413
    assert client.get("/readyz").json() == {"waiting": 0, "most": 128}
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
            b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
        )
        assert raw.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come_is_not_waited_for(service: Any) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        raw.sendall(
            b"POST /v1/extract HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\nabc"
        )
        assert raw.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", "Bearer correct", "Basic correct horse"]
)
def test_without_the_token_nothing_is_told(service: Any, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    with httpx.Client(base_url=service.url, headers=headers, trust_env=False) as stranger:
        for method, path in (
            ("POST", "/v1/extract"),
            ("GET", "/v1/extractor"),
            ("GET", "/v1/extractor/learnt"),
            ("GET", "/metrics"),
        ):
            answer = stranger.request(method, path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert stranger.get(path).status_code == 200


def test_the_token_is_not_in_the_log(service: Any, client: httpx.Client) -> None:
    client.post("/v1/extract", content=plain(toy.MAGENTA, (50, 50)))
    service.says("magenta")
    assert TOKEN not in service.log.read_text()


def test_what_the_service_says_of_itself(client: httpx.Client) -> None:
    about = client.get("/v1/extractor").json()
    extractor = toy.ColourExtractor()
    for name in ("name", "fingerprint", "dimension", "local_dimension", "longest_side", "learnt"):
        assert about[name] == getattr(extractor, name)
    assert (about["device"], about["dtype"]) == ("cpu", "float32")
    assert about["limits"]["photo_bytes"] == 200_000
    assert client.get("/v1/extractor/learnt").status_code == 404


def test_openapi_describes_bodies_answers_and_the_token(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    extract = described["paths"]["/v1/extract"]["post"]
    assert extract["requestBody"]["content"].keys() == {"image/*", "multipart/form-data", "application/json"}
    assert extract["responses"]["200"]["content"].keys() >= {"application/json", NPZ}
    assert {"401", "413", "422", "429"} <= extract["responses"].keys()
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def figures(client: httpx.Client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, _, value in (one.rpartition(" ") for one in lines if not one.startswith("#"))
    }


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    before = figures(client)
    client.post("/v1/extract", files=[("p", (f"{i}.jpg", photo(i))) for i in range(3)])
    client.post("/v1/extract", content=b"text")
    client.get("/nowhere/at/all")
    after = figures(client)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('landbridge_photos_total{status="200"}') == 3
    assert grown('landbridge_photos_total{status="422"}') == 1
    assert grown('landbridge_requests_total{path="/v1/extract",status="200"}') == 1
    assert grown('landbridge_requests_total{path="/v1/extract",status="422"}') == 1
    assert grown('landbridge_requests_total{path="other",status="404"}') == 1
    assert grown('landbridge_request_seconds_count{path="/v1/extract"}') == 2
    assert grown("landbridge_batch_photos_sum") == 3
    assert 1 <= grown("landbridge_batch_photos_count") <= 3
    assert grown('landbridge_stage_seconds_count{stage="decode"}') == 3
    assert grown('landbridge_stage_seconds_sum{stage="extract"}') > 0
    assert after["landbridge_waiting_photos"] == after["landbridge_waiting_bytes"] == 0
    assert after["landbridge_worker_starts_total"] == 1
