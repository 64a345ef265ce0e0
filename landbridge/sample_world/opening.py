"""Openings in a wall: windows, portals, and niches with statues; no two are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .ornament import DARK, relief
from .style import Style
from .texture import GLASS, LAMP, Canvas, Colour, scaled, vary

PANE: Colour = (66, 76, 88)
BLIND: Colour = (198, 188, 165)


def outline(head: str, x: float, y: float, width: float, height: float) -> NDArray[np.float64]:
    """The outline [N, 2] of an opening that stands on (x, y), its middle, and ends in the given head."""
    half = width / 2
    if head == "round":
        angle = np.linspace(0, np.pi, 13)
        top = np.stack([half * np.cos(angle), height - half + half * np.sin(angle)], 1)
    elif head == "pointed":
        rise = min(half * 1.5, 0.6 * height)
        t = np.linspace(0, 1, 8)
        right = np.stack([half * (1 - t**1.7), height - rise + rise * np.sqrt(1 - (1 - t) ** 2)], 1)
        top = np.concatenate([right, (right * (-1, 1))[-2::-1]])
    elif head == "segmental":
        t = np.linspace(1, -1, 9)
        top = np.stack([half * t, height - 0.3 * half * t**2], 1)
    else:
        top = np.array([(half, height), (-half, height)])
    return np.concatenate([[(-half, 0.0), (half, 0.0)], top]) + np.array([x, y])


def window(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    width: float,
    height: float,
    head: str,
    crown: str,
    panes: tuple[int, int],
    style: Style,
) -> None:
    """A window that stands on (x, y): surround, crown, sill, glass in panes, perhaps shutters and curtains.

    Args:
        canvas: the wall.
        rng: source of randomness.
        x: middle, metres.
        y: height of the sill, metres.
        width: of the glass, metres.
        height: of the glass, metres.
        head: one of `HEADS`.
        crown: one of `CROWNS`.
        panes: panes across and panes up.
        style: colours of surround and wood, and whether there are shutters.
    """
    border = rng.uniform(0.11, 0.2)
    top = y + height
    trim = vary(rng, style.trim_colour, 0.09)
    canvas.polygon(outline(head, x, y - 0.02, width + 2 * border, height + border), trim, 7)
    if head == "flat" and rng.random() < 0.6:
        for side in (-1, 1):
            for step in np.arange(0.1, height, 0.34):
                canvas.rectangle(
                    x + side * (width / 2 + border) - 0.1,
                    y + step,
                    x + side * (width / 2 + border) + 0.1,
                    y + step + 0.17,
                    vary(rng, trim, 0.08),
                    9,
                )
    canvas.polygon(outline(head, x, y, width, height), DARK, -22)
    _glass(canvas, rng, x, y, width, height, head, panes, style.wood_colour)
    canvas.rectangle(x - width / 2 - 0.28, y - 0.2, x + width / 2 + 0.28, y, vary(rng, trim, 0.08), 16)
    _crown(canvas, rng, crown, x, top + border, width + 2 * border, trim)
    if style.shutters and panes[0] > 1:
        for side in (-1, 1):
            _shutter(canvas, rng, x + side * (0.75 * width + border), y, width / 2, height, style.wood_colour)
    if rng.random() < 0.22:
        _flowers(canvas, rng, x, y, width)


def _glass(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    width: float,
    height: float,
    head: str,
    panes: tuple[int, int],
    frame: Colour,
) -> None:
    number = int(rng.integers(1, LAMP))
    tint = scaled(PANE, rng.uniform(0.5, 1.3))
    canvas.polygon(outline(head, x, y, width - 0.08, height - 0.05), vary(rng, tint, 0.1), GLASS, number)
    spring = (
        height - {"flat": 0.05, "round": width / 2, "pointed": 0.75 * width, "segmental": 0.15 * width}[head]
    )
    across, up = panes
    left, wide, tall = x - width / 2 + 0.05, (width - 0.1) / across, spring / up
    blind = rng.uniform(0, 1) if rng.random() < 0.45 else 0.0
    for column in range(across):
        for row in range(up):
            shade = scaled(tint, (0.45, 0.45, 0.7, 0.7, 0.7, 1.0, 1.0, 1.35, 1.35, 2.0)[rng.integers(10)])
            if (row + 0.5) / up > 1 - blind:
                shade = scaled(BLIND, rng.uniform(0.7, 1.1))
            x0, y0 = left + column * wide, y + row * tall
            canvas.rectangle(x0, y0, x0 + wide, y0 + tall, vary(rng, shade, 0.08), GLASS, number)
            if rng.random() < 0.4:
                cut = rng.uniform(0.2, 0.8, 4)
                canvas.polygon(
                    [
                        (x0, y0),
                        (x0 + cut[0] * wide, y0),
                        (x0 + cut[1] * wide, y0 + tall),
                        (x0, y0 + cut[2] * tall),
                    ],
                    vary(rng, scaled(shade, 1.5), 0.1),
                    GLASS,
                    number,
                )
    bar = rng.uniform(0.05, 0.09)
    frame = vary(rng, frame, 0.08)
    for column in range(across + 1):
        canvas.line([(left + column * wide, y), (left + column * wide, y + spring)], bar, frame, -18)
    for row in range(up + 1):
        canvas.line([(left, y + row * tall), (left + across * wide, y + row * tall)], bar, frame, -18)
    if head == "round":
        for angle in np.linspace(0, np.pi, int(rng.integers(3, 6)) + 1)[1:-1]:
            tip = (x + 0.48 * width * np.cos(angle), y + spring + 0.48 * width * np.sin(angle))
            canvas.line([(x, y + spring), tip], bar, frame, -18)
    elif head == "pointed":
        radius = 0.2 * width
        canvas.ellipse(x, y + spring + 0.3 * width, radius, radius, frame, -16)
        canvas.ellipse(
            x, y + spring + 0.3 * width, radius - bar, radius - bar, scaled(tint, 1.3), GLASS, number
        )


def _crown(
    canvas: Canvas, rng: np.random.Generator, crown: str, x: float, y: float, width: float, trim: Colour
) -> None:
    half = width / 2 + 0.12
    rise = rng.uniform(0.34, 0.5)
    if crown == "keystone":
        for offset in np.linspace(-0.42, 0.42, int(rng.choice([1, 3, 5]))):
            tall = rng.uniform(0.3, 0.45)
            canvas.polygon(
                [
                    (x + offset * width - 0.1, y - 0.2),
                    (x + offset * width + 0.1, y - 0.2),
                    (x + 1.15 * offset * width + 0.16, y - 0.2 + tall),
                    (x + 1.15 * offset * width - 0.16, y - 0.2 + tall),
                ],
                vary(rng, trim, 0.12),
                14,
            )
    elif crown in ("triangle", "segment"):
        if crown == "triangle":
            shape = np.array([(-half, 0.0), (half, 0.0), (0.0, 1.1 * rise)])
        else:
            t = np.linspace(1, -1, 9)
            shape = np.concatenate([[(-half, 0.0), (half, 0.0)], np.stack([half * t, rise * (1 - t**2)], 1)])
        canvas.rectangle(x - half - 0.05, y, x + half + 0.05, y + 0.12, vary(rng, trim, 0.06), 20)
        canvas.polygon(shape * (1.08, 1.12) + (x, y + 0.12), vary(rng, trim, 0.08), 20)
        canvas.polygon(shape * (0.78, 0.66) + (x, y + 0.16), vary(rng, scaled(trim, 0.75), 0.1), 4)
        relief(canvas, rng, x - 0.4 * half, y + 0.16, 0.8 * half, 0.55 * rise, trim, 9, 3)
    elif crown == "ledge":
        canvas.rectangle(x - half, y + 0.08, x + half, y + 0.24, vary(rng, trim, 0.06), 18)
        for side in (-1, 1):
            canvas.rectangle(
                x + side * half - 0.1, y - 0.35, x + side * half + 0.1, y + 0.1, vary(rng, trim, 0.1), 12
            )
    elif crown == "shell":
        for angle in np.linspace(0.15, np.pi - 0.15, int(rng.integers(5, 9))):
            tip = (x + 0.42 * width * np.cos(angle), y + 0.08 + 0.42 * width * np.sin(angle))
            canvas.line([(x, y + 0.05), tip], 0.1, vary(rng, trim, 0.15), 11)


def _shutter(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, width: float, height: float, colour: Colour
) -> None:
    colour = vary(rng, colour, 0.12)
    canvas.rectangle(x - width / 2, y, x + width / 2, y + height, colour, 5)
    slat = scaled(colour, 0.7)
    for row in np.arange(0.12, height - 0.1, rng.uniform(0.13, 0.2)):
        canvas.line([(x - 0.4 * width, y + row), (x + 0.4 * width, y + row)], 0.05, slat, 2)


def _flowers(canvas: Canvas, rng: np.random.Generator, x: float, y: float, width: float) -> None:
    bloom: Colour = [(200, 50, 60), (225, 190, 60), (190, 90, 170), (235, 235, 230)][rng.integers(4)]
    for _ in range(14):
        px, py = x + rng.uniform(-0.5, 0.5) * width, y + rng.uniform(-0.12, 0.3)
        colour = vary(rng, bloom, 0.15) if rng.random() < 0.45 else vary(rng, (70, 105, 50), 0.25)
        canvas.ellipse(px, py, rng.uniform(0.06, 0.12), rng.uniform(0.05, 0.11), colour, 22)


def portal(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    width: float,
    height: float,
    head: str,
    style: Style,
) -> None:
    """A door on the ground in stepped arches, with a carved field above the leaves and a flight of steps."""
    trim = style.trim_colour
    for step in range(3):
        grow = 1.5 - 0.17 * step
        colour = vary(rng, scaled(trim, (1 - 0.12 * step)), 0.08)
        canvas.polygon(
            outline(head, x, 0, grow * width, height * (1 + 0.4 * (grow - 1))), colour, 18 - 12 * step
        )
        for stone in np.arange(0.2, 0.7 * height, 0.55):
            for side in (-1, 1):
                px = x + side * (grow - 0.08) * width / 2
                canvas.ellipse(
                    px, stone + rng.uniform(0, 0.2), 0.09, 0.13, vary(rng, trim, 0.14), 20 - 10 * step
                )
    canvas.polygon(outline(head, x, 0, width, height), vary(rng, scaled(trim, 0.7), 0.1), -18)
    spring = 0.62 * height
    relief(canvas, rng, x - 0.4 * width, spring, 0.8 * width, 0.3 * height, trim, -4, 9)
    door = vary(rng, style.wood_colour, 0.15)
    canvas.rectangle(x - 0.46 * width, 0, x + 0.46 * width, spring, door, -28)
    for column in range(4):
        for row in range(3):
            x0, y0 = x + (column - 2) * 0.23 * width + 0.03 * width, (row + 0.12) * spring / 3
            canvas.rectangle(x0, y0, x0 + 0.17 * width, y0 + 0.78 * spring / 3, vary(rng, door, 0.22), -33)
            canvas.ellipse(
                x0 + 0.085 * width, y0 + 0.13 * spring, 0.05 * width, 0.05 * width, vary(rng, door, 0.3), -24
            )
    canvas.line([(x, 0), (x, spring)], 0.06, DARK, -36)
    for step in range(3):
        y0 = 0.14 * step
        canvas.rectangle(
            x - (0.95 - 0.08 * step) * width,
            y0,
            x + (0.95 - 0.08 * step) * width,
            y0 + 0.14,
            vary(rng, trim, 0.08),
            30,
        )


def statue(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, width: float, height: float, trim: Colour
) -> None:
    """A figure in a niche."""
    canvas.polygon(outline("round", x, y - 0.05, 1.25 * width, 1.06 * height), vary(rng, trim, 0.08), 8)
    canvas.polygon(outline("round", x, y, width, height), vary(rng, scaled(trim, 0.42), 0.1), -24)
    body = vary(rng, trim, 0.12)
    canvas.rectangle(x - 0.35 * width, y, x + 0.35 * width, y + 0.1 * height, vary(rng, trim, 0.1), 4)
    lean = rng.uniform(-0.08, 0.08) * width
    waist = rng.uniform(0.14, 0.2) * width
    canvas.polygon(
        [
            (x - 0.26 * width, y + 0.1 * height),
            (x + 0.26 * width, y + 0.1 * height),
            (x + lean + waist, y + 0.45 * height),
            (x + lean + 0.25 * width, y + 0.68 * height),
            (x + lean - 0.25 * width, y + 0.68 * height),
            (x + lean - waist, y + 0.45 * height),
        ],
        body,
        -2,
    )
    canvas.ellipse(x + lean, y + 0.76 * height, 0.13 * width, 0.09 * height, vary(rng, body, 0.1), 0)
    for side in (-1, 1):
        hand = (x + side * rng.uniform(0.1, 0.42) * width, y + rng.uniform(0.3, 0.85) * height)
        elbow = (x + side * 0.36 * width, y + 0.5 * height)
        shoulder = (x + lean + side * 0.2 * width, y + 0.65 * height)
        canvas.line([shoulder, elbow, hand], 0.1 * width, vary(rng, body, 0.15), 1)
    for _ in range(4):
        fold = x + rng.uniform(-0.18, 0.18) * width
        canvas.line(
            [(fold, y + 0.12 * height), (fold + rng.uniform(-0.1, 0.1) * width, y + 0.5 * height)],
            0.05 * width,
            scaled(body, 0.6),
            -8,
        )
