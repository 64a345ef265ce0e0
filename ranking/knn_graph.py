"""The k-NN graph of descriptors: every image with its nearest neighbours, itself left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranking.nearest_neighbours import nearest_neighbours


def knn_lists(
    descriptors: NDArray[np.float32], neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The most similar others of every image.

    Args:
        descriptors: float32 [n, D] of unit norm.
        neighbours: how many of them; n - 1 at most are given.

    Returns:
        int64 [n, neighbours] images, most similar first (equal ones by number), and float32 [n, neighbours]
        their dot products.
    """
    found, similarity = nearest_neighbours(descriptors, descriptors, neighbours + 1)
    own = found == np.arange(len(descriptors))[:, None]
    # Among more duplicates than there is room for, an image may miss itself: then the last one goes.
    own[~own.any(1), -1] = True
    shape = (len(descriptors), found.shape[1] - 1)
    return found[~own].reshape(shape), similarity[~own].reshape(shape)


def knn_graph(descriptors: NDArray[np.float32], neighbours: int) -> sparse.csr_matrix:
    """The same as a matrix [n, n] of dot products: row i holds the neighbours of image i."""
    found, similarity = knn_lists(descriptors, neighbours)
    starts = np.arange(len(found) + 1, dtype=np.int64) * found.shape[1]
    graph = sparse.csr_matrix((similarity.ravel(), found.ravel(), starts), shape=(len(found), len(found)))
    graph.sort_indices()
    return graph
