"""Non-maximum suppression of square boxes."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def suppress(
    centres: NDArray[np.float32], sides: NDArray[np.float32], iou: float, limit: int
) -> NDArray[np.int64]:
    """Greedy suppression: a box is kept when it overlaps no kept one before it by more than `iou`.

    Args:
        centres: float32 [N, 2], best first.
        sides: float32 [N], sides of the boxes.
        iou: intersection over union, 0 to 1; 1 keeps everything.
        limit: stop when so many are kept.

    Returns:
        Indices of the kept boxes, ascending.
    """
    kept = np.empty(min(limit, len(centres)), np.int64)
    count = 0
    for i in range(len(centres)):
        if count == limit:
            break
        x, y, side = centres[i, 0], centres[i, 1], sides[i]
        free = True
        for k in kept[:count]:
            other = sides[k]
            reach, least = (side + other) / 2, min(side, other)
            across = min(reach - abs(x - centres[k, 0]), least)
            down = min(reach - abs(y - centres[k, 1]), least)
            if across > 0 and down > 0:
                shared = across * down
                if shared > iou * (side * side + other * other - shared):
                    free = False
                    break
        if free:
            kept[count] = i
            count += 1
    return kept[:count]
