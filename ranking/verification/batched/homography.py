"""Robust homographies from putative matches, without random numbers.

Hypotheses are the similarities through every two of the best putative matches; the promising ones are
refined, by default to an affinity and then to a homography, by iterated least squares (local optimisation
as in LO-RANSAC, Chum et al. 2003). The order of the matches replaces the random sampling (as in PROSAC,
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
def count_similar(
    model: NDArray[np.float64],
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    squared_threshold: float,
) -> int:
    """How many matches a similarity maps to within the threshold."""
    cosine, sine, x0, y0 = model[0], model[3], model[2], model[5]
    count = 0
    for i in range(len(source)):
        x, y = source[i, 0], source[i, 1]
        dx = cosine * x - sine * y + x0 - target[i, 0]
        dy = sine * x + cosine * y + y0 - target[i, 1]
        count += 1 if dx * dx + dy * dy < squared_threshold else 0
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
    """Least squares through the inliers: a similarity (size 4), affinity (6) or homography (8), in place.

    The homography's algebraic error is weighted by the depth under the model so far; a slight pull keeps
    its perspective terms small where the points do not determine them.
    """
    perspective = size == 8
    # Sums of weighted products; w stands for the weight itself.
    w = wx = wy = wxx = wxy = wyy = 0.0
    wu = wux = wuy = wuxx = wuxy = wuyy = 0.0
    wv = wvx = wvy = wvxx = wvxy = wvyy = 0.0
    wrx = wry = wrxx = wrxy = wryy = 0.0
    g, h = (model[6], model[7]) if perspective else (0.0, 0.0)
    for i in range(len(source)):
        x, y, u, v = source[i, 0], source[i, 1], target[i, 0], target[i, 1]
        depth = max(g * x + h * y + 1.0, 0.1)
        weight = 1.0 / (depth * depth) if inlier[i] else 0.0
        xx, xy, yy = x * x, x * y, y * y
        w += weight
        wx += weight * x
        wy += weight * y
        wxx += weight * xx
        wxy += weight * xy
        wyy += weight * yy
        weighted = weight * u
        wu += weighted
        wux += weighted * x
        wuy += weighted * y
        wuxx += weighted * xx
        wuxy += weighted * xy
        wuyy += weighted * yy
        weighted = weight * v
        wv += weighted
        wvx += weighted * x
        wvy += weighted * y
        wvxx += weighted * xx
        wvxy += weighted * xy
        wvyy += weighted * yy
        weighted = weight * (u * u + v * v)
        wrx += weighted * x
        wry += weighted * y
        wrxx += weighted * xx
        wrxy += weighted * xy
        wryy += weighted * yy
    if size == 4:
        spread = wxx + wyy - (wx * wx + wy * wy) / max(w, 1.0)
        if spread < 1e-12:
            return False
        model[0] = model[4] = (wux + wvy - (wx * wu + wy * wv) / w) / spread
        model[3] = (wvx - wuy - (wx * wv - wy * wu) / w) / spread
        model[1] = -model[3]
        model[2] = (wu - model[0] * wx - model[1] * wy) / w
        model[5] = (wv - model[3] * wx - model[4] * wy) / w
        model[6:] = 0.0
        return True
    normal = np.zeros((size, size))
    right = np.zeros(size)
    for axis in range(0, 6, 3):
        normal[axis, axis], normal[axis, axis + 1], normal[axis, axis + 2] = wxx, wxy, wx
        normal[axis + 1, axis + 1], normal[axis + 1, axis + 2] = wyy, wy
        normal[axis + 2, axis + 2] = w
    right[0], right[1], right[2], right[3], right[4], right[5] = wux, wuy, wu, wvx, wvy, wv
    if perspective:
        normal[0, 6], normal[0, 7], normal[1, 6] = -wuxx, -wuxy, -wuxy
        normal[1, 7], normal[2, 6], normal[2, 7] = -wuyy, -wux, -wuy
        normal[3, 6], normal[3, 7], normal[4, 6] = -wvxx, -wvxy, -wvxy
        normal[4, 7], normal[5, 6], normal[5, 7] = -wvyy, -wvx, -wvy
        normal[6, 6], normal[6, 7], normal[7, 7] = wrxx + 1e-3, wrxy, wryy + 1e-3
        right[6], right[7] = -wrx, -wry
    for a in range(size):
        for b in range(a):
            normal[a, b] = normal[b, a]
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
    size: int,
    model: NDArray[np.float64],
    inlier: NDArray[np.bool_],
) -> int:
    """Local optimisation of a hypothesis, whose loose inliers are marked: in place; the final count.

    The result is a similarity (size 4) or an affinity (size 6).
    """
    count = 0
    for widen in (2.0, 1.5, 1.0, 1.0):
        if not fit(source, target, inlier, size, model):
            return 0
        area = model[0] * model[4] - model[1] * model[3]
        if not 1.0 / LARGEST_ZOOM**2 < area < LARGEST_ZOOM**2:
            return 0
        error = tolerance(model, threshold)
        count = count_inliers(model, source, target, (widen * error) ** 2, inlier)
        if count < MINIMAL:
            return 0
    return count


@compiled
def bend(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    threshold: float,
    model: NDArray[np.float64],
    inlier: NDArray[np.bool_],
    count: int,
) -> int:
    """Turn an affinity with `count` inliers into a homography if that gains some: in place; the count."""
    error = tolerance(model, threshold)
    bent = model.copy()
    agrees = inlier.copy()
    bent_count = 0
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
def signature(inlier: NDArray[np.bool_]) -> np.uint64:
    """A number that tells sets of matches apart: the sum of a scrambled number for each (SplitMix64)."""
    total = np.uint64(0)
    for i in range(len(inlier)):
        z = np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += (z ^ (z >> np.uint64(31))) if inlier[i] else np.uint64(0)
    return total


@compiled
def robust_homography(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    threshold: float,
    best_matches: int,
    inlier: NDArray[np.bool_],
    size: int = 8,
) -> NDArray[np.float64]:
    """The homography with the most inliers among refined two-point hypotheses.

    Args:
        source: float64 [P, 2], points of the putative matches, best match first.
        target: float64 [P, 2], the points they should be mapped to.
        threshold: largest distance of an inlier, measured where the motif is smaller.
        best_matches: hypotheses go through pairs of that many best matches.
        inlier: bool [P], set to the inliers of the returned model; all False when there is none.
        size: degrees of freedom; 6 gives the best affinity instead, 4 the best similarity.

    Returns:
        float64 [3, 3]; the identity when no model has `MINIMAL` inliers.
    """
    total = len(source)
    # The kernels run along contiguous coordinates.
    source, target = source.T.copy().T, target.T.copy().T
    best = np.zeros(8)
    best[0] = best[4] = 1.0
    best_count = MINIMAL - 1
    inlier[:] = False
    agrees = np.zeros(total, np.bool_)
    model = np.zeros(8)
    started = {np.uint64(0)}
    seen = {(np.uint64(0), np.float64(0))}
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
            count = count_similar(model, source, target, (2.0 * error) ** 2)
            if count < MINIMAL or count <= 0.8 * best_count:
                continue
            count_inliers(model, source, target, (2.0 * error) ** 2, agrees)
            # Many hypotheses lead to the same matches, and the same matches to the same model.
            loose = signature(agrees)
            if loose in started:
                continue
            started.add(loose)
            count = refine(source, target, threshold, min(size, 6), model, agrees)
            if size == 8 and count >= 2 * MINIMAL:
                tight = (signature(agrees), model[0])
                if tight in seen:
                    continue
                seen.add(tight)
                count = bend(source, target, threshold, model, agrees, count)
            if count > best_count:
                best_count = count
                best[:] = model
                inlier[:] = agrees
    result = np.ones((3, 3))
    for k in range(8):
        result[k // 3, k % 3] = best[k]
    return result
