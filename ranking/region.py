"""Which part of a photo a match covers: an 8 x 8 grid of its features' extent in one 64-bit mask."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from extractor.features import LocalFeatures

GRID = 8
_LEFT = np.uint64(0x0101010101010101)
_RIGHT = np.uint64(0x8080808080808080)
_ONE = np.uint64(1)
_ROW = np.uint64(GRID)


def covered_region(features: LocalFeatures, chosen: NDArray[np.int32]) -> np.uint64:
    """The cells that some of a photo's features lie in.

    Args:
        features: all features of the photo; their bounding square is divided into 8 x 8 cells.
        chosen: int32 [M], indices of the features that count.

    Returns:
        A mask with bit 8 * row + column set for each cell that holds a chosen feature.
    """
    if not len(chosen):
        return np.uint64(0)
    low = features.keypoints.min(0)
    extent = float(max((features.keypoints.max(0) - low).max(), 1e-6))
    cells = np.clip((features.keypoints[chosen] - low) * (GRID / extent), 0, GRID - 1).astype(np.uint64)
    return np.uint64(np.bitwise_or.reduce(_ONE << (cells[:, 1] * _ROW + cells[:, 0])))


@numba.njit(cache=True, nogil=True)
def _grow(mask: np.uint64) -> np.uint64:
    """The mask and its eight neighbours."""
    wide = mask | ((mask & ~_RIGHT) << _ONE) | ((mask & ~_LEFT) >> _ONE)
    return wide | (wide << _ROW) | (wide >> _ROW)


@numba.njit(cache=True, nogil=True)
def _count(mask: np.uint64) -> int:
    count = 0
    while mask:
        mask &= mask - _ONE
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def shared_region(here: np.uint64, there: np.uint64) -> float:
    """The share of `there` that lies in `here` or right beside it, between 0 and 1."""
    cells = _count(there)
    return _count(there & _grow(here)) / cells if cells else 0.0
