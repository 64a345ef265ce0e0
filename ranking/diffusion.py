"""Diffusion: similarity that spreads along the k-NN graph of the index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg
from threadpoolctl import threadpool_limits

from ranking.knn_graph import knn_graph
from ranking.nearest_neighbours import nearest_neighbours

NEIGHBOURS = 50
QUERY_NEIGHBOURS = 10
GAMMA = 3.0
ALPHA = 0.99
_RESIDUAL = 1e-6


def diffuse(
    queries: NDArray[np.float32],
    index: NDArray[np.float32],
    neighbours: int = NEIGHBOURS,
    query_neighbours: int = QUERY_NEIGHBOURS,
    gamma: float = GAMMA,
    alpha: float = ALPHA,
) -> NDArray[np.float32]:
    """Spread the similarity to a few neighbours over the k-NN graph of the index.

    With A the graph of mutual neighbours, a_ij = max(cos, 0)^gamma, D its degrees and y the similarities
    cos^gamma of the query to its nearest neighbours, zero elsewhere, this solves::

        (I - alpha D^-1/2 A D^-1/2) f = y

    by conjugate gradient, to a residual of 1e-6.

    Source: Iscen et al., Efficient Diffusion on Region Manifolds, CVPR 2017, with its parameters for global
    descriptors.

    Args:
        queries: float32 [Q, D] of unit norm.
        index: float32 [N, D] of unit norm. A query that is among them is its own first neighbour.
        neighbours: of an image in the graph, where both sides have each other among theirs.
        query_neighbours: images that a query starts from.
        gamma: exponent of the similarities.
        alpha: below 1; how far similarity spreads.

    Returns:
        float32 [Q, N], zero where nothing arrives: ranks within a query, does not compare between queries.
    """
    # One thread: sums come out the same on any number of cores.
    with threadpool_limits(1, user_api="blas"):
        graph = knn_graph(index, neighbours).astype(np.float64)
        graph.data = np.maximum(graph.data, 0.0) ** gamma
        found, similarity = nearest_neighbours(queries, index, query_neighbours)
        start = np.zeros((len(queries), len(index)))
        np.put_along_axis(start, found, np.maximum(similarity, 0.0) ** gamma, 1)
        return _spread(graph, start, alpha)


def _spread(graph: sparse.csr_matrix, start: NDArray[np.float64], alpha: float) -> NDArray[np.float32]:
    """Solve (I - alpha D^-1/2 A D^-1/2) f = y for each row y, A the edges that stand in both directions."""
    affinity = graph.minimum(graph.T).tocsr()
    degree = np.asarray(affinity.sum(1)).ravel()
    scale = sparse.diags(np.divide(1, np.sqrt(degree), out=np.zeros(len(degree)), where=degree > 0))
    operator = sparse.identity(len(degree), format="csr") - alpha * (scale @ affinity @ scale).tocsr()
    result = np.zeros(start.shape, np.float32)
    for row, values in zip(result, start, strict=True):
        solution, _ = cg(operator, values, rtol=_RESIDUAL)
        row[:] = np.maximum(solution, 0.0)
    return result
