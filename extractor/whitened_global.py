"""Max-pooled and whitened global descriptors: R-MAC as in DIR, MAC as in siaMAC.

Gordo et al., "End-to-end learning of deep visual representations for image retrieval" (IJCV 2017);
Radenović et al., "CNN image retrieval learns from BoW" (ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extractor.network_model import NetworkModel
from extractor.photo import Photo
from extractor.pooling import mac, regional_mac
from extractor.pyramid import Pyramid, pyramid, stacks
from extractor.whitening import Whitening, unit_rows

if TYPE_CHECKING:
    from extractor.configuration import WhitenedGlobalConfiguration


class WhitenedGlobal(NetworkModel["NDArray[np.float32]"]):
    """Describes a photo by the sum of whitened maxima over regions of the feature map.

    Args:
        configuration: backbone, tap, sizes, regions.

    Attributes:
        projection: the whitening; None until it is learnt.

    Raises:
        ValueError: the backbone has no such tap.
        WeightsError: weights of the backbone are missing, or do not fit.
    """

    def __init__(self, configuration: WhitenedGlobalConfiguration) -> None:
        self.configuration = configuration
        self.backbone = configuration.backbone.load()
        self.dimension = configuration.dimension or self.backbone.channels(configuration.tap)
        self.longest_side = max(configuration.sides)
        parameters = asdict(configuration)
        del parameters["backbone"]
        self.identity: dict[str, object] = {**parameters, "backbone": dict(self.backbone.identity)}
        self.projection: Whitening | None = None

    def samples(self, photo: Photo) -> NDArray[np.float32]:
        """Vectors of all regions before whitening, float32 [n, channels] of unit norm."""
        with torch.inference_mode():
            return torch.cat([vectors[0] for vectors in self._regions([self.prepare(photo)])]).cpu().numpy()

    def learn(self, samples: NDArray[np.float32]) -> None:
        """Fit the whitening to region vectors float32 [N, channels].

        Raises:
            ValueError: there are too few of them.
        """
        self.projection = Whitening.fit(samples, self.dimension)

    def move(self, device: str, dtype: torch.dtype) -> None:
        """Move the backbone; the whitening calculates in float32 anyway."""
        self.backbone.to(device, dtype)

    def prepare(self, photo: Photo) -> Pyramid:
        """The sizes of a photo."""
        levels = [pyramid(photo, side, (1.0,)).levels[0] for side in self.configuration.sides]
        return Pyramid(photo.size, tuple(levels))

    def describe(self, photo: Photo) -> NDArray[np.float32]:
        """Global descriptor, float32 [dimension] of unit norm: the sum of the unit vectors of all sizes."""
        (descriptor,) = self.run([self.prepare(photo)])
        return descriptor

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[NDArray[np.float32]]:
        """Global descriptor of each photo of a stack."""
        whitening = self.projection
        if whitening is None or whitening.projection is None:
            raise RuntimeError("the whitening of the global descriptor is not learnt yet")
        mean, projection = (
            torch.from_numpy(part).to(self.device) for part in (whitening.mean, whitening.projection)
        )
        sums = [
            functional.normalize((vectors - mean) @ projection, dim=2).sum(1)
            for vectors in self._regions(pyramids)
        ]
        return list(unit_rows(functional.normalize(torch.stack(sums), dim=2).sum(0).cpu().numpy()))

    def _regions(self, pyramids: Sequence[Pyramid]) -> list[Tensor]:
        """Unit vectors [B, n, channels] of the regions, for each size of the photos."""
        c = self.configuration
        found = []
        for stack in stacks(pyramids, self.device):
            features = self.backbone.maps(stack.pixels, [c.tap])[0].to(torch.float32)
            pooled = regional_mac(features, c.levels) if c.levels else mac(features)[:, None]
            found.append(functional.normalize(pooled, dim=2))
        return found
