"""The facade grammar: walls, roofs, gables, parapets and colonnades, filled by chance in a given style."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from . import material, opening, ornament
from .style import CROWNS, HEADS, Style
from .texture import GLASS, LAMP, Canvas, Texture, scaled, vary


def wall(
    style: Style, rng: np.random.Generator, width: float, height: float, density: float, door: bool
) -> Texture:
    """Paint an outer wall.

    Args:
        style: what the wall has in common with others of its style.
        rng: source of the layout and of every detail.
        width: metres.
        height: metres.
        density: pixels per metre.
        door: whether there is a portal.
    """
    canvas = Canvas(width, height, density)
    material.WALLS[style.wall](canvas, rng, vary(rng, style.wall_colour, 0.04), style.block)
    trim = style.trim_colour
    top = max(0.07 * height, 0.7)
    floors = _rhythm(rng, height - top, style.storey)
    margin = 0.45 if width > 4 else 0.15
    bays = margin + _rhythm(rng, width - 2 * margin, style.bay)
    middle = int(rng.integers(len(bays) // 3, max(2 * len(bays) // 3, 1))) if len(bays) > 2 else 0

    _corners(canvas, rng, style)
    canvas.rectangle(0, 0, width, 0.7, vary(rng, scaled(trim, 0.8), 0.06), 9)
    for seam in np.cumsum(rng.uniform(0.5, 1.8, int(2 * width) + 1)):
        canvas.line([(seam, 0), (seam, 0.7)], 0.04, ornament.DARK, 4)
    for y in floors[1:-1]:
        ledge = rng.random()
        if ledge < 0.2 * style.richness:
            ornament.frieze(canvas, rng, y - 0.35, 0.7, trim, 1.3)
        elif ledge < 0.45:
            ornament.cornice(canvas, rng, y - 0.25, 0.5, trim, style.dentil)
        elif ledge < 0.85:
            ornament.cornice(canvas, rng, y - 0.12, 0.28, trim, 0.0)

    special_floor = int(rng.integers(1, len(floors) - 1)) if len(floors) > 2 else 0
    for floor, (bottom, storey) in enumerate(zip(floors[:-1], np.diff(floors), strict=True)):
        head = style.head if rng.random() < 0.6 else str(rng.choice(HEADS))
        for index, (left, bay) in enumerate(zip(bays[:-1], np.diff(bays), strict=True)):
            x = left + bay / 2
            if door and floor == 0 and index == middle and bay > 1.6:
                opening.portal(canvas, rng, x, min(0.62 * bay, 2.0), 0.8 * storey, head, style)
            elif floor == special_floor and index == middle and len(bays) > 2:
                _special(canvas, rng, style, x, bottom, bay, storey)
            else:
                _cell(canvas, rng, style, head, x, bottom, bay, storey)
    if style.columns:
        for index, x in enumerate(bays):
            if not (door and index in (middle, middle + 1)):
                ornament.column(
                    canvas, rng, x, 0.7, min(0.14 * style.bay, 0.45), height - top - 0.7, trim, 16
                )
    if style.richness > 0.5:
        ornament.frieze(canvas, rng, height - top, 0.5 * top, trim, 1.6)
    ornament.cornice(canvas, rng, height - 0.55 * top, 0.55 * top, trim, style.dentil)
    if width > 5:
        _additions(canvas, rng, style, floors[1])
    return canvas.finished(rng, style.age)


def _rhythm(rng: np.random.Generator, length: float, unit: float) -> NDArray[np.float64]:
    """Divide a length into uneven parts of about `unit`: where the parts end, from 0 to the length."""
    parts = rng.uniform(0.78, 1.28, max(1, round(length / unit)))
    return np.concatenate([[0], np.cumsum(parts)]) * length / parts.sum()


def _cell(
    canvas: Canvas,
    rng: np.random.Generator,
    style: Style,
    head: str,
    x: float,
    bottom: float,
    bay: float,
    storey: float,
) -> None:
    """Fill what is between two floors and two bay lines: a window or two, a statue, a panel, or nothing."""
    trim = style.trim_colour
    y = bottom + rng.uniform(0.18, 0.28) * storey
    x += rng.uniform(-0.06, 0.06) * bay
    weights = np.array([3.2, 0.9, 0.6 * style.richness, 0.8 * style.richness, 0.35, 0.2])
    kind = str(
        rng.choice(["window", "pair", "statue", "panel", "oculus", "blank"], p=weights / weights.sum())
    )
    if kind == "statue":
        opening.statue(canvas, rng, x, y, min(0.38 * bay, 1.2), 0.62 * storey, trim)
    elif kind == "panel":
        wide, tall = rng.uniform(0.45, 0.7) * bay, rng.uniform(0.4, 0.6) * storey
        ornament.panel(canvas, rng, x - wide / 2, y, wide, tall, trim)
    elif kind == "oculus":
        ornament.rosette(
            canvas, rng, x, bottom + 0.5 * storey, rng.uniform(0.18, 0.27) * bay, trim, style.wood_colour
        )
    elif kind != "blank":
        own_head = head if rng.random() < 0.8 else str(rng.choice(HEADS))
        tall = rng.uniform(0.42, 0.6) * storey
        across, up = style.panes[0] + int(rng.integers(-1, 2)), style.panes[1] + int(rng.integers(-1, 2))
        if kind == "pair":
            for side in (-0.24, 0.24):
                opening.window(
                    canvas, rng, x + side * bay, y, 0.3 * bay, tall, own_head, "none", (1, up), style
                )
        else:
            crown = style.crown if rng.random() < 0.75 else str(rng.choice(CROWNS))
            wide = (0.34 if style.shutters else 0.44) * rng.uniform(0.8, 1.15) * bay
            opening.window(canvas, rng, x, y, wide, tall, own_head, crown, (across, up), style)
    if style.richness > 0.6 and rng.random() < style.richness - 0.35:
        ornament.relief(
            canvas, rng, x - 0.3 * bay, bottom + 0.02 * storey, 0.6 * bay, 0.14 * storey, trim, 9, 4
        )


def _special(
    canvas: Canvas, rng: np.random.Generator, style: Style, x: float, y: float, bay: float, storey: float
) -> None:
    """Fill the cell that the eye is led to."""
    kind = str(rng.choice(["rosette", "panel", "clock", "grand"]))
    radius = 0.44 * min(bay * 1.1, storey)
    trim = style.trim_colour
    if kind == "rosette":
        ornament.rosette(canvas, rng, x, y + 0.52 * storey, radius, trim, style.wood_colour)
    elif kind == "clock":
        ornament.clock(canvas, rng, x, y + 0.55 * storey, 0.8 * radius, trim)
    elif kind == "panel":
        ornament.panel(canvas, rng, x - 0.46 * bay, y + 0.14 * storey, 0.92 * bay, 0.72 * storey, trim)
    else:
        wide, tall = 0.66 * bay, 0.68 * storey
        opening.window(canvas, rng, x, y + 0.14 * storey, wide, tall, style.head, "segment", (4, 5), style)


def _corners(canvas: Canvas, rng: np.random.Generator, style: Style) -> None:
    y = 0.7
    while y < canvas.height and canvas.width > 3:
        tall = rng.uniform(0.4, 0.6)
        for edge, side in ((0.0, 1), (canvas.width, -1)):
            wide = rng.uniform(0.35, 0.75)
            x0, x1 = sorted((edge, edge + side * wide))
            canvas.rectangle(x0, y + 0.03, x1, y + tall, vary(rng, style.trim_colour, 0.1), 6)
        y += tall


def _additions(canvas: Canvas, rng: np.random.Generator, style: Style, storey: float) -> None:
    """What came later: signs, a banner, rain pipes, ivy."""
    width, height = canvas.width, canvas.height
    for _ in range(rng.integers(0, 3)):
        wide = rng.uniform(1.6, 3.6)
        x = rng.uniform(wide / 2, width - wide / 2)
        ornament.sign(canvas, rng, x, rng.uniform(0.76, 0.9) * storey, wide, rng.uniform(0.5, 0.8))
    if rng.random() < 0.6:
        x, y = rng.uniform(1, width - 1), rng.uniform(0.6, 0.9) * height
        ornament.banner(canvas, rng, x, y, rng.uniform(0.7, 1.3), rng.uniform(2, 4.5))
    for _ in range(rng.integers(0, 3)):
        ornament.pipe(canvas, rng, rng.uniform(0.5, width - 0.5))
    if rng.random() < 0.5 * style.age + 0.1:
        ornament.ivy(canvas, rng, rng.uniform(0, width), rng.uniform(1, 3), rng.uniform(0.3, 0.8) * height)


def roof(style: Style, rng: np.random.Generator, width: float, height: float, density: float) -> Texture:
    """Paint one slope of a roof, with dormers and hatches where there is room."""
    canvas = Canvas(width, height, density)
    material.ROOFS[style.roof](canvas, rng, vary(rng, style.roof_colour, 0.1), rng.uniform(0.55, 0.8))
    for _ in range(int(0.5 * width * height / 9)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach = rng.uniform(0.3, 1.0, 2)
        canvas.rectangle(
            x - reach[0], y - reach[1], x + reach[0], y + reach[1], vary(rng, style.roof_colour, 0.2), 1
        )
    if width > 6 and height > 2.5:
        count = int(width / rng.uniform(3.2, 5.5))
        for index in range(count):
            x = (index + 0.5) * width / count + rng.uniform(-0.4, 0.4)
            if rng.random() < 0.65:
                head = str(rng.choice(["flat", "round"]))
                crown = str(rng.choice(["triangle", "segment"]))
                tall = min(1.4, 0.45 * height)
                opening.window(
                    canvas,
                    rng,
                    x,
                    0.18 * height,
                    0.9,
                    tall,
                    head,
                    crown,
                    (2, 2),
                    replace(style, shutters=False),
                )
            else:
                canvas.rectangle(
                    x - 0.4,
                    0.3 * height,
                    x + 0.4,
                    0.3 * height + 0.9,
                    (52, 60, 70),
                    GLASS,
                    int(rng.integers(1, LAMP)),
                )
    canvas.line([(0, height), (width, height)], 0.3, vary(rng, style.trim_colour, 0.15), 10)
    canvas.line([(0, 0.1), (width, 0.1)], 0.22, vary(rng, (110, 106, 100), 0.15), 12)
    return canvas.finished(rng, style.age)


def parapet(style: Style, rng: np.random.Generator, width: float, height: float, density: float) -> Texture:
    """Paint the battlements or the balustrade at the top of a wall."""
    canvas = Canvas(width, height, density)
    material.WALLS[style.wall](canvas, rng, vary(rng, style.trim_colour, 0.06), style.block)
    x = rng.uniform(-0.4, 0.0)
    while x < width:
        wide = rng.uniform(0.8, 1.3)
        if rng.random() < 0.75:
            canvas.rectangle(
                x, 0.42 * height, x + 0.4 * wide, 0.85 * height, vary(rng, ornament.DARK, 0.2), -20
            )
            ornament.relief(
                canvas, rng, x + 0.45 * wide, 0.35 * height, 0.5 * wide, 0.5 * height, style.trim_colour, 8, 3
            )
        else:
            ornament.panel(canvas, rng, x, 0.36 * height, 0.9 * wide, 0.5 * height, style.trim_colour)
        x += wide
    ornament.cornice(canvas, rng, 0, 0.3 * height, style.trim_colour, style.dentil)
    ornament.cornice(canvas, rng, 0.86 * height, 0.14 * height, style.trim_colour, 0)
    return canvas.finished(rng, style.age)


def gable(style: Style, rng: np.random.Generator, width: float, height: float, density: float) -> Texture:
    """Paint the triangle below the ends of a gabled roof, or a pediment."""
    canvas = Canvas(width, height, density)
    material.WALLS[style.wall](canvas, rng, vary(rng, style.wall_colour, 0.04), style.block)
    radius = 0.24 * height
    kind = rng.integers(3)
    if kind == 0:
        ornament.rosette(canvas, rng, width / 2, 0.38 * height, radius, style.trim_colour, style.wood_colour)
    elif kind == 1:
        ornament.clock(canvas, rng, width / 2, 0.38 * height, radius, style.trim_colour)
    else:
        ornament.panel(
            canvas, rng, width / 2 - radius, 0.14 * height, 2 * radius, 0.5 * height, style.trim_colour
        )
    for side in (-1, 1):
        for step in np.linspace(0.2, 0.62, 4):
            ornament.relief(
                canvas, rng, width / 2 + side * step * width / 2 - 0.06 * width, 0.1 * height, 0.12 * width,
                0.5 * height * (1 - step), style.trim_colour, 10, 5,
            )  # fmt: skip
    ornament.cornice(canvas, rng, 0, 0.08 * height, style.trim_colour, 0)
    for start in ((0, 0), (width, 0)):
        canvas.line([start, (width / 2, height)], 0.1 * height, vary(rng, style.trim_colour, 0.08), 22)
    return canvas.finished(rng, style.age)


def colonnade(style: Style, rng: np.random.Generator, width: float, height: float, density: float) -> Texture:
    """Paint the open front of a portico: columns before a dark hall."""
    canvas = Canvas(width, height, density)
    material.plaster(canvas, rng, scaled(style.wall_colour, 0.42), 1.0)
    canvas.paint[..., 3] = 80
    bays = _rhythm(rng, width, 2.2)
    beam = rng.uniform(0.13, 0.2) * height
    for left, bay in zip(bays[:-1], np.diff(bays), strict=True):
        x = left + bay / 2
        if rng.random() < 0.5:
            opening.portal(canvas, rng, x, 0.4 * bay, 0.5 * height, "flat", style)
        else:
            wide, tall = rng.uniform(0.4, 0.6) * bay, rng.uniform(0.25, 0.5) * height
            y = rng.uniform(0.1, 0.3) * height
            ornament.panel(canvas, rng, x - wide / 2, y, wide, tall, scaled(style.trim_colour, 0.6))
    thick = rng.uniform(0.45, 0.7)
    for x in np.clip(bays, 0.3, width - 0.3):
        ornament.column(canvas, rng, x, 0.4, thick, height - beam - 0.4, style.trim_colour, 24)
    for step in range(3):
        canvas.rectangle(
            0, 0.14 * step, width, 0.14 * (step + 1), vary(rng, style.trim_colour, 0.1), 30 - 4 * step
        )
    canvas.rectangle(0, height - beam, width, height, vary(rng, style.trim_colour, 0.06), 22)
    ornament.frieze(canvas, rng, height - 0.85 * beam, 0.55 * beam, style.trim_colour, 1.2)
    ornament.cornice(canvas, rng, height - 0.25 * beam, 0.25 * beam, style.trim_colour, 0)
    return canvas.finished(rng, style.age)
