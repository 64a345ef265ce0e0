"""Many verifications at once: a matrix product per pair, then compiled matching and model fitting."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from extractor.features import INT8_UNIT, LocalFeatures
from ranking.matching import mutual_nearest_neighbours
from ranking.verification.batched.homography import MINIMAL, robust_homography
from ranking.verification.verification import Verification


@dataclass(frozen=True)
class BatchedVerifier:
    """Mutual nearest neighbours, then a homography by exhaustive two-point hypotheses.

    Photos are assumed to be roughly upright: the learned features that Landbridge uses do not match
    under turns beyond 45 degrees, and hypotheses beyond that are not tried.

    Attributes:
        minimum_similarity: cosine that a putative match must exceed.
        threshold: largest error of an inlier, as a share of the extent of the photo that shows the motif
            smaller.
        best_matches: hypotheses go through pairs of that many most similar putative matches.
        threads: photos verified side by side; all cores by default. The result does not depend on it.
    """

    minimum_similarity: float = 0.75
    threshold: float = 0.012
    best_matches: int = 40
    threads: int = field(default_factory=lambda: os.cpu_count() or 1, compare=False)

    @property
    def fingerprint(self) -> str:
        """Name and parameters: results of different fingerprints are not comparable."""
        return f"batched-1:{self.minimum_similarity}:{self.threshold}:{self.best_matches}"

    def verify(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Verification]:
        """Verify one photo against several; see `Verifier.verify`."""
        for candidate in candidates:
            if candidate.dimension != query.dimension:
                raise ValueError(
                    f"descriptors differ in length: {query.dimension} in the query, "
                    f"{candidate.dimension} in a candidate; they come from different extractors"
                )
        prepared = _prepare(query)
        with threadpool_limits(limits=1, user_api="blas"):
            if self.threads == 1 or len(candidates) < 2:
                return [self._pair(prepared, _prepare(candidate)) for candidate in candidates]
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(lambda c: self._pair(prepared, _prepare(c)), candidates))

    def _pair(self, query: _Prepared, candidate: _Prepared) -> Verification:
        nothing = Verification(0, np.zeros((0, 2), np.int32), np.eye(3), 0.0)
        if not len(query.points) or not len(candidate.points):
            return nothing
        similarity = _buffer(len(query.points), len(candidate.points))
        np.matmul(query.descriptors, candidate.descriptors.T, out=similarity)
        pairs, _ = mutual_nearest_neighbours(similarity, self.minimum_similarity)
        source, target = query.points[pairs[:, 0]], candidate.points[pairs[:, 1]]
        inlier = np.zeros(len(pairs), np.bool_)
        model = robust_homography(source, target, self.threshold, self.best_matches, inlier)
        inliers = int(inlier.sum())
        if inliers < MINIMAL:
            return Verification(len(pairs), nothing.matches, nothing.model, 0.0)
        smaller = candidate if np.linalg.det(model[:2, :2]) < 1 else query
        return Verification(
            putatives=len(pairs),
            matches=pairs[inlier],
            model=np.linalg.inv(candidate.to_unit) @ model @ query.to_unit,
            significance=_significance(len(pairs), inliers, math.pi * self.threshold**2 / smaller.area),
        )


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Features of one photo in the units of the kernels: points scaled by the larger extent, cosines."""

    points: NDArray[np.float64]
    descriptors: NDArray[np.float32]
    to_unit: NDArray[np.float64]
    area: float


def _prepare(features: LocalFeatures) -> _Prepared:
    descriptors = features.descriptors.astype(np.float32)
    if features.descriptors.dtype == np.int8:
        descriptors /= INT8_UNIT
    if not len(features):
        return _Prepared(np.zeros((0, 2)), descriptors, np.eye(3), 1.0)
    low = features.keypoints.min(0).astype(np.float64)
    sides = np.maximum(features.keypoints.max(0) - low, 1e-6)
    extent = float(sides.max())
    to_unit = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, extent]]) / extent
    points = (features.keypoints - low) / extent
    return _Prepared(points, descriptors, to_unit, max(float(sides.prod()) / extent**2, 0.05))


def _significance(putatives: int, inliers: int, chance: float) -> float:
    """-log10 of the number of false alarms of a homography (Moisan & Stival 2004).

    Args:
        putatives: putative matches.
        inliers: those that agree with the model.
        chance: probability that an unrelated match agrees by accident.
    """
    log_false_alarms = (
        math.log(putatives)
        + _log_choose(putatives, inliers)
        + _log_choose(inliers, MINIMAL)
        + (inliers - MINIMAL) * math.log(chance)
    )
    return -log_false_alarms / math.log(10)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


_scratch = threading.local()


def _buffer(rows: int, columns: int) -> NDArray[np.float32]:
    """A matrix to overwrite, kept for the thread: fresh pages would cost as much as the product."""
    if getattr(_scratch, "memory", None) is None or len(_scratch.memory) < rows * columns:
        _scratch.memory = np.empty(rows * columns, np.float32)
    view: NDArray[np.float32] = _scratch.memory[: rows * columns].reshape(rows, columns)
    return view
