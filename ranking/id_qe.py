"""ID-QE, iterative DELF query expansion: verified photos move towards the centre of their landmark."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranking.match_graph import MatchGraph
from ranking.nearest_neighbours import normalised

ITERATIONS = 3
PARTNERS = 20


def expand(
    descriptors: NDArray[np.float32],
    graph: MatchGraph,
    iterations: int = ITERATIONS,
    partners: int = PARTNERS,
) -> NDArray[np.float32]:
    """Move every descriptor towards those of the images it is verified with.

    x_i <- L2(x_i + sum over the most confident partners j of c_ij x_j), all images at once, a few times.
    The source of the method (an entry of the Google Landmark Retrieval Challenge 2018) gives the idea
    alone: images of a landmark approach the centre of their cluster, and geometric verification decides
    who takes part. Weights, partners and the number of iterations are Landbridge's reading.

    Args:
        descriptors: float32 [n, D] of unit norm, index and query images alike.
        graph: match graph of the same n images. An image that nothing leads into
            (`MatchGraph.without_bridges`) is moved, and moves nobody.
        iterations: how often every descriptor is moved.
        partners: at most that many neighbours move an image.

    Returns:
        float32 [n, D] of unit norm; an image without neighbours stays where it is.

    Raises:
        ValueError: the graph and the descriptors disagree on the number of images.
    """
    if len(graph) != len(descriptors):
        raise ValueError(f"{len(descriptors)} descriptors, but the match graph has {len(graph)} images")
    weights = _strongest(graph, partners)
    expanded = descriptors
    for _ in range(iterations):
        expanded = normalised(expanded + weights @ expanded)
    return expanded


def _strongest(graph: MatchGraph, partners: int) -> sparse.csr_matrix:
    """The confidences of each image's most confident neighbours; equal ones by index."""
    here = np.repeat(np.arange(len(graph)), np.diff(graph.indptr))
    order = np.lexsort((graph.indices, -graph.confidence, here))
    place = np.arange(len(here)) - graph.indptr[here]
    kept = order[place < partners]
    return sparse.csr_matrix(
        (graph.confidence[kept], (here[kept], graph.indices[kept])), shape=(len(graph), len(graph))
    )
