"""Max-pooled and whitened global descriptors: R-MAC as in DIR, MAC as in siaMAC.

Gordo et al., "End-to-end learning of deep visual representations for image retrieval" (IJCV 2017);
Radenović et al., "CNN image retrieval learns from BoW" (ECCV 2016).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extractor.photo import Photo
from extractor.pooling import mac, regional_mac
from extractor.pyramid import pyramid
from extractor.weights import WeightsError, load_state_dict, weights_digest
from extractor.whitening import Whitening, unit_rows

if TYPE_CHECKING:
    from extractor.configuration import WhitenedGlobalConfiguration


class WhitenedGlobal:
    """Describes a photo by the sum of whitened maxima over regions of the feature map.

    Args:
        configuration: backbone, tap, sizes, regions, whitening.

    Attributes:
        projection: the whitening; None until it is learnt, when no weights hold it.

    Raises:
        ValueError: the backbone has no such tap.
        WeightsError: weights are missing, or do not fit.
    """

    def __init__(self, configuration: WhitenedGlobalConfiguration) -> None:
        self.configuration = configuration
        self.backbone = configuration.backbone.load()
        channels = self.backbone.channels(configuration.tap)
        self.dimension = configuration.dimension or channels
        self.longest_side = max(configuration.sides)
        parameters = asdict(configuration)
        del parameters["backbone"], parameters["whitening"]
        self.identity: dict[str, object] = {**parameters, "backbone": dict(self.backbone.identity)}
        self.projection: Whitening | None = None
        if configuration.whitening is not None:
            path = configuration.whitening.path()
            state = load_state_dict(path)
            try:
                mean, projection = (state[f"whitening.{part}"].numpy() for part in ("mean", "projection"))
                self.projection = Whitening(mean.astype(np.float32), projection.astype(np.float32))
            except (KeyError, ValueError) as error:
                raise WeightsError(f"{path} does not hold the whitening of this model: {error}") from error
            if projection.shape != (channels, self.dimension):
                raise WeightsError(
                    f"{path} holds a whitening {projection.shape}, not {(channels, self.dimension)}"
                )
            self.identity["whitening"] = weights_digest(path)

    def samples(self, photo: Photo) -> NDArray[np.float32]:
        """Vectors of all regions before whitening, float32 [n, channels] of unit norm."""
        return torch.cat(self._regions(photo)).numpy()

    def learn(self, samples: NDArray[np.float32]) -> None:
        """Fit the whitening to region vectors float32 [N, channels].

        Raises:
            ValueError: there are too few of them.
        """
        self.projection = Whitening.fit(samples, self.dimension)

    @torch.inference_mode()
    def describe(self, photo: Photo) -> NDArray[np.float32]:
        """Global descriptor, float32 [dimension] of unit norm: the sum of the unit vectors of all sizes."""
        whitening = self.projection
        if whitening is None or whitening.projection is None:
            raise RuntimeError("the whitening of the global descriptor is not learnt yet")
        mean, projection = torch.from_numpy(whitening.mean), torch.from_numpy(whitening.projection)
        sums = [
            functional.normalize((vectors - mean) @ projection, dim=1).sum(0)
            for vectors in self._regions(photo)
        ]
        return unit_rows(functional.normalize(torch.stack(sums), dim=1).sum(0, keepdim=True).numpy())[0]

    @torch.inference_mode()
    def _regions(self, photo: Photo) -> list[Tensor]:
        """Unit vectors [n, channels] of the regions, for each size of the photo."""
        c = self.configuration
        found = []
        for side in c.sides:
            (level,) = pyramid(photo, side, (1.0,))
            features = self.backbone.maps(level.pixels, [c.tap])[0]
            pooled = regional_mac(features, c.levels) if c.levels else mac(features)
            found.append(functional.normalize(pooled, dim=1))
        return found
