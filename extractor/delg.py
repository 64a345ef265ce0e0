"""DELG: one network for the global descriptor and for attentive local features.

Cao et al., "Unifying deep local and global features for image search" (ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from extractor.attention import Attention
from extractor.extractor import StackingExtractor, fingerprint
from extractor.features import LocalFeatures
from extractor.keypoint_selection import Candidates, select
from extractor.network_model import NetworkModel, place
from extractor.pooling import gem
from extractor.pyramid import Pyramid, pyramid, stacks
from extractor.weights import load_metadata, part_of, weights_digest
from extractor.whitening import unit_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from extractor.configuration import DelgConfiguration
    from extractor.photo import Photo


class DelgHeads(nn.Module):
    """What DELG adds to a backbone.

    Args:
        local_channels: of the map that local features are taken from.
        global_channels: of the map that is pooled.
        local_dimension: of a local descriptor: the autoencoder's bottleneck.
        dimension: of the global descriptor.
        power: p of generalised-mean pooling.
        decoded: the attention looks at what the autoencoder makes of the map, not at the map itself.
    """

    def __init__(
        self,
        local_channels: int,
        global_channels: int,
        local_dimension: int,
        dimension: int,
        power: float,
        decoded: bool = False,
    ) -> None:
        super().__init__()
        self.power = power
        self.attention = Attention(local_channels)
        self.encoder = nn.Conv2d(local_channels, local_dimension, 1)
        self.whitening = nn.Linear(global_channels, dimension)
        self.decoder = nn.Conv2d(local_dimension, local_channels, 1) if decoded else None

    def score(self, features: Tensor) -> Tensor:
        """Scores float [B, h, w] of maps [B, local_channels, h, w]."""
        if self.decoder is not None:
            seen = functional.relu(self.decoder(self.encoder(features.to(torch.float32))))
            features = seen.to(features.dtype)
        return self.attention(features)

    def describe(self, features: Tensor) -> Tensor:
        """Global descriptors float [B, dimension] of unit norm of maps [B, global_channels, h, w]."""
        return functional.normalize(self.whitening(gem(features, self.power)), dim=1)

    def encode(self, features: Tensor) -> Tensor:
        """Local descriptors float [N, local_dimension] of unit norm of features [N, local_channels]."""
        return functional.normalize(self.encoder(features[:, :, None, None])[:, :, 0, 0], dim=1)


class Delg(NetworkModel[tuple["NDArray[np.float32]", LocalFeatures]], StackingExtractor):
    """Global and local features from one forward pass per scale.

    Args:
        name: as registered.
        configuration: backbone, taps, pyramids, selection, weights of the heads.

    Raises:
        ValueError: the backbone has no such tap.
        WeightsError: weights are missing, or do not fit.
    """

    def __init__(self, name: str, configuration: DelgConfiguration) -> None:
        c = self.configuration = configuration
        self.name = name
        self.backbone = c.backbone.load()
        self.dimension, self.local_dimension = c.dimension, c.local_dimension
        self.longest_side = c.longest_side
        self.scales = sorted({*c.local_scales, *c.global_scales})
        path = c.heads.path()
        metadata = load_metadata(path)
        self.score_threshold = metadata.get("score_threshold", 0.0)
        if c.score_threshold is not None:
            self.score_threshold = c.score_threshold
        self.heads = DelgHeads(
            self.backbone.channels(c.local_tap),
            self.backbone.channels(c.global_tap),
            c.local_dimension,
            c.dimension,
            metadata.get("power", c.power),
            metadata.get("attention_input") == "decoded",
        ).eval()
        for part, module in self.heads.named_children():
            part_of(path, part, module)
        place(self.heads)
        parameters = asdict(c)
        del parameters["backbone"], parameters["heads"]
        identity = {
            **parameters,
            "backbone": dict(self.backbone.identity),
            "heads": weights_digest(path),
        }
        self.fingerprint = fingerprint(name, identity)

    def move(self, device: str, dtype: torch.dtype) -> None:
        """Move backbone and heads; what makes the descriptors calculates in float32 anyway."""
        self.backbone.to(device, dtype)
        place(self.heads, device)
        place(self.heads.attention, device, dtype)

    def prepare(self, photo: Photo) -> Pyramid:
        """The scales of a photo."""
        return pyramid(photo, self.configuration.longest_side, self.scales)

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[tuple[NDArray[np.float32], LocalFeatures]]:
        """Global descriptor and local features of each photo of a stack."""
        c = self.configuration
        descriptors, levels = [], []
        for scale, stack in zip(self.scales, stacks(pyramids, self.device), strict=True):
            taps = [c.local_tap] * (scale in c.local_scales) + [c.global_tap] * (scale in c.global_scales)
            maps = dict(zip(taps, self.backbone.maps(stack.pixels, taps), strict=True))
            if c.global_tap in maps:
                descriptors.append(self.heads.describe(maps[c.global_tap].to(torch.float32)))
            if c.local_tap in maps:
                features = maps[c.local_tap]
                scores = self.heads.score(features)
                levels.append(
                    Candidates.of_map(
                        stack, self.backbone, c.local_tap, features, scores, self.score_threshold
                    )
                )
        kept = select(levels, [one.size for one in pyramids], c.max_features, c.nms_iou)
        whole = unit_rows(torch.stack(descriptors).mean(0).cpu().numpy())
        return list(zip(whole, kept.features(self.heads.encode(kept.descriptors)), strict=True))
