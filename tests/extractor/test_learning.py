"""Extractors that learn from photos of the index: `learnt`, `reduction`, `GlobalLocalExtractor`."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from extractor.configuration import (
    GlobalLocalConfiguration,
    LiteGlobalConfiguration,
    RootSiftConfiguration,
    XFeatConfiguration,
)
from extractor.extractor import Extractor, Learner
from extractor.learnt import pack_learnt, unpack_learnt
from extractor.photo import read_photo
from extractor.reduction import ReducedLocal
from extractor.rootsift import RootSift
from extractor.whitening import Whitening

Texture = Callable[..., NDArray[np.uint8]]
SMALL = LiteGlobalConfiguration(sides=(64,))


def create(dimension: int = 8, whiten: bool = False) -> Extractor:
    local = RootSiftConfiguration(longest_side=200, dimension=dimension, whiten=whiten)
    return GlobalLocalConfiguration(SMALL, local).load("sift")


@pytest.fixture
def photos(tmp_path: Path, texture: Texture) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Image.fromarray(texture(150, 200, seed=number)).save(path)
    return paths


def test_pca_by_hand(photos: list[Path]) -> None:
    """L2, PCA, L2: against the singular value decomposition of the descriptors."""
    plain = RootSift(RootSiftConfiguration(longest_side=200))
    found = [plain.detect(read_photo(path, 200)) for path in photos]
    samples = np.concatenate([f.descriptors[:300] for f in found]).astype(np.float64)
    mean = samples.mean(0)
    directions = np.linalg.svd(samples - mean, full_matrices=False)[2][:8]
    expected = (found[0].descriptors - mean) @ directions.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)

    extractor = create()
    extractor.learn(photos)
    local = extractor.extract(read_photo(photos[0], 200), "a").local
    assert local.dimension == extractor.local_dimension == 8
    np.testing.assert_array_equal(local.keypoints, found[0].keypoints)
    # The sign of a direction is a convention, so cosines are compared.
    np.testing.assert_allclose(local.descriptors @ local.descriptors.T, expected @ expected.T, atol=1e-4)
    assert np.linalg.norm(local.descriptors, axis=1) == pytest.approx(1, abs=1e-5)


def test_whitening_evens_out_the_components(photos: list[Path]) -> None:
    model = ReducedLocal(RootSift(RootSiftConfiguration(longest_side=200)), 8, whiten=True)
    samples = np.concatenate([model.samples(read_photo(path, 200)) for path in photos])
    model.learn(samples)
    assert model.projection is not None
    assert model.projection.projection is not None
    spread = ((samples - model.projection.mean) @ model.projection.projection).std(0)
    assert spread.max() / spread.min() < 1.1
    plain = ReducedLocal(RootSift(RootSiftConfiguration(longest_side=200)), 8, whiten=False)
    plain.learn(samples)
    assert plain.projection is not None
    assert plain.projection.projection is not None
    np.testing.assert_allclose(
        plain.projection.projection.T @ plain.projection.projection, np.eye(8), atol=1e-5
    )
    with pytest.raises(ValueError, match="cannot reduce 128 components to 129"):
        ReducedLocal(plain.model, 129, whiten=False)


def test_nothing_comes_before_learning(photos: list[Path]) -> None:
    extractor = create()
    assert extractor.learns
    assert extractor.learnt is None
    with pytest.raises(RuntimeError, match="sift has learnt nothing yet"):
        extractor.extract(read_photo(photos[0]), "a")
    extractor.learn(photos)
    assert not extractor.learns


def test_the_same_photos_teach_the_same(photos: list[Path]) -> None:
    learnt = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        extractor = create()
        extractor.learn(photos)
        learnt.append((extractor.learnt, extractor.fingerprint))
    assert learnt[0] == learnt[1]
    other = create()
    other.learn(photos[1:])
    assert other.fingerprint != learnt[0][1]
    assert other.fingerprint.startswith("sift-")


def test_restoring_takes_over_what_was_learnt(photos: list[Path]) -> None:
    first, second = create(), create()
    unlearnt = first.fingerprint
    first.learn(photos)
    assert first.fingerprint != unlearnt
    assert first.learnt is not None
    second.restore(first.learnt)
    assert (second.fingerprint, second.learnt, second.learns) == (first.fingerprint, first.learnt, False)
    photo = read_photo(photos[2], 200)
    a, b = (one.extract(photo, "a").local.descriptors for one in (first, second))
    np.testing.assert_array_equal(a, b)


def test_what_another_extractor_learnt_is_refused(photos: list[Path]) -> None:
    extractor = create()
    extractor.learn(photos)
    assert extractor.learnt is not None
    for other in (create(9), create(whiten=True)):
        with pytest.raises(ValueError, match=r"was learnt by sift-.*, this is sift-"):
            other.restore(extractor.learnt)
    nothing_to_learn = GlobalLocalConfiguration(SMALL, XFeatConfiguration()).load("xfeat")
    assert not nothing_to_learn.learns
    nothing_to_learn.learn(photos)
    assert nothing_to_learn.learnt is None
    with pytest.raises(ValueError, match="was learnt by"):
        nothing_to_learn.restore(extractor.learnt)


def test_photos_that_cannot_be_read_teach_nothing(photos: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    with_bad, without = create(), create()
    with_bad.learn([bad, *photos])
    without.learn(photos)
    assert with_bad.fingerprint == without.fingerprint
    with pytest.raises(ValueError, match="must learn from photos, and none of these can be read"):
        create().learn([bad])
    blank = tmp_path / "blank.png"
    Image.new("L", (80, 60), 90).save(blank)
    with pytest.raises(ValueError, match="cannot learn the projection of its local descriptors from 1 p"):
        create().learn([blank])


def test_stored_bytes() -> None:
    rng = np.random.default_rng(0)
    projections = {
        "local": Whitening.fit(rng.normal(size=(30, 5)).astype(np.float32), 3),
        "global": Whitening.fit(rng.normal(size=(30, 4)).astype(np.float32), 2, scaled=False),
    }
    data = pack_learnt("a-1", projections)
    assert data == pack_learnt("a-1", dict(reversed(projections.items())))
    back = unpack_learnt(data, "a-1")
    assert {half: made.fingerprint for half, made in back.items()} == {
        half: made.fingerprint for half, made in projections.items()
    }
    with pytest.raises(ValueError, match="was learnt by a-1, this is a-2"):
        unpack_learnt(data, "a-2")
    for damaged in (b"", data[:50], b"x" * 100):
        with pytest.raises(ValueError, match="not what an extractor learnt"):
            unpack_learnt(damaged, "a-1")
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive)
    buffer = io.BytesIO()
    np.savez(buffer, **{**arrays, "version": np.array(2)})
    with pytest.raises(ValueError, match="of version 2, this release reads 1"):
        unpack_learnt(buffer.getvalue(), "a-1")


def test_who_learns() -> None:
    assert isinstance(ReducedLocal(RootSift(RootSiftConfiguration()), 8, whiten=False), Learner)
    assert not isinstance(RootSift(RootSiftConfiguration()), Learner)
