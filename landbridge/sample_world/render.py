"""From a scene to a photo: texture under light on every visible surface, before sky and ground."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .backdrop import backdrop
from .building import Face
from .light import Light
from .scene import Item, Scene
from .texture import LAMP, Texture
from .tone import develop, linear
from .visibility import Visibility, visibility, warp

OVERSAMPLING = 1.5
"""Samples per pixel along each axis."""


def render(
    scene: Scene, size: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Take a photo.

    Args:
        scene: what to take a photo of.
        size: (width, height) in pixels.
        rng: source of everything that the scene leaves open: sky, ground, lit windows, the camera's faults.

    Returns:
        The photo, uint8 RGB [H, W, 3], and the mask bool [H, W] of the pixels that show the building.
    """
    width, height = size
    seen = visibility(scene, (round(OVERSAMPLING * width), round(OVERSAMPLING * height)))
    ground = backdrop(scene, size, rng)
    lamps = _lamps(scene.light, rng)
    layer = np.zeros((*seen.surface.shape, 3), np.float32)
    counts = np.bincount(seen.surface.ravel() + 1, minlength=len(seen.surfaces) + 1)[1:]
    for number in np.flatnonzero(counts).tolist():
        _lay(layer, scene, seen, number, lamps)
    open_view = (seen.surface < 0).view(np.uint8) * 255
    ground *= cv2.resize(open_view, size, interpolation=cv2.INTER_AREA)[..., None] * np.float32(1 / 255)
    radiance = cv2.resize(layer, size, interpolation=cv2.INTER_AREA) + ground
    shown = ((seen.surface >= 0) & (seen.surface < len(scene.building.faces))).view(np.uint8) * 255
    mask = cv2.resize(shown, size, interpolation=cv2.INTER_AREA) > 127
    return develop(radiance, mask, scene.light, rng), mask


def _lamps(light: Light, rng: np.random.Generator) -> NDArray[np.float32]:
    """What the window of each number sends out [256], 0 for dark windows and for walls."""
    glow = np.where(rng.random(256) < light.lit, rng.uniform(0.35, 1.1, 256), 0)
    glow[0], glow[LAMP] = 0, 1.2 if light.lit > 0.1 else 0
    return glow.astype(np.float32)


def _lay(
    layer: NDArray[np.float32], scene: Scene, seen: Visibility, number: int, lamps: NDArray[np.float32]
) -> None:
    """Draw the visible pixels of one surface."""
    item, plane = seen.surfaces[number], seen.planes[number]
    left, top, right, bottom = seen.windows[number]
    shown = (seen.surface[top:bottom, left:right] == number).view(np.uint8)
    x0, y0, wide, tall = cv2.boundingRect(shown)
    assert plane is not None
    shown = shown[y0 : y0 + tall, x0 : x0 + wide]
    x0, y0 = x0 + left, y0 + top
    window = (x0, y0, x0 + wide, y0 + tall)
    texture = scene.building.texture(item.texture) if isinstance(item, Face) else item.picture
    # The middle of what is visible sets the size to which the texture is reduced.
    y, x = np.array([y0 + tall / 2, x0 + wide / 2])
    metres = np.linalg.inv(plane) @ (x, y, 1)
    u, v = metres[:2] / metres[2]
    step = np.array([[u, v, 1], [u + 0.1, v, 1], [u, v + 0.1, 1]]) @ plane.T
    pixels = step[:, :2] / step[:, 2:]
    across, up = np.linalg.norm(pixels[1:] - pixels[0], axis=1) / 0.1
    lit, density = _lit(texture, item, scene.light, lamps, float(across), float(up))
    distance = float(metres[2]) ** -1
    haze = 1 - np.exp(-scene.light.haze * distance)
    picture = warp(lit, density, plane, window)
    picture += np.float32(haze) * (np.asarray(scene.light.horizon, np.float32) - picture)
    cv2.copyTo(picture, shown, layer[y0 : y0 + tall, x0 : x0 + wide])


def _lit(
    texture: Texture, item: Face | Item, light: Light, lamps: NDArray[np.float32], across: float, up: float
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Radiance of a texture [h, w, 3], at no more than the given pixels per metre; and those it has."""
    rows, columns = texture.albedo.shape[:2]
    size = (
        max(2, round(columns * min(1.0, across / texture.density))),
        max(2, round(rows * min(1.0, up / texture.density))),
    )
    density = (texture.density * size[0] / columns, texture.density * size[1] / rows)

    def reduced(layer: NDArray[Any]) -> NDArray[Any]:
        return layer if size == (columns, rows) else cv2.resize(layer, size, interpolation=cv2.INTER_AREA)

    albedo = linear(reduced(texture.albedo))
    height = item.origin[2] + item.up[2] * (np.arange(size[1])[::-1] + 0.5) / density[1]
    height = height.astype(np.float32)[:, None]
    near_ground = 1 - 0.4 * np.exp(-height / 0.7)
    # Sunlight and skylight that reach the surface: how far it faces the sun, and how far it faces up.
    sun = np.asarray(light.sun)
    facing = 0.5 if texture.alpha is not None else float(item.normal @ sun)
    upward = 0.75 + 0.25 * float(item.normal[2])
    if texture.slope is None:
        reach = np.full((size[1], 1, 2), (facing, upward), np.float32)
    else:
        tilt = np.array([[-item.right @ sun, -item.up @ sun, facing], [0, -0.25 * item.up[2], upward]])
        reach = cv2.transform(reduced(texture.slope), tilt)
    np.maximum(reach[..., 0], 0, out=reach[..., 0])
    reach[..., 1] *= near_ground
    radiance = np.asarray(
        cv2.transform(reach, np.stack([light.sunlight, light.skylight], axis=1)), np.float32
    )
    if any(light.floodlight) and isinstance(item, Face):
        radiance += np.asarray(light.floodlight, np.float32) / (1 + (height[..., None] / 7) ** 2)
    radiance = radiance * albedo
    if light.lit and texture.window is not None:
        glow = reduced(lamps[texture.window])[..., None]
        radiance *= 1 - np.minimum(glow, 1)
        radiance += glow * (0.35 + albedo) * np.array([1.0, 0.74, 0.40], np.float32)
    return radiance, density
