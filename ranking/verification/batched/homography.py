"""Robust homographies from putative matches, without random numbers.

Hypotheses are the similarities through every two of the best putative matches; the promising ones are
refined to an affinity and then to a homography by iterated least squares (local optimisation as in
LO-RANSAC, Chum et al. 2003). The order of the matches replaces the random sampling (as in PROSAC,
Chum & Matas 2005), so the result is a function of the input alone.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

MINIMAL = 4
"""A homography goes through any four correspondences: they are no evidence."""

LARGEST_ZOOM = 6.0
LARGEST_TURN = math.cos(math.radians(45))

compiled = numba.njit(cache=True, nogil=True, fastmath=True)


@compiled
def count_inliers(
    model: NDArray[np.float64],
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    squared_threshold: float,
    inlier: NDArray[np.bool_],
) -> int:
    """Mark the matches that a model maps to within the threshold; return how many."""
    count = 0
    for i in range(len(source)):
        x, y = source[i, 0], source[i, 1]
        depth = model[6] * x + model[7] * y + 1.0
        dx = (model[0] * x + model[1] * y + model[2]) / depth - target[i, 0]
        dy = (model[3] * x + model[4] * y + model[5]) / depth - target[i, 1]
        inlier[i] = (dx * dx + dy * dy < squared_threshold) and depth > 0.2
        count += inlier[i]
    return count


@compiled
def solve(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> bool:
    """Solve a small linear system in place by Gaussian elimination; False when it is singular."""
    size = len(right)
    for i in range(size):
        pivot = i
        for row in range(i + 1, size):
            if abs(matrix[row, i]) > abs(matrix[pivot, i]):
                pivot = row
        if abs(matrix[pivot, i]) < 1e-12:
            return False
        if pivot != i:
            for column in range(size):
                matrix[i, column], matrix[pivot, column] = matrix[pivot, column], matrix[i, column]
            right[i], right[pivot] = right[pivot], right[i]
        for row in range(i + 1, size):
            factor = matrix[row, i] / matrix[i, i]
            for column in range(i, size):
                matrix[row, column] -= factor * matrix[i, column]
            right[row] -= factor * right[i]
    for i in range(size - 1, -1, -1):
        for column in range(i + 1, size):
            right[i] -= matrix[i, column] * right[column]
        right[i] /= matrix[i, i]
    return True


@compiled
def fit(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    inlier: NDArray[np.bool_],
    size: int,
    model: NDArray[np.float64],
) -> bool:
    """Least squares through the inliers: an affinity (size 6) or a homography (size 8), in place.

    The homography's algebraic error is weighted by the depth under the model so far; a slight pull keeps
    its perspective terms small where the points do not determine them.
    """
    normal = np.zeros((size, size))
    right = np.zeros(size)
    row = np.zeros(size)
    for i in range(len(source)):
        if not inlier[i]:
            continue
        x, y = source[i, 0], source[i, 1]
        weight = 1.0 / max(model[6] * x + model[7] * y + 1.0, 0.1) if size == 8 else 1.0
        for axis in range(2):
            row[:] = 0.0
            row[3 * axis] = x * weight
            row[3 * axis + 1] = y * weight
            row[3 * axis + 2] = weight
            value = target[i, axis] * weight
            if size == 8:
                row[6] = -x * value
                row[7] = -y * value
            for a in range(size):
                if row[a] != 0.0:
                    for b in range(a, size):
                        normal[a, b] += row[a] * row[b]
                    right[a] += row[a] * value
    for a in range(size):
        for b in range(a):
            normal[a, b] = normal[b, a]
    if size == 8:
        normal[6, 6] += 1e-3
        normal[7, 7] += 1e-3
    if not solve(normal, right):
        return False
    model[:size] = right
    model[size:] = 0.0
    return True


@compiled
def tolerance(model: NDArray[np.float64], threshold: float) -> float:
    """The threshold in the target, given in the photo that shows the motif smaller."""
    return threshold * max(1.0, math.sqrt(abs(model[0] * model[4] - model[1] * model[3])))


@compiled
def refine(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    threshold: float,
    model: NDArray[np.float64],
    inlier: NDArray[np.bool_],
) -> int:
    """Local optimisation of a similarity, whose loose inliers are marked: in place; the final count."""
    count = 0
    for widen in (2.0, 1.5, 1.0, 1.0):
        if not fit(source, target, inlier, 6, model):
            return 0
        area = model[0] * model[4] - model[1] * model[3]
        if not 1.0 / LARGEST_ZOOM**2 < area < LARGEST_ZOOM**2:
            return 0
        error = tolerance(model, threshold)
        count = count_inliers(model, source, target, (widen * error) ** 2, inlier)
        if count < MINIMAL:
            return 0
    if count < 2 * MINIMAL:
        return count
    bent = model.copy()
    agrees = inlier.copy()
    for widen in (1.5, 1.5, 1.0, 1.0):
        if not fit(source, target, agrees, 8, bent):
            return count
        bent_count = count_inliers(bent, source, target, (widen * error) ** 2, agrees)
        if bent_count < 2 * MINIMAL:
            return count
    if bent_count > count:
        model[:] = bent
        inlier[:] = agrees
        return bent_count
    return count


@compiled
def robust_homography(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    threshold: float,
    best_matches: int,
    inlier: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The homography with the most inliers among refined two-point hypotheses.

    Args:
        source: float64 [P, 2], points of the putative matches, best match first.
        target: float64 [P, 2], the points they should be mapped to.
        threshold: largest distance of an inlier, measured where the motif is smaller.
        best_matches: hypotheses go through pairs of that many best matches.
        inlier: bool [P], set to the inliers of the returned model; all False when there is none.

    Returns:
        float64 [3, 3]; the identity when no model has `MINIMAL` inliers.
    """
    total = len(source)
    best = np.zeros(8)
    best[0] = best[4] = 1.0
    best_count = MINIMAL - 1
    inlier[:] = False
    agrees = np.zeros(total, np.bool_)
    model = np.zeros(8)
    shortest = (3.0 * threshold) ** 2
    for j in range(1, min(total, best_matches)):
        for i in range(j):
            ax, ay = source[j, 0] - source[i, 0], source[j, 1] - source[i, 1]
            bx, by = target[j, 0] - target[i, 0], target[j, 1] - target[i, 1]
            length = ax * ax + ay * ay
            image = bx * bx + by * by
            if length < shortest or image < shortest:
                continue
            if not length / LARGEST_ZOOM**2 < image < length * LARGEST_ZOOM**2:
                continue
            cosine = (ax * bx + ay * by) / length
            sine = (ax * by - ay * bx) / length
            if cosine < LARGEST_TURN * math.sqrt(image / length):
                continue
            model[0] = model[4] = cosine
            model[1], model[3] = -sine, sine
            model[2] = target[i, 0] - cosine * source[i, 0] + sine * source[i, 1]
            model[5] = target[i, 1] - sine * source[i, 0] - cosine * source[i, 1]
            model[6] = model[7] = 0.0
            error = tolerance(model, threshold)
            count = count_inliers(model, source, target, (2.0 * error) ** 2, agrees)
            if count < MINIMAL or count <= 0.8 * best_count:
                continue
            count = refine(source, target, threshold, model, agrees)
            if count > best_count:
                best_count = count
                best[:] = model
                inlier[:] = agrees
    result = np.ones((3, 3))
    for k in range(8):
        result[k // 3, k % 3] = best[k]
    return result
