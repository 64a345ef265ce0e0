from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from extractor.dense_keypoints import Layer
from extractor.keypoint_selection import DenseFeatures, select
from extractor.pyramid import Level


class Patches:
    """A backbone of one layer: patches of 4 pixels."""

    def __init__(self) -> None:
        self.identity = {"network": "patches"}

    def channels(self, tap: str) -> int:
        return 2

    def layers(self, tap: str) -> list[Layer]:
        return [Layer(4, 4)]

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        raise AssertionError


def level(width: int, height: int, size: tuple[int, int], per_pixel: float) -> Level:
    return Level(torch.zeros(1, height, width, 3), size, np.full(2, per_pixel, np.float32))


def dense(keypoints: list[tuple[float, float]], scores: list[float], scale: float) -> DenseFeatures:
    descriptors = torch.arange(2.0 * len(scores)).view(-1, 2) + 100 * scale
    return DenseFeatures(
        np.array(keypoints, np.float32).reshape(-1, 2),
        scale,
        4 * scale,
        np.array(scores, np.float32),
        descriptors,
    )


def test_cells_become_features() -> None:
    features = torch.arange(12.0).view(1, 2, 2, 3)
    scores = torch.tensor([[[1.0, 5.0, 2.0], [3.0, 4.0, 0.0]]])
    found = DenseFeatures.of(level(12, 8, (12, 8), 2.0), Patches(), "tap", features, scores, 1.0)
    # Centres of patches 1.5, 5.5, 9.5 at half size: pixel edges double, 2 (x + 1/2) - 1/2.
    assert found.keypoints.tolist() == [[11.5, 3.5], [19.5, 3.5], [3.5, 11.5], [11.5, 11.5]]
    assert found.scores.tolist() == [5, 2, 3, 4]
    assert found.descriptors.tolist() == [[1, 7], [2, 8], [3, 9], [4, 10]]
    assert (found.scale, found.side) == (2, 8)


def test_cells_in_the_padding_are_left_out() -> None:
    features, scores = torch.ones(1, 2, 2, 3), torch.ones(1, 2, 3)
    found = DenseFeatures.of(level(12, 8, (6, 5), 1.0), Patches(), "tap", features, scores, 0.0)
    assert found.keypoints.tolist() == [[1.5, 1.5], [5.5, 1.5]]


def test_the_strongest_of_all_levels() -> None:
    levels = [dense([(1, 1), (9, 9), (3, 3)], [5, 1, 3], 1.0), dense([(2, 2), (8, 8)], [4, 3], 2.0)]
    keypoints, scales, scores, descriptors = select(levels, (9, 9), 4)
    assert keypoints.tolist() == [[1, 1], [2, 2], [3, 3], [8, 8]]
    assert scales.tolist() == [1, 2, 1, 2]
    assert scores.tolist() == [5, 4, 3, 3]
    assert descriptors.tolist() == [[100, 101], [200, 201], [104, 105], [202, 203]]
    assert keypoints.dtype == scales.dtype == scores.dtype == np.float32
    # The one beyond the photo's last pixel is brought to it.
    assert select(levels, (9, 9), 9)[0].tolist()[-1] == [8, 8]


def test_suppression_across_levels() -> None:
    levels = [dense([(4, 4), (40, 40)], [5, 1], 1.0), dense([(4, 4), (41, 41)], [4, 3], 2.0)]
    # Squares of 4 and 8 with one centre share 16 of 64; with centres 1 apart too.
    assert select(levels, (50, 50), 9, 0.2)[2].tolist() == [5, 3]
    assert select(levels, (50, 50), 9, 0.3)[2].tolist() == [5, 4, 3, 1]


@pytest.mark.parametrize("iou", [1.0, 0.5])
def test_nothing_found(iou: float) -> None:
    keypoints, scales, scores, descriptors = select([dense([], [], 1.0)], (9, 9), 5, iou)
    assert keypoints.shape == (0, 2)
    assert scales.shape == scores.shape == (0,)
    assert descriptors.shape == (0, 2)
