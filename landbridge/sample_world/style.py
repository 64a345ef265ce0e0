"""Architectural styles: what two buildings that look alike have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import material
from .texture import Colour, vary

HEADS = ("flat", "round", "pointed", "segmental")
"""The ways in which an opening ends at the top."""

CROWNS = ("none", "keystone", "triangle", "segment", "ledge", "shell")
"""What sits above a window."""

WALL_COLOURS: tuple[Colour, ...] = (
    (206, 182, 142),
    (216, 206, 184),
    (150, 82, 62),
    (214, 168, 96),
    (212, 164, 142),
    (146, 144, 146),
    (172, 188, 160),
    (226, 220, 208),
    (118, 108, 98),
    (186, 116, 84),
    (156, 168, 182),
    (184, 172, 128),
)
TRIM_COLOURS: tuple[Colour, ...] = (
    (228, 220, 202),
    (196, 182, 156),
    (158, 148, 136),
    (236, 232, 224),
    (176, 132, 104),
    (120, 112, 104),
)
WOOD_COLOURS: tuple[Colour, ...] = ((238, 236, 228), (86, 58, 40), (44, 62, 54), (122, 44, 36), (52, 60, 84))
ROOF_COLOURS: tuple[Colour, ...] = ((158, 84, 60), (84, 88, 98), (108, 148, 130), (118, 98, 82), (70, 66, 64))


@dataclass(frozen=True)
class Style:
    """The architectural style of one side of a building: two buildings of one style are look-alikes.

    Attributes:
        wall: name of the wall's material.
        wall_colour: its colour.
        trim_colour: colour of surrounds, ledges and columns.
        wood_colour: colour of window frames and doors.
        roof: name of the roof's material.
        roof_colour: its colour.
        block: height of a stone or brick course, metres.
        storey: height of a storey, metres.
        bay: width of a bay, metres.
        head: how windows end at the top.
        crown: what sits above windows.
        panes: panes of a window, across and up.
        columns: whether columns stand between the bays.
        shutters: whether windows have shutters.
        dentil: spacing of the teeth below ledges, metres, 0 without.
        richness: 0 (plain) to 1 (covered with ornament).
        age: 0 (new) to 1 (weathered).
    """

    wall: str
    wall_colour: Colour
    trim_colour: Colour
    wood_colour: Colour
    roof: str
    roof_colour: Colour
    block: float
    storey: float
    bay: float
    head: str
    crown: str
    panes: tuple[int, int]
    columns: bool
    shutters: bool
    dentil: float
    richness: float
    age: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Style:
        """Draw a style."""
        head = str(rng.choice(HEADS, p=[0.4, 0.3, 0.17, 0.13]))
        return cls(
            wall=str(rng.choice(list(material.WALLS), p=[0.36, 0.22, 0.14, 0.2, 0.08])),
            wall_colour=vary(rng, WALL_COLOURS[rng.integers(len(WALL_COLOURS))], 0.06),
            trim_colour=vary(rng, TRIM_COLOURS[rng.integers(len(TRIM_COLOURS))], 0.05),
            wood_colour=WOOD_COLOURS[rng.integers(len(WOOD_COLOURS))],
            roof=str(rng.choice(list(material.ROOFS))),
            roof_colour=vary(rng, ROOF_COLOURS[rng.integers(len(ROOF_COLOURS))], 0.08),
            block=rng.uniform(0.3, 0.5),
            storey=rng.uniform(3.6, 5.0),
            bay=rng.uniform(2.6, 3.7),
            head=head,
            crown=str(rng.choice(["none", "keystone", "shell"] if head == "pointed" else CROWNS)),
            panes=(int(rng.integers(2, 4)), int(rng.integers(3, 5))),
            columns=bool(rng.random() < 0.45),
            shutters=bool(head == "flat" and rng.random() < 0.3),
            dentil=float(rng.choice([0.0, 0.45, 0.6, 0.8])),
            richness=rng.uniform(0.3, 1.0),
            age=rng.uniform(0.15, 0.85),
        )
