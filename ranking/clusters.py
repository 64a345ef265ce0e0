"""Landmark clusters: what is left of the maximum spanning forest when its doubtful edges are cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from ranking.match_graph import MatchGraph


def clusters(graph: MatchGraph, confidence: float) -> NDArray[np.int64]:
    """Cut the maximum spanning forest of the match graph at a confidence.

    Two images are in one cluster if a chain leads from one to the other whose every edge has that
    confidence. (The forest holds, for any two images, the chain whose weakest edge is the strongest; so its
    pieces are the connected parts of the graph without the weaker edges, which is how they are found.)

    Args:
        graph: match graph of n images.
        confidence: edges below are cut; edges that the graph was built without cannot come back.

    Returns:
        int64 [n], the cluster of each image: 0 is the largest, equally large ones come in the order of their
        first images; an image alone is a cluster too.
    """
    sure = graph.matrix() >= max(confidence, np.finfo(np.float32).tiny)
    _, parts = connected_components(sure, directed=True, connection="weak")
    _, first, part, size = np.unique(parts, return_index=True, return_inverse=True, return_counts=True)
    place = np.empty(len(size), np.int64)
    place[np.lexsort((first, -size))] = np.arange(len(size))
    return place[part]
