from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractor.photo import Photo
from extractor.pyramid import LEAST_SIDE, Stack, pyramid, stacks

Texture = Callable[..., NDArray[np.uint8]]


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    return Photo(np.ascontiguousarray(pixels), (pixels.shape[1], pixels.shape[0]))


def seen(photo: Photo, longest_side: int, *scales: float) -> list[Stack]:
    """What a network is shown of one photo."""
    return list(stacks([pyramid(photo, longest_side, scales)], "cpu"))


def test_sizes(texture: Texture) -> None:
    photo = as_photo(texture(150, 200))
    scales = (0.5, 1.0, 2.0, 3.0)
    sizes = dict(zip(scales, seen(photo, 100, *scales), strict=True))
    assert {scale: level.size for scale, level in sizes.items()} == {
        0.5: (50, 38),
        1.0: (100, 75),
        2.0: (200, 150),
        3.0: (300, 225),
    }
    for level in sizes.values():
        assert level.pixels.shape == (1, level.size[1], level.size[0], 3)
        np.testing.assert_allclose(level.per_pixel, [[200 / level.size[0], 150 / level.size[1]]], rtol=1e-6)
    # At the photo's own size nothing is resampled, though scale 1 is half of it.
    np.testing.assert_array_equal(sizes[2.0].pixels[0].numpy(), photo.pixels)


def test_a_small_photo_is_not_enlarged_at_scale_one(texture: Texture) -> None:
    photo = as_photo(texture(60, 80))
    assert seen(photo, 1024, 1.0)[0].size == (80, 60)


def test_reducing_is_antialiased(texture: Texture) -> None:
    photo = as_photo(texture(120, 160))
    (level,) = seen(photo, 160, 0.25)
    expected = Image.fromarray(photo.pixels).resize((40, 30), Image.Resampling.LANCZOS, reducing_gap=2.0)
    np.testing.assert_array_equal(level.pixels[0, :30, :40].numpy(), np.asarray(expected))
    # Below 32 pixels the border is repeated.
    assert level.pixels.shape[1:3] == (LEAST_SIDE, 40)
    np.testing.assert_array_equal(level.pixels[0, 30:], level.pixels[0, 29:30].expand(2, -1, -1))


def test_a_stack_is_its_photos(texture: Texture) -> None:
    """Photos of one size that were reduced from originals of different sizes are stacked."""
    photos = [Photo(texture(75, 100, seed=seed), (100 * seed, 75 * seed)) for seed in (1, 2, 3)]
    pyramids = [pyramid(photo, 100, (0.3, 1.0, 1.5)) for photo in photos]
    assert len({one.shape for one in pyramids}) == 1
    alone = [seen(photo, 100, 0.3, 1.0, 1.5) for photo in photos]
    for number, level in enumerate(stacks(pyramids, "cpu")):
        for place, one in enumerate(alone):
            np.testing.assert_array_equal(level.pixels[place].numpy(), one[number].pixels[0].numpy())
            np.testing.assert_array_equal(level.per_pixel[place], one[number].per_pixel[0])
    other = pyramid(as_photo(texture(75, 101)), 100, (0.3, 1.0, 1.5))
    assert other.shape != pyramids[0].shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (33, 2)])
def test_tiny_photos(shape: tuple[int, int]) -> None:
    for level in seen(as_photo(np.zeros((*shape, 3), np.uint8)), 1024, 0.25, 1.0, 2.0):
        assert min(level.pixels.shape[1:3]) >= LEAST_SIDE
        assert min(level.size) >= 1
