"""Scores of dense features: how much each place matters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_HIDDEN = 512


class Attention(nn.Module):
    """The attention head of DELF and DELG: two 1x1 convolutions, then softplus.

    Noh et al., "Large-scale image retrieval with attentive deep local features" (ICCV 2017).

    Args:
        channels: of the feature map.
        hidden: of the layer between.
    """

    def __init__(self, channels: int, hidden: int = _HIDDEN) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Scores float32 [B, h, w], not negative, of features [B, channels, h, w]."""
        hidden = functional.relu(self.bn1(self.conv1(features)))
        return functional.softplus(self.conv2(hidden).float())[:, 0]


def norm_scores(features: Tensor) -> Tensor:
    """Scores without training: Euclidean norms, float32 [B, h, w], of features [B, C, h, w]."""
    return torch.linalg.vector_norm(features, dim=1, dtype=torch.float32)
