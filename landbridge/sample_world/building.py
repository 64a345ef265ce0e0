"""Buildings as solids of flat, textured faces: bodies, towers, gables, hips, domes, porticos, annexes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import facade
from .style import Style
from .texture import Texture

SIDES = ("front", "front-right", "right", "back-right", "back", "back-left", "left", "front-left")
"""The eight directions a face may look to, by azimuth in steps of 45 degrees; `right` is where the viewer of
the front sees it."""

_Painter = Callable[[Style, np.random.Generator, float, float, float], Texture]


def direction(azimuth: float) -> NDArray[np.float64]:
    """The horizontal unit vector [3] of an azimuth in degrees: 0 looks along x, 90 along y."""
    angle = np.radians(azimuth)
    return np.array([np.cos(angle), np.sin(angle), 0.0])


def side_of(azimuth: float) -> str:
    """The name in `SIDES` nearest to an azimuth in degrees."""
    return SIDES[round(azimuth / 45) % 8]


@dataclass(frozen=True, eq=False)
class Face:
    """A flat, convex face with its place in a texture.

    Attributes:
        origin: [3], world position of the lower left corner of the texture, metres.
        right: [3], unit vector along the texture's width.
        up: [3], unit vector along the texture's height.
        outline: [N, 2], corners in metres along `right` and `up`, counter-clockwise from outside.
        side: one of `SIDES`, where the face looks.
        texture: number of the texture in its building.
    """

    origin: NDArray[np.float64]
    right: NDArray[np.float64]
    up: NDArray[np.float64]
    outline: NDArray[np.float64]
    side: str
    texture: int

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """Outward unit normal [3]."""
        return np.cross(self.right, self.up)

    @cached_property
    def corners(self) -> NDArray[np.float64]:
        """World positions of the outline [N, 3]."""
        return self.origin + self.outline[:, :1] * self.right + self.outline[:, 1:] * self.up


@dataclass(frozen=True)
class _Sheet:
    """A texture yet to be painted: what, in which style, and how large in metres."""

    painter: _Painter
    style: Style
    width: float
    height: float


class Building:
    """A building with a style of its own on each of its four sides, so that no two sides look alike.

    Two buildings of one kind and one `style_seed` are look-alikes: same sort of volumes, same materials,
    colours and types of windows, but other proportions and other details.

    Args:
        kind: one of `KINDS`.
        style_seed: seed of the styles of the four sides.
        seed: seed of everything else.
        density: pixels per metre of the textures.

    Attributes:
        faces: the outer faces.
        height: metres.
        radius: half the widest extent on the ground, metres.
    """

    def __init__(self, kind: str, style_seed: int, seed: int, density: float = 26.0) -> None:
        self.density = density
        self.faces: list[Face] = []
        self._seed = seed
        self._sheets: list[_Sheet] = []
        self._painted: dict[int, Texture] = {}
        self._locks: list[threading.Lock] = []
        rng = np.random.default_rng([style_seed, 1])
        common = Style.random(rng)
        self._styles = [_side_style(rng, common) for _ in range(4)]
        KINDS[kind](self, np.random.default_rng([seed, 1]))
        corners = np.concatenate([face.corners for face in self.faces])
        self.height = float(corners[:, 2].max())
        self.radius = float(np.abs(corners[:, :2]).max())

    def texture(self, number: int) -> Texture:
        """The texture of a face, painted when first asked for and kept until `forget`."""
        with self._locks[number]:
            if number not in self._painted:
                sheet = self._sheets[number]
                rng = np.random.default_rng([self._seed, 2, number])
                self._painted[number] = sheet.painter(
                    sheet.style, rng, sheet.width, sheet.height, self.density
                )
            return self._painted[number]

    def forget(self) -> None:
        """Drop the painted textures; they are painted again, the same, when needed."""
        self._painted = {}

    def style(self, azimuth: float) -> Style:
        """The style of the side that looks to an azimuth in degrees."""
        return self._styles[round(azimuth / 90) % 4]

    def _sheet(self, painter: _Painter, style: Style, width: float, height: float) -> int:
        self._sheets.append(_Sheet(painter, style, width, height))
        self._locks.append(threading.Lock())
        return len(self._sheets) - 1

    def face(self, corners: ArrayLike, painter: _Painter) -> None:
        """Add a face of its own texture; `corners` [N, 3] counter-clockwise from outside, its base first."""
        points = np.asarray(corners, np.float64)
        right = (points[1] - points[0]) / np.linalg.norm(points[1] - points[0])
        normal = np.cross(right, points[2] - points[0])
        normal /= np.linalg.norm(normal)
        up = np.cross(normal, right)
        outline = np.stack([(points - points[0]) @ right, (points - points[0]) @ up], axis=1)
        left = min(outline[:, 0].min(), 0.0)
        outline[:, 0] -= left
        azimuth = float(np.degrees(np.arctan2(normal[1], normal[0])))
        width, height = np.ptp(outline, axis=0)
        texture = self._sheet(painter, self.style(azimuth), float(width), float(height))
        self.faces.append(Face(points[0] + left * right, right, up, outline, side_of(azimuth), texture))

    def walls(
        self, outline: NDArray[np.float64], low: float, high: float, painters: list[_Painter] | _Painter
    ) -> None:
        """Raise a wall on every edge of a counter-clockwise outline [N, 2], from `low` to `high` metres."""
        for index, start in enumerate(outline):
            end = outline[(index + 1) % len(outline)]
            painter = painters[index] if isinstance(painters, list) else painters
            self.face([(*start, low), (*end, low), (*end, high), (*start, high)], painter)

    def spire(self, outline: NDArray[np.float64], low: float, high: float) -> None:
        """Cover an outline with a pyramid, from `low` to its tip at `high` metres."""
        tip = (*outline.mean(0), high)
        for index, start in enumerate(outline):
            end = outline[(index + 1) % len(outline)]
            self.face([(*start, low), (*end, low), tip], facade.roof)

    def hip(self, base: NDArray[np.float64], low: float, high: float) -> None:
        """Cover a `box` with four slopes that meet in a ridge along its longer extent."""
        centre, size = base.mean(0), np.ptp(base, axis=0)
        run = np.array([max(size[0] - size[1], 0.0), max(size[1] - size[0], 0.0)]) / 2
        ends = centre + np.outer((-1, 1), run)
        nearest = [int(np.argmin(np.linalg.norm(ends - corner, axis=1))) for corner in base]
        for index, following in ((0, 1), (1, 2), (2, 3), (3, 0)):
            corners = [(*base[index], low), (*base[following], low), (*ends[nearest[following]], high)]
            if nearest[index] != nearest[following]:
                corners.append((*ends[nearest[index]], high))
            self.face(corners, facade.roof)

    def saddle(self, base: NDArray[np.float64], low: float, high: float, along: int) -> None:
        """Cover a `box` with two slopes and two gables; the ridge runs along x (0) or along y (1)."""
        corners = np.roll(base, -along, axis=0)
        a, b, c, d = [(*corner, low) for corner in corners]
        first = (*(corners[3] + corners[0]) / 2, high)
        second = (*(corners[1] + corners[2]) / 2, high)
        self.face([a, b, second, first], facade.roof)
        self.face([c, d, first, second], facade.roof)
        self.face([b, c, second], facade.gable)
        self.face([d, a, first], facade.gable)

    def dome(self, centre: ArrayLike, radius: float, low: float, height: float, sides: int = 12) -> None:
        """Cover a circle with a dome of flat facets, three rings high."""
        for lower, upper in pairwise(np.linspace(0, np.pi / 2, 4).tolist()):
            outer = polygon(centre, radius * np.cos(lower), sides)
            inner = polygon(centre, radius * np.cos(upper), sides)
            bottom, top = low + height * np.sin(lower), low + height * np.sin(upper)
            for index in range(sides):
                following = (index + 1) % sides
                corners = [(*outer[index], bottom), (*outer[following], bottom), (*inner[following], top)]
                if upper < np.pi / 2:
                    corners.append((*inner[index], top))
                self.face(corners, facade.roof)

    def tower(
        self, centre: ArrayLike, width: float, low: float, high: float, cap: str, sides: int = 4
    ) -> None:
        """Raise a tower of four or eight sides under a `spire`, a `dome` or a `flat` top with a parapet."""
        base = box(centre, (width, width)) if sides == 4 else polygon(centre, width / 2, sides)
        self.walls(base, low, high, _plain_wall)
        if cap == "spire":
            self.spire(grown(base, 1.08), high, high + 1.5 * width)
        elif cap == "dome":
            self.dome(centre, 0.52 * width, high, 0.6 * width, 8)
        else:
            self.walls(grown(base, 1.12), high - 0.3, high + 1.2, facade.parapet)


def box(centre: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    """Corners [4, 2] of a rectangle, counter-clockwise, of a depth along x and a width along y."""
    return np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) * size + np.asarray(centre)


def polygon(centre: ArrayLike, radius: float, sides: int) -> NDArray[np.float64]:
    """Corners [sides, 2] of a regular polygon, one of its edges looking along x."""
    angle = (np.arange(sides) - 0.5) * 2 * np.pi / sides
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + np.asarray(centre)


def grown(outline: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """The outline [N, 2] made larger about its middle."""
    middle = outline.mean(0)
    return (outline - middle) * factor + middle


def _plain_wall(
    style: Style, rng: np.random.Generator, width: float, height: float, density: float
) -> Texture:
    return facade.wall(style, rng, width, height, density, door=False)


def _door_wall(
    style: Style, rng: np.random.Generator, width: float, height: float, density: float
) -> Texture:
    return facade.wall(style, rng, width, height, density, door=True)


def _side_style(rng: np.random.Generator, common: Style) -> Style:
    """The style of one side, which shares storeys, the material of the roof and perhaps a colour."""
    own = Style.random(rng)
    return replace(
        own,
        wall_colour=common.wall_colour if rng.random() < 0.2 else own.wall_colour,
        trim_colour=common.trim_colour if rng.random() < 0.3 else own.trim_colour,
        roof=common.roof,
        roof_colour=common.roof_colour if rng.random() < 0.3 else own.roof_colour,
        storey=common.storey,
    )


# A body's walls in the order of `box`: the first edge looks to the left (-y), the second to the front (+x).
_BODY: list[_Painter] = [_plain_wall, _door_wall, _plain_wall, _door_wall]
_SIGNS = np.array([-1.0, 1.0])
_CORNERS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def _palace(building: Building, rng: np.random.Generator) -> None:
    depth, width, high = rng.uniform(13, 18), rng.uniform(20, 27), rng.uniform(10, 14)
    body = box((0, 0), (depth, width))
    building.walls(body, 0, high, _BODY)
    building.hip(grown(body, 1.03), high, high + rng.uniform(3.5, 5.5))
    wing = rng.uniform(6.5, 8.5)
    building.walls(box((depth / 2 + 1.1, 0), (2.2, wing)), 0, high + 1, _BODY)
    building.saddle(box((depth / 2 + 0.4, 0), (3.8, wing + 0.4)), high + 1, high + 3.4, along=0)
    cupola = (0, rng.choice(_SIGNS) * rng.uniform(0.15, 0.3) * width)
    cap = str(rng.choice(["dome", "spire"]))
    building.tower(cupola, rng.uniform(4, 5), high, high + rng.uniform(6, 8), cap, 8)
    annex = box((-depth / 4, width / 2 + 2), (6, 4))
    building.walls(annex, 0, 0.6 * high, _plain_wall)
    building.hip(grown(annex, 1.07), 0.6 * high, 0.6 * high + 1.8)


def _church(building: Building, rng: np.random.Generator) -> None:
    depth, width, high = rng.uniform(20, 25), rng.uniform(12, 15), rng.uniform(10, 13)
    building.walls(box((0, 0), (depth, width)), 0, high, _BODY)
    building.saddle(box((0, 0), (depth, width + 0.6)), high, high + 0.45 * width, along=0)
    size = rng.uniform(4.5, 5.5)
    for side in _SIGNS if rng.random() < 0.5 else rng.choice(_SIGNS, 1):
        place = (depth / 2 - 0.3 * size, side * (width / 2 - 0.1))
        cap = str(rng.choice(["spire", "dome", "flat"]))
        building.tower(place, size, 0, high + rng.uniform(6, 11), cap)
    apse = polygon((-depth / 2, 0), 0.36 * width, 8)
    building.walls(apse, 0, 0.75 * high, _plain_wall)
    building.spire(grown(apse, 1.05), 0.75 * high, high + 1)
    transept = box((-depth / 6, 0), (6.5, width + 5))
    building.walls(transept, 0, 0.85 * high, _BODY)
    building.saddle(transept, 0.85 * high, high + 2, along=1)


def _town_hall(building: Building, rng: np.random.Generator) -> None:
    depth, width, high = rng.uniform(14, 18), rng.uniform(19, 24), rng.uniform(11, 14)
    body = box((0, 0), (depth, width))
    building.walls(body, 0, high, _BODY)
    building.hip(grown(body, 1.03), high, high + rng.uniform(4, 6))
    y = rng.uniform(-0.35, 0.35) * width
    cap = str(rng.choice(["spire", "flat"]))
    building.tower((depth / 2 - 1.5, y), rng.uniform(5, 6), 0, high + rng.uniform(8, 11), cap)
    for corner in _CORNERS:
        if rng.random() < 0.6 and corner[1] * y <= 0.2 * width:
            place = np.multiply(corner, (depth, width)) / 2
            building.tower(place, 3.2, 0, high + rng.uniform(1, 3), "spire", 8)


def _museum(building: Building, rng: np.random.Generator) -> None:
    depth, width, high = rng.uniform(16, 20), rng.uniform(20, 26), rng.uniform(9, 11)
    body = box((0, 0), (depth, width))
    building.walls(body, 0, high, _BODY)
    building.walls(grown(body, 0.95), high, high + 1.5, facade.parapet)
    porch = rng.uniform(9, 12)
    building.walls(box((depth / 2 + 2, 0), (4, porch)), 0, high - 1, facade.colonnade)
    building.saddle(box((depth / 2 + 1.5, 0), (5.4, porch + 0.6)), high - 1, high + 2, along=0)
    radius, side = rng.uniform(4.5, 6), rng.choice(_SIGNS)
    drum = (-1, side * rng.uniform(2.5, 5))
    building.walls(polygon(drum, radius, 12), high, high + 3.2, _plain_wall)
    building.dome(drum, 1.04 * radius, high + 3.2, rng.uniform(0.8, 1.1) * radius)
    place = (rng.choice(_SIGNS) * (depth / 2 - 2), -side * (width / 2 - 2))
    cap = str(rng.choice(["spire", "flat"]))
    building.tower(place, rng.uniform(3.4, 4.4), 0, high + rng.uniform(3, 6), cap)
    building.walls(box((-depth / 2 - 2, rng.uniform(-5, 5)), (4, 6)), 0, 0.65 * high, _BODY)


def _castle(building: Building, rng: np.random.Generator) -> None:
    depth, width, high = rng.uniform(14, 18), rng.uniform(17, 22), rng.uniform(9, 12)
    body = box((0, 0), (depth, width))
    building.walls(body, 0, high, _BODY)
    building.walls(grown(body, 1.04), high - 0.4, high + 1.3, facade.parapet)
    for corner in _CORNERS:
        place = np.multiply(corner, (depth, width)) / 2
        cap, sides = str(rng.choice(["spire", "spire", "flat", "dome"])), int(rng.choice([4, 8]))
        building.tower(place, rng.uniform(4, 6), 0, high + rng.uniform(2, 6), cap, sides)
    keep, side = rng.uniform(7, 9), rng.choice(_SIGNS) * rng.uniform(2, 4)
    building.walls(box((-1, side), (keep, keep)), high, high + rng.uniform(4, 6), _plain_wall)


def _stepped(building: Building, rng: np.random.Generator) -> None:
    size, high = rng.uniform((15, 18), (20, 24)), rng.uniform(7, 9)
    body = box((0, 0), size)
    building.walls(body, 0, high, _BODY)
    building.walls(grown(body, 1.02), high - 0.3, high + 1, facade.parapet)
    corner = rng.choice(_SIGNS, 2)
    inner, shift = size * (0.75, 0.6), corner * rng.uniform(0.06, 0.15, 2) * size
    middle, top = high + rng.uniform(4.5, 6.5), high + rng.uniform(9, 13)
    building.walls(box(shift, inner), high, middle, _plain_wall)
    building.walls(box(shift, inner + 0.5), middle - 0.3, middle + 1, facade.parapet)
    small = inner * rng.uniform(0.4, 0.55, 2)
    upper = box(shift + corner * (inner - small) * rng.uniform(0.15, 0.4, 2), small)
    building.walls(upper, middle, top, _plain_wall)
    building.hip(grown(upper, 1.06), top, top + rng.uniform(2.5, 5))
    building.tower(-corner * size / 2, 3.6, 0, high + rng.uniform(2, 5), "dome", 8)
    building.walls(box((size[0] / 2 + 1.5, 0), (3, 0.4 * size[1])), 0, 0.7 * high, facade.colonnade)


KINDS: dict[str, Callable[[Building, np.random.Generator], None]] = {
    "palace": _palace,
    "church": _church,
    "town hall": _town_hall,
    "museum": _museum,
    "castle": _castle,
    "stepped": _stepped,
}
"""The kinds of building, by the function that raises them."""
