from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from extractor.dense_keypoints import Layer
from extractor.keypoint_selection import Candidates, places_within, select
from extractor.pyramid import Stack


class Patches:
    """A backbone of one layer: patches of 4 pixels."""

    def __init__(self) -> None:
        self.identity = {"network": "patches"}

    def to(self, device: str, dtype: torch.dtype) -> None:
        raise AssertionError

    def channels(self, tap: str) -> int:
        return 2

    def layers(self, tap: str) -> list[Layer]:
        return [Layer(4, 4)]

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        raise AssertionError


def stack(width: int, height: int, size: tuple[int, int], *per_pixel: float) -> Stack:
    pixels = torch.zeros(len(per_pixel), height, width, 3)
    return Stack(pixels, size, np.repeat(np.array(per_pixel, np.float32)[:, None], 2, 1))


def dense(
    keypoints: list[tuple[float, float]],
    scores: list[float],
    scale: float,
    photos: list[int] | None = None,
    count: int = 1,
) -> Candidates:
    """Candidates at given places of the original, whose fields are 4 pixels of a level of this scale."""
    points = (np.array(keypoints, np.float32).reshape(-1, 2) + 0.5) / scale - 0.5
    return Candidates(
        torch.tensor(photos or [0] * len(scores), dtype=torch.int64),
        torch.arange(len(scores)),
        torch.tensor(scores, dtype=torch.float32),
        lambda cells: points[cells].astype(np.float32),
        lambda owners, cells: torch.stack((cells + 100.0 * scale, owners + 0.0), 1),
        np.full((count, 2), scale, np.float32),
        4,
    )


def test_cells_become_features() -> None:
    features = torch.arange(12.0).view(1, 2, 2, 3)
    scores = torch.tensor([[[1.0, 5.0, 2.0], [3.0, 4.0, 0.0]]])
    found = Candidates.of_map(stack(12, 8, (12, 8), 2.0), Patches(), "tap", features, scores, 1.0)
    assert found.scores.tolist() == [5, 2, 3, 4]
    assert found.describe(found.photos, found.cells).tolist() == [[1, 7], [2, 8], [3, 9], [4, 10]]
    assert found.side == 4
    kept = select([found], [(24, 16)], 9)
    # Centres of patches 1.5, 5.5, 9.5 at half size: pixel edges double, 2 (x + 1/2) - 1/2.
    assert kept.keypoints.tolist() == [[11.5, 3.5], [11.5, 11.5], [3.5, 11.5], [19.5, 3.5]]
    assert kept.scales.tolist() == [2] * 4


def test_each_photo_of_a_stack_has_its_own_scale() -> None:
    features = torch.arange(24.0).view(2, 2, 2, 3)
    scores = torch.arange(12.0).view(2, 2, 3)
    found = Candidates.of_map(stack(12, 8, (12, 8), 1.0, 3.0), Patches(), "tap", features, scores, 3.0)
    kept = select([found], [(12, 8), (36, 24)], 3)
    assert kept.counts == [2, 3]
    assert kept.scores.tolist() == [5, 4, 11, 10, 9]
    assert kept.scales.tolist() == [1, 1, 3, 3, 3]
    assert kept.keypoints.tolist() == [[9.5, 5.5], [5.5, 5.5], [29.5, 17.5], [17.5, 17.5], [5.5, 17.5]]
    assert kept.descriptors.tolist() == [[5, 11], [4, 10], [17, 23], [16, 22], [15, 21]]
    first, second = kept.features(kept.descriptors * 2)
    assert first.scores.tolist() == [5, 4]
    assert second.keypoints.tolist() == [[29.5, 17.5], [17.5, 17.5], [5.5, 17.5]]
    assert second.descriptors.tolist() == [[34, 46], [32, 44], [30, 42]]


def test_cells_in_the_padding_are_left_out() -> None:
    features, scores = torch.ones(1, 2, 2, 3), torch.ones(1, 2, 3)
    found = Candidates.of_map(stack(12, 8, (6, 5), 1.0), Patches(), "tap", features, scores, 0.0)
    assert found.points(found.cells.numpy()).tolist() == [[1.5, 1.5], [5.5, 1.5]]


def test_the_strongest_of_all_levels() -> None:
    levels = [dense([(1, 1), (9, 9), (3, 3)], [5, 1, 3], 1.0), dense([(2, 2), (8, 8)], [4, 3], 2.0)]
    kept = select(levels, [(9, 9)], 4)
    assert kept.keypoints.tolist() == [[1, 1], [2, 2], [3, 3], [8, 8]]
    assert kept.scales.tolist() == [1, 2, 1, 2]
    assert kept.scores.tolist() == [5, 4, 3, 3]
    assert kept.descriptors[:, 0].tolist() == [100, 200, 102, 201]
    assert kept.keypoints.dtype == kept.scales.dtype == kept.scores.dtype == np.float32
    # The one beyond the photo's last pixel is brought to it.
    assert select(levels, [(9, 9)], 9).keypoints.tolist()[-1] == [8, 8]


def test_suppression_across_levels() -> None:
    levels = [dense([(4, 4), (40, 40)], [5, 1], 1.0), dense([(4, 4), (41, 41)], [4, 3], 2.0)]
    # Squares of 4 and 8 with one centre share 16 of 64; with centres 1 apart too.
    assert select(levels, [(50, 50)], 9, 0.2).scores.tolist() == [5, 3]
    assert select(levels, [(50, 50)], 9, 0.3).scores.tolist() == [5, 4, 3, 1]


def test_photos_do_not_suppress_one_another() -> None:
    places = [(4.0, 4.0), (5.0, 4.0), (4.0, 4.0), (30.0, 30.0)]
    level = dense(places, [3, 4, 2, 1], 1.0, photos=[0, 0, 1, 1], count=2)
    kept = select([level], [(50, 50)] * 2, 9, 0.2)
    assert kept.counts == [1, 2]
    assert kept.scores.tolist() == [4, 2, 1]
    assert kept.descriptors.tolist() == [[101, 0], [102, 1], [103, 1]]


@pytest.mark.parametrize("iou", [1.0, 0.5])
def test_nothing_found(iou: float) -> None:
    kept = select([dense([], [], 1.0, count=2)], [(9, 9), (9, 9)], 5, iou)
    assert kept.counts == [0, 0]
    assert [len(features) for features in kept.features(kept.descriptors)] == [0, 0]
    assert kept.descriptors.shape == (0, 2)


@given(st.lists(st.lists(st.lists(st.integers(0, 5)), min_size=3, max_size=3), min_size=1, max_size=3))
def test_a_stack_is_sorted_as_its_photos_are(scores: list[list[list[int]]]) -> None:
    """Scores by level and photo, many of them equal: against a sort of each photo by itself."""
    levels = [
        dense(
            [(0, 0)] * sum(map(len, photos)),
            [float(score) for one in photos for score in one],
            2.0**number,
            [owner for owner, one in enumerate(photos) for _ in one],
            count=3,
        )
        for number, photos in enumerate(scores)
    ]
    kept = select(levels, [(9, 9)] * 3, 4)
    expected = []
    for owner in range(3):
        places = [
            (-score, number, sum(map(len, photos[:owner])) + place)
            for number, photos in enumerate(scores)
            for place, score in enumerate(photos[owner])
        ]
        best = sorted(places)[:4]
        expected += [[cell + 100.0 * 2**number, owner] for _, number, cell in best]
        assert kept.counts[owner] == len(best)
    assert kept.descriptors.tolist() == expected


def test_places_within() -> None:
    assert places_within(torch.tensor([0, 0, 2, 2, 2, 3]), 5).tolist() == [0, 1, 0, 1, 2, 0]
