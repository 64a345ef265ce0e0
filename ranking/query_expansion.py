"""Query expansion by descriptor similarity alone: AQE, alphaQE and, on the index side, DBA."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ranking.nearest_neighbours import nearest_neighbours, normalised


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
