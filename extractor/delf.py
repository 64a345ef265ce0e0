"""DELF: dense features of a backbone over an image pyramid, the best-scored of them kept.

Noh et al., "Large-scale image retrieval with attentive deep local features" (ICCV 2017).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from extractor.attention import Attention, norm_scores
from extractor.features import LocalFeatures
from extractor.keypoint_selection import DenseFeatures, select
from extractor.pyramid import pyramid
from extractor.weights import part_of, weights_digest

if TYPE_CHECKING:
    from extractor.configuration import DelfConfiguration
    from extractor.photo import Photo


class Delf:
    """Local features at full length; `ReducedLocal` shortens them.

    Without attention weights the score of a feature is its norm (DELF noFT); with them, it is the attention.

    Args:
        configuration: backbone, tap, pyramid, selection, attention weights.

    Raises:
        ValueError: the backbone has no such tap.
        WeightsError: weights are missing, or do not fit.
    """

    def __init__(self, configuration: DelfConfiguration) -> None:
        self.configuration = configuration
        self.backbone = configuration.backbone.load()
        self.dimension = self.backbone.channels(configuration.tap)
        self.longest_side = configuration.longest_side
        parameters = asdict(configuration)
        for decided_elsewhere in ("backbone", "attention", "dimension", "whiten"):
            del parameters[decided_elsewhere]
        self.identity: dict[str, object] = {**parameters, "backbone": dict(self.backbone.identity)}
        self.attention: Attention | None = None
        if configuration.attention is not None:
            path = configuration.attention.path()
            self.attention = Attention(self.dimension).eval()
            part_of(path, "attention", self.attention)
            self.identity["attention"] = weights_digest(path)

    @torch.inference_mode()
    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features of a photo, strongest first, keypoints in pixels of the original.

        The scale of a feature is the number of original pixels per pixel that the network saw.
        """
        c = self.configuration
        levels = []
        for level in pyramid(photo, c.longest_side, c.scales):
            features = self.backbone.maps(level.pixels, [c.tap])[0]
            scores = norm_scores(features) if self.attention is None else self.attention(features)
            levels.append(DenseFeatures.of(level, self.backbone, c.tap, features, scores, c.score_threshold))
        keypoints, scales, kept, descriptors = select(levels, photo.size, c.max_features, c.nms_iou)
        return LocalFeatures(keypoints, scales, kept, functional.normalize(descriptors, dim=1).numpy())
