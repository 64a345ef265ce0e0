"""The input that networks trained on ImageNet with PyTorch expect."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
"""Of red, green and blue between 0 and 1."""

DEVIATION = (0.229, 0.224, 0.225)
"""Standard deviation of the same."""


def normalise(pixels: Tensor) -> Tensor:
    """Turn float [B, H, W, 3], red green blue, 0 to 255, into float32 [B, 3, H, W] of unit spread."""
    mean, deviation = (
        torch.tensor(values, dtype=pixels.dtype, device=pixels.device) for values in (MEAN, DEVIATION)
    )
    return ((pixels / 255 - mean) / deviation).permute(0, 3, 1, 2)
