from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractor.photo import Photo
from extractor.pyramid import LEAST_SIDE, pyramid

Texture = Callable[..., NDArray[np.uint8]]


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    return Photo(np.ascontiguousarray(pixels), (pixels.shape[1], pixels.shape[0]))


def test_sizes(texture: Texture) -> None:
    photo = as_photo(texture(150, 200))
    sizes = {scale: next(pyramid(photo, 100, (scale,))) for scale in (0.5, 1.0, 2.0, 3.0)}
    assert {scale: level.size for scale, level in sizes.items()} == {
        0.5: (50, 38),
        1.0: (100, 75),
        2.0: (200, 150),
        3.0: (300, 225),
    }
    for level in sizes.values():
        assert level.pixels.shape == (1, level.size[1], level.size[0], 3)
        np.testing.assert_allclose(level.per_pixel, [200 / level.size[0], 150 / level.size[1]], rtol=1e-6)
    # At the photo's own size nothing is resampled, though scale 1 is half of it.
    np.testing.assert_array_equal(sizes[2.0].pixels[0].numpy(), photo.pixels)


def test_a_small_photo_is_not_enlarged_at_scale_one(texture: Texture) -> None:
    photo = as_photo(texture(60, 80))
    assert next(pyramid(photo, 1024, (1.0,))).size == (80, 60)


def test_reducing_is_antialiased(texture: Texture) -> None:
    photo = as_photo(texture(120, 160))
    level = next(pyramid(photo, 160, (0.25,)))
    expected = Image.fromarray(photo.pixels).resize((40, 30), Image.Resampling.LANCZOS, reducing_gap=2.0)
    np.testing.assert_array_equal(level.pixels[0, :30, :40].numpy(), np.asarray(expected))
    # Below 32 pixels the border is repeated.
    assert level.pixels.shape[1:3] == (LEAST_SIDE, 40)
    np.testing.assert_array_equal(level.pixels[0, 30:], level.pixels[0, 29:30].expand(2, -1, -1))


def test_pixel_edges_scale() -> None:
    photo = Photo(np.zeros((30, 40, 3), np.uint8), (120, 90))
    level = next(pyramid(photo, 40, (1.0,)))
    # The first pixel covers original pixels 0, 1 and 2; the last 117, 118 and 119.
    points = np.array([[0, 0], [39, 29]], np.float32)
    assert level.to_original(points).tolist() == [[1, 1], [118, 88]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (33, 2)])
def test_tiny_photos(shape: tuple[int, int]) -> None:
    for level in pyramid(as_photo(np.zeros((*shape, 3), np.uint8)), 1024, (0.25, 1.0, 2.0)):
        assert min(level.pixels.shape[1:3]) >= LEAST_SIDE
        assert min(level.size) >= 1
