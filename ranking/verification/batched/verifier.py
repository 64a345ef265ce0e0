"""Many verifications at once: matching in tiles of the similarity matrix, then compiled model fitting."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - the library that compiled code multiplies with
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from extractor.features import INT8_UNIT, LocalFeatures
from ranking.matching import match_descriptors
from ranking.verification.batched.homography import MINIMAL, robust_homography
from ranking.verification.frame import Frame
from ranking.verification.significance import significance
from ranking.verification.verification import SAMPLE, Model, Verification, check_dimensions, check_model


@dataclass(frozen=True)
class BatchedVerifier:
    """Mutual nearest neighbours, then a model by exhaustive two-point hypotheses.

    Photos are assumed to be roughly upright: the learned features that Landbridge uses do not match
    under turns beyond 45 degrees, and hypotheses beyond that are not tried. Nothing is drawn at random.

    Attributes:
        minimum_similarity: cosine that a putative match must exceed.
        threshold: largest error of an inlier, as a share of the extent of the photo that shows the motif
            smaller.
        best_matches: hypotheses go through pairs of that many most similar putative matches.
        model: `similarity`, `affine` or `homography`.
        ratio: a match must be nearer than this share of the distance to the query feature's second
            nearest neighbour (Lowe, IJCV 2004); no such test by default.
        threads: photos verified side by side; all cores by default. The result does not depend on it.

    Raises:
        ValueError: no such model, or a ratio outside (0, 1].
    """

    minimum_similarity: float = 0.75
    threshold: float = 0.012
    best_matches: int = 40
    model: Model = "homography"
    ratio: float | None = None
    threads: int = field(default_factory=lambda: os.cpu_count() or 1, compare=False)

    def __post_init__(self) -> None:
        check_model(self.model, list(SAMPLE))
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must lie in (0, 1], got {self.ratio}")

    @property
    def fingerprint(self) -> str:
        """Name and parameters: results of different fingerprints are not comparable."""
        variant = "" if self.model == "homography" else f":{self.model}"
        variant += "" if self.ratio is None else f":ratio {self.ratio}"
        return f"batched-1:{self.minimum_similarity}:{self.threshold}:{self.best_matches}{variant}"

    def verify(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Verification]:
        """Verify one photo against several; see `Verifier.verify`."""
        check_dimensions(query, candidates)
        prepared = _prepare(query)
        with _libraries().limit(limits=1, user_api="blas"):
            if self.threads == 1 or len(candidates) < 2:
                return [self._pair(prepared, _prepare(candidate)) for candidate in candidates]
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(lambda c: self._pair(prepared, _prepare(c)), candidates))

    def _pair(self, query: _Prepared, candidate: _Prepared) -> Verification:
        if query.frame is None or candidate.frame is None:
            return Verification.none()
        pairs, values = match_descriptors(query.descriptors, candidate.descriptors, self.minimum_similarity)
        if self.ratio is not None and len(candidate.points) > 1 and len(pairs):
            pairs = pairs[_distinct(query, candidate, pairs, values, self.ratio)]
        source, target = query.points[pairs[:, 0]], candidate.points[pairs[:, 1]]
        inlier = np.zeros(len(pairs), np.bool_)
        sample = SAMPLE[self.model]
        model = robust_homography(source, target, self.threshold, self.best_matches, inlier, 2 * sample)
        inliers = int(inlier.sum())
        if inliers < MINIMAL:
            return Verification.none(len(pairs))
        smaller = candidate.frame if np.linalg.det(model[:2, :2]) < 1 else query.frame
        chance = math.pi * self.threshold**2 / smaller.area
        return Verification(
            putatives=len(pairs),
            matches=pairs[inlier],
            model=np.linalg.inv(candidate.frame.to_unit) @ model @ query.frame.to_unit,
            significance=significance(len(pairs), inliers, sample, chance),
        )


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Features of one photo as the kernels take them: points in units of the frame (None: no points)."""

    points: NDArray[np.float64]
    descriptors: NDArray[np.float32]
    frame: Frame | None


def _prepare(features: LocalFeatures) -> _Prepared:
    descriptors = np.ascontiguousarray(features.descriptors, np.float32)
    if features.descriptors.dtype == np.int8:
        descriptors /= INT8_UNIT
    if not len(features):
        return _Prepared(np.zeros((0, 2)), descriptors, None)
    frame = Frame.of(features.keypoints)
    return _Prepared((features.keypoints - frame.low) / frame.extent, descriptors, frame)


def _distinct(
    query: _Prepared,
    candidate: _Prepared,
    pairs: NDArray[np.int32],
    values: NDArray[np.float32],
    ratio: float,
) -> NDArray[np.bool_]:
    """Which matches are much nearer than the second nearest neighbour of the query's feature: bool [P]."""
    similarity = query.descriptors[pairs[:, 0]] @ candidate.descriptors.T
    second = np.partition(similarity, -2, axis=1)[:, -2]
    # The squared distance of unit vectors is twice 1 - cosine.
    distinct: NDArray[np.bool_] = 1 - values < ratio**2 * (1 - second)
    return distinct


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
