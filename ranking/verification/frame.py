"""The frame that a photo's keypoints span: errors of a model are measured in shares of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SMALLEST_AREA = 0.05


@dataclass(frozen=True, eq=False)
class Frame:
    """The bounding box of keypoints.

    Attributes:
        low: float64 [2], its least x and y in pixels.
        extent: its longer side in pixels, above 0.
        area: its area in units of extent squared, at least 0.05.
    """

    low: NDArray[np.float64]
    extent: float
    area: float

    @classmethod
    def of(cls, keypoints: NDArray[np.float32]) -> Frame:
        """The frame of keypoints [N, 2], N at least 1."""
        low = keypoints.min(0).astype(np.float64)
        sides = np.maximum(keypoints.max(0) - low, 1e-6)
        extent = float(sides.max())
        return cls(low, extent, max(float(sides.prod()) / extent**2, _SMALLEST_AREA))

    @property
    def to_unit(self) -> NDArray[np.float64]:
        """float64 [3, 3], from pixels to the frame's units."""
        return np.array([[1, 0, -self.low[0]], [0, 1, -self.low[1]], [0, 0, self.extent]]) / self.extent
