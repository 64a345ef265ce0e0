"""MMST-C, modified maximum spanning tree clustering: reach photos over chains of verified pairs."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
from numpy.typing import NDArray

from ranking.match_graph import MatchGraph
from ranking.nearest_neighbours import ranked
from ranking.region import shared_region

BRIDGE_WEIGHT = 0.2
DEPTH = 10
MINIMUM_CHAIN = 0.1


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
        chain = [image]
        while chain[-1] in self._before:
            chain.append(self._before[chain[-1]])
        return chain[::-1]

    @cached_property
    def _before(self) -> dict[int, int]:
        return dict(zip(self.order.tolist(), self.parent.tolist(), strict=True))


def grow_tree(
    graph: MatchGraph, root: int, depth: int = DEPTH, minimum: float = MINIMUM_CHAIN
) -> SpanningTree:
    """Grow the maximum spanning tree from one image, the most confident chain first.

    Prim's algorithm (as in EGT, Chang et al. 2019), modified: an edge counts for the confidence of the
    whole chain that it ends, and a bridging photo should show one thing to both sides: a photo of two
    landmarks is a poor bridge from one to the other. So a step counts in full when its inliers on the
    bridging photo lie where the step before had its own, and half when none of them do, as is right at
    the corner of a building.

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
    if not 0 <= root < len(graph):
        raise ValueError(f"there is no image {root} in a match graph of {len(graph)}")
    order, confidence, parent = _grow(
        graph.indptr,
        graph.indices,
        graph.confidence,
        graph.region_here,
        graph.region_there,
        root,
        depth,
        minimum,
    )
    return SpanningTree(order, confidence, parent)


@numba.njit(cache=True, nogil=True)
def _grow(  # type: ignore[no-untyped-def]
    indptr, indices, confidence, region_here, region_there, root, depth, minimum
):
    images = len(indptr) - 1
    best = np.zeros(images, np.float32)
    before = np.full(images, -1, np.int32)
    seen_region = np.zeros(images, np.uint64)
    steps = np.zeros(images, np.int32)
    added = np.zeros(images, np.bool_)
    order = np.empty(images, np.int32)
    count = 0
    best[root] = 1.0
    heap = [(np.float32(-1.0), np.int64(root))]
    while heap:
        value, image = heapq.heappop(heap)
        if added[image]:
            continue
        added[image] = True
        if image != root:
            order[count] = image
            count += 1
        if steps[image] == depth:
            continue
        for edge in range(indptr[image], indptr[image + 1]):
            neighbour = indices[edge]
            if added[neighbour]:
                continue
            chain = -value * confidence[edge]
            if image != root:
                chain *= 0.5 + 0.5 * shared_region(seen_region[image], region_here[edge])
            chain = np.float32(chain)
            if chain > best[neighbour] and chain >= minimum:
                best[neighbour] = chain
                before[neighbour] = image
                seen_region[neighbour] = region_there[edge]
                steps[neighbour] = steps[image] + 1
                heapq.heappush(heap, (-chain, np.int64(neighbour)))
    order = order[:count]
    return order, best[order], before[order]


def rank(
    tree: SpanningTree, similarity: NDArray[np.float32], limit: int, bridge_weight: float = BRIDGE_WEIGHT
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank by the expanded descriptors, photos on confident chains first.

    The score is the similarity of the expanded descriptors plus `bridge_weight` times the confidence of
    the chain: the tree lifts what it is sure of, and leaves the rest in the order of ID-QE.

    Args:
        tree: the tree that grew from the query.
        similarity: float32 [n], expanded descriptors of all images against the query's; -inf leaves an
            image out.
        limit: length of the list.
        bridge_weight: what a certain chain adds to the similarity.

    Returns:
        int64 [limit] images and float32 [limit] scores, best first; shorter when there are fewer images.
    """
    scores = similarity.astype(np.float32, copy=True)
    scores[tree.order] += np.float32(bridge_weight) * tree.confidence
    best = ranked(scores[None], limit)[0]
    best = best[np.isfinite(scores[best])]
    return best, scores[best]
