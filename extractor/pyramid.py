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
    """A photo at one scale, before it goes to the device of the network.

    Attributes:
        pixels: uint8 [h, w, 3], red green blue.
        size: (width, height) that the network sees, to which the pixels are yet to be interpolated.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A photo at several scales.

    Attributes:
        size: (width, height) of the original.
        levels: one per scale.
    """

    size: tuple[int, int]
    levels: tuple[Level, ...]

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Pyramids of one shape can be stacked."""
        return tuple((*level.pixels.shape[:2], *level.size) for level in self.levels)


@dataclass(frozen=True, eq=False)
class Stack:
    """One level of several photos, on the device of the network.

    Attributes:
        pixels: float32 [B, H, W, 3], red green blue, 0 to 255; below and on the right perhaps padded.
        size: (width, height) without the padding.
        per_pixel: float32 [B, 2], original pixels per pixel along x and y.
    """

    pixels: Tensor
    size: tuple[int, int]
    per_pixel: NDArray[np.float32]


def pyramid(photo: Photo, longest_side: int, scales: Sequence[float]) -> Pyramid:
    """The photo at several scales; reduced with antialiasing, enlarged bilinearly.

    Args:
        photo: the photo.
        longest_side: pixels along the longest side at scale 1; a smaller photo has its own size there.
        scales: as multiples of that.
    """
    height, width = photo.reduced(longest_side).pixels.shape[:2]
    levels = []
    for scale in scales:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        levels.append(Level(photo.reduced(max(size)).pixels, size))
    return Pyramid(photo.size, tuple(levels))


def stacks(pyramids: Sequence[Pyramid], device: str) -> Iterator[Stack]:
    """The levels of several pyramids of one shape, one after the other."""
    for number, level in enumerate(pyramids[0].levels):
        pixels = stacked_pixels([one.levels[number] for one in pyramids], device).to(torch.float32)
        columns, rows = level.size
        image = interpolated(pixels.permute(0, 3, 1, 2), level.size)
        missing = (0, max(0, LEAST_SIDE - columns), 0, max(0, LEAST_SIDE - rows))
        if any(missing):
            image = functional.pad(image, missing, mode="replicate")
        yield Stack(image.permute(0, 2, 3, 1), level.size, per_pixel(pyramids, level.size))


def stacked_pixels(levels: Sequence[Level], device: str) -> Tensor:
    """Pixels of levels of one shape on a device, uint8 [B, h, w, 3]."""
    one = levels[0].pixels[None]
    pixels = torch.from_numpy(one if len(levels) == 1 else np.stack([level.pixels for level in levels]))
    return pixels if device == "cpu" else pixels.pin_memory().to(device, non_blocking=True)


def interpolated(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image float [B, C, h, w] at (width, height), bilinearly; itself where it has that size."""
    columns, rows = size
    if image.shape[2:] == (rows, columns):
        return image
    return functional.interpolate(image, (rows, columns), mode="bilinear", align_corners=False)


def per_pixel(pyramids: Sequence[Pyramid], size: tuple[int, int]) -> NDArray[np.float32]:
    """Original pixels per pixel of a level of (width, height), float32 [B, 2]."""
    return np.array([[one.size[0] / size[0], one.size[1] / size[1]] for one in pyramids], np.float32)
