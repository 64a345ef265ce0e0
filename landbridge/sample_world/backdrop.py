"""The sky above a scene and the ground under it, with the shadows that lie there."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from . import material
from .light import Light
from .scene import Scene
from .texture import Canvas, fractal_noise, vary
from .tone import linear
from .visibility import project

_GROUNDS = ("paving", "cobbles", "grass", "gravel")


def backdrop(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Radiance [H, W, 3] of sky and ground for a picture of (width, height) pixels."""
    width, height = size
    camera = scene.camera
    upwards = camera.rotation[:, 2] @ np.linalg.inv(camera.intrinsics(size))
    columns, rows = np.arange(width)[None], np.arange(height)[:, None]
    climb = (upwards[0] * columns + upwards[1] * rows + upwards[2]).astype(np.float32)
    picture = _sky(scene.light, climb, rng)
    below = climb < -1e-4
    if below.any():
        horizon = int(np.argmax(below.any(axis=1)))
        ground = _ground(scene, size, climb[horizon:], rng)
        np.copyto(picture[horizon:], ground, where=below[horizon:, :, None])
    return picture


def _sky(light: Light, climb: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Gradient, clouds and stars over the sine of the elevation [H, W], made at half the size."""
    half = climb[::2, ::2]
    clear = np.clip(half / 0.8, 0, 1)[..., None] ** np.float32(0.7)
    sky = np.asarray(light.horizon, np.float32) * (1 - clear) + np.asarray(light.zenith, np.float32) * clear
    clouds = fractal_noise(rng, half.shape, half.shape[1] / 3.5, 6, stretch=0.5)
    cover = 0.85 * np.clip((clouds + 2.2 * light.clouds - 1.2) * 1.4, 0, 1)[..., None]
    underside = 1 - 0.35 * np.clip(np.roll(clouds, -3, axis=0) - 0.2, 0, 1)[..., None]
    body = np.asarray(light.skylight, np.float32) * 1.5 + np.asarray(light.sunlight, np.float32) * 0.25
    if light.name == "night":
        sky += (rng.random(half.shape) > 0.999)[..., None] * np.float32(rng.uniform(0.03, 0.2))
    sky += cover * (underside * body - sky)
    return cv2.resize(sky.astype(np.float32), climb.shape[::-1])


def _ground(
    scene: Scene, size: tuple[int, int], climb: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The ground in the rows [H, W] from the horizon down, whose sines of the elevation are given."""
    camera, light = scene.camera, scene.light
    density = 24.0
    canvas = Canvas(12, 12, density)
    kind = str(rng.choice(_GROUNDS))
    if kind == "paving":
        material.stone(canvas, rng, vary(rng, (150, 144, 134), 0.15), rng.uniform(0.5, 0.9))
    elif kind == "cobbles":
        material.rubble(canvas, rng, vary(rng, (128, 122, 116), 0.15), rng.uniform(0.25, 0.45))
    else:
        colour = vary(rng, (92, 116, 62) if kind == "grass" else (168, 156, 136), 0.15)
        grain = fractal_noise(rng, canvas.shape, 4, 2) + fractal_noise(rng, canvas.shape, 60, 3)
        canvas.paint[..., :3] = np.clip(np.array(colour) * (1 + 0.22 * grain[..., None]), 4, 250)
    tile = canvas.paint[..., :3]
    turn = np.radians(rng.uniform(0, 360))
    right = np.array([np.cos(turn), np.sin(turn), 0.0])
    forward = np.array([-np.sin(turn), np.cos(turn), 0.0])
    rows = climb.shape[0]
    shift = np.array([[1, 0, 0], [0, 1, size[1] - rows], [0, 0, 1.0]])
    inverse = np.linalg.inv(camera.plane(size, np.zeros(3), right, forward)) @ shift
    # One pixel covers depth / focal metres across, and more along the ground the lower it is seen.
    steep = np.clip(-climb, 1e-3, 1)
    depth = np.float32(camera.position[2]) / steep
    pixel = depth / np.sqrt(steep) / np.float32(camera.focal * size[0])
    ground = np.empty((*climb.shape, 3), np.float32)
    ground[:] = cv2.mean(tile)[:3]
    levels = [(level, np.clip(1.8 - pixel * np.float32(density / level), 0, 1)) for level in (16, 4, 1)]
    for (level, sharp), (_, sharper) in zip(levels, [*levels[1:], (0, np.zeros_like(pixel))], strict=True):
        # A level is worked out in the rows where it shows: near enough for it, too far for the next one.
        shows = np.flatnonzero(sharp.any(axis=1) & ~(sharper == 1).all(axis=1))
        if not len(shows):
            continue
        band = slice(int(shows[0]), int(shows[-1]) + 1)
        scale = density / level
        to_layer = np.array([[scale, 0, -0.5], [0, scale, -0.5], [0, 0, 1]])
        seen = cv2.warpPerspective(
            cv2.resize(tile, None, fx=1 / level, fy=1 / level, interpolation=cv2.INTER_AREA),
            to_layer @ inverse @ np.array([[1, 0, 0], [0, 1, band.start], [0, 0, 1.0]]),
            (size[0], band.stop - band.start),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
        ground[band] += sharp[band, :, None] * (seen - ground[band])
    ground = linear(ground.astype(np.uint8))
    sun = np.asarray(light.sunlight, np.float32) * np.float32(light.sun[2])
    shadow, contact = (layer[-rows:] for layer in _shadows(scene, size))
    received = np.asarray(light.skylight, np.float32) * (1 - 0.6 * contact) + sun * (1 - shadow)
    received += np.asarray(light.floodlight, np.float32) * 0.35 * contact
    far = np.clip(1 - np.exp(np.float32(-3 * light.haze) * depth), 0, 0.8)[..., None]
    ground *= received
    ground += far * (np.asarray(light.horizon, np.float32) - ground)
    return ground


def _shadows(scene: Scene, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the sun does not reach the ground [H, W, 1], and where walls and things stand on it [H, W, 1]."""
    half = size[0] // 2, size[1] // 2
    plane = scene.camera.plane(half, np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
    shadow, contact = np.zeros((2, half[1], half[0]), np.uint8)
    sun = np.asarray(scene.light.sun)
    for face in scene.building.faces:
        _fill(shadow, plane, face.corners[:, :2] - face.corners[:, 2:] * sun[:2] / sun[2])
        feet = face.corners[face.corners[:, 2] < 0.01][:, :2]
        if len(feet) == 2:
            _fill(contact, plane, np.concatenate([feet, feet[::-1] + 1.2 * face.normal[:2]]))
    circle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for item in scene.items:
        if item.cutout:
            middle, width = item.foot
            outline = middle[:2] + 0.35 * width * np.stack([np.cos(circle), np.sin(circle)], axis=1)
            _fill(contact, plane, outline)
    blur = 2 * round(size[0] / 250) + 1

    def soft(layer: NDArray[np.uint8]) -> NDArray[np.float32]:
        return cv2.resize(cv2.blur(layer, (blur, blur)), size)[..., None] * np.float32(1 / 255)

    return soft(shadow), soft(contact)


def _fill(layer: NDArray[np.uint8], plane: NDArray[np.float64], outline: NDArray[np.float64]) -> None:
    """Fill a convex outline [N, 2] on the ground with 255."""
    pixels = project(plane, outline)
    if pixels is not None:
        fixed = np.round(np.clip(pixels, -4000, 4000) * 16).astype(np.int32)
        cv2.fillConvexPoly(layer, fixed, 255, cv2.LINE_8, 4)
