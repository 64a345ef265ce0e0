"""What is fixed to a wall: windows, portals, statues, reliefs, rosettes, clocks, signs, ivy; each a little different."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .texture import GLASS, PLANE, Canvas, Colour, scaled, vary

HEADS = ("flat", "round", "pointed", "segmental")
"""The ways in which an opening ends at the top."""

CROWNS = ("none", "keystone", "triangle", "segment", "ledge", "shell")
"""What sits above a window."""

SYLLABLES = (
    "BA COR DEN ELM FIR GAL HUS IVO KAR LUM MON NOR OST PRA QUIN ROV SAL TUR ULM VEN WAL XEN YS ZOL".split()
)

DARK: Colour = (38, 36, 38)
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
    return np.concatenate([[(-half, 0.0), (half, 0.0)], top]) + (x, y)


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
    trim: Colour,
    frame: Colour,
    shutter: Colour | None,
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
        trim: colour of the surround.
        frame: colour of the wood.
        shutter: colour of the shutters, or None without.
    """
    number = int(rng.integers(1, 255))
    border = rng.uniform(0.11, 0.2)
    top = y + height
    trim = vary(rng, trim, 0.09)
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
    _glass(canvas, rng, x, y, width, height, head, panes, frame, number)
    canvas.rectangle(x - width / 2 - 0.28, y - 0.2, x + width / 2 + 0.28, y, vary(rng, trim, 0.08), 16)
    _crown(canvas, rng, crown, x, top + border, width + 2 * border, trim)
    if shutter is not None:
        for side in (-1, 1):
            _shutter(canvas, rng, x + side * (0.75 * width + border), y, width / 2, height, shutter)
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
    number: int,
) -> None:
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


def relief(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    width: float,
    height: float,
    colour: Colour,
    depth: float,
    strokes: int,
) -> None:
    """Carve a mirror-symmetric ornament of curls, discs and leaves into the box whose lower left corner is (x, y)."""
    middle = x + width / 2
    for _ in range(strokes):
        stone = vary(rng, colour, 0.16)
        kind = rng.integers(4)
        size = rng.uniform(0.06, 0.2) * min(width, height)
        px, py = rng.uniform(0.02, 0.46) * width, y + rng.uniform(0.12, 0.88) * height
        for side in (-1, 1):
            if kind == 0:
                turn = np.linspace(0, rng.uniform(1.2, 2.2) * np.pi, 12)
                curl = np.stack([px + side * 0 + 1.8 * size * np.cos(turn) * (1 - turn / 9), 0 * turn], 1)
                curl[:, 1] = py + 1.8 * size * np.sin(turn) * (1 - turn / 9)
                canvas.line(curl * (side, 1) + (middle, 0), 0.45 * size + 0.03, stone, depth)
            elif kind == 1:
                canvas.ellipse(middle + side * px, py, size, size * rng.uniform(0.7, 1.3), stone, depth)
                canvas.ellipse(middle + side * px, py, 0.5 * size, 0.5 * size, scaled(stone, 0.7), 2)
            elif kind == 2:
                leaf = np.array([(0, -1.5), (0.7, 0), (0.2, 1.6), (-0.6, 0.3)]) * size
                canvas.polygon(leaf * (side, 1) + (middle + side * px, py), stone, depth)
            else:
                far = px + rng.uniform(0.05, 0.3) * width
                bar = [(side * px, py), (side * min(far, width / 2), y + rng.uniform(0.1, 0.9) * height)]
                canvas.line(np.array(bar) + (middle, 0), 0.35 * size + 0.02, stone, depth)


def panel(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, width: float, height: float, trim: Colour
) -> None:
    """A framed field with a carved relief, a fresco or a mosaic."""
    canvas.rectangle(x, y, x + width, y + height, vary(rng, trim, 0.08), 10)
    b = 0.09 * min(width, height)
    inner = (x + b, y + b, width - 2 * b, height - 2 * b)
    if rng.random() < 0.5:
        ground = vary(rng, scaled(trim, rng.uniform(0.55, 0.9)), 0.12)
        canvas.rectangle(inner[0], inner[1], inner[0] + inner[2], inner[1] + inner[3], ground, -4)
        relief(canvas, rng, *inner, trim, 9, int(rng.integers(7, 11)))
        return
    ground = vary(rng, FRESCO[rng.integers(len(FRESCO))], 0.15)
    canvas.rectangle(inner[0], inner[1], inner[0] + inner[2], inner[1] + inner[3], ground, 2)
    for _ in range(rng.integers(12, 20)):
        centre = np.array([inner[0], inner[1]]) + rng.uniform(0.08, 0.92, 2) * inner[2:]
        size = rng.uniform(0.05, 0.24) * min(inner[2], inner[3])
        angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        shape = centre + np.stack([np.cos(angle), 1.4 * np.sin(angle)], 1) * size
        shape = np.clip(shape, inner[:2], np.add(inner[:2], inner[2:]))
        canvas.polygon(shape, vary(rng, FRESCO[rng.integers(len(FRESCO))], 0.15), 2)


FRESCO: tuple[Colour, ...] = (
    (168, 74, 52),
    (202, 158, 82),
    (70, 96, 128),
    (108, 124, 82),
    (222, 206, 172),
    (84, 62, 54),
    (150, 110, 120),
)


def rosette(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, radius: float, trim: Colour, frame: Colour
) -> None:
    """A rose window: rings of glass petals in stone tracery."""
    number = int(rng.integers(1, 255))
    canvas.ellipse(x, y, 1.16 * radius, 1.16 * radius, vary(rng, trim, 0.08), 12)
    canvas.ellipse(x, y, 1.04 * radius, 1.04 * radius, vary(rng, scaled(trim, 0.8), 0.08), 6)
    canvas.ellipse(x, y, 0.98 * radius, 0.98 * radius, DARK, -20)
    for ring in (0.8, 0.45):
        petals = int(rng.integers(6, 13))
        for turn in np.arange(petals) * 2 * np.pi / petals + rng.uniform(0, 1):
            px, py = x + ring * radius * np.cos(turn), y + ring * radius * np.sin(turn)
            size = min(0.19 * radius, 2.4 * ring * radius / petals)
            glass = vary(rng, FRESCO[rng.integers(len(FRESCO))], 0.3)
            canvas.ellipse(px, py, 1.2 * size, 1.2 * size, vary(rng, trim, 0.1), -8)
            canvas.ellipse(px, py, 0.85 * size, 0.85 * size, glass, GLASS, number)
    canvas.ellipse(x, y, 0.2 * radius, 0.2 * radius, vary(rng, frame, 0.2), 2)


def clock(canvas: Canvas, rng: np.random.Generator, x: float, y: float, radius: float, trim: Colour) -> None:
    """A clock face; the hour is part of the wall, as no photo may contradict another."""
    dial: Colour = [(236, 230, 210), (40, 48, 70), (120, 40, 36)][rng.integers(3)]
    hand: Colour = (30, 28, 26) if sum(dial) > 380 else (226, 190, 90)
    canvas.ellipse(x, y, 1.2 * radius, 1.2 * radius, vary(rng, trim, 0.08), 14)
    canvas.ellipse(x, y, radius, radius, dial, 6)
    for hour in np.arange(12) * np.pi / 6:
        away = np.array([np.cos(hour), np.sin(hour)])
        canvas.line(np.outer([0.74, 0.92], away) * radius + (x, y), 0.12 * radius, hand, 8)
    for length in (0.5, 0.8):
        turn = rng.uniform(0, 2 * np.pi)
        tip = (x + length * radius * np.cos(turn), y + length * radius * np.sin(turn))
        canvas.line([(x, y), tip], 0.09 * radius, hand, 9)


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


def portal(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    width: float,
    height: float,
    head: str,
    trim: Colour,
    door: Colour,
) -> None:
    """A door on the ground in stepped arches, with a carved field above the leaves and a flight of steps."""
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
    door = vary(rng, door, 0.15)
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


def sign(canvas: Canvas, rng: np.random.Generator, x: float, y: float, width: float, height: float) -> None:
    """A board with an invented name."""
    board = vary(rng, FRESCO[rng.integers(len(FRESCO))], 0.15)
    ink: Colour = (238, 226, 190) if sum(board) < 400 else (44, 34, 30)
    canvas.rectangle(x - width / 2, y, x + width / 2, y + height, ink, 12)
    canvas.rectangle(x - width / 2 + 0.06, y + 0.06, x + width / 2 - 0.06, y + height - 0.06, board, 12)
    name = "".join(rng.choice(SYLLABLES, int(rng.integers(2, 4))).tolist())
    size, _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_DUPLEX, 1.0, 1)
    scale = min(0.86 * width * canvas.density / size[0], 0.62 * height * canvas.density / size[1])
    corner = canvas.pixels([(x - 0.5 * scale * size[0] / canvas.density, y + 0.5 * height)])[0] // 16
    thickness = max(1, round(0.08 * height * canvas.density))
    origin = (int(corner[0]), int(corner[1] + 0.5 * scale * size[1]))
    cv2.putText(
        canvas.paint, name, origin, cv2.FONT_HERSHEY_DUPLEX, scale, (*ink, 142.0), thickness, cv2.LINE_AA
    )


def column(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    y: float,
    width: float,
    height: float,
    trim: Colour,
    depth: float,
) -> None:
    """A column or pilaster with base, fluted shaft and carved capital, its middle at x."""
    stone = vary(rng, trim, 0.07)
    half = width / 2
    canvas.rectangle(x - half, y, x + half, y + height, stone, depth)
    for flute in np.linspace(-0.6, 0.6, 4):
        canvas.line(
            [(x + flute * half, y + 0.07 * height), (x + flute * half, y + 0.9 * height)],
            0.14 * width,
            vary(rng, scaled(stone, 0.78), 0.08),
            0.6 * depth,
        )
    canvas.rectangle(
        x - 1.35 * half, y, x + 1.35 * half, y + 0.05 * height + 0.1, vary(rng, trim, 0.1), 1.3 * depth
    )
    cap = y + height - 0.07 * height - 0.25
    canvas.polygon(
        [(x - half, cap), (x + half, cap), (x + 1.6 * half, y + height), (x - 1.6 * half, y + height)],
        vary(rng, trim, 0.1),
        1.3 * depth,
    )
    relief(canvas, rng, x - 1.2 * half, cap, 2.4 * half, y + height - cap, trim, 1.6 * depth, 4)


def cornice(
    canvas: Canvas, rng: np.random.Generator, y: float, height: float, trim: Colour, dentil: float
) -> None:
    """A ledge over the whole width, each tooth under it of its own size and tint; no teeth with `dentil` 0."""
    canvas.rectangle(0, y, canvas.width, y + 0.45 * height, vary(rng, trim, 0.06), 6)
    if dentil:
        x = rng.uniform(0, dentil)
        while x < canvas.width:
            wide = dentil * rng.uniform(0.4, 0.6)
            canvas.rectangle(x, y + 0.1 * height, x + wide, y + 0.6 * height, vary(rng, trim, 0.14), 18)
            x += dentil * rng.uniform(0.85, 1.15)
    canvas.rectangle(0, y + 0.55 * height, canvas.width, y + height, vary(rng, trim, 0.06), 26)
    for split in np.cumsum(rng.uniform(0.8, 2.4, int(canvas.width) + 1)):
        canvas.line([(split, y + 0.55 * height), (split, y + height)], 0.04, scaled(trim, 0.6), 18)


def frieze(
    canvas: Canvas, rng: np.random.Generator, y: float, height: float, trim: Colour, metope: float
) -> None:
    """A band of mosaic fields of about `metope` metres, each a symmetric pattern of small stones."""
    canvas.rectangle(0, y, canvas.width, y + height, vary(rng, trim, 0.08), 8)
    stone = 0.11
    rows = max(2, round(0.8 * height / stone))
    stones = np.array([*FRESCO, trim, scaled(trim, 0.5)], np.float64)
    x = 0.0
    while x < canvas.width:
        wide = metope * rng.uniform(0.75, 1.3)
        half = rng.integers(len(stones), size=(rows, max(2, round(0.42 * wide / stone))))
        pattern = stones[np.concatenate([half, half[:, ::-1]], axis=1)] * rng.uniform(0.75, 1.2)
        left, top = canvas.pixels([(x + 0.06 * wide, y + 0.9 * height)])[0] // 16
        right, bottom = canvas.pixels([(min(x + 0.94 * wide, canvas.width), y + 0.1 * height)])[0] // 16
        if right - left > 2 and bottom - top > 2 and top >= 0:
            shown = cv2.resize(pattern, (int(right - left), int(bottom - top)), interpolation=cv2.INTER_AREA)
            field = canvas.paint[top:bottom, left:right]
            field[..., :3] = np.clip(shown, 4, 250)[:, : field.shape[1]]
            field[..., 3] = PLANE + 3
        x += wide


def ivy(canvas: Canvas, rng: np.random.Generator, x: float, width: float, height: float) -> None:
    """Leaves that climb the wall from the ground at x."""
    for _ in range(int(26 * width * height)):
        up = height * rng.beta(1.0, 1.6)
        px = x + width * (0.5 - 0.3 * up / height) * rng.standard_normal() * 0.7
        size = rng.uniform(0.07, 0.16)
        leaf = rng.uniform(-1, 1, (4, 2)) * size + (px, up)
        canvas.polygon(cv2.convexHull(leaf.astype(np.float32))[:, 0], vary(rng, (62, 84, 38), 0.32), 10)


def banner(
    canvas: Canvas, rng: np.random.Generator, x: float, top: float, width: float, height: float
) -> None:
    """A hanging cloth in stripes with a device."""
    cloth = [vary(rng, FRESCO[i], 0.2) for i in rng.choice(len(FRESCO), 3, replace=False)]
    tail = rng.uniform(0, 0.3) * width
    for stripe in range(3):
        x0 = x + (stripe / 3 - 0.5) * width
        canvas.polygon(
            [
                (x0, top),
                (x0 + width / 3, top),
                (x0 + width / 3, top - height + tail * (stripe == 1)),
                (x0, top - height),
            ],
            cloth[stripe if rng.random() < 0.8 else 0],
            14,
        )
    relief(canvas, rng, x - 0.4 * width, top - 0.8 * height, 0.8 * width, 0.6 * height, cloth[1], 16, 5)


def pipe(canvas: Canvas, rng: np.random.Generator, x: float) -> None:
    """A rain pipe over the whole height."""
    colour = vary(rng, (92, 88, 80), 0.2)
    knee = rng.uniform(0.5, 0.9) * canvas.height
    canvas.line(
        [(x, 0), (x, knee), (x + rng.uniform(-0.3, 0.3), knee + 0.4), (x, canvas.height)], 0.13, colour, 14
    )
    for clamp in np.arange(0.8, canvas.height, 2.1):
        canvas.rectangle(x - 0.12, clamp, x + 0.12, clamp + 0.12, vary(rng, colour, 0.15), 18)
