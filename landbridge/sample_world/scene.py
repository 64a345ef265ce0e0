"""What stands around a building when a photo is taken: other houses, trees, people, cars and lamps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .building import Building
from .camera import Camera
from .figures import FIGURES, house_roof, house_wall
from .light import Light
from .texture import Texture

_UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Item:
    """An upright rectangle, or the slope of a roof, that is not part of the pictured building.

    Attributes:
        origin: [3], world position of the lower left corner, metres.
        right: [3], unit vector along the width.
        up: [3], unit vector along the height.
        outline: [N, 2], corners in metres along `right` and `up`, counter-clockwise from the front.
        paint: makes its texture.
        cutout: whether the texture has holes: a figure, not a wall.
    """

    origin: NDArray[np.float64]
    right: NDArray[np.float64]
    up: NDArray[np.float64]
    outline: NDArray[np.float64]
    paint: Callable[[], Texture]
    cutout: bool

    @cached_property
    def picture(self) -> Texture:
        """The texture, painted when first asked for."""
        return self.paint()

    @cached_property
    def normal(self) -> NDArray[np.float64]:
        """Outward unit normal [3]."""
        return np.cross(self.right, self.up)

    @property
    def foot(self) -> tuple[NDArray[np.float64], float]:
        """Middle of the lower edge [3], and its length in metres."""
        width = float(self.outline[:, 0].max())
        return self.origin + self.right * width / 2, width


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that a photo shows.

    Attributes:
        building: the pictured building, at the world's origin.
        items: houses, trees, people and things.
        camera: where the photo is taken from.
        light: the light it is taken in.
    """

    building: Building
    items: list[Item]
    camera: Camera
    light: Light


class _Place:
    """The ground around a building, from a camera: `beyond` metres behind the centre, `side` to the right."""

    def __init__(self, rng: np.random.Generator, camera: Camera) -> None:
        self.rng = rng
        self.position = np.array(camera.position[:2])
        self.distance = float(np.linalg.norm(self.position))
        self.away = -self.position / self.distance
        self.across = np.array([self.away[1], -self.away[0]])
        self.items: list[Item] = []

    def figure(self, name: str, low: float, high: float, beyond: float, side: float) -> None:
        """Stand a cut-out, between `low` and `high` metres tall, on the ground, turned to the camera."""
        painter, wide, tall = FIGURES[name]
        height = self.rng.uniform(low, high)
        width = height * wide / tall
        spot = self.away * beyond + self.across * side
        towards = self.position - spot
        towards /= np.linalg.norm(towards)
        right = np.array([-towards[1], towards[0], 0.0])
        seed = int(self.rng.integers(2**31))

        def paint() -> Texture:
            return painter(np.random.default_rng(seed), tall / height)

        origin = np.array([*spot, 0.0]) - right * width / 2
        self.items.append(Item(origin, right, _UP, _rectangle(width, height), paint, True))

    def house(self, beyond: float, side: float, width: float, depth: float, height: float) -> None:
        """Build a plain house with its long side roughly to the camera."""
        rng = self.rng
        turn = np.radians(rng.normal(0, 14))
        along = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ self.across
        out = np.array([along[1], -along[0]])
        centre = self.away * beyond + self.across * side
        near_left, near_right = (centre + (s * along * width + out * depth) / 2 for s in (-1, 1))
        colours = int(rng.integers(2**31))
        rise = rng.uniform(1.5, 4.0)

        def wall(rng: np.random.Generator, width: float, height: float) -> Texture:
            return house_wall(rng, colours, width, height)

        self._flat(near_left, 0.0, along, _UP, _rectangle(width, height), wall)
        gable = np.array([(0, 0), (depth, 0), (depth, height), (depth / 2, height + rise), (0, height)])
        self._flat(near_right, 0.0, -out, _UP, gable, wall)
        self._flat(near_left - out * depth, 0.0, out, _UP, gable, wall)
        slope = np.array([*(-out * depth / 2), rise])
        length = float(np.linalg.norm(slope))
        self._flat(near_left, height, along, slope / length, _rectangle(width, length), house_roof)

    def _flat(
        self,
        start: NDArray[np.float64],
        low: float,
        right: NDArray[np.float64],
        up: NDArray[np.float64],
        outline: NDArray[np.float64],
        painter: Callable[[np.random.Generator, float, float], Texture],
    ) -> None:
        seed = int(self.rng.integers(2**31))
        width, height = outline.max(axis=0).tolist()

        def paint() -> Texture:
            return painter(np.random.default_rng(seed), width, height)

        self.items.append(Item(np.array([*start, low]), np.array([*right, 0.0]), up, outline, paint, False))


def _rectangle(width: float, height: float) -> NDArray[np.float64]:
    return np.array([(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)])


def surroundings(rng: np.random.Generator, building: Building, camera: Camera, crowd: float) -> list[Item]:
    """Draw what stands around a building in one photo; no two photos have the same.

    Args:
        rng: source of randomness.
        building: the pictured building.
        camera: houses stand behind the building as seen from here, most people and some trees before it.
        crowd: 0 (few people) to 1 (the view is largely blocked).
    """
    place = _Place(rng, camera)
    distance = place.distance
    for row in range(2):
        beyond = building.radius * 1.5 + rng.uniform(6, 22) + 28 * row
        span = 0.75 * (distance + beyond)
        side = -span
        while side < span:
            width, depth, height = rng.uniform(11, 24), rng.uniform(8, 14), rng.uniform(6, 15) + 5 * row
            if rng.random() < 0.75:
                place.house(beyond + rng.uniform(-3, 5), side + width / 2, width, depth, height)
            side += width + rng.choice([0.0, 0.0, rng.uniform(2, 9)])
    for _ in range(rng.integers(1, 5)):
        place.figure("tree", 5, 11, rng.uniform(4, 30) + building.radius, rng.uniform(-1.2, 1.2) * distance)
    for name, low, high, expected in (
        ("tree", 3.5, 6.5, 0.4 + 1.6 * crowd),
        ("person", 1.55, 1.9, 3 + 7 * crowd),
        ("car", 1.4, 2.0, 0.5 + 1.5 * crowd),
        ("lamp", 3.5, 5.5, 0.3 + 0.5 * crowd),
    ):
        for _ in range(rng.poisson(expected)):
            near = max(distance * rng.uniform(0.15, 0.75), 4.0)
            place.figure(name, low, high, near - distance, rng.uniform(-0.5, 0.5) * near)
    return place.items
