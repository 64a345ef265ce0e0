"""From scored places at several scales to the keypoints that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.backbone import Backbone
from extractor.dense_keypoints import ReceptiveField, cell_centres
from extractor.features import LocalFeatures
from extractor.nms import suppress
from extractor.pyramid import Stack


@dataclass(frozen=True, eq=False)
class Candidates:
    """Places of a stack of photos, at one scale, that may become keypoints.

    Attributes:
        photos: int64 [M], the photo of the stack each lies on, ascending.
        cells: int64 [M], where on the map.
        scores: float32 [M].
        points: of cells int64 [n], float32 [n, 2] in pixels that the network saw.
        describe: of photos and cells [n], float32 [n, d]; only those that are kept are described.
        per_pixel: float32 [B, 2], original pixels per pixel that the network saw.
        side: of a receptive field, in pixels that the network saw.
    """

    photos: Tensor
    cells: Tensor
    scores: Tensor
    points: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    describe: Callable[[Tensor, Tensor], Tensor]
    per_pixel: NDArray[np.float32]
    side: float

    @classmethod
    def of_map(
        cls, stack: Stack, backbone: Backbone, tap: str, features: Tensor, scores: Tensor, threshold: float
    ) -> Candidates:
        """The cells of a feature map whose score is above the threshold.

        Args:
            stack: what the backbone saw.
            backbone: what made the feature map.
            tap: where it was taken.
            features: float [B, d, h, w].
            scores: float32 [B, h, w].
            threshold: scores at or below are left out, and so are cells whose centre lies in the padding.
        """
        height, width = stack.pixels.shape[1:3]
        layers = backbone.layers(tap)
        centres = cell_centres(layers, height, width)
        inside = np.all(centres <= np.array(stack.size, np.float32) - 0.5, axis=1)
        flat, columns = scores.flatten(1), features.shape[3]
        by_cell = features.permute(0, 2, 3, 1)
        photos, cells = ((flat > threshold) & _on(flat.device, inside)).nonzero(as_tuple=True)
        return cls(
            photos,
            cells,
            flat[photos, cells],
            lambda chosen: centres[chosen],
            lambda owners, chosen: by_cell[owners, chosen // columns, chosen % columns].to(torch.float32),
            stack.per_pixel,
            ReceptiveField.of(layers, width).size,
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """The keypoints kept of a stack of photos: those of the first photo by falling score, then the next's.

    Attributes:
        counts: keypoints of each photo.
        keypoints: float32 [N, 2], in pixels of the original photos.
        scales: float32 [N], original pixels per pixel that the network saw.
        scores: float32 [N].
        descriptors: float32 [N, d], where the network is.
    """

    counts: list[int]
    keypoints: NDArray[np.float32]
    scales: NDArray[np.float32]
    scores: NDArray[np.float32]
    descriptors: Tensor

    def features(self, descriptors: Tensor) -> list[LocalFeatures]:
        """Local features of each photo, with these descriptors float32 [N, D]."""
        ends = np.cumsum(self.counts)[:-1]
        arrays = (self.keypoints, self.scales, self.scores, descriptors.cpu().numpy())
        return [LocalFeatures(*parts) for parts in zip(*(np.split(a, ends) for a in arrays), strict=True)]


def select(
    levels: Sequence[Candidates], sizes: Sequence[tuple[int, int]], limit: int, iou: float = 1.0
) -> Selection:
    """The strongest candidates of all levels, for each photo of a stack.

    Args:
        levels: of equal scores the first level and place come first.
        sizes: (width, height) of the original photos, into which keypoints at a border are brought.
        limit: how many are kept of a photo.
        iou: overlap of receptive fields beyond which the weaker one is left out; 1 keeps both.
    """
    photos, cells, scores = (
        torch.cat([getattr(level, name) for level in levels]) for name in ("photos", "cells", "scores")
    )
    order = torch.sort(scores, descending=True, stable=True).indices
    if len(sizes) > 1:
        order = order[torch.sort(photos[order], stable=True).indices]
        if iou == 1:
            order = order[places_within(photos[order], len(sizes)) < limit]
    elif iou == 1:
        order = order[:limit]
    chosen, owner_of, cell_of, score_of = (
        part.cpu().numpy() for part in (order, photos[order], cells[order], scores[order])
    )
    level_of = np.searchsorted(np.cumsum([len(level.cells) for level in levels]), chosen, side="right")
    points = np.empty((len(chosen), 2), np.float32)
    for number, level in enumerate(levels):
        mine = level_of == number
        points[mine] = level.points(cell_of[mine])
    per_pixel = np.stack([level.per_pixel for level in levels])[level_of, owner_of]
    # Pixel i spans i - 1/2 to i + 1/2, so it is the pixels' edges, not their centres, that scale.
    keypoints = (points + np.float32(0.5)) * per_pixel - np.float32(0.5)
    scales = np.sqrt(per_pixel.prod(1))

    kept = np.arange(len(chosen))
    if iou < 1:
        sides = np.array([level.side for level in levels], np.float32)[level_of] * scales
        kept = _apart(owner_of, keypoints, sides, len(sizes), limit, iou)
    owner_of, level_of, cell_of = owner_of[kept], level_of[kept], cell_of[kept]
    last = np.array(sizes, np.float32)[owner_of] - 1
    return Selection(
        np.bincount(owner_of, minlength=len(sizes)).tolist(),
        np.clip(keypoints[kept], 0, last),
        scales[kept],
        score_of[kept],
        _described(levels, owner_of, level_of, cell_of),
    )


def places_within(photos: Tensor, count: int) -> Tensor:
    """Of photos int64 [N], ascending and below `count`: the place of each element among its photo's."""
    counts = torch.bincount(photos, minlength=count)
    return torch.arange(len(photos), device=photos.device) - (counts.cumsum(0) - counts)[photos]


def _apart(
    owner_of: NDArray[np.int64],
    keypoints: NDArray[np.float32],
    sides: NDArray[np.float32],
    photos: int,
    limit: int,
    iou: float,
) -> NDArray[np.int64]:
    """Those that non-maximum suppression leaves of each photo."""
    starts = np.searchsorted(owner_of, np.arange(photos + 1))
    return np.concatenate(
        [
            start + suppress(keypoints[start:end], sides[start:end], iou, limit)
            for start, end in pairwise(starts)
        ]
    )


def _described(
    levels: Sequence[Candidates],
    owner_of: NDArray[np.int64],
    level_of: NDArray[np.int64],
    cell_of: NDArray[np.int64],
) -> Tensor:
    """Descriptors [N, d] of the keypoints, level by level."""
    device = levels[0].cells.device
    places = [np.flatnonzero(level_of == number) for number in range(len(levels))]
    parts = [
        level.describe(_on(device, owner_of[mine]), _on(device, cell_of[mine]))
        for level, mine in zip(levels, places, strict=True)
    ]
    return torch.cat(parts)[_on(device, np.argsort(np.concatenate(places)))]


def _on(device: torch.device, array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(device)
