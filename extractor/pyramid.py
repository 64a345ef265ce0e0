"""A photo at several scales, as networks that know one scale are shown it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extractor.photo import Photo

LEAST_SIDE = 32
"""Sides below are padded with the pixels at the border: networks need something to look at."""


@dataclass(frozen=True, eq=False)
class Level:
    """A photo at one scale.

    Attributes:
        pixels: float32 [1, H, W, 3], red green blue, 0 to 255; below and on the right perhaps padded.
        size: (width, height) without the padding.
        per_pixel: float32 [2], original pixels per pixel along x and y.
    """

    pixels: Tensor
    size: tuple[int, int]
    per_pixel: NDArray[np.float32]

    def to_original(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points float32 [N, 2] of this level in pixels of the original photo.

        Pixel i spans i - 1/2 to i + 1/2, so it is the pixels' edges, not their centres, that scale.
        """
        return (points + np.float32(0.5)) * self.per_pixel - np.float32(0.5)


def pyramid(photo: Photo, longest_side: int, scales: Sequence[float]) -> Iterator[Level]:
    """The photo at several scales; reduced with antialiasing, enlarged bilinearly.

    Args:
        photo: the photo.
        longest_side: pixels along the longest side at scale 1; a smaller photo has its own size there.
        scales: as multiples of that.
    """
    base = photo.reduced(longest_side)
    height, width = base.pixels.shape[:2]
    for scale in scales:
        columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = torch.from_numpy(photo.reduced(max(columns, rows)).pixels)[None].to(torch.float32)
        image = pixels.permute(0, 3, 1, 2)
        if image.shape[2:] != (rows, columns):
            image = functional.interpolate(image, (rows, columns), mode="bilinear", align_corners=False)
        missing = (0, max(0, LEAST_SIDE - columns), 0, max(0, LEAST_SIDE - rows))
        if any(missing):
            image = functional.pad(image, missing, mode="replicate")
        yield Level(
            image.permute(0, 2, 3, 1),
            (columns, rows),
            np.array([photo.size[0] / columns, photo.size[1] / rows], np.float32),
        )
