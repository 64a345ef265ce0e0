"""Deformable convolution: every tap of the kernel looks at a place of its own.

Dai et al., "Deformable convolutional networks" (ICCV 2017). Built on `grid_sample`, so PyTorch alone does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def deformable_convolution(x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Convolve at stride 1, padded with zeros so that the size stays.

    Args:
        x: float [B, C, H, W].
        offsets: float [B, 2 k k, H, W], the (y, x) shift in pixels of each tap, taps row by row.
        weight: float [D, C, k, k], k odd.

    Returns:
        float [B, D, H, W]; what a tap sees between pixels is interpolated bilinearly, outside there is zero.
    """
    batch, channels, height, width = x.shape
    outputs, kernel = weight.shape[0], weight.shape[2]
    taps = kernel * kernel
    reach = torch.arange(kernel, dtype=x.dtype, device=x.device) - kernel // 2
    rows = torch.arange(height, dtype=x.dtype, device=x.device)[None, :, None]
    columns = torch.arange(width, dtype=x.dtype, device=x.device)[None, None, :]
    shifts = offsets.view(batch, taps, 2, height, width)
    y = rows + reach.repeat_interleave(kernel)[:, None, None] + shifts[:, :, 0]
    x_places = columns + reach.repeat(kernel)[:, None, None] + shifts[:, :, 1]
    sampled = sample_pixels(x, torch.stack((x_places, y), -1).view(batch, taps * height, width, 2))
    # [B, C, taps, H, W] against [D, C, taps]
    columns_of = sampled.view(batch, channels * taps, height * width)
    return (weight.reshape(outputs, channels * taps) @ columns_of).view(batch, outputs, height, width)


def sample_pixels(x: Tensor, places: Tensor) -> Tensor:
    """Bilinear values of x float [B, C, H, W] at places [B, h, w, 2] (x, y) in pixels; zero outside.

    Returns:
        float [B, C, h, w].
    """
    sides = torch.tensor([x.shape[3], x.shape[2]], dtype=x.dtype, device=x.device)
    return functional.grid_sample(x, (2 * places + 1) / sides - 1, mode="bilinear", align_corners=False)
