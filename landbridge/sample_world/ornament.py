"""What is fixed to a wall: reliefs, rosettes, clocks, signs, columns, ledges, ivy; no two are alike."""

from __future__ import annotations

import cv2
import numpy as np

from .texture import GLASS, LAMP, PLANE, Canvas, Colour, scaled, vary

DARK: Colour = (38, 36, 38)
FRESCO: tuple[Colour, ...] = (
    (168, 74, 52),
    (202, 158, 82),
    (70, 96, 128),
    (108, 124, 82),
    (222, 206, 172),
    (84, 62, 54),
    (150, 110, 120),
)
_SYLLABLES = (
    "BA",
    "COR",
    "DEN",
    "FIR",
    "GAL",
    "HUS",
    "IVO",
    "KAR",
    "LUM",
    "NOR",
    "PRA",
    "QUIN",
    "ROV",
    "TUR",
    "XEN",
)


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
    """Carve curls, discs and leaves, left and right alike, into the box whose lower left corner is (x, y)."""
    middle = x + width / 2
    for _ in range(strokes):
        stone = vary(rng, colour, 0.16)
        kind = rng.integers(4)
        size = rng.uniform(0.06, 0.2) * min(width, height)
        px, py = rng.uniform(0.02, 0.46) * width, y + rng.uniform(0.12, 0.88) * height
        for side in (-1, 1):
            if kind == 0:
                turn = np.linspace(0, rng.uniform(1.2, 2.2) * np.pi, 12)
                reach = 1.8 * size * (1 - turn / 9)
                curl = np.stack([px + reach * np.cos(turn), py + reach * np.sin(turn)], axis=1)
                canvas.line(curl * (side, 1) + (middle, 0), 0.45 * size + 0.03, stone, depth)
            elif kind == 1:
                canvas.ellipse(middle + side * px, py, size, size * rng.uniform(0.7, 1.3), stone, depth)
                canvas.ellipse(middle + side * px, py, 0.5 * size, 0.5 * size, scaled(stone, 0.7), 2)
            elif kind == 2:
                leaf = np.array([(0, -1.5), (0.7, 0), (0.2, 1.6), (-0.6, 0.3)]) * size
                canvas.polygon(leaf * (side, 1) + (middle + side * px, py), stone, depth)
            else:
                far = px + rng.uniform(0.05, 0.3) * width
                end = (middle + side * min(far, width / 2), y + rng.uniform(0.1, 0.9) * height)
                canvas.line([(middle + side * px, py), end], 0.35 * size + 0.02, stone, depth)


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


def rosette(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, radius: float, trim: Colour, frame: Colour
) -> None:
    """A rose window: rings of glass petals in stone tracery."""
    number = int(rng.integers(1, LAMP))
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


def sign(canvas: Canvas, rng: np.random.Generator, x: float, y: float, width: float, height: float) -> None:
    """A board with an invented name."""
    board = vary(rng, FRESCO[rng.integers(len(FRESCO))], 0.15)
    ink: Colour = (238, 226, 190) if sum(board) < 400 else (44, 34, 30)
    canvas.rectangle(x - width / 2, y, x + width / 2, y + height, ink, 12)
    canvas.rectangle(x - width / 2 + 0.06, y + 0.06, x + width / 2 - 0.06, y + height - 0.06, board, 12)
    name = "".join(rng.choice(_SYLLABLES, int(rng.integers(2, 4))).tolist())
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
    """A ledge over the whole width, with teeth under it about every `dentil` metres unless that is 0."""
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
