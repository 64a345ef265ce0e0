"""Retrieval among photos of landmarks that training never sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1024


def retrieval_map(descriptors: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean average precision, each photo searching for the others of its landmark.

    Precision is averaged by trapezoids, as in the Oxford and Paris evaluations. Photos whose landmark has no
    other are found, and do not search.

    Args:
        descriptors: float32 [N, D] of unit norm, compared by cosine.
        labels: int64 [N].

    Returns:
        Percent.

    Raises:
        ValueError: no landmark has two photos.
    """
    _, landmark, counts = np.unique(labels, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[landmark] > 1)
    if not len(queries):
        raise ValueError("retrieval cannot be measured: no landmark has two photos that can be read")
    total = 0.0
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        similarity = descriptors[block] @ descriptors.T
        similarity[np.arange(len(block)), block] = -np.inf  # the query itself comes last
        ranking = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        hits = labels[ranking] == labels[block][:, None]
        found = hits.cumsum(axis=1)
        ranks = np.arange(hits.shape[1])
        before = np.where(ranks > 0, (found - 1) / np.maximum(ranks, 1), 1.0)
        after = found / (ranks + 1)
        total += float((((before + after) / 2 * hits).sum(axis=1) / hits.sum(axis=1)).sum())
    return 100 * total / len(queries)
