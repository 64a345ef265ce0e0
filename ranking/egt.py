"""EGT, explore-exploit graph traversal: the published form of ranking by a spanning tree."""

from __future__ import annotations

import heapq

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

TAU = 40.0
"""Inliers above which the traversal exploits: the default of the published code."""


def explore_exploit(
    weights: sparse.csr_matrix,
    root: int,
    limit: int,
    tau: float = TAU,
    queries: NDArray[np.int64] | None = None,
    offline: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Rank by exploring the neighbours of the images found last and exploiting the heaviest edges seen.

    Explore: every edge out of the images added last, heavier than any edge to the same image before, goes on
    a heap. Exploit: the heaviest edge is taken off and its image added, once at least and then as long as
    the next edge is heavier than `tau`. `tau` = inf is Prim's algorithm; -inf takes all neighbours of the
    query before it looks at theirs.

    Source: Chang et al., Explore-Exploit Graph Traversal for Image Retrieval, CVPR 2019, and its code.

    Args:
        weights: [n, n], row i holds the edges out of image i: inliers, similarities or confidences; see
            `symmetrised`. Stored zeros are edges.
        root: the query.
        limit: p of the paper, images wanted.
        tau: the weight that parts exploring from exploiting.
        queries: int64, images that are never returned; the root is always one of them.
        offline: other queries are bridges; if not, the traversal does not go on from them.

    Returns:
        int64 [m] images in the order of their addition, m <= limit; float32 [m] the weight of the edge that
        each was added by, which need not fall along the list; int64 [m] the image at the other end of it.
        Of equally heavy edges the one seen first is taken; an image's edges are seen in the order of its row.
    """
    query = np.zeros(weights.shape[0], np.bool_)
    query[root] = True
    if queries is not None:
        query[queries] = True
    order, weight, parent = _traverse(
        weights.indptr.astype(np.int64),
        weights.indices.astype(np.int64),
        weights.data.astype(np.float32),
        root,
        limit,
        tau,
        query,
        offline,
    )
    return order, weight, parent


@numba.njit(cache=True, nogil=True)
def _traverse(  # type: ignore[no-untyped-def]
    indptr, indices, weights, root, limit, tau, query, offline
):
    images = len(indptr) - 1
    heaviest = np.full(images, -np.inf, np.float32)
    expanded = np.zeros(images, np.bool_)
    listed = np.zeros(images, np.bool_)
    order = np.empty(min(limit, images), np.int64)
    weight = np.empty(len(order), np.float32)
    parent = np.empty(len(order), np.int64)
    count = 0
    expanded[root] = True
    frontier = [np.int64(root)]
    heap = [(np.float32(0), np.int64(0), np.int64(root), np.int64(root)) for _ in range(0)]
    seen = np.int64(0)
    while count < len(order):
        for image in frontier:
            for edge in range(indptr[image], indptr[image + 1]):
                neighbour = indices[edge]
                if not expanded[neighbour] and weights[edge] > heaviest[neighbour]:
                    heaviest[neighbour] = weights[edge]
                    heapq.heappush(heap, (-weights[edge], seen, neighbour, image))
                    seen += 1
        frontier.clear()
        if not heap:
            break
        while True:
            negative, _, image, before = heapq.heappop(heap)
            if not query[image] and not listed[image]:
                listed[image] = True
                order[count], weight[count], parent[count] = image, -negative, before
                count += 1
            if not expanded[image]:
                expanded[image] = True
                if offline or not query[image]:
                    frontier.append(image)
            if count == len(order) or not heap or not -heap[0][0] > tau:
                break
    return order[:count], weight[:count], parent[:count]


def symmetrised(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Every edge in both directions, the heavier where there were two of different weight.

    Args:
        weights: [n, n], directed edges; edges from an image to itself are dropped.

    Returns:
        [n, n], symmetric, rows by number.
    """
    first, second, weight = _edges(weights)
    return _heaviest(
        np.concatenate([first, second]),
        np.concatenate([second, first]),
        np.concatenate([weight, weight]),
        weights.shape[0],
    )


def symmetrised_as_published(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """What the published code of EGT makes of a directed graph, for comparison with its figures.

    Each image keeps its own edges, and of all edges into it only one, that of the highest-numbered image, is
    turned round (the code files each of them under the same key). `symmetrised` is what the paper means.

    Args:
        weights: [n, n], directed edges; edges from an image to itself are dropped.

    Returns:
        [n, n], rows by number; not symmetric.
    """
    first, second, weight = _edges(weights)
    order = np.lexsort((first, second))
    last = order[np.append(np.diff(second[order]) != 0, True)] if len(order) else order
    return _heaviest(
        np.concatenate([first, second[last]]),
        np.concatenate([second, first[last]]),
        np.concatenate([weight, weight[last]]),
        weights.shape[0],
    )


def _edges(
    weights: sparse.csr_matrix,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    first = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    others = first != weights.indices
    return first[others], weights.indices[others].astype(np.int64), weights.data[others]


def _heaviest(
    first: NDArray[np.int64], second: NDArray[np.int64], weight: NDArray[np.float32], images: int
) -> sparse.csr_matrix:
    """The matrix of some edges, the heaviest of each pair (a sparse maximum would take absence for zero)."""
    order = np.lexsort((-weight, second, first))
    first, second, weight = first[order], second[order], weight[order]
    new = np.ones(len(first), np.bool_)
    new[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    indptr = np.zeros(images + 1, np.int64)
    np.cumsum(np.bincount(first[new], minlength=images), out=indptr[1:])
    return sparse.csr_matrix((weight[new], second[new], indptr), shape=(images, images))
