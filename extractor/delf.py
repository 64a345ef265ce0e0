"""DELF: dense features of a backbone over an image pyramid, the best-scored of them kept.

Noh et al., "Large-scale image retrieval with attentive deep local features" (ICCV 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from extractor.attention import Attention, norm_scores
from extractor.features import LocalFeatures
from extractor.keypoint_selection import Candidates, select
from extractor.network_model import NetworkModel, place
from extractor.pyramid import Pyramid, pyramid, stacks
from extractor.weights import load_metadata, part_of, weights_digest

if TYPE_CHECKING:
    from extractor.configuration import DelfConfiguration
    from extractor.photo import Photo


class Delf(NetworkModel[LocalFeatures]):
    """Local features at full length; `ReducedLocal` shortens them.

    Without attention weights the score of a feature is its norm (DELF noFT); with them, it is the attention.
    Features of several taps are made unit vectors and joined, and their norms multiplied: that is ours.

    Args:
        configuration: backbone, taps, pyramid, selection, attention weights.

    Raises:
        ValueError: the backbone has no such tap, or the strides of the taps differ.
        WeightsError: weights are missing, or do not fit.
    """

    def __init__(self, configuration: DelfConfiguration) -> None:
        self.configuration = configuration
        self.backbone = configuration.backbone.load()
        self.channels = [self.backbone.channels(tap) for tap in configuration.taps]
        strides = {
            math.prod(layer.stride for layer in self.backbone.layers(tap)) for tap in configuration.taps
        }
        if len(strides) > 1:
            raise ValueError(
                f"the maps of {', '.join(configuration.taps)} differ in stride: {sorted(strides)}"
            )
        self.dimension = sum(self.channels)
        self.longest_side = configuration.longest_side
        parameters = asdict(configuration)
        for decided_elsewhere in ("backbone", "attention", "dimension", "whiten"):
            del parameters[decided_elsewhere]
        self.identity: dict[str, object] = {**parameters, "backbone": dict(self.backbone.identity)}
        self.attention: Attention | None = None
        self.score_threshold = configuration.score_threshold or 0.0
        if configuration.attention is not None:
            path = configuration.attention.path()
            if configuration.score_threshold is None:
                self.score_threshold = load_metadata(path).get("score_threshold", 0.0)
            self.attention = Attention(self.dimension).eval()
            part_of(path, "attention", self.attention)
            place(self.attention)
            self.identity["attention"] = weights_digest(path)

    def move(self, device: str, dtype: torch.dtype) -> None:
        """Move backbone and attention."""
        self.backbone.to(device, dtype)
        if self.attention is not None:
            place(self.attention, device, dtype)

    def prepare(self, photo: Photo) -> Pyramid:
        """The scales of a photo."""
        return pyramid(photo, self.configuration.longest_side, self.configuration.scales)

    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features of a photo, strongest first, keypoints in pixels of the original.

        The scale of a feature is the number of original pixels per pixel that the network saw.
        """
        (features,) = self.run([self.prepare(photo)])
        return features

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[LocalFeatures]:
        """Local features of each photo of a stack."""
        c = self.configuration
        levels = []
        for stack in stacks(pyramids, self.device):
            maps = self.backbone.maps(stack.pixels, c.taps)
            if self.attention is None:
                scores = torch.stack([norm_scores(features) for features in maps]).prod(0)
            else:
                scores = self.attention(maps[0])
            joined = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
            levels.append(
                Candidates.of_map(stack, self.backbone, c.taps[-1], joined, scores, self.score_threshold)
            )
        kept = select(levels, [one.size for one in pyramids], c.max_features, c.nms_iou)
        units = [functional.normalize(part, dim=1) for part in kept.descriptors.split(self.channels, dim=1)]
        return kept.features(functional.normalize(torch.cat(units, dim=1), dim=1))
