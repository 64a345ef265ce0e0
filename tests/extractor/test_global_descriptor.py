from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractor.configuration import LiteGlobalConfiguration
from extractor.efficientnet_lite import normalise
from extractor.global_descriptor import LiteGlobal
from extractor.photo import Photo

Texture = Callable[..., NDArray[np.uint8]]


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / np.linalg.norm(x)


@pytest.fixture(scope="module")
def model() -> LiteGlobal:
    return LiteGlobal(LiteGlobalConfiguration())


def test_unit_norm_for_any_photo(model: LiteGlobal, texture: Texture) -> None:
    blank = [np.full((64, 80, 3), level, np.uint8) for level in (0, 127, 255)]
    for pixels in (texture(300, 200), texture(1, 1), texture(5, 90), *blank):
        descriptor = model.describe(as_photo(pixels))
        assert descriptor.shape == (model.dimension,) == (1280,)
        assert descriptor.dtype == np.float32
        assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-5)


def test_it_is_the_sum_of_pooled_unit_vectors_of_all_sides(texture: Texture) -> None:
    model = LiteGlobal(LiteGlobalConfiguration(sides=(64, 96), power=2, tap="stage5"))
    photo = as_photo(texture(120, 160))
    expected = []
    for side in (64, 96):
        pixels = torch.from_numpy(photo.reduced(side).pixels)[None]
        with torch.inference_mode():
            features = model.network.features(normalise(pixels), "stage5")[0].clamp(min=0).flatten(1)
        expected.append(unit(np.sqrt(np.square(features.numpy()).mean(1))))
    np.testing.assert_allclose(model.describe(photo), unit(sum(expected)), atol=1e-5)
    assert model.dimension == 120
    assert model.longest_side == 96


def test_views_of_one_thing_are_closer_than_two_things(model: LiteGlobal, texture: Texture) -> None:
    y, x = np.mgrid[:400, :500]
    stripes, rings = np.sin(y / 6), np.sin(np.hypot(x - 250, y - 200) / 10)
    waves = [(127 + 100 * np.stack([wave] * 3, 2)).astype(np.uint8) for wave in (stripes, rings)]
    faces = [*waves, texture(400, 500)]
    whole = np.stack([model.describe(as_photo(face)) for face in faces])
    crops = np.stack([model.describe(as_photo(face[30:360, 60:480])) for face in faces])
    assert (whole @ crops.T).argmax(1).tolist() == [0, 1, 2]


def test_identity_names_everything_that_decides() -> None:
    base = LiteGlobal(LiteGlobalConfiguration()).identity
    assert set(base) == {"variant", "tap", "sides", "power", "weights"}
    assert len(str(base["weights"])) == 16
