"""Pooling: a feature map to one vector, or to one per region."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_OVERLAP = 0.4  # of neighbouring regions along the longer side, about
_MOST_ALONG = 7


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


def mac(features: Tensor) -> Tensor:
    """Maximum activations of convolutions: float [B, C] of features [B, C, H, W].

    Tolias et al., "Particular object retrieval with integral max-pooling of CNN activations" (ICLR 2016).
    """
    return features.amax((2, 3))


def regions(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """The square regions of R-MAC, as (row, column, side) on the map: the whole of it is not among them.

    At level l the side is 2 / (l + 1) of the shorter side of the map; l regions fit along that, and along the
    longer one as many more as bring the overlap at level 1 nearest to 40 %.

    Tolias et al., "Particular object retrieval with integral max-pooling of CNN activations" (ICLR 2016).

    Args:
        height: of the map.
        width: of the map.
        levels: 1 to so many.
    """
    shorter, longer = min(height, width), max(height, width)
    counts = np.arange(2, _MOST_ALONG + 1)
    overlaps = 1 - (longer - shorter) / (counts - 1) / shorter
    more = 0 if shorter == longer else int(np.abs(overlaps - _OVERLAP).argmin()) + 1
    found = []
    for level in range(1, levels + 1):
        side = 2 * shorter // (level + 1)
        if side == 0:
            break
        rows, columns = (
            _starts(length, side, level + (more if length > shorter else 0)) for length in (height, width)
        )
        found += [(row, column, side) for row in rows for column in columns]
    return found


def _starts(length: int, side: int, count: int) -> list[int]:
    """First cells of `count` windows spread evenly over an axis."""
    return [i * (length - side) // max(count - 1, 1) for i in range(count)]


def regional_mac(features: Tensor, levels: int) -> Tensor:
    """MAC of the whole map, then of each of its `regions`: float [B, 1 + R, C] of features [B, C, H, W]."""
    found = regions(features.shape[2], features.shape[3], levels)
    parts = [features[:, :, row : row + side, column : column + side] for row, column, side in found]
    return torch.stack([mac(part) for part in (features, *parts)], 1)
