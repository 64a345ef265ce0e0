"""Pooling: a feature map [B, C, H, W] to one vector [B, C] per image."""

from __future__ import annotations

from torch import Tensor


def gem(features: Tensor, power: float) -> Tensor:
    """Generalised mean over all places: (mean of x^p)^(1/p); p = 1 is the average, p to infinity the maximum.

    Radenović et al., "Fine-tuning CNN image retrieval with no human annotation" (TPAMI 2019).

    Args:
        features: float [B, C, H, W]; for p other than 1, values below 1e-6 count as 1e-6.
        power: p, at least 1.

    Returns:
        float [B, C].
    """
    if power == 1:
        return features.mean((2, 3))
    return features.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power)
