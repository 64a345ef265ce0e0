"""Putative matches: mutual nearest neighbours between two sets of descriptors."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True, fastmath=True)
def mutual_nearest_neighbours(
    similarity: NDArray[np.float32], minimum: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Pairs that are each other's best, most similar first.

    Args:
        similarity: float32 [N, M], the similarity of every pair; the first of equals wins.
        minimum: pairs at or below this similarity are no match.

    Returns:
        int32 [P, 2] indices (row, column) and float32 [P] their similarities.
    """
    rows, columns = similarity.shape
    column_best = np.full(columns, minimum, np.float32)
    column_row = np.full(columns, -1, np.int32)
    row_best = np.empty(rows, np.float32)
    for i in range(rows):
        row = similarity[i]
        best = np.float32(minimum)
        for j in range(columns):
            best = max(best, row[j])
            better = row[j] > column_best[j]
            column_row[j] = i if better else column_row[j]
            column_best[j] = row[j] if better else column_best[j]
        row_best[i] = best
    pairs = np.empty((min(rows, columns), 2), np.int32)
    values = np.empty(min(rows, columns), np.float32)
    count = 0
    for j in range(columns):
        i = column_row[j]
        if i < 0 or row_best[i] != column_best[j]:
            continue
        # Among equal columns of a row the first one is its nearest neighbour.
        row_best[i] = np.float32(np.inf)
        pairs[count, 0] = i
        pairs[count, 1] = j
        values[count] = column_best[j]
        count += 1
    order = np.argsort(-values[:count], kind="mergesort")
    return pairs[:count][order], values[:count][order]
