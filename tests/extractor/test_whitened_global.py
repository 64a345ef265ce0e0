from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.configuration import WhitenedGlobalConfiguration
from extractor.dense_keypoints import Layer
from extractor.photo import Photo
from extractor.pooling import regions
from extractor.weights import Weights
from extractor.whitened_global import WhitenedGlobal
from extractor.whitening import Whitening

Texture = Callable[..., NDArray[np.uint8]]


class Blocks:
    """A backbone that needs no weights: means of blocks of 8 x 8 pixels, in three channels and their sum."""

    def __init__(self) -> None:
        self.identity = {"network": "blocks"}

    def channels(self, tap: str) -> int:
        return 4

    def layers(self, tap: str) -> list[Layer]:
        return [Layer(8, 8)]

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        means = torch.nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2), 8)
        return [torch.cat((means, means.sum(1, keepdim=True)), 1) for _ in taps]


@dataclass(frozen=True)
class BlocksConfiguration:
    def weights(self) -> tuple[Weights, ...]:
        return ()

    def load(self) -> Blocks:
        return Blocks()


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x / np.linalg.norm(x)


@pytest.fixture
def whitening() -> Whitening:
    generator = np.random.default_rng(0)
    return Whitening(generator.random(4, np.float32), generator.standard_normal((4, 3), np.float32))


def create(whitening: Whitening | None, **changes: object) -> WhitenedGlobal:
    options = {"sides": (64, 96), "levels": 2, "dimension": 3, **changes}
    made = WhitenedGlobal(WhitenedGlobalConfiguration(BlocksConfiguration(), "blocks", **options))
    made.projection = whitening
    return made


def test_rmac_by_hand(whitening: Whitening, texture: Texture) -> None:
    """Regions, L2, whitening, L2, sum, L2, for two sizes: against loops over the pixels' blocks."""
    photo = as_photo(texture(72, 96))
    mean, projection = whitening.mean.astype(np.float64), whitening.projection.astype(np.float64)
    total = np.zeros(3)
    for side in (64, 96):
        pixels = photo.reduced(side).pixels.astype(np.float64)
        rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
        blocks = pixels[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8, 3).mean((1, 3))
        blocks = np.concatenate([blocks, blocks.sum(2, keepdims=True)], 2)
        found = np.zeros(3)
        for row, column, height, width in [
            (0, 0, rows, columns),
            *[(r, c, s, s) for r, c, s in regions(rows, columns, 2)],
        ]:
            highest = [
                max(blocks[y, x, k] for y in range(row, row + height) for x in range(column, column + width))
                for k in range(4)
            ]
            found += unit((unit(np.array(highest)) - mean) @ projection)
        total += unit(found)
    model = create(whitening)
    np.testing.assert_allclose(model.describe(photo), unit(total), atol=1e-5)
    assert (model.dimension, model.longest_side) == (3, 96)


def test_mac_by_hand(whitening: Whitening, texture: Texture) -> None:
    photo = as_photo(texture(48, 64))
    model = create(whitening, sides=(64,), levels=0)
    blocks = photo.pixels.astype(np.float64).reshape(6, 8, 8, 8, 3).mean((1, 3)).reshape(-1, 3)
    highest = np.concatenate([blocks.max(0), [blocks.sum(1).max()]])
    assert model.projection is not None
    assert model.projection.projection is not None
    expected = unit((unit(highest) - model.projection.mean) @ model.projection.projection)
    np.testing.assert_allclose(model.describe(photo), expected, atol=1e-5)


def test_the_whitening_is_learnt(texture: Texture) -> None:
    model = create(None, dimension=2)
    photos = [as_photo(texture(60, 80, seed=seed)) for seed in range(5)]
    with pytest.raises(RuntimeError, match="is not learnt yet"):
        model.describe(photos[0])
    samples = np.concatenate([model.samples(photo) for photo in photos])
    np.testing.assert_allclose(np.linalg.norm(samples, axis=1), 1, atol=1e-5)
    model.learn(samples)
    descriptors = np.stack([model.describe(photo) for photo in photos])
    assert descriptors.shape == (5, 2)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (9, 200), (300, 33)])
def test_photos_of_any_size(whitening: Whitening, texture: Texture, shape: tuple[int, int]) -> None:
    descriptor = create(whitening).describe(as_photo(texture(*shape)))
    assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("wrong", [{"sides": ()}, {"sides": (31,)}, {"levels": -1}])
def test_wrong_configurations(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        create(None, **wrong)


def test_everything_that_decides_is_in_the_identity() -> None:
    changes = ({}, {"levels": 3}, {"sides": (64,)}, {"dimension": 2})
    assert len({str(create(None, **changed).identity) for changed in changes}) == 4
