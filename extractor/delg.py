"""DELG: one network for the global descriptor and for attentive local features.

Cao et al., "Unifying deep local and global features for image search" (ECCV 2020).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from extractor.attention import Attention
from extractor.extractor import Extractor, fingerprint
from extractor.features import ImageFeatures, LocalFeatures
from extractor.keypoint_selection import DenseFeatures, select
from extractor.pooling import gem
from extractor.pyramid import pyramid
from extractor.threads import one_torch_thread
from extractor.weights import part_of, weights_digest
from extractor.whitening import unit_rows

if TYPE_CHECKING:
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
    """

    def __init__(
        self, local_channels: int, global_channels: int, local_dimension: int, dimension: int, power: float
    ) -> None:
        super().__init__()
        self.power = power
        self.attention = Attention(local_channels)
        self.encoder = nn.Conv2d(local_channels, local_dimension, 1)
        self.whitening = nn.Linear(global_channels, dimension)

    def describe(self, features: Tensor) -> Tensor:
        """Global descriptors float [B, dimension] of unit norm of maps [B, global_channels, h, w]."""
        return functional.normalize(self.whitening(gem(features, self.power)), dim=1)

    def encode(self, features: Tensor) -> Tensor:
        """Local descriptors float [N, local_dimension] of unit norm of features [N, local_channels]."""
        return functional.normalize(self.encoder(features[:, :, None, None])[:, :, 0, 0], dim=1)


class Delg(Extractor):
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
        path = c.heads.path()
        self.heads = DelgHeads(
            self.backbone.channels(c.local_tap),
            self.backbone.channels(c.global_tap),
            c.local_dimension,
            c.dimension,
            c.power,
        ).eval()
        for part, module in self.heads.named_children():
            part_of(path, part, module)
        parameters = asdict(c)
        del parameters["backbone"], parameters["heads"]
        identity = {
            **parameters,
            "backbone": dict(self.backbone.identity),
            "heads": weights_digest(path),
        }
        self.fingerprint = fingerprint(name, identity)

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo; local descriptors are float32."""
        c = self.configuration
        descriptors, levels = [], []
        with one_torch_thread(), torch.inference_mode():
            scales = sorted({*c.local_scales, *c.global_scales})
            for scale, level in zip(scales, pyramid(photo, c.longest_side, scales), strict=True):
                taps = [c.local_tap] * (scale in c.local_scales) + [c.global_tap] * (scale in c.global_scales)
                maps = dict(zip(taps, self.backbone.maps(level.pixels, taps), strict=True))
                if c.global_tap in maps:
                    descriptors.append(self.heads.describe(maps[c.global_tap]))
                if c.local_tap in maps:
                    features = maps[c.local_tap]
                    scores = self.heads.attention(features)
                    levels.append(
                        DenseFeatures.of(
                            level, self.backbone, c.local_tap, features, scores, c.score_threshold
                        )
                    )
            keypoints, sizes, kept, dense = select(levels, photo.size, c.max_features, c.nms_iou)
            local = LocalFeatures(keypoints, sizes, kept, self.heads.encode(dense).numpy())
            whole = unit_rows(torch.cat(descriptors).mean(0, keepdim=True).numpy())[0]
        return ImageFeatures(image_id, photo.size, whole, local, self.fingerprint)
