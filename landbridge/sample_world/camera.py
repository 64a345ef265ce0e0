"""A pinhole camera: where it stands, where it looks, and how points and planes fall on its photo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NEAR = 0.5
"""Metres before the camera within which nothing is drawn."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the world has x and y on the ground and z up, in metres.

    Attributes:
        position: (x, y, z) of the lens.
        target: (x, y, z) of the point it looks at.
        roll: degrees by which the camera is turned about its own axis.
        focal: focal length in units of the photo's width.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    roll: float
    focal: float

    @cached_property
    def rotation(self) -> NDArray[np.float64]:
        """World to camera [3, 3]: rows are the photo's right, down and forward."""
        forward = np.subtract(self.target, self.position)
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        cos, sin = np.cos(np.radians(self.roll)), np.sin(np.radians(self.roll))
        return np.stack([cos * right + sin * down, cos * down - sin * right, forward])

    def intrinsics(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Calibration matrix [3, 3] for (width, height) pixels whose centres are at whole numbers."""
        width, height = size
        focal = self.focal * width
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])

    def plane(
        self,
        size: tuple[int, int],
        origin: NDArray[np.float64],
        right: NDArray[np.float64],
        up: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Homography [3, 3] from a plane's own metres to pixels; its third row gives the depth."""
        columns = self.rotation @ np.stack([right, up, origin - np.asarray(self.position)], axis=1)
        return self.intrinsics(size) @ columns
