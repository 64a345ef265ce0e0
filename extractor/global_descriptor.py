"""The default global descriptor: features of an ImageNet network, pooled over the photo and over scales."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from extractor import efficientnet_lite
from extractor.pooling import gem
from extractor.weights import weights_digest
from extractor.whitening import unit_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from extractor.configuration import LiteGlobalConfiguration
    from extractor.photo import Photo


class LiteGlobal:
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
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def describe(self, photo: Photo) -> NDArray[np.float32]:
        """Global descriptor, float32 [dimension] of unit norm: the sum of the unit vectors of all sizes."""
        vectors = [self._at(photo.reduced(side)) for side in self.configuration.sides]
        return unit_rows(torch.stack(vectors).sum(0).numpy())[0]

    def _at(self, photo: Photo) -> Tensor:
        pixels = efficientnet_lite.normalise(torch.from_numpy(photo.pixels)[None])
        features = self.network.features(pixels, self.configuration.tap)
        return functional.normalize(gem(features, self.configuration.power), dim=1)
