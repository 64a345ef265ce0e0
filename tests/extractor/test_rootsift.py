from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from extractor.configuration import RootSiftConfiguration
from extractor.photo import Photo
from extractor.rootsift import RootSift

Texture = Callable[..., NDArray[np.uint8]]


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def blob(x: float, y: float, deviation: float, shape: tuple[int, int] = (200, 240)) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    grey = 30 + 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / deviation**2)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize(("x", "y", "deviation"), [(100, 80, 6), (100.3, 80.7, 4), (60.5, 60.5, 10)])
def test_a_blob_is_found_at_its_centre(x: float, y: float, deviation: float) -> None:
    found = RootSift(RootSiftConfiguration()).detect(as_photo(blob(x, y, deviation)))
    np.testing.assert_allclose(found.keypoints[0], (x, y), atol=0.05)
    # The scale at which a Gaussian answers most is nearly its own.
    assert found.scales[0] == pytest.approx(deviation, rel=0.2)


def test_a_reduced_photo_gives_places_of_the_original() -> None:
    found = RootSift(RootSiftConfiguration(longest_side=240)).detect(as_photo(blob(300, 250, 18, (600, 720))))
    np.testing.assert_allclose(found.keypoints[0], (300, 250), atol=0.2)
    assert found.scales[0] == pytest.approx(18, rel=0.2)


def test_descriptors_are_roots_of_sift(texture: Texture) -> None:
    photo = as_photo(texture(150, 200))
    found = RootSift(RootSiftConfiguration(max_features=100)).detect(photo)
    assert len(found) == 100
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    grey = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY)
    points, plain = cv2.SIFT_create(enable_precise_upscale=True).detectAndCompute(grey, None)
    at = {
        (*point.pt, point.size / 2): row / row.sum()
        for point, row in zip(points, plain, strict=True)
        if sum(other.pt == point.pt and other.size == point.size for other in points) == 1
    }
    checked = 0
    for keypoint, scale, descriptor in zip(found.keypoints, found.scales, found.descriptors, strict=True):
        expected = at.get((*keypoint.tolist(), float(scale)))
        if expected is not None:
            np.testing.assert_allclose(descriptor**2, expected, atol=1e-5)
            checked += 1
    assert checked > 50


def test_order_and_number_do_not_depend_on_threads(texture: Texture) -> None:
    photo = as_photo(texture(300, 400))
    before = cv2.getNumThreads()
    runs = []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            runs.append(RootSift(RootSiftConfiguration()).detect(photo))
    finally:
        cv2.setNumThreads(before)
    for name in ("keypoints", "scales", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(runs[0], name), getattr(runs[1], name))
    few = RootSift(RootSiftConfiguration(max_features=50)).detect(photo)
    np.testing.assert_array_equal(few.scores, runs[0].scores[:50])


@pytest.mark.parametrize("shape", [(1, 1), (5, 60), (100, 120)])
def test_photos_without_features(shape: tuple[int, int]) -> None:
    found = RootSift(RootSiftConfiguration()).detect(as_photo(np.full((*shape, 3), 90, np.uint8)))
    assert len(found) == 0
    assert found.dimension == 128


def test_wrong_configurations() -> None:
    for wrong in ({"longest_side": 10}, {"max_features": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RootSiftConfiguration(**wrong)
