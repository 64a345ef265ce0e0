"""MMST-C, modified maximum spanning tree clustering: reach photos over chains of verified pairs."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
from numpy.typing import NDArray

from ranking.match_graph import MatchGraph
from ranking.nearest_neighbours import ranked

SUPPORT_WEIGHT = 20.0
DEPTH = 10
MINIMUM_CHAIN = 0.1
THREADS = os.cpu_count() or 1
_BLOCK = 2048
"""Trees that share one workspace, on one thread."""
_CAPACITY = 1 << 18
_BINS = 4096
_LOW_BITS = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, eq=False)
class SpanningTree:
    """The tree that grew from one image.

    Attributes:
        order: int32 [m], images reached, in the order of their addition; the root is not among them.
        confidence: float32 [m], probability that the whole chain from the root is right.
        parent: int32 [m], the image before each on its chain.
    """

    order: NDArray[np.int32]
    confidence: NDArray[np.float32]
    parent: NDArray[np.int32]

    def chain(self, image: int) -> list[int]:
        """The images from the root to `image`, both included; empty when the tree did not reach it."""
        if image not in self._before:
            return []
        chain = [int(image)]
        while chain[-1] in self._before:
            chain.append(self._before[chain[-1]])
        return chain[::-1]

    @cached_property
    def _before(self) -> dict[int, int]:
        return dict(zip(self.order.tolist(), self.parent.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class SpanningTrees:
    """The trees that grew from several images, one after the other.

    `trees[i]` is the `SpanningTree` of the i-th image; iterating gives all of them.

    Attributes:
        indptr: int64 [Q + 1], where each tree begins and ends in the rest.
        order: int32 [M], images reached, in the order of their addition.
        confidence: float32 [M], probability that the whole chain from the root is right.
        parent: int32 [M], the image before each on its chain.
    """

    indptr: NDArray[np.int64]
    order: NDArray[np.int32]
    confidence: NDArray[np.float32]
    parent: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __iter__(self) -> Iterator[SpanningTree]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> SpanningTree:
        number = range(len(self))[number]
        part = slice(self.indptr[number], self.indptr[number + 1])
        return SpanningTree(self.order[part], self.confidence[part], self.parent[part])


def grow_tree(
    graph: MatchGraph, root: int, depth: int = DEPTH, minimum: float = MINIMUM_CHAIN
) -> SpanningTree:
    """Grow the maximum spanning tree from one image, the most confident chain first.

    Prim's algorithm (as in EGT, Chang et al. 2019), modified: an edge counts for the confidence of the
    whole chain that it ends.

    Args:
        graph: match graph of n images.
        root: the image to start from, usually a query.
        depth: longest chain, in edges.
        minimum: chains below this confidence are cut.

    Returns:
        The tree; equal confidences are added by index.

    Raises:
        ValueError: the root is not an image of the graph.
    """
    return grow_trees(graph, np.array([root]), len(graph), depth=depth, minimum=minimum)[0]


def grow_trees(
    graph: MatchGraph,
    roots: NDArray[np.int64],
    limit: int,
    index: int | None = None,
    depth: int = DEPTH,
    minimum: float = MINIMUM_CHAIN,
    threads: int = THREADS,
) -> SpanningTrees:
    """Grow the trees of many images, each as `grow_tree` does and as far as a list of results needs.

    Time goes by the edges of the images in the trees; memory, beside the trees, is 16 bytes for each image of
    the graph and thread.

    Args:
        graph: match graph of n images.
        roots: int [Q], images to start from.
        limit: a tree ends when it has that many images.
        index: the first `index` images of the graph are the index images, and they alone count towards
            the limit; the rest are queries, which may stand in the tree as bridges. All images by default.
        depth: longest chain, in edges.
        minimum: chains below this confidence are cut.
        threads: trees that grow side by side. The result does not depend on it.

    Returns:
        The trees, in the order of the roots.

    Raises:
        ValueError: a root is not an image of the graph, or the limit is below 1.
    """
    roots = np.asarray(roots, np.int64)
    outside = roots[(roots < 0) | (roots >= len(graph))]
    if len(outside):
        raise ValueError(f"there is no image {outside[0]} in a match graph of {len(graph)}")
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")

    def grow(block: NDArray[np.int64]) -> tuple[NDArray, ...]:
        return _grow(
            graph.indptr,
            graph.indices,
            graph.confidence,
            block,
            min(limit, len(graph)),
            len(graph) if index is None else index,
            depth,
            minimum,
        )

    blocks = [roots[start : start + _BLOCK] for start in range(0, max(len(roots), 1), _BLOCK)]
    with ThreadPoolExecutor(threads) as pool:
        sizes, order, confidence, parent = map(np.concatenate, zip(*pool.map(grow, blocks), strict=True))
    return SpanningTrees(np.append(0, np.cumsum(sizes)), order, confidence, parent)


@numba.njit(cache=True, nogil=True)
def _grow(  # type: ignore[no-untyped-def]
    indptr, indices, confidence, roots, limit, index, depth, minimum
):
    images = len(indptr) - 1
    # What is known of an image: nothing, unless its stamp is that of the tree. Members are out of reach.
    stamp = np.zeros(images, np.int32)
    best = np.empty(images, np.float32)
    before = np.empty(images, np.int32)
    steps = np.empty(images, np.int32)
    sizes = np.empty(len(roots), np.int64)
    capacity = min(len(roots) * limit, _CAPACITY)
    order = np.empty(capacity, np.int32)
    value = np.empty(capacity, np.float32)
    parent = np.empty(capacity, np.int32)
    total = 0
    # Index images by their best chains: what has `limit` of them above it cannot be among the results.
    histogram = np.empty(_BINS + 1, np.int32)
    heap = [np.uint64(0) for _ in range(0)]
    for tree, root in enumerate(roots):
        start, listed = total, 0
        histogram[:] = 0
        lowest, above = 0, 0
        cut = minimum
        stamp[root], best[root], before[root], steps[root] = tree + 1, 1.0, -1, 0
        heap.clear()
        heap.append(_key(best[root], root))
        while heap and listed < limit:
            image = np.int64(heapq.heappop(heap) & _LOW_BITS)
            sure = best[image]
            if sure == np.inf:
                continue
            best[image] = np.inf
            if image != root:
                if total == capacity:
                    capacity *= 2
                    order, value, parent = _longer(order), _longer(value), _longer(parent)
                order[total], value[total], parent[total] = image, sure, before[image]
                total += 1
                listed += image < index
            if steps[image] == depth:
                continue
            for edge in range(indptr[image], indptr[image + 1]):
                chain = np.float32(sure * confidence[edge])
                if chain < cut:
                    continue
                neighbour = indices[edge]
                known = best[neighbour] if stamp[neighbour] == tree + 1 else np.float32(0)
                if not chain > known:
                    continue
                stamp[neighbour], best[neighbour] = tree + 1, chain
                before[neighbour], steps[neighbour] = image, steps[image] + 1
                heapq.heappush(heap, _key(chain, neighbour))
                if neighbour < index:
                    new, old = _bin(chain), _bin(known)
                    histogram[new] += 1
                    above += new >= lowest
                    if known > 0:
                        histogram[old] -= 1
                        above -= old >= lowest
                    while above - histogram[lowest] >= limit:
                        above -= histogram[lowest]
                        lowest += 1
                        cut = max(minimum, lowest / _BINS)
        sizes[tree] = total - start
    return sizes, order[:total].copy(), value[:total].copy(), parent[:total].copy()


@numba.njit(cache=True, nogil=True)
def _key(chain, image):  # type: ignore[no-untyped-def]
    """One number to order by: the most confident chain first, then the lower image."""
    bits = np.uint64(np.float32(chain).view(np.uint32))
    return ((_LOW_BITS - bits) << np.uint64(32)) | np.uint64(image)


@numba.njit(cache=True, nogil=True)
def _bin(chain):  # type: ignore[no-untyped-def]
    return int(_BINS * min(float(chain), 1.0))


@numba.njit(cache=True, nogil=True)
def _longer(values):  # type: ignore[no-untyped-def]
    longer = np.empty(2 * len(values), values.dtype)
    longer[: len(values)] = values
    return longer


def rank(
    tree: SpanningTree, support: NDArray[np.float32], similarity: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank by the expanded descriptors, photos that much verified evidence leads to first.

    The score is s (1 + w f) / (1 + w), with s the similarity of the expanded descriptors, f the support and w
    `SUPPORT_WEIGHT`: the tree lifts what both agree on, and leaves the rest in the order of ID-QE.

    Args:
        tree: the tree that grew from the query.
        support: float32 [m], of the images of the tree, between 0 and 1 (see `ranking.support`).
        similarity: float32 [n], expanded descriptors of all images against the query's; -inf leaves an
            image out.
        limit: length of the list.

    Returns:
        int64 [limit] images and float32 [limit] scores, best first; shorter when there are fewer images.
    """
    scores = similarity.astype(np.float32, copy=True)
    scores[tree.order] += np.float32(SUPPORT_WEIGHT) * support * np.maximum(scores[tree.order], 0)
    scores /= np.float32(1 + SUPPORT_WEIGHT)
    best = ranked(scores[None], limit)[0]
    best = best[np.isfinite(scores[best])]
    return best, scores[best]
