"""What hides what: the nearest surface at every pixel, and how a flat texture falls on the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .building import Face
from .camera import NEAR
from .scene import Item, Scene


@dataclass(frozen=True, eq=False)
class Visibility:
    """Which surface each pixel shows.

    Attributes:
        surfaces: the building's faces, then the scene's items.
        planes: homography [3, 3] of every surface from its plane in metres to pixels, None where out of view.
        windows: (x0, y0, x1, y1) of every surface, the part of the picture that it may show in.
        surface: int16 [H, W], number of the surface, -1 for sky and ground.
        whole: bool [H, W], where the building would be with nothing before it.
    """

    surfaces: list[Face | Item]
    planes: list[NDArray[np.float64] | None]
    windows: list[tuple[int, int, int, int]]
    surface: NDArray[np.int16]
    whole: NDArray[np.bool_]


def visibility(scene: Scene, size: tuple[int, int]) -> Visibility:
    """Find the nearest surface at every pixel of a picture of (width, height) pixels."""
    width, height = size
    faces = len(scene.building.faces)
    surfaces: list[Face | Item] = [*scene.building.faces, *scene.items]
    planes: list[NDArray[np.float64] | None] = [None] * len(surfaces)
    windows = [(0, 0, 0, 0)] * len(surfaces)
    nearness = np.zeros((height, width), np.float32)
    surface = np.full((height, width), -1, np.int16)
    whole = np.zeros((height, width), np.uint8)
    lens = np.asarray(scene.camera.position)
    for index, item in enumerate(surfaces):
        if item.normal @ (lens - item.origin) <= 0:
            continue
        plane = scene.camera.plane(size, item.origin, item.right, item.up)
        outline = project(plane, item.outline)
        if outline is None:
            continue
        x0, y0 = np.maximum(np.floor(outline.min(0)), 0).astype(int).tolist()
        x1, y1 = np.minimum(np.ceil(outline.max(0)) + 1, size).astype(int).tolist()
        if x1 <= x0 or y1 <= y0:
            continue
        planes[index], windows[index] = plane, (x0, y0, x1, y1)
        inside = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillConvexPoly(inside, np.round((outline - (x0, y0)) * 16).astype(np.int32), 1, cv2.LINE_8, 4)
        # (u, v, 1) / depth = inverse(plane) @ (x, y, 1): the inverse of the depth is linear over the picture.
        slope = np.linalg.inv(plane)[2].astype(np.float32)
        columns, rows = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)
        near = (slope[0] * columns + slope[2])[None] + (slope[1] * rows)[:, None]
        mask = inside.view(bool) & (near > nearness[y0:y1, x0:x1])
        if isinstance(item, Item) and item.cutout and mask.any():
            picture = item.picture
            assert picture.alpha is not None
            mask &= warp(picture.alpha, (picture.density,) * 2, plane, windows[index]) > 127
        np.copyto(nearness[y0:y1, x0:x1], near, where=mask)
        np.copyto(surface[y0:y1, x0:x1], index, where=mask)
        if index < faces:
            whole[y0:y1, x0:x1] |= inside
    return Visibility(surfaces, planes, windows, surface, whole.view(bool))


def project(plane: NDArray[np.float64], outline: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Corners [N, 2] of a convex outline in pixels, cut off near the camera; None if all of it is behind."""
    homogeneous = np.column_stack([outline, np.ones(len(outline))]) @ plane.T
    kept = []
    for start, end in zip(homogeneous, np.roll(homogeneous, -1, axis=0), strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] >= NEAR) != (end[2] >= NEAR):
            kept.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    if len(kept) < 3:
        return None
    points = np.array(kept)
    return points[:, :2] / points[:, 2:]


def warp(
    layer: NDArray[Any],
    density: tuple[float, float],
    plane: NDArray[np.float64],
    window: tuple[int, int, int, int],
) -> NDArray[Any]:
    """Lay a texture over its plane, as seen in a window (x0, y0, x1, y1) of the picture.

    Args:
        layer: [H, W] or [H, W, C] with at most four channels, its last row at the plane's lower edge.
        density: pixels per metre of the layer, across and up.
        plane: homography from the plane in metres to pixels.
        window: the part of the picture to make.
    """
    to_layer = np.array([[density[0], 0, -0.5], [0, -density[1], layer.shape[0] - 0.5], [0, 0, 1]])
    x0, y0, x1, y1 = window
    shift = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
    transform = to_layer @ np.linalg.inv(plane) @ shift
    return cv2.warpPerspective(
        layer,
        transform,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
