"""Global descriptors of networks trained for retrieval: pooled, perhaps over regions, embedded and whitened.

Radenović et al., "Fine-tuning CNN image retrieval with no human annotation" (TPAMI 2019); Gordo et al.,
"End-to-end learning of deep visual representations for image retrieval" (IJCV 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from extractor.network_model import NetworkModel, place
from extractor.pooling import gem, mac, regions
from extractor.pyramid import Pyramid, pyramid, stacks
from extractor.resnet import ResNetBackbone
from extractor.vgg import TAPS, Vgg16Backbone
from extractor.weights import WeightsError, load_metadata, load_state_dict, weights_digest
from extractor.whitening import unit_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from extractor.configuration import RetrievalNetworkConfiguration
    from extractor.photo import Photo


class Aggregation(nn.Module):
    """What follows the feature map: pooling, then up to three affine maps, each scaled to unit norm.

    Args:
        state: of the maps that there are: `region.weight` and `.bias` for each region, `embedding.weight` and
            `.bias` for their sum, `whitening.mean` and `.projection` for the sum over all sizes of a photo.
        power: p of generalised-mean pooling; None for the maximum.
        levels: of R-MAC's regions, which come beside the whole map; 0 for none.
        unit: pooled vectors are scaled to unit norm before anything else.
    """

    def __init__(self, state: Mapping[str, Tensor], power: float | None, levels: int, unit: bool) -> None:
        super().__init__()
        self.power, self.levels, self.unit = power, levels, unit
        self.region, self.embedding = (_linear(state, part) for part in ("region", "embedding"))
        self.register_buffer("mean", state.get("whitening.mean"))
        self.register_buffer("projection", state.get("whitening.projection"))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Descriptors float [B, D] of unit norm of the maps [B, C, h, w] of each size of B photos."""
        vector = torch.stack([self._of_one_size(one) for one in features]).sum(0)
        vector = normalize(vector, dim=1)
        mean, projection = self.get_buffer("mean"), self.get_buffer("projection")
        return vector if projection is None else normalize((vector - mean) @ projection, dim=1)

    def _of_one_size(self, features: Tensor) -> Tensor:
        """Vectors [B, D] of unit norm of maps [B, C, h, w]."""
        places = regions(features.shape[2], features.shape[3], self.levels)
        parts = [features[:, :, row : row + side, column : column + side] for row, column, side in places]
        vectors = torch.stack([self._pooled(part) for part in (features, *parts)], 1)
        if self.unit:
            vectors = normalize(vectors, dim=2)
        if self.region is not None:
            vectors = normalize(self.region(vectors), dim=2)
        vector = vectors.sum(1)
        if len(parts) > 0:
            vector = normalize(vector, dim=1)
        return normalize(vector if self.embedding is None else self.embedding(vector), dim=1)

    def _pooled(self, features: Tensor) -> Tensor:
        return mac(features) if self.power is None else gem(features, self.power)


def _linear(state: Mapping[str, Tensor], part: str) -> nn.Linear | None:
    if f"{part}.weight" not in state:
        return None
    weight, bias = state[f"{part}.weight"], state[f"{part}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


class RetrievalNetwork(NetworkModel["NDArray[np.float32]"]):
    """Describes a photo by a network that was trained for retrieval.

    Args:
        configuration: the file that holds the network and says how it pools, and the sizes of the photo.

    Raises:
        WeightsError: weights are missing, or are not of such a network.
    """

    def __init__(self, configuration: RetrievalNetworkConfiguration) -> None:
        path = configuration.state.path()
        metadata, state = load_metadata(path), load_state_dict(path)
        try:
            pooling = metadata["pooling"]
            vgg = metadata["backbone"]["style"] == "vgg16"
            self.aggregation = Aggregation(state, pooling["power"], pooling["levels"], pooling["unit"]).eval()
        except (KeyError, TypeError, RuntimeError) as error:
            raise WeightsError(f"{path} does not hold a network for retrieval: {error}") from error
        self.backbone = Vgg16Backbone(configuration.state) if vgg else ResNetBackbone(path)
        self.tap = self.backbone.taps[-1] if isinstance(self.backbone, ResNetBackbone) else TAPS[-1]
        self.sides = configuration.sides
        self.longest_side = max(self.sides)
        channels = self.backbone.channels(self.tap)
        with torch.inference_mode():
            self.dimension = self.aggregation([torch.ones(1, channels, 1, 1)]).shape[1]
        self.identity = {"sides": list(self.sides), "weights": weights_digest(path)}

    def move(self, device: str, dtype: torch.dtype) -> None:
        """Move the backbone; what makes descriptors of its maps calculates in float32 anyway."""
        self.backbone.to(device, dtype)
        place(self.aggregation, device)

    def prepare(self, photo: Photo) -> Pyramid:
        """The sizes of a photo."""
        levels = [pyramid(photo, side, (1.0,)).levels[0] for side in self.sides]
        return Pyramid(photo.size, tuple(levels))

    def describe(self, photo: Photo) -> NDArray[np.float32]:
        """Global descriptor, float32 [dimension] of unit norm."""
        (descriptor,) = self.run([self.prepare(photo)])
        return descriptor

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[NDArray[np.float32]]:
        """Global descriptor of each photo of a stack."""
        maps = [
            self.backbone.maps(stack.pixels, [self.tap])[0].to(torch.float32)
            for stack in stacks(pyramids, self.device)
        ]
        return list(unit_rows(self.aggregation(maps).cpu().numpy()))
