"""The default global descriptor: features of an ImageNet network, pooled over the photo and over scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from extractor import efficientnet_lite
from extractor.network_model import NetworkModel, place
from extractor.pooling import gem
from extractor.pyramid import Level, Pyramid, stacked_pixels
from extractor.weights import weights_digest
from extractor.whitening import unit_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from extractor.configuration import LiteGlobalConfiguration
    from extractor.photo import Photo


class LiteGlobal(NetworkModel["NDArray[np.float32]"]):
    """Describes a photo by generalised-mean-pooled EfficientNet-Lite features.

    Args:
        configuration: network, tap, sizes and pooling.

    Raises:
        WeightsError: the weights are not installed, or do not fit the network.
    """

    def __init__(self, configuration: LiteGlobalConfiguration) -> None:
        self.configuration = configuration
        self.longest_side = max(configuration.sides)
        digest = weights_digest(efficientnet_lite.weights_file(configuration.variant))
        self.identity = {**asdict(configuration), "weights": digest}
        network = efficientnet_lite.pretrained(configuration.variant)
        self.dimension = network.channels(configuration.tap)
        self.network = network
        place(network)

    def move(self, device: str, dtype: torch.dtype) -> None:
        """Move the network."""
        place(self.network, device, dtype)

    def prepare(self, photo: Photo) -> Pyramid:
        """The sizes of a photo."""
        pixels = [photo.reduced(side).pixels for side in self.configuration.sides]
        return Pyramid(photo.size, tuple(Level(one, (one.shape[1], one.shape[0])) for one in pixels))

    def describe(self, photo: Photo) -> NDArray[np.float32]:
        """Global descriptor, float32 [dimension] of unit norm: the sum of the unit vectors of all sizes."""
        (descriptor,) = self.run([self.prepare(photo)])
        return descriptor

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[NDArray[np.float32]]:
        """Global descriptor of each photo of a stack."""
        c = self.configuration
        vectors = []
        for levels in zip(*(one.levels for one in pyramids), strict=True):
            pixels = efficientnet_lite.normalise(stacked_pixels(levels, self.device))
            features = self.network.features(pixels.to(self.network.dtype), c.tap)
            vectors.append(functional.normalize(gem(features.to(torch.float32), c.power), dim=1))
        return list(unit_rows(torch.stack(vectors).sum(0).cpu().numpy()))
