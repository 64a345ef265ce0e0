"""Support: how much verified evidence leads from a query to the images of its tree, over all chains."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numpy.typing import NDArray

from ranking.match_graph import MatchGraph
from ranking.mmst_c import SpanningTrees

SPREAD = 0.95
LARGEST_ODDS = 32.0
MEMBERS = 200
_THREADS = os.cpu_count() or 1
_BLOCK = 1024
_RESIDUAL = 1e-5
_STEPS = 500


def support(
    graph: MatchGraph,
    roots: NDArray[np.int64],
    trees: SpanningTrees,
    members: int = MEMBERS,
    threads: int = _THREADS,
) -> NDArray[np.float32]:
    """Add up all chains between the images of each tree.

    A spanning tree knows the best chain to an image; one false edge between two landmarks makes all of the
    second look as good as the first. What many chains lead to is more likely right. So the evidence of the
    root's own edges, y, spreads over the match graph within the tree, as in diffusion (Iscen et al.,
    Efficient Diffusion on Region Manifolds, CVPR 2017), by the solution of::

        (I - SPREAD D^-1/2 A D^-1/2) f = y

    with a_ij the odds c / (1 - c) that a pair is right, at most `LARGEST_ODDS`, and D the sums of the rows
    of A in the whole graph. f is scaled to a maximum of 1; an image that is verified with the root itself has
    the share a_root / `LARGEST_ODDS` at least, so that nothing comes before the surest pairs.

    Args:
        graph: match graph of n images.
        roots: int [Q], where the trees grew from. A root that nothing leads into
            (`MatchGraph.without_bridges`) starts, and passes nothing on.
        trees: the Q trees, grown over the same graph.
        members: evidence spreads among the first images of a tree, that many.
        threads: trees that are worked on side by side. The result does not depend on it.

    Returns:
        float32 [M], between 0 and 1, for the images of `trees.order`; 0 past the first `members`.

    Raises:
        ValueError: there are not as many roots as trees.
    """
    roots = np.asarray(roots, np.int64)
    if len(roots) != len(trees):
        raise ValueError(f"{len(roots)} roots, but {len(trees)} trees")
    result = np.zeros(len(trees.order), np.float32)

    def spread(first: int) -> None:
        block = slice(first, first + _BLOCK)
        starts = trees.indptr[first : first + _BLOCK + 1]
        _spread(
            graph.indptr, graph.indices, graph.confidence, roots[block], starts, trees.order, members, result
        )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(spread, range(0, len(roots), _BLOCK)))
    return result


@numba.njit(cache=True, nogil=True)
def _odds(confidence: float) -> float:
    """The odds of a confidence, at most `LARGEST_ODDS`."""
    if confidence * (1 + LARGEST_ODDS) >= LARGEST_ODDS:
        return LARGEST_ODDS
    return confidence / (1 - confidence)


@numba.njit(cache=True, nogil=True)
def _spread(indptr, indices, confidence, roots, starts, order, members, result):  # type: ignore[no-untyped-def]
    place = np.full(len(indptr) - 1, -1, np.int32)
    for tree, root in enumerate(roots):
        first = starts[tree]
        reached = order[first : min(first + members, starts[tree + 1])]
        if len(reached) == 0:
            continue
        neighbour = indices[indptr[root]]
        back = indices[indptr[neighbour] : indptr[neighbour + 1]]
        found = np.searchsorted(back, root)
        passes = found < len(back) and back[found] == root
        nodes = np.append(reached, np.int32(root)) if passes else reached
        count = len(nodes)
        room = 0
        for node in range(count):
            place[nodes[node]] = node
            room += indptr[nodes[node] + 1] - indptr[nodes[node]]
        row = np.zeros(count + 1, np.int64)
        column = np.empty(room, np.int32)
        value = np.empty(room, np.float64)
        degree = np.zeros(count, np.float64)
        entries = 0
        for node in range(count):
            for edge in range(indptr[nodes[node]], indptr[nodes[node] + 1]):
                odds = _odds(confidence[edge])
                degree[node] += odds
                other = place[indices[edge]]
                if other >= 0:
                    column[entries], value[entries] = other, odds
                    entries += 1
            row[node + 1] = entries
        for node in range(count):
            for entry in range(row[node], row[node + 1]):
                value[entry] *= SPREAD / math.sqrt(degree[node] * degree[column[entry]])
        start = np.zeros(count, np.float64)
        for edge in range(indptr[root], indptr[root + 1]):
            other = place[indices[edge]]
            if other >= 0:
                start[other] = _odds(confidence[edge])
        for node in range(count):
            place[nodes[node]] = -1
        spread = _solve(row, column, value, start)
        most = spread[: len(reached)].max()
        for node in range(len(reached)):
            share = spread[node] / most if most > 0 else 0.0
            result[first + node] = max(share, start[node] / LARGEST_ODDS)


@numba.njit(cache=True, nogil=True)
def _solve(row, column, value, start):  # type: ignore[no-untyped-def]
    """Solve (I - S) f = start by conjugate gradient, S in compressed rows."""
    count = len(start)
    found = np.zeros(count)
    residual = start.copy()
    direction = start.copy()
    product = np.empty(count)
    size = np.dot(residual, residual)
    enough = size * _RESIDUAL**2
    for _ in range(_STEPS):
        if size <= enough:
            break
        for node in range(count):
            total = direction[node]
            for entry in range(row[node], row[node + 1]):
                total -= value[entry] * direction[column[entry]]
            product[node] = total
        step = size / np.dot(direction, product)
        found += step * direction
        residual -= step * product
        smaller = np.dot(residual, residual)
        direction = residual + smaller / size * direction
        size = smaller
    return found
