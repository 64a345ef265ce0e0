"""What is nobody's landmark, every one drawn anew: people, trees, cars, lamps, and the houses behind."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from . import material
from .opening import PANE
from .style import WALL_COLOURS
from .texture import GLASS, LAMP, Canvas, Colour, Texture, fractal_noise, vary

_CLOTHES: tuple[Colour, ...] = (
    (178, 40, 44),
    (40, 62, 120),
    (226, 222, 212),
    (52, 52, 56),
    (206, 160, 60),
    (70, 110, 80),
    (120, 84, 60),
    (150, 120, 160),
)
_SOLID = 255
_GLOWING = 254
_SIZES = {"person": (0.9, 1.75), "tree": (5.0, 7.0), "car": (4.4, 1.6), "lamp": (1.6, 4.5)}


def person(rng: np.random.Generator, shrink: float) -> Texture:
    """Somebody, seen from any side, 1.75 m tall."""
    canvas = Canvas(*_SIZES["person"], 60)
    shirt, legs = (vary(rng, _CLOTHES[i], 0.2) for i in rng.integers(len(_CLOTHES), size=2))
    skin = vary(rng, (206, 160, 130), 0.25)
    stride = rng.uniform(0.03, 0.16)
    for side in (-1, 1):
        foot = 0.45 + side * stride
        hip = 0.45 + 0.1 * side
        leg = [(foot - 0.07, 0), (foot + 0.08, 0), (hip + 0.08, 0.85), (hip - 0.08, 0.85)]
        canvas.polygon(leg, vary(rng, legs, 0.12), 0, _SOLID)
        hand = (0.45 + side * rng.uniform(0.24, 0.36), rng.uniform(0.72, 1.15))
        arm = np.array(
            [(0.45 + side * 0.17, 1.4), (0.45 + side * 0.25, 1.38), hand, (hand[0] - 0.07, hand[1])]
        )
        canvas.polygon(arm, vary(rng, shirt, 0.1), 0, _SOLID)
    canvas.polygon([(0.27, 0.78), (0.63, 0.78), (0.68, 1.42), (0.22, 1.42)], shirt, 0, _SOLID)
    for stripe in np.arange(0.85, 1.4, rng.uniform(0.08, 0.3)):
        canvas.rectangle(0.27, stripe, 0.63, stripe + 0.05, vary(rng, shirt, 0.5), 0, _SOLID)
    if rng.random() < 0.4:
        canvas.rectangle(
            0.32, 0.95, 0.58, 1.36, vary(rng, _CLOTHES[rng.integers(len(_CLOTHES))], 0.2), 0, _SOLID
        )
    canvas.ellipse(0.45, 1.57, 0.11, 0.15, skin, 0, _SOLID)
    canvas.ellipse(0.45, 1.63, 0.12, 0.11, vary(rng, (70, 50, 38), 0.5), 0, _SOLID)
    return _cut(canvas, rng, shrink)


def tree(rng: np.random.Generator, shrink: float) -> Texture:
    """A tree in leaf, twice as wide as a third of its height."""
    density = 22.0
    canvas = Canvas(*_SIZES["tree"], density)
    bark = vary(rng, (92, 74, 58), 0.2)
    canvas.polygon([(2.3, 0), (2.7, 0), (2.6, 3.6), (2.4, 3.6)], bark, 0, _SOLID)
    for _ in range(5):
        tip = (rng.uniform(1.2, 3.8), rng.uniform(3.5, 5.5))
        canvas.polygon([(2.42, 2.4), (2.58, 2.4), tip], bark, 0, _SOLID)
    rows, columns = canvas.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    crown = np.hypot((x - columns / 2) / (0.46 * columns), (y - 0.37 * rows) / (0.36 * rows))
    leaves = fractal_noise(rng, canvas.shape, 0.9 * density, 5)
    foliage = leaves > 3.5 * (crown - 0.78)
    light = 1 + 0.55 * fractal_noise(rng, canvas.shape, 0.5 * density, 4) - 0.35 * (y / rows - 0.3)
    green = np.array(
        vary(rng, [(84, 108, 52), (104, 116, 56), (62, 92, 50), (150, 104, 48)][rng.integers(4)], 0.15)
    )
    colour = np.clip(green * light[..., None], 6, 245).astype(np.uint8)
    canvas.paint[foliage, :3] = colour[foliage]
    canvas.window[foliage] = _SOLID
    return _cut(canvas, rng, shrink)


def car(rng: np.random.Generator, shrink: float) -> Texture:
    """A parked car or van from the side, 1.6 m high."""
    canvas = Canvas(*_SIZES["car"], 36)
    body = vary(rng, _CLOTHES[rng.integers(len(_CLOTHES))], 0.15)
    hood, back = rng.uniform(0.5, 1.3), rng.uniform(0.1, 0.8)
    roof = 1.6 - rng.uniform(0.05, 0.25)
    canvas.polygon(
        [(0.1, 0.3), (4.3, 0.3), (4.35, 0.8), (4.25, 0.95), (0.1, 0.95), (0.05, 0.7)], body, 0, _SOLID
    )
    cabin = np.array([(hood, 0.93), (4.2 - back, 0.93), (3.9 - back, roof), (hood + 0.6, roof)])
    canvas.polygon(cabin, vary(rng, body, 0.05), 0, _SOLID)
    canvas.polygon((cabin - cabin.mean(0)) * (0.9, 0.72) + cabin.mean(0), (44, 52, 60), 0, _SOLID)
    canvas.rectangle(2.2, 0.9, 2.32, roof, body, 0, _SOLID)
    for wheel in (0.85, 3.5):
        canvas.ellipse(wheel, 0.33, 0.34, 0.33, (28, 28, 30), 0, _SOLID)
        canvas.ellipse(wheel, 0.33, 0.18, 0.18, vary(rng, (150, 150, 152), 0.2), 0, _SOLID)
    canvas.rectangle(0.06, 0.62, 0.22, 0.78, (238, 226, 180), 0, _SOLID)
    canvas.rectangle(4.2, 0.62, 4.32, 0.8, (160, 36, 30), 0, _SOLID)
    canvas.rectangle(0.4, 0.52, 4.1, 0.57, vary(rng, body, 0.5), 0, _SOLID)
    return _cut(canvas, rng, shrink)


def lamp(rng: np.random.Generator, shrink: float) -> Texture:
    """A street lamp with one or two arms, 4.5 m high."""
    canvas = Canvas(*_SIZES["lamp"], 30)
    iron = vary(rng, (46, 50, 48), 0.2)
    canvas.polygon([(0.62, 0), (0.98, 0), (0.88, 0.7), (0.72, 0.7)], iron, 0, _SOLID)
    canvas.rectangle(0.75, 0.6, 0.85, 4.0, iron, 0, _SOLID)
    for x in (0.8,) if rng.random() < 0.5 else (0.3, 1.3):
        canvas.polygon([(0.76, 3.3), (0.84, 3.3), (x + 0.05, 3.75), (x - 0.05, 3.75)], iron, 0, _SOLID)
        canvas.polygon(
            [(x - 0.13, 3.7), (x + 0.13, 3.7), (x + 0.24, 4.2), (x - 0.24, 4.2)],
            (226, 220, 190),
            GLASS,
            _GLOWING,
        )
        canvas.polygon([(x - 0.27, 4.2), (x + 0.27, 4.2), (x, 4.45)], iron, 0, _SOLID)
    return _cut(canvas, rng, shrink)


def _cut(canvas: Canvas, rng: np.random.Generator, shrink: float) -> Texture:
    """What was painted as solid, with a grain; the rest is air."""
    grain = 1 + 0.12 * fractal_noise(rng, canvas.shape, 6, 2)
    colour = np.clip(canvas.paint[..., :3] * grain[..., None], 4, 250).astype(np.uint8)
    glowing = np.where(canvas.window == _GLOWING, np.uint8(LAMP), np.uint8(0))
    solid = np.asarray(cv2.blur(canvas.window, (2, 2)), np.uint8)
    return Texture(colour, None, glowing, solid, canvas.density * shrink)


def house_wall(rng: np.random.Generator, colours: int, width: float, height: float) -> Texture:
    """A wall with rows of windows, coarse, as it is seen from afar; one house has one seed of `colours`."""
    density = 6.5
    rows, columns = round(height * density), round(width * density)
    bays, storeys = (
        max(1, round(width / rng.uniform(2.2, 3.4))),
        max(1, round(height / rng.uniform(2.8, 3.6))),
    )
    x = np.linspace(0, bays, columns, endpoint=False)
    y = np.linspace(storeys, 0, rows, endpoint=False)
    bay, storey = x.astype(int), np.minimum(y.astype(int), storeys - 1)
    wide, tall = rng.uniform(0.16, 0.34, (storeys, bays)), rng.uniform(0.2, 0.38, (storeys, bays))
    wide[rng.random(wide.shape) < 0.12] = 0
    cell = np.ix_(storey, bay)
    across, upright = np.abs(x - bay - 0.5)[None], np.abs(y - storey - 0.5)[:, None]
    glass = (across < wide[cell]) & (upright < tall[cell])
    frame = (across < wide[cell] + 0.06) & (upright < tall[cell] + 0.06) & (wide[cell] > 0)
    paint = np.random.default_rng(colours)
    colour = np.empty((rows, columns, 3), np.float32)
    colour[:] = vary(paint, WALL_COLOURS[paint.integers(len(WALL_COLOURS))], 0.15)
    colour[frame] = vary(paint, (214, 206, 190), 0.2)
    pane = (
        np.array(PANE) * rng.uniform(0.4, 1.8, (storeys, bays, 1)) * rng.uniform(0.9, 1.1, (storeys, bays, 3))
    )
    colour[glass] = pane[cell][glass]
    colour[np.abs(y - storey) < 0.08] *= rng.uniform(0.7, 1.25)
    colour *= 1 + 0.16 * fractal_noise(rng, (rows, columns), 24, 4)[..., None]
    number = rng.integers(1, 255, (storeys, bays))
    window = np.where(glass, number[cell], 0).astype(np.uint8)
    return Texture(np.clip(colour, 4, 250).astype(np.uint8), None, window, None, density)


def house_roof(rng: np.random.Generator, width: float, height: float) -> Texture:
    """The slope of a roof as it is seen from afar."""
    canvas = Canvas(width, height, 6)
    material.tiles(canvas, rng, vary(rng, (120, 84, 70), 0.25), 1.2)
    return Texture(np.ascontiguousarray(canvas.paint[..., :3]), None, None, None, canvas.density)


_Figure = Callable[[np.random.Generator, float], Texture]

FIGURES: dict[str, tuple[_Figure, float, float]] = {
    "person": (person, *_SIZES["person"]),
    "tree": (tree, *_SIZES["tree"]),
    "car": (car, *_SIZES["car"]),
    "lamp": (lamp, *_SIZES["lamp"]),
}
"""Painter, width and height in metres of every cut-out; the painter is told by what factor to shrink it."""
