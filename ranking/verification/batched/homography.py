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
LARGEST_SQUEEZE = 6.0
LARGEST_TURN = math.cos(math.radians(45))
REFINED, BENT = 128, 32
"""How many hypotheses of a pair are refined, those with most matches, and how many then bent."""
NARROWING = (4.0, 3.0, 2.0, 1.0)
"""Thresholds of the local optimisation: a similarity through two matches is far from the final homography."""
PULL = 4e-4
"""Weight of what is assumed about a model against one match: the error of a match, about 0.004 of the extent,
over the usual difference of 0.2 between an affinity and a similarity, squared."""

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
def fit_linear(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    inlier: NDArray[np.bool_],
    size: int,
    model: NDArray[np.float64],
) -> bool:
    """Least squares through the inliers: a similarity (size 4) or an affinity (6), in place.

    The affinity is pulled slightly towards the similarity, which decides where the points do not: across a
    line that they all lie on. False when they lie in one place.
    """
    w = wx = wy = wu = wv = wxx = wxy = wyy = wux = wuy = wvx = wvy = 0.0
    for i in range(len(source)):
        x, y, u, v = source[i, 0], source[i, 1], target[i, 0], target[i, 1]
        weight = 1.0 if inlier[i] else 0.0
        w += weight
        wx += weight * x
        wy += weight * y
        wu += weight * u
        wv += weight * v
        wxx += weight * x * x
        wxy += weight * x * y
        wyy += weight * y * y
        wux += weight * u * x
        wuy += weight * u * y
        wvx += weight * v * x
        wvy += weight * v * y
    w = max(w, 1.0)
    xx, xy, yy = wxx - wx * wx / w, wxy - wx * wy / w, wyy - wy * wy / w
    ux, uy = wux - wu * wx / w, wuy - wu * wy / w
    vx, vy = wvx - wv * wx / w, wvy - wv * wy / w
    if xx + yy < 1e-12:
        return False
    cosine, sine = (ux + vy) / (xx + yy), (vx - uy) / (xx + yy)
    model[0] = model[4] = cosine
    model[1], model[3] = -sine, sine
    if size == 6:
        xx, yy = xx + PULL, yy + PULL
        ux, uy = ux + PULL * cosine, uy - PULL * sine
        vx, vy = vx + PULL * sine, vy + PULL * cosine
        determinant = xx * yy - xy * xy
        model[0], model[1] = (ux * yy - uy * xy) / determinant, (uy * xx - ux * xy) / determinant
        model[3], model[4] = (vx * yy - vy * xy) / determinant, (vy * xx - vx * xy) / determinant
    model[2] = (wu - model[0] * wx - model[1] * wy) / w
    model[5] = (wv - model[3] * wx - model[4] * wy) / w
    model[6:] = 0.0
    return True


@compiled
def fit_homography(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    inlier: NDArray[np.bool_],
    model: NDArray[np.float64],
) -> bool:
    """Least squares through the inliers, in place; False when they do not determine a homography.

    The algebraic error is weighted by the depth under the model so far; slight pulls keep the linear terms
    near those of the model so far, and the perspective terms small, where the points do not determine them.
    """
    # Sums of weighted products; w stands for the weight itself.
    w = wx = wy = wxx = wxy = wyy = 0.0
    wu = wux = wuy = wuxx = wuxy = wuyy = 0.0
    wv = wvx = wvy = wvxx = wvxy = wvyy = 0.0
    wrx = wry = wrxx = wrxy = wryy = 0.0
    g, h = model[6], model[7]
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
    normal = np.zeros((8, 8))
    right = np.empty(8)
    for axis in range(0, 6, 3):
        normal[axis, axis], normal[axis, axis + 1], normal[axis, axis + 2] = wxx + PULL, wxy, wx
        normal[axis + 1, axis + 1], normal[axis + 1, axis + 2] = wyy + PULL, wy
        normal[axis + 2, axis + 2] = w
    normal[0, 6], normal[0, 7], normal[1, 6] = -wuxx, -wuxy, -wuxy
    normal[1, 7], normal[2, 6], normal[2, 7] = -wuyy, -wux, -wuy
    normal[3, 6], normal[3, 7], normal[4, 6] = -wvxx, -wvxy, -wvxy
    normal[4, 7], normal[5, 6], normal[5, 7] = -wvyy, -wvx, -wvy
    normal[6, 6], normal[6, 7], normal[7, 7] = wrxx + 1e-3, wrxy, wryy + 1e-3
    for a in range(8):
        for b in range(a):
            normal[a, b] = normal[b, a]
    right[0], right[1], right[2] = wux + PULL * model[0], wuy + PULL * model[1], wu
    right[3], right[4], right[5] = wvx + PULL * model[3], wvy + PULL * model[4], wv
    right[6], right[7] = -wrx, -wry
    if not solve(normal, right):
        return False
    model[:] = right
    return True


@compiled
def tolerance(model: NDArray[np.float64], threshold: float) -> float:
    """The threshold in the target, given in the photo that shows the motif smaller."""
    return threshold * max(1.0, math.sqrt(abs(model[0] * model[4] - model[1] * model[3])))


@compiled
def plausible(model: NDArray[np.float64], source: NDArray[np.float64], inlier: NDArray[np.bool_]) -> bool:
    """Whether no inlier's surroundings are mirrored, zoomed or squeezed more than views of one thing are."""
    a, b, c, d = model[0], model[1], model[3], model[4]
    for i in range(len(source)):
        if not inlier[i]:
            continue
        if model[6] != 0.0 or model[7] != 0.0:
            # The derivative of the map, by the quotient rule.
            x, y = source[i, 0], source[i, 1]
            depth = model[6] * x + model[7] * y + 1.0
            u = (model[0] * x + model[1] * y + model[2]) / depth
            v = (model[3] * x + model[4] * y + model[5]) / depth
            a, b = (model[0] - u * model[6]) / depth, (model[1] - u * model[7]) / depth
            c, d = (model[3] - v * model[6]) / depth, (model[4] - v * model[7]) / depth
        area = a * d - b * c
        if not 1.0 / LARGEST_ZOOM**2 < area < LARGEST_ZOOM**2:
            return False
        # The two singular values s and t have s * t = area and s * s + t * t = the sum of squares.
        if a * a + b * b + c * c + d * d > (LARGEST_SQUEEZE + 1.0 / LARGEST_SQUEEZE) * area:
            return False
        if model[6] == 0.0 and model[7] == 0.0:
            break
    return True


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
    for widen in NARROWING:
        if not fit_linear(source, target, inlier, size, model):
            return 0
        if not plausible(model, source, inlier):
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
    for widen in NARROWING:
        if count_inliers(bent, source, target, (widen * error) ** 2, agrees) < 2 * MINIMAL:
            return count
        if not fit_homography(source, target, agrees, bent):
            return count
    bent_count = count_inliers(bent, source, target, error**2, agrees)
    if bent_count > count and plausible(bent, source, agrees):
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
def falling(counts: NDArray[np.int64], largest: int) -> NDArray[np.int64]:
    """Where counts of at least `MINIMAL` stand, largest first, equal ones in order; a counting sort."""
    starts = np.zeros(largest + 2, np.int64)
    for count in counts:
        starts[largest - count + 1] += 1
    starts = np.cumsum(starts)
    kept = starts[largest - MINIMAL + 1] if largest >= MINIMAL else 0
    order = np.empty(len(counts), np.int64)
    for place, count in enumerate(counts):
        order[starts[largest - count]] = place
        starts[largest - count] += 1
    return order[:kept]


@compiled
def hypotheses(
    source: NDArray[np.float64], target: NDArray[np.float64], threshold: float, best_matches: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Similarities through every two of the best matches: [H, 8], and how many matches agree loosely."""
    most = min(len(source), best_matches)
    models = np.zeros((most * (most - 1) // 2, 8))
    counts = np.zeros(len(models), np.int64)
    shortest = (3.0 * threshold) ** 2
    number = -1
    for j in range(1, most):
        for i in range(j):
            number += 1
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
            model = models[number]
            model[0] = model[4] = cosine
            model[1], model[3] = -sine, sine
            model[2] = target[i, 0] - cosine * source[i, 0] + sine * source[i, 1]
            model[5] = target[i, 1] - sine * source[i, 0] - cosine * source[i, 1]
            error = tolerance(model, threshold)
            counts[number] = count_similar(model, source, target, (NARROWING[0] * error) ** 2)
    return models, counts


@compiled
def robust_homography(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    threshold: float,
    best_matches: int,
    inlier: NDArray[np.bool_],
    size: int = 8,
) -> NDArray[np.float64]:
    """The homography with the most inliers, of the two-point hypotheses that promise most.

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
    seeds, counts = hypotheses(source, target, threshold, best_matches)
    models = np.empty((REFINED, 8))
    agree = np.empty((REFINED, total), np.bool_)
    refined = np.empty(REFINED, np.int64)
    found = 0
    started = {np.uint64(0)}
    for seed in falling(counts, total):
        if found == REFINED:
            break
        model, agrees = models[found], agree[found]
        model[:] = seeds[seed]
        error = tolerance(model, threshold)
        count_inliers(model, source, target, (NARROWING[0] * error) ** 2, agrees)
        # Many hypotheses lead to the same matches, and the same matches to the same model.
        loose = signature(agrees)
        if loose not in started:
            started.add(loose)
            refined[found] = refine(source, target, threshold, min(size, 6), model, agrees)
            found += 1
    best, best_count = -1, MINIMAL - 1
    seen = {(np.uint64(0), np.float64(0))}
    for place, k in enumerate(falling(refined[:found], total)):
        count = refined[k]
        if size == 8 and place < BENT and count >= 2 * MINIMAL:
            tight = (signature(agree[k]), models[k, 0])
            if tight not in seen:
                seen.add(tight)
                count = bend(source, target, threshold, models[k], agree[k], count)
        if count > best_count:
            best, best_count = k, count
    result = np.eye(3)
    inlier[:] = False
    if best >= 0:
        inlier[:] = agree[best]
        for k in range(8):
            result[k // 3, k % 3] = models[best, k]
    return result
