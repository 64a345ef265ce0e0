"""DELG: the global and the local half of one network, trained together.

Cao et al., "Unifying deep local and global features for image search" (ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from extractor.configuration import DelgConfiguration
from extractor.delg import DelgHeads
from extractor.training.arcface import ArcFace
from extractor.training.losses import attentive_pool, reconstruction_loss
from extractor.training.objective import Objective
from extractor.training.trunk import Trunk


class JointTraining(Objective):
    """ArcFace for the global descriptor; for the local half attention over what an autoencoder rebuilds.

    Only the global loss reaches the backbone: local features made to tell landmarks apart by themselves would
    spoil the hierarchy that both halves live on (section 3.2 of the paper).

    Args:
        trunk: learns.
        configuration: taps, pooling and dimensions of the extractor that is trained.
        classes: how many landmarks there are.
        margin: of ArcFace, in radians.
    """

    weights: ClassVar[Mapping[str, float]] = {"arcface": 1.0, "attention": 1.0, "reconstruction": 10.0}

    def __init__(
        self, trunk: Trunk, configuration: DelgConfiguration, classes: int, margin: float = 0.1
    ) -> None:
        super().__init__(trunk)
        c = self.configuration = configuration
        channels = trunk.channels(c.local_tap)
        self.heads = DelgHeads(
            channels, trunk.channels(c.global_tap), c.local_dimension, c.dimension, c.power
        )
        decoder = nn.Conv2d(c.local_dimension, channels, 1)
        self.decoder = nn.Sequential(decoder, nn.ReLU()) if trunk.rectified else decoder
        self.arcface = ArcFace(c.dimension, classes, margin)
        self.classifier = nn.Linear(channels, classes)

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The three losses of pixels [B, H, W, 3] of landmarks int64 [B]."""
        c = self.configuration
        features, whole = self.trunk.maps(pixels, [c.local_tap, c.global_tap])
        features = features.detach()
        rebuilt = self.decoder(self.heads.encoder(features))
        pooled = attentive_pool(rebuilt, self.heads.attention(features))
        return {
            "arcface": self.arcface(self.heads.describe(whole.float()), labels),
            "attention": functional.cross_entropy(self.classifier(pooled).float(), labels),
            "reconstruction": reconstruction_loss(rebuilt, features),
        }

    def describe(self, pixels: Tensor) -> Tensor:
        """Global descriptors, float [B, dimension] of unit norm."""
        return self.heads.describe(
            self.trunk.maps(pixels, [self.configuration.global_tap])[0].float()
        ).float()

    def learnt(self) -> dict[str, nn.Module]:
        """Parts of the weights file."""
        return {"backbone": self.trunk.network, **dict(self.heads.named_children())}
