"""What walls and roofs are made of: cut stone, brick, rubble, plaster, timber frames, tiles, sheet metal."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from .texture import PLANE, Canvas, Colour, fractal_noise, vary

Material = Callable[[Canvas, np.random.Generator, Colour, float], None]
"""Covers a whole canvas in a colour, with blocks, tiles or patches of about the given height in metres."""


def _cover(canvas: Canvas, colour: Colour, shade: NDArray[np.float32], relief: NDArray[np.float32]) -> None:
    """Paint the canvas in a colour times a shade [H, W] or [H, W, 3], with a relief [H, W] in centimetres."""
    if shade.ndim == 2:
        shade = shade[..., None]
    canvas.paint[..., :3] = np.clip(np.asarray(colour, np.float32) * shade, 3, 250)
    canvas.paint[..., 3] = np.clip(PLANE + relief, 0, 255)


def _courses(
    canvas: Canvas, rng: np.random.Generator, height: float, aspect: tuple[float, float], spread: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Lay courses of blocks of random widths: the shade [H, W, 3] of the blocks, and where joints are."""
    rows, columns = canvas.shape
    edges = np.cumsum(height * canvas.density * rng.uniform(0.85, 1.15, int(canvas.height / height) + 3))
    edges = np.concatenate([[0], np.minimum(np.round(edges), rows)]).astype(int)
    shade = np.ones((rows, columns, 3), np.float32)
    joint = np.zeros((rows, columns), bool)
    pixel = np.arange(columns)
    thickness = max(1, round(0.03 * canvas.density))
    for top, bottom in pairwise(edges.tolist()):
        if bottom <= top:
            break
        widths = rng.uniform(*aspect, int(canvas.width / (height * aspect[0])) + 2) * height * canvas.density
        ends = np.cumsum(widths) - rng.uniform(0, widths[0])
        block = np.searchsorted(ends, pixel)
        tint = (
            1
            + spread * rng.standard_normal((len(ends) + 1, 1))
            + 0.25 * spread * rng.standard_normal((len(ends) + 1, 3))
        )
        shade[top:bottom] = tint[block]
        upright = np.zeros(columns, bool)
        upright[1:] = block[1:] != block[:-1]
        joint[top:bottom] |= upright
        joint[top : top + thickness] = True
    return shade, joint


def stone(canvas: Canvas, rng: np.random.Generator, colour: Colour, size: float) -> None:
    """Squared blocks in courses."""
    shade, joint = _courses(canvas, rng, size, (1.3, 3.0), 0.13)
    shade[joint] *= 0.62
    _cover(canvas, colour, shade, np.where(joint, -3, 0) + 2 * fractal_noise(rng, canvas.shape, 8, 2))


def brick(canvas: Canvas, rng: np.random.Generator, colour: Colour, size: float) -> None:
    """Small bricks with pale joints."""
    shade, joint = _courses(canvas, rng, 0.55 * size, (1.8, 2.4), 0.20)
    shade[joint] = 1.25
    _cover(canvas, colour, shade, np.where(joint, -2, 0).astype(np.float32))


def rubble(canvas: Canvas, rng: np.random.Generator, colour: Colour, size: float) -> None:
    """Irregular field stones."""
    rows, columns = canvas.shape
    step = size * canvas.density
    y, x = np.mgrid[0 : rows + step : step, 0 : columns + step : 1.2 * step]
    y = np.clip(y + rng.uniform(-0.42, 0.42, y.shape) * step, 0, rows - 1).astype(int)
    x = np.clip(x + rng.uniform(-0.5, 0.5, x.shape) * step, 0, columns - 1).astype(int)
    background = np.ones(canvas.shape, np.uint8)
    background[y, x] = 0
    _, label = cv2.distanceTransformWithLabels(
        background, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    count = int(label.max()) + 1
    tint = 1 + 0.2 * rng.standard_normal((count, 1)) + 0.06 * rng.standard_normal((count, 3))
    shade = np.clip(tint, 0.4, 1.5).astype(np.float32)[label]
    joint = np.zeros(canvas.shape, bool)
    joint[:, 1:] |= label[:, 1:] != label[:, :-1]
    joint[1:] |= label[1:] != label[:-1]
    shade[joint] = 0.66
    _cover(canvas, colour, shade, np.asarray(cv2.blur(np.where(joint, -7.0, 2.0), (3, 3)), np.float32))


def plaster(canvas: Canvas, rng: np.random.Generator, colour: Colour, size: float) -> None:
    """Painted plaster, here and there fallen off the bricks."""
    shade = 1 + 0.10 * fractal_noise(rng, canvas.shape, 6 * size * canvas.density, 5)
    shade = np.repeat(shade[..., None], 3, axis=2)
    relief = fractal_noise(rng, canvas.shape, 10, 2)
    fallen = fractal_noise(rng, canvas.shape, 1.6 * canvas.density, 4) > rng.uniform(1.0, 1.35)
    bricks, joint = _courses(canvas, rng, 0.16, (1.8, 2.4), 0.22)
    bricks *= np.where(joint, 0.85, 0.68)[..., None] * np.array([1.0, 0.82, 0.72], np.float32)
    shade[fallen] = bricks[fallen]
    relief[fallen] -= 4
    _cover(canvas, colour, shade, relief)


def timber(canvas: Canvas, rng: np.random.Generator, colour: Colour, size: float) -> None:
    """Dark timber frames filled with plaster."""
    plaster(canvas, rng, colour, size)
    beam: Colour = vary(rng, (82, 56, 38), 0.15)
    width = rng.uniform(1.1, 1.7)
    floor = 0.0
    while floor < canvas.height:
        top = floor + rng.uniform(1.2, 1.6)
        canvas.line([(0, floor), (canvas.width, floor)], 0.24, vary(rng, beam, 0.1), 5)
        x = 0.0
        while x < canvas.width:
            right = x + width * rng.uniform(0.75, 1.25)
            canvas.line([(x, floor), (x, top)], 0.18, vary(rng, beam, 0.12), 4)
            brace = rng.integers(5)
            if brace == 0:
                canvas.line([(x, floor), (right, top)], 0.16, vary(rng, beam, 0.12), 3)
            elif brace == 1:
                canvas.line([(x, top), (right, floor)], 0.16, vary(rng, beam, 0.12), 3)
            elif brace == 2:
                middle = (x + right) / 2
                canvas.line([(x, floor), (middle, top), (right, floor)], 0.15, vary(rng, beam, 0.12), 3)
            x = right
        floor = top


def tiles(canvas: Canvas, rng: np.random.Generator, colour: Colour, size: float) -> None:
    """Roof tiles or slates, with moss."""
    shade, joint = _courses(canvas, rng, 0.55 * size, (0.8, 1.3), 0.20)
    shade[joint] *= 0.55
    moss = np.clip(fractal_noise(rng, canvas.shape, 2.0 * canvas.density, 4) - 0.55, 0, 0.6)[..., None]
    shade = shade * (1 - moss) + moss * np.array([0.62, 0.72, 0.45], np.float32)
    _cover(canvas, colour, shade, np.where(joint, -4, 0).astype(np.float32))


def metal(canvas: Canvas, rng: np.random.Generator, colour: Colour, size: float) -> None:
    """Sheets of copper, lead or zinc with standing seams."""
    rows, columns = canvas.shape
    seams = np.cumsum(rng.uniform(0.7, 1.3, int(canvas.width / size) + 4) * size * canvas.density).astype(int)
    sheet = np.searchsorted(seams, np.arange(columns))
    band = np.searchsorted(np.cumsum(rng.uniform(1.0, 2.4, 60) * canvas.density), np.arange(rows))
    tint = 1 + 0.12 * rng.standard_normal((band.max() + 1, len(seams) + 1))
    shade = tint[band][:, sheet] + 0.12 * fractal_noise(rng, canvas.shape, canvas.density, 4, stretch=3.0)
    relief = np.zeros(canvas.shape, np.float32)
    relief[:, seams[seams < columns]] = 9
    relief[1:][band[1:] != band[:-1]] = 5
    _cover(canvas, colour, shade.astype(np.float32), relief)


WALLS: dict[str, Material] = {
    "stone": stone,
    "brick": brick,
    "rubble": rubble,
    "plaster": plaster,
    "timber": timber,
}
ROOFS: dict[str, Material] = {"tiles": tiles, "metal": metal}
