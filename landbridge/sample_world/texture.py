"""Painting in metres: textures, and a canvas with colour, relief and window numbers to draw them on."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = tuple[int, int, int]
"""sRGB, 0 to 255."""

PLANE = 128
"""The wall plane in the relief channel; one unit is one centimetre towards the viewer."""

GLASS = -26
"""Where the glass of windows lies, in centimetres before the wall plane."""

LAMP = 255
"""The window number of lamps, which are lit whenever windows are."""

_SHIFT = 4


@dataclass(frozen=True, eq=False)
class Texture:
    """What a flat face looks like, before any light falls on it.

    Attributes:
        albedo: uint8 [H, W, 3], sRGB, with the darkness of recesses baked in.
        slope: float32 [H, W, 2], rise of the relief to the right and upwards (1 is 45 degrees); None if flat.
        window: uint8 [H, W], number of the window whose glass it is, 0 for none; None without windows.
        alpha: uint8 [H, W], 255 where there is matter; None if everywhere.
        density: pixels per metre.
    """

    albedo: NDArray[np.uint8]
    slope: NDArray[np.float32] | None
    window: NDArray[np.uint8] | None
    alpha: NDArray[np.uint8] | None
    density: float


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int = 4, stretch: float = 1.0
) -> NDArray[np.float32]:
    """Value noise of several octaves, mean near 0, standard deviation near 0.5.

    Args:
        rng: source of randomness.
        shape: (height, width) in pixels.
        cell: pixels between the random values of the coarsest octave.
        octaves: number of octaves, each of half the cell.
        stretch: height of a cell in units of its width.
    """
    height, width = shape
    noise = np.zeros(shape, np.float32)
    for octave in range(octaves):
        size = cell / 2**octave
        rows, columns = int(height / (size * stretch)) + 2, int(width / size) + 2
        values = rng.standard_normal((rows, columns), dtype=np.float32)
        noise += 0.6**octave * cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return noise * 0.6


def vary(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """The colour made lighter or darker, and shifted a little in hue, by a share of about `amount`."""
    shade, *hue = rng.standard_normal(4).tolist()
    red, green, blue = (
        int(min(max(channel * (1 + amount * (shade + 0.3 * own)), 4), 250))
        for channel, own in zip(colour, hue, strict=True)
    )
    return red, green, blue


def scaled(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor below 1) or lighter."""
    red, green, blue = (int(min(max(channel * factor, 4), 250)) for channel in colour)
    return red, green, blue


class Canvas:
    """A face to paint on. Coordinates are metres, x to the right and y upwards from the lower left corner.

    Args:
        width: metres.
        height: metres.
        density: pixels per metre.
    """

    def __init__(self, width: float, height: float, density: float) -> None:
        self.width, self.height, self.density = width, height, density
        self.shape = max(round(height * density), 2), max(round(width * density), 2)
        self.paint = np.zeros((*self.shape, 4), np.uint8)
        self.paint[..., 3] = PLANE
        self.window = np.zeros(self.shape, np.uint8)
        self._unit = np.array([density, -density]) * (1 << _SHIFT)
        self._corner = np.array([-0.5, self.shape[0] - 0.5]) * (1 << _SHIFT)

    def pixels(self, points: ArrayLike) -> NDArray[np.int32]:
        """Points in metres [N, 2] as the fixed-point pixel coordinates that OpenCV draws with."""
        return np.rint(np.asarray(points, np.float64) * self._unit + self._corner).astype(np.int32)

    def polygon(self, points: ArrayLike, colour: Colour, relief: float, window: int = 0) -> None:
        """Fill a polygon.

        Args:
            points: corners [N, 2].
            colour: its colour.
            relief: centimetres in front of the wall plane, negative behind it.
            window: number of the window whose glass this is. Whatever is drawn over glass later hides it, as
                long as it lies no deeper than `GLASS` + 1.
        """
        corners = [self.pixels(points)]
        value = (*colour, min(max(PLANE + relief, 0.0), 255.0))
        cv2.fillPoly(self.paint, corners, value, cv2.LINE_AA, _SHIFT)
        if window:
            cv2.fillPoly(self.window, corners, (window,), cv2.LINE_8, _SHIFT)

    def rectangle(
        self, x0: float, y0: float, x1: float, y1: float, colour: Colour, relief: float, window: int = 0
    ) -> None:
        """Fill an upright rectangle; see `polygon`."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, relief, window)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, relief: float, window: int = 0
    ) -> None:
        """Fill an upright ellipse; see `polygon`."""
        self.polygon(_CIRCLE * (rx, ry) + (x, y), colour, relief, window)

    def line(self, points: ArrayLike, thickness: float, colour: Colour, relief: float) -> None:
        """Draw a polyline of a thickness in metres."""
        value = (*colour, min(max(PLANE + relief, 0.0), 255.0))
        width = max(1, round(thickness * self.density))
        cv2.polylines(self.paint, [self.pixels(points)], False, value, width, cv2.LINE_AA, _SHIFT)

    def finished(self, rng: np.random.Generator, weathering: float, dirt: Colour = (62, 55, 48)) -> Texture:
        """The painted face after years of weather: grain, stains that run down, darkness in the recesses.

        Args:
            rng: source of randomness.
            weathering: 0 (new) to 1 (very old).
            dirt: colour that the stains pull towards.
        """
        colour = self.paint[..., :3].astype(np.float32)
        relief = self.paint[..., 3].astype(np.float32)
        reach = 0.30 * self.density
        cavity = cv2.blur(relief, (_odd(reach), _odd(reach))) - relief
        grain = fractal_noise(rng, self.shape, 0.22 * self.density, 2)
        blotches = fractal_noise(rng, self.shape, 2.6 * self.density, 4)
        streaks = fractal_noise(rng, self.shape, 0.5 * self.density, 3, stretch=6.0)
        shade = 1 + 0.10 * grain + (0.10 + 0.10 * weathering) * blotches
        shade *= np.clip(1 - 0.013 * np.maximum(cavity, -4), 0.35, 1.08)
        # Water runs from what sticks out: the stain below a ledge fades over about a metre.
        fall = cv2.blur(np.maximum(relief - PLANE, 0), (3, _odd(1.4 * self.density)))
        stain = np.clip(weathering * (0.22 * streaks + 0.10 * blotches + 0.02 * fall), 0, 0.65)[..., None]
        colour = colour * shade[..., None]
        colour += stain * (np.asarray(dirt, np.float32) - colour)
        surface = cv2.GaussianBlur(relief, (3, 3), 0) + (0.8 + 1.2 * weathering) * grain
        unit = self.density / 100.0
        slope = np.stack(
            [
                cv2.Sobel(surface, cv2.CV_32F, 1, 0, ksize=3, scale=unit / 8),
                cv2.Sobel(surface, cv2.CV_32F, 0, 1, ksize=3, scale=-unit / 8),
            ],
            axis=-1,
        )
        self.window[self.paint[..., 3] > PLANE + GLASS] = 0
        return Texture(
            albedo=np.clip(colour, 3, 252).astype(np.uint8),
            slope=np.clip(slope, -2, 2),
            window=self.window if self.window.any() else None,
            alpha=None,
            density=self.density,
        )


_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 24, False)), np.sin(np.linspace(0, 2 * np.pi, 24, False))], 1
)


def _odd(pixels: float) -> int:
    return max(3, 2 * round(pixels / 2) + 1)
