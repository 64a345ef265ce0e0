"""Re-ranking with k-reciprocal encoding: images are alike that have neighbours in common, both ways."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranking.knn_graph import knn_lists

K1 = 20
K2 = 6
GLOBAL_WEIGHT = 0.3


def k_reciprocal_similarity(
    descriptors: NDArray[np.float32],
    queries: NDArray[np.int64],
    k1: int = K1,
    k2: int = K2,
    global_weight: float = GLOBAL_WEIGHT,
) -> NDArray[np.float32]:
    """Mix the Jaccard similarity of k-reciprocal neighbours with the similarity of the descriptors.

    With N(p, k) the image p and its k nearest neighbours::

        R(p, k)  = {g in N(p, k): p in N(g, k)}
        R*(p)    = R(p, k1) and every R(g, k1 / 2), g in R(p, k1), two thirds of which lie in R(p, k1)
        V(p)[g]  = exp(cos(p, g) - 1) for g in R*(p), 0 elsewhere, scaled to the sum 1,
                   then averaged over p and its k2 - 1 nearest neighbours
        s(p, g)  = (1 - w) sum min(V(p), V(g)) / sum max(V(p), V(g)) + w cos(p, g)

    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017; 1 - s is
    its final distance for d = 1 - cos. The scaling to the sum 1 is of the published code.

    Args:
        descriptors: float32 [n, D] of unit norm, queries and index images together.
        queries: int64 [Q], which of them to compare with all.
        k1: neighbours among which reciprocity is looked for.
        k2: images whose encodings are averaged.
        global_weight: w.

    Returns:
        float32 [Q, n], 1 for equal images.
    """
    others, _ = knn_lists(descriptors, max(k1, k2 - 1))
    lists = np.hstack([np.arange(len(descriptors))[:, None], others])
    indptr, indices = _reciprocal(lists[:, : k1 + 1], round(k1 / 2) + 1)
    rows = np.repeat(np.arange(len(lists)), np.diff(indptr))
    values = np.exp(_cosines(descriptors, rows, indices) - 1)
    values /= np.bincount(rows, values, len(lists))[rows]
    encoding = sparse.csr_matrix((values, indices, indptr), shape=(len(lists),) * 2)
    near = lists[:, :k2]
    starts = np.arange(len(near) + 1) * near.shape[1]
    mean = sparse.csr_matrix((np.full(near.size, 1 / near.shape[1]), near.ravel(), starts), encoding.shape)
    encoding = (mean @ encoding).tocsr()
    by_column = encoding.tocsc()
    similarity = global_weight * (descriptors[queries] @ descriptors.T)
    for row, query in zip(similarity, queries, strict=True):
        own = encoding[query]
        columns = by_column[:, own.indices]
        smaller = np.minimum(columns.data, np.repeat(own.data, np.diff(columns.indptr)))
        shared = np.bincount(columns.indices, smaller, len(lists))
        row += (1 - global_weight) * (shared / (2 - shared)).astype(np.float32)
    result: NDArray[np.float32] = similarity
    return result


def _cosines(
    descriptors: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    cosines = np.empty(len(first))
    step = 1 << 16
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        cosines[part] = np.einsum("pd,pd->p", descriptors[first[part]], descriptors[second[part]])
    return cosines


@numba.njit(cache=True, nogil=True)
def _reciprocal(lists, half):  # type: ignore[no-untyped-def]
    """Rows of R*: `lists` int64 [n, k1 + 1], itself first; `half` entries of it are N(g, k1 / 2)."""
    images, full = lists.shape
    half = min(half, full)
    indptr = np.zeros(images + 1, np.int64)
    indices = [np.int64(0) for _ in range(0)]
    mark = np.full(images, -1, np.int64)
    core = np.full(images, -1, np.int64)
    for p in range(images):
        for i in range(full):
            g = lists[p, i]
            if _lists(lists, g, p, full):
                core[g] = p
                mark[g] = p
                indices.append(g)
        end = len(indices)
        for i in range(indptr[p], end):
            g = indices[i]
            members = 0
            inside = 0
            for j in range(half):
                h = lists[g, j]
                if _lists(lists, h, g, half):
                    members += 1
                    inside += core[h] == p
            if 3 * inside >= 2 * members:
                for j in range(half):
                    h = lists[g, j]
                    if mark[h] != p and _lists(lists, h, g, half):
                        mark[h] = p
                        indices.append(h)
        indptr[p + 1] = len(indices)
    return indptr, np.array(indices)


@numba.njit(cache=True, nogil=True)
def _lists(lists, owner, image, length):  # type: ignore[no-untyped-def]
    for i in range(length):  # noqa: SIM110
        if lists[owner, i] == image:
            return True
    return False
