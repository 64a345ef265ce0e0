"""How a photo is shown to a network in training: which part of it, at which size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractor.photo import read_photo

_ATTEMPTS = 10
_READ_AT = 2  # times the side wanted: enough for the shorter side of photos up to 2 to 1


class View(Protocol):
    """Cuts squares out of photos.

    Attributes:
        side: pixels along a square.
    """

    @property
    def side(self) -> int: ...  # noqa: D102

    def take(self, path: Path, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A square uint8 [side, side, 3] of a photo; what is random about it comes from `rng`.

        Raises:
            PhotoError: the photo cannot be read.
        """


@dataclass(frozen=True)
class CentreCrop:
    """A random square of the photo's central square, as DELF is trained.

    Attributes:
        resize: pixels along the central square.
        side: pixels along the random square in it.

    Raises:
        ValueError: the square does not fit.
    """

    resize: int
    side: int

    def __post_init__(self) -> None:
        if not 32 <= self.side <= self.resize:
            raise ValueError(f"a crop of {self.side} pixels must be at least 32 and at most {self.resize}")

    def take(self, path: Path, rng: np.random.Generator) -> NDArray[np.uint8]:
        """See `View`."""
        pixels = read_photo(path, _READ_AT * self.resize).pixels
        height, width = pixels.shape[:2]
        square = min(height, width)
        side = square * self.side / self.resize
        left = (width - square) / 2 + rng.uniform(0, square - side)
        top = (height - square) / 2 + rng.uniform(0, square - side)
        return _resized(pixels, (left, top, left + side, top + side), self.side)


@dataclass(frozen=True)
class DistortedCrop:
    """A random part of the photo, pressed into a square, as DELG is trained.

    Attributes:
        side: pixels along the square.
        least_area: of the part, as a share of the photo.
        most_aspect: of the part, width to height or height to width, relative to that of the photo.

    Raises:
        ValueError: a value is out of range.
    """

    side: int
    least_area: float = 0.3
    most_aspect: float = 4 / 3

    def __post_init__(self) -> None:
        if self.side < 32 or not 0 < self.least_area <= 1 or self.most_aspect < 1:
            raise ValueError(
                "a crop must have 32 pixels or more, an area above 0 and at most 1, and an aspect of 1 or "
                f"more; got {self.side}, {self.least_area}, {self.most_aspect}"
            )

    def take(self, path: Path, rng: np.random.Generator) -> NDArray[np.uint8]:
        """See `View`."""
        pixels = read_photo(path, _READ_AT * self.side).pixels
        height, width = pixels.shape[:2]
        wide = tall = 1.0
        for _ in range(_ATTEMPTS):
            area = rng.uniform(self.least_area, 1)
            aspect = np.exp(rng.uniform(-1, 1) * np.log(self.most_aspect))
            wide, tall = np.sqrt(area * aspect), np.sqrt(area / aspect)
            if max(wide, tall) <= 1:
                break
        wide, tall = min(wide, 1.0) * width, min(tall, 1.0) * height
        left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
        return _resized(pixels, (left, top, left + wide, top + tall), self.side)


@dataclass(frozen=True)
class Pressed:
    """The whole photo, pressed into a square: what validation looks at.

    Attributes:
        side: pixels along the square.
    """

    side: int

    def take(self, path: Path, rng: np.random.Generator) -> NDArray[np.uint8]:
        """See `View`; nothing is random."""
        pixels = read_photo(path, _READ_AT * self.side).pixels
        height, width = pixels.shape[:2]
        return _resized(pixels, (0, 0, width, height), self.side)


def _resized(
    pixels: NDArray[np.uint8], box: tuple[float, float, float, float], side: int
) -> NDArray[np.uint8]:
    """The part (left, top, right, bottom) of a picture as a square, antialiased."""
    picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(picture)
