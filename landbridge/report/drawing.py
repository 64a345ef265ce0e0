"""The inlier correspondences of a pair as SVG paths over the two photos side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landbridge.results import Correspondences

HEIGHT = 400
GAP = 12
MOST_LINES = 60
STRANDS = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """Two photos side by side at one height, ``HEIGHT`` units, ``GAP`` units apart.

    Attributes:
        source_width: Width of the first photo in units.
        target_width: Width of the second photo in units.
    """

    source_width: int
    target_width: int

    @classmethod
    def of(cls, source_size: tuple[int, int], target_size: tuple[int, int]) -> Frame:
        """The frame of two photos of these (width, height)."""
        return cls(*(round(HEIGHT * width / height) for width, height in (source_size, target_size)))

    @property
    def width(self) -> int:
        """Width of the whole in units."""
        return self.source_width + GAP + self.target_width


@dataclass(frozen=True, slots=True)
class Strand:
    """Correspondences of one colour: the SVG path data of their lines and of their end points."""

    lines: str
    ends: str


def evenly_chosen(points: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of at most ``count`` of ``points`` [M, 2] that cover them evenly, in increasing order.

    Farthest-point sampling (Gonzalez 1985) from the topmost point on.
    """
    if len(points) <= count:
        return np.arange(len(points))
    chosen = [int(np.argmin(points[:, 1]))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.sum((points - points[chosen[-1]]) ** 2, axis=1))
        distance[chosen[-1]] = -1.0
        chosen.append(int(np.argmax(distance)))
    return np.sort(chosen)


def strands(
    correspondences: Correspondences, source_size: tuple[int, int], target_size: tuple[int, int]
) -> tuple[Strand, ...]:
    """Draw at most ``MOST_LINES`` correspondences in the units of the pair's ``Frame``.

    Args:
        correspondences: The inliers of the pair, in pixels of the original photos.
        source_size: Width and height of the first photo in pixels.
        target_size: Width and height of the second photo in pixels.

    Returns:
        ``STRANDS`` strands from the top of the first photo to its bottom, of nearly equal numbers of lines.
    """
    frame = Frame.of(source_size, target_size)
    kept = evenly_chosen(correspondences.source_points, MOST_LINES)
    kept = kept[np.argsort(correspondences.source_points[kept, 1], kind="stable")]
    source = correspondences.source_points[kept] * (HEIGHT / source_size[1])
    target = correspondences.target_points[kept] * (HEIGHT / target_size[1])
    target += np.array([frame.source_width + GAP, 0], dtype=target.dtype)
    ends = np.rint(np.hstack([source, target])).astype(int)
    return tuple(
        Strand(
            "".join(f"M{x0} {y0}L{x1} {y1}" for x0, y0, x1, y1 in band),
            "".join(f"M{x0} {y0}h0M{x1} {y1}h0" for x0, y0, x1, y1 in band),
        )
        for band in np.array_split(ends, STRANDS)
    )
