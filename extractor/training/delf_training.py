"""The two stages in which DELF is trained: classification of landmarks, then attention over frozen features.

Noh et al., "Large-scale image retrieval with attentive deep local features" (ICCV 2017), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from extractor.attention import Attention
from extractor.training.losses import attentive_pool
from extractor.training.objective import Objective
from extractor.training.trunk import Trunk


class Classification(Objective):
    """First stage: the average of the feature map tells the landmark.

    Args:
        trunk: learns.
        tap: where local features are taken.
        classes: how many landmarks there are.
    """

    weights: ClassVar[Mapping[str, float]] = {"classification": 1.0}

    def __init__(self, trunk: Trunk, tap: str, classes: int) -> None:
        super().__init__(trunk)
        self.tap = tap
        self.classifier = nn.Linear(trunk.channels(tap), classes)

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of pixels [B, H, W, 3] of landmarks int64 [B]."""
        pooled = self.trunk.maps(pixels, [self.tap])[0].mean((2, 3))
        return {"classification": functional.cross_entropy(self.classifier(pooled).float(), labels)}

    def describe(self, pixels: Tensor) -> Tensor:
        """The pooled features, float [B, channels] of unit norm."""
        return functional.normalize(self.trunk.maps(pixels, [self.tap])[0].mean((2, 3)).float(), dim=1)

    def learnt(self) -> dict[str, nn.Module]:
        """Parts of the weights file."""
        return {"backbone": self.trunk.network}


class AttentionTraining(Objective):
    """Second stage: the attention-weighted sum of frozen features tells the landmark.

    Args:
        trunk: does not learn any more.
        tap: where local features are taken.
        classes: how many landmarks there are.
    """

    weights: ClassVar[Mapping[str, float]] = {"attention": 1.0}

    def __init__(self, trunk: Trunk, tap: str, classes: int) -> None:
        super().__init__(trunk.frozen())
        self.tap = tap
        self.attention = Attention(trunk.channels(tap))
        self.classifier = nn.Linear(trunk.channels(tap), classes)

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross entropy of pixels [B, H, W, 3] of landmarks int64 [B]."""
        return {"attention": functional.cross_entropy(self.classifier(self._pooled(pixels)).float(), labels)}

    def describe(self, pixels: Tensor) -> Tensor:
        """The weighted features, float [B, channels] of unit norm."""
        return functional.normalize(self._pooled(pixels).float(), dim=1)

    def learnt(self) -> dict[str, nn.Module]:
        """Parts of the weights file."""
        return {"backbone": self.trunk.network, "attention": self.attention}

    def _pooled(self, pixels: Tensor) -> Tensor:
        (features,) = self.trunk.maps(pixels, [self.tap])
        return attentive_pool(features, self.attention(features))
