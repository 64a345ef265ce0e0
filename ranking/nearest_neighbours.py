"""Exact nearest neighbours of descriptors in memory, block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 28


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to unit norm; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return result


def ranked(similarity: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
    """The columns of each row by descending similarity, equal ones by index: int64 [Q, limit]."""
    limit = min(limit, similarity.shape[1])
    if limit == 0:
        return np.zeros((len(similarity), 0), np.int64)
    if limit < similarity.shape[1]:
        # Everything above the limit-th value, and the first columns among those equal to it.
        cut = -np.partition(-similarity, limit - 1, axis=1)[:, limit - 1 : limit]
        above = similarity > cut
        at_cut = similarity == cut
        room = limit - above.sum(1, keepdims=True)
        chosen = above | (at_cut & (np.cumsum(at_cut, 1) <= room))
        columns = np.nonzero(chosen)[1].reshape(len(similarity), limit)
    else:
        columns = np.broadcast_to(np.arange(limit), similarity.shape)
    order = np.argsort(-np.take_along_axis(similarity, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1).astype(np.int64)


def nearest_neighbours(
    queries: NDArray[np.float32], index: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The most similar index vectors of each query by dot product.

    Args:
        queries: float32 [Q, D].
        index: float32 [N, D].
        limit: neighbours wanted; N at most are given.

    Returns:
        int64 [Q, limit] indices, best first (equal ones by index), and float32 [Q, limit] dot products.
    """
    limit = min(limit, len(index))
    indices = np.empty((len(queries), limit), np.int64)
    similarity = np.empty((len(queries), limit), np.float32)
    rows = max(1, _BLOCK_BYTES // (4 * max(len(index), 1)))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows] @ index.T
        best = ranked(block, limit)
        indices[start : start + rows] = best
        similarity[start : start + rows] = np.take_along_axis(block, best, 1)
    return indices, similarity
