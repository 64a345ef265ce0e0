"""Query expansion by descriptor similarity alone: AQE, alphaQE and, on the index side, DBA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ranking.knn_graph import knn_graph
from ranking.nearest_neighbours import nearest_neighbours, normalised

ALPHA_TOP = 50
ALPHA = 3.0
DBA_TOP = 10


def average_query_expansion(
    queries: NDArray[np.float32], index: NDArray[np.float32], top: int = 5, alpha: float = 0.0
) -> NDArray[np.float32]:
    """Add its nearest index descriptors to each query.

    q' = L2(q + sum over the top k of cos(q, x)^alpha x): AQE (Chum et al. 2007) for alpha 0, alphaQE
    (Radenovic et al. 2018) above. DBA is the same with the index in both places.

    Args:
        queries: float32 [Q, D] of unit norm.
        index: float32 [N, D] of unit norm.
        top: how many neighbours are added.
        alpha: exponent of the similarity that weighs a neighbour; negative similarities weigh nothing.

    Returns:
        float32 [Q, D] of unit norm.
    """
    neighbours, similarity = nearest_neighbours(queries, index, top)
    weights = np.maximum(similarity, 0.0) ** alpha if alpha else np.ones_like(similarity)
    return normalised(queries + np.einsum("qk,qkd->qd", weights, index[neighbours]))


def alpha_query_expansion(
    queries: NDArray[np.float32], index: NDArray[np.float32], top: int = ALPHA_TOP, alpha: float = ALPHA
) -> NDArray[np.float32]:
    """alphaQE: `average_query_expansion` with the source's parameters, similar neighbours weighing more.

    Source: Radenović et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2018.

    Args:
        queries: float32 [Q, D] of unit norm.
        index: float32 [N, D] of unit norm.
        top: how many neighbours are added.
        alpha: exponent of the similarity that weighs a neighbour.

    Returns:
        float32 [Q, D] of unit norm.
    """
    return average_query_expansion(queries, index, top, alpha)


def database_augmentation(
    index: NDArray[np.float32], top: int = DBA_TOP, alpha: float = 0.0
) -> NDArray[np.float32]:
    """DBA: add its nearest neighbours to each index descriptor, itself left out of them.

    Source: Arandjelović and Zisserman, Three things everyone should know to improve object retrieval, CVPR
    2012; alpha as in `average_query_expansion`.

    Args:
        index: float32 [N, D] of unit norm.
        top: how many neighbours are added.
        alpha: exponent of the similarity that weighs a neighbour; negative similarities weigh nothing.

    Returns:
        float32 [N, D] of unit norm.
    """
    weights = knn_graph(index, top)
    weights.data = np.maximum(weights.data, 0.0) ** alpha if alpha else np.ones_like(weights.data)
    return normalised(index + weights @ index)
