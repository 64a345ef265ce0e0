from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from extractor.features import ImageFeatures, LocalFeatures
from extractor.service.wire import Failure, from_npz, to_json, to_npz


def photo(image_id: str, count: int, kind: type = np.float32) -> ImageFeatures:
    random = np.random.default_rng(count)
    vector = random.normal(size=8).astype(np.float32)
    rows = random.normal(size=(count, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return ImageFeatures(
        image_id,
        (640 + count, 480),
        vector / np.linalg.norm(vector),
        LocalFeatures(
            random.uniform(0, 640, (count, 2)).astype(np.float32),
            random.uniform(1, 2, count).astype(np.float32),
            random.uniform(0, 1, count).astype(np.float32),
            np.rint(127 * rows).astype(np.int8) if kind is np.int8 else rows.astype(np.float32),
        ),
        "toy-1",
    )


def same(one: ImageFeatures, other: ImageFeatures) -> bool:
    return (
        (one.image_id, one.size, one.extractor) == (other.image_id, other.size, other.extractor)
        and np.array_equal(one.global_descriptor, other.global_descriptor)
        and all(
            np.array_equal(getattr(one.local, name), getattr(other.local, name))
            for name in ("keypoints", "scales", "scores", "descriptors")
        )
    )


@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_npz_keeps_every_bit(kind: type) -> None:
    answers = [
        photo("a/ü", 5, kind),
        Failure("bad", 422, "damaged"),
        photo("b", 0, kind),
        photo("c", 2, kind),
    ]
    found = from_npz(to_npz(answers, "toy-1"))
    assert found[3] == answers[1]
    assert same(found[0], answers[0])
    assert same(found[1], answers[2])
    assert same(found[2], answers[3])
    assert found[2].local.descriptors.dtype == kind


def test_npz_of_failures_alone_and_of_nothing() -> None:
    failures = [Failure("a", 413, "large"), Failure("b", 500, "broken")]
    assert from_npz(to_npz(failures, "toy-1")) == failures
    assert from_npz(to_npz([], "toy-1")) == []


def test_half_precision_is_half_as_large_and_of_descriptors_alone() -> None:
    whole = photo("a", 400)
    data = to_npz([whole], "toy-1", "float16")
    (half,) = from_npz(data)
    assert isinstance(half, ImageFeatures)
    assert np.array_equal(half.local.keypoints, whole.local.keypoints)
    assert half.local.descriptors.dtype == half.global_descriptor.dtype == np.float32
    for narrow, wide in (
        (half.local.descriptors, whole.local.descriptors),
        (half.global_descriptor, whole.global_descriptor),
    ):
        assert np.array_equal(narrow, wide.astype(np.float16).astype(np.float32))
        assert not np.array_equal(narrow, wide)
    assert len(to_npz([whole], "toy-1")) - len(data) == 2 * (400 * 4 + 8)


def test_npz_can_be_imported_as_a_feature_file(tmp_path: Path) -> None:
    from extractor.files.read import read_features

    path = tmp_path / "answer.npz"
    path.write_bytes(to_npz([photo("a", 3), Failure("x", 422, "damaged"), photo("b", 2)], "toy-1"))
    stored = read_features(path)
    assert sorted(stored) == ["a", "b"]
    assert stored["b"].size == (642, 480)
    assert np.array_equal(stored["b"].local.keypoints, photo("b", 2).local.keypoints)


def test_json_says_the_same() -> None:
    one = photo("a", 2)
    found = json.loads(to_json([Failure("x", 422, "damaged"), one], "toy-1"))
    assert found["extractor"] == "toy-1"
    assert found["photos"][0] == {"id": "x", "error": {"status": 422, "reason": "damaged"}}
    read = found["photos"][1]
    assert (read["id"], read["size"]) == ("a", [642, 480])
    assert np.array_equal(np.float32(read["global_descriptor"]), one.global_descriptor)
    for name in ("keypoints", "scales", "scores", "descriptors"):
        assert np.array_equal(np.float32(read[name]), getattr(one.local, name))
    half = json.loads(to_json([one], "toy-1", "float16"))["photos"][0]
    assert np.array_equal(np.float16(half["descriptors"]), one.local.descriptors.astype(np.float16))
    assert half["keypoints"] == read["keypoints"]


@pytest.mark.parametrize("data", [b"", b"no zip", to_npz([photo("a", 2)], "x")[:-200]])
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(ValueError, match="not an answer of an extractor service"):
        from_npz(data)
