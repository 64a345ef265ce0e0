"""From scored dense features at several scales to the keypoints that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractor.backbone import Backbone
from extractor.dense_keypoints import ReceptiveField, cell_centres
from extractor.nms import suppress
from extractor.pyramid import Level


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """Features of all places of a photo at one scale.

    Attributes:
        keypoints: float32 [N, 2], centres of the receptive fields in pixels of the original photo.
        scale: original pixels per pixel that the network saw.
        side: side of a receptive field in pixels of the original.
        scores: float32 [N].
        descriptors: float [N, d].
    """

    keypoints: NDArray[np.float32]
    scale: float
    side: float
    scores: NDArray[np.float32]
    descriptors: Tensor

    @classmethod
    def of(
        cls, level: Level, backbone: Backbone, tap: str, features: Tensor, scores: Tensor, threshold: float
    ) -> DenseFeatures:
        """Features of one level of the pyramid whose score is above the threshold.

        Args:
            level: what the backbone saw.
            backbone: what made the feature map.
            tap: where it was taken.
            features: float [1, d, h, w].
            scores: float [1, h, w].
            threshold: scores at or below are left out, and so are cells whose centre lies in the padding.
        """
        height, width = level.pixels.shape[1:3]
        layers = backbone.layers(tap)
        centres = cell_centres(layers, height, width)
        flat = scores[0].flatten().numpy()
        inside = (centres <= np.array(level.size, np.float32) - 0.5).all(1)
        kept = np.flatnonzero(inside & (flat > threshold))
        scale = float(np.sqrt(level.per_pixel.prod()))
        side = scale * ReceptiveField.of(layers, width).size
        descriptors = features[0].flatten(1)[:, torch.from_numpy(kept)].T
        return cls(level.to_original(centres[kept]), scale, side, flat[kept], descriptors)


def select(
    levels: Sequence[DenseFeatures], size: tuple[int, int], limit: int, iou: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], Tensor]:
    """The strongest features of all levels, each place once.

    Args:
        levels: scored features; of equal scores the first level and place come first.
        size: (width, height) of the original photo, into which keypoints at its border are brought.
        limit: how many are kept.
        iou: overlap of receptive fields beyond which the weaker feature is left out; 1 keeps both.

    Returns:
        Keypoints float32 [N, 2], scales float32 [N], scores float32 [N], descriptors float [N, d], by
        falling score.
    """
    counts = [len(level.scores) for level in levels]
    scores = np.concatenate([level.scores for level in levels])
    keypoints = np.concatenate([level.keypoints for level in levels])
    scales = np.repeat(np.array([level.scale for level in levels], np.float32), counts)
    order = np.argsort(-scores, kind="stable")
    if iou < 1:
        sides = np.repeat(np.array([level.side for level in levels], np.float32), counts)
        order = order[suppress(keypoints[order], sides[order], iou, limit)]
    order = order[:limit]
    owner = np.repeat(np.arange(len(levels)), counts)[order]
    place = order - np.concatenate([[0], np.cumsum(counts)])[owner]
    descriptors = torch.empty((len(order), levels[0].descriptors.shape[1]))
    for number, level in enumerate(levels):
        mine = np.flatnonzero(owner == number)
        descriptors[torch.from_numpy(mine)] = level.descriptors[torch.from_numpy(place[mine])]
    inside = np.clip(keypoints[order], 0, np.array(size, np.float32) - 1)
    return inside, scales[order], scores[order], descriptors
