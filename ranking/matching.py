"""Putative matches: mutual nearest neighbours between two sets of descriptors.

A descriptor's nearest neighbour is the first of those most similar to it; two descriptors match that are
each other's nearest neighbour. So of `[[1, 0], [1, 1]]` only the pair (0, 0) matches: row 1 has its nearest
neighbour in column 0, which has its own in row 0. A descriptor is in one match at most, and swapped photos
have the same matches.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_TILE = 256
"""Rows of the similarity matrix that exist at a time: with 1000 columns they stay in a core's own cache."""

_compiled = numba.njit(cache=True, nogil=True, fastmath=True)


@_compiled
def match_descriptors(
    query: NDArray[np.float32], candidate: NDArray[np.float32], minimum: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Descriptors that are each other's nearest neighbour, most similar first.

    The similarity matrix is made and read in tiles that never leave the processor's cache.

    Args:
        query: float32 [N, d], C-contiguous; similarity is the dot product.
        candidate: float32 [M, d], C-contiguous.
        minimum: pairs at or below this similarity are no match.

    Returns:
        int32 [P, 2] indices (query, candidate) and float32 [P] their similarities; equal ones by candidate.
    """
    rows, columns = len(query), len(candidate)
    row_best, row_column, column_best, column_row = _nothing(rows, columns, minimum)
    tile = np.empty((min(rows, _TILE), columns), np.float32)
    for start in range(0, rows, _TILE):
        part = tile[: min(_TILE, rows - start)]
        np.dot(query[start : start + len(part)], candidate.T, part)
        _absorb(part, start, row_best, row_column, column_best, column_row)
    return _mutual(row_column, column_best, column_row)


@_compiled
def mutual_nearest_neighbours(
    similarity: NDArray[np.float32], minimum: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Pairs that are each other's nearest neighbour, most similar first.

    Args:
        similarity: float32 [N, M], the similarity of every pair.
        minimum: pairs at or below this similarity are no match.

    Returns:
        int32 [P, 2] indices (row, column) and float32 [P] their similarities; equal ones by column.
    """
    rows, columns = similarity.shape
    row_best, row_column, column_best, column_row = _nothing(rows, columns, minimum)
    _absorb(similarity, 0, row_best, row_column, column_best, column_row)
    return _mutual(row_column, column_best, column_row)


@_compiled
def _nothing(
    rows: int, columns: int, minimum: float
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Best value of each row and its column, and of each column and its row, before any is known."""
    return (
        np.full(rows, minimum, np.float32),
        np.full(rows, -1, np.int32),
        np.full(columns, minimum, np.float32),
        np.full(columns, -1, np.int32),
    )


@_compiled
def _absorb(
    tile: NDArray[np.float32],
    start: int,
    row_best: NDArray[np.float32],
    row_column: NDArray[np.int32],
    column_best: NDArray[np.float32],
    column_row: NDArray[np.int32],
) -> None:
    """Take the rows from `start` on into account; four at a time, as the columns' state is read for each."""
    rows, columns = tile.shape
    whole = rows - rows % 4
    for i in range(0, whole, 4):
        number = start + i
        first, second, third, fourth = tile[i], tile[i + 1], tile[i + 2], tile[i + 3]
        a, b, c, d = row_best[number], row_best[number + 1], row_best[number + 2], row_best[number + 3]
        for j in range(columns):
            best, row = column_best[j], column_row[j]
            value = first[j]
            a = max(a, value)
            row = number if value > best else row
            best = max(best, value)
            value = second[j]
            b = max(b, value)
            row = number + 1 if value > best else row
            best = max(best, value)
            value = third[j]
            c = max(c, value)
            row = number + 2 if value > best else row
            best = max(best, value)
            value = fourth[j]
            d = max(d, value)
            row = number + 3 if value > best else row
            best = max(best, value)
            column_best[j], column_row[j] = best, row
        row_best[number], row_best[number + 1], row_best[number + 2], row_best[number + 3] = a, b, c, d
    for i in range(whole, rows):
        for j in range(columns):
            value = tile[i, j]
            row_best[start + i] = max(row_best[start + i], value)
            if value > column_best[j]:
                column_best[j], column_row[j] = value, start + i
    for i in range(rows):
        best, nearest = row_best[start + i], np.int32(columns)
        row_values = tile[i]
        for j in range(columns):
            nearest = min(nearest, np.int32(j) if row_values[j] == best else np.int32(columns))
        row_column[start + i] = nearest


@_compiled
def _mutual(
    row_column: NDArray[np.int32], column_best: NDArray[np.float32], column_row: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    columns = len(column_best)
    pairs = np.empty((min(len(row_column), columns), 2), np.int32)
    values = np.empty(len(pairs), np.float32)
    count = 0
    for j in range(columns):
        i = column_row[j]
        if i >= 0 and row_column[i] == j:
            pairs[count, 0] = i
            pairs[count, 1] = j
            values[count] = column_best[j]
            count += 1
    order = np.argsort(-values[:count], kind="mergesort")
    return pairs[:count][order], values[:count][order]
