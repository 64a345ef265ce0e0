"""The match graph: images joined by verified pairs, in memory, sparse and symmetric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

MINIMUM_CONFIDENCE = 0.5


@dataclass(frozen=True, eq=False)
class MatchGraph:
    """Edges of n images in compressed rows; every edge stands in both directions.

    Attributes:
        indptr: int64 [n + 1], where the neighbours of each image begin and end.
        indices: int32 [2E], neighbours, ascending within an image.
        confidence: float32 [2E], probability that the pair is right.
        region_here: uint64 [2E], part of this image that the inliers cover (see `ranking.region`).
        region_there: uint64 [2E], part of the neighbour that they cover.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    confidence: NDArray[np.float32]
    region_here: NDArray[np.uint64]
    region_there: NDArray[np.uint64]

    @classmethod
    def from_pairs(
        cls,
        images: int,
        pairs: NDArray[np.int64],
        confidence: NDArray[np.float32],
        regions: NDArray[np.uint64] | None = None,
        minimum: float = MINIMUM_CONFIDENCE,
    ) -> MatchGraph:
        """Build from undirected pairs.

        Args:
            images: number of images.
            pairs: int [E, 2], each pair once, in any order; no image pairs with itself.
            confidence: float32 [E].
            regions: uint64 [E, 2], covered part of the first and the second image; everything by default.
            minimum: pairs below this confidence are left out.

        Raises:
            ValueError: an index is out of range, a pair joins an image to itself or stands twice.
        """
        pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
        if len(pairs) and (pairs.min() < 0 or pairs.max() >= images):
            raise ValueError(f"pairs must join images 0 to {images - 1}, got {pairs.min()} to {pairs.max()}")
        if (pairs[:, 0] == pairs[:, 1]).any():
            raise ValueError("a pair joins an image to itself")
        if regions is None:
            regions = np.full((len(pairs), 2), np.iinfo(np.uint64).max, np.uint64)
        kept = np.asarray(confidence) >= minimum
        pairs, confidence, regions = pairs[kept], np.asarray(confidence, np.float32)[kept], regions[kept]
        here = np.concatenate([pairs[:, 0], pairs[:, 1]])
        there = np.concatenate([pairs[:, 1], pairs[:, 0]])
        order = np.lexsort((there, here))
        here, there = here[order], there[order]
        if ((np.diff(here) == 0) & (np.diff(there) == 0)).any():
            raise ValueError("a pair stands twice")
        indptr = np.zeros(images + 1, np.int64)
        np.cumsum(np.bincount(here, minlength=images), out=indptr[1:])
        return cls(
            indptr,
            there.astype(np.int32),
            np.concatenate([confidence, confidence])[order],
            np.concatenate([regions[:, 0], regions[:, 1]])[order],
            np.concatenate([regions[:, 1], regions[:, 0]])[order],
        )

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def edges(self) -> int:
        """Number of undirected edges."""
        return len(self.indices) // 2

    def matrix(self) -> sparse.csr_matrix:
        """The confidences as a symmetric scipy matrix [n, n]."""
        return sparse.csr_matrix((self.confidence, self.indices, self.indptr), shape=(len(self), len(self)))

    def without_bridges(self, images: NDArray[np.int64]) -> MatchGraph:
        """The same graph, but nothing leads into the given images: they reach, and are not passed through."""
        closed = np.zeros(len(self), np.bool_)
        closed[images] = True
        kept = ~closed[self.indices]
        here = np.repeat(np.arange(len(self)), np.diff(self.indptr))[kept]
        indptr = np.zeros(len(self) + 1, np.int64)
        np.cumsum(np.bincount(here, minlength=len(self)), out=indptr[1:])
        return MatchGraph(
            indptr,
            self.indices[kept],
            self.confidence[kept],
            self.region_here[kept],
            self.region_there[kept],
        )
