"""Votes for images by the nearest local descriptors of a query's local features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
"""Index descriptors that a query descriptor is compared with; the last is the background of the others."""


def local_votes(
    owners: NDArray[np.int64], similarity: NDArray[np.float32], images: int
) -> NDArray[np.float64]:
    """A score for each image, from the nearest index descriptors of each query descriptor.

    Local naive Bayes nearest neighbour (McCann and Lowe, CVPR 2012): a query descriptor votes for each image
    among its neighbours once, by its nearest descriptor there, with the squared distance that this one is
    nearer than the farthest neighbour of all, the background. A descriptor that resembles everything thus
    votes for nothing, whatever its similarities, and there is no threshold to choose; repeated structure of
    an image counts once for each query descriptor.

    Args:
        owners: int64 [Q, k], number of the image of each neighbour, best first; -1 for none.
        similarity: float32 [Q, k], cosines, descending in each row.
        images: their number.

    Returns:
        float64 [images], 0 for images without any vote.
    """
    there = owners >= 0
    background = np.where(there, similarity, np.inf).min(1, initial=np.inf)
    # The squared distance of unit vectors is 2 - 2 cos.
    gain = 2 * (similarity - np.where(np.isfinite(background), background, 0)[:, None]).astype(np.float64)
    queries, places = np.nonzero(there)
    owner = owners[queries, places]
    # The first of a pair of query descriptor and image is the nearest.
    _, first = np.unique(queries * images + owner, return_index=True)
    votes = gain[queries, places][first]
    return np.bincount(owner[first], votes, minlength=images).astype(np.float64)
