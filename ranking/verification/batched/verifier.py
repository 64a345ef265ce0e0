"""Many verifications at once: similarities searched where they are made, then compiled model fitting."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - the library that compiled code multiplies with
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from extractor.features import INT8_UNIT, LocalFeatures
from ranking.matching import match_descriptors
from ranking.matching_int8 import Int8Descriptors, Int8Matcher
from ranking.verification.batched.homography import MINIMAL, robust_homography
from ranking.verification.frame import Frame
from ranking.verification.significance import chance_of_agreement, significance
from ranking.verification.verification import SAMPLE, Model, Verification, check_dimensions, check_model


@dataclass(frozen=True)
class BatchedVerifier:
    """Mutual nearest neighbours, then a model by exhaustive two-point hypotheses.

    Photos are assumed to be roughly upright: the learned features that Landbridge uses do not match
    under turns beyond 45 degrees, and hypotheses beyond that are not tried. Nothing is drawn at random.
    Models are fitted from the query to the candidate and back, as errors are measured on one side alone,
    and the more significant one is kept.

    Attributes:
        minimum_similarity: cosine that a putative match must exceed.
        threshold: largest error of an inlier, as a share of the extent of the photo that shows the motif
            smaller: of the longer side of the bounding box of all its keypoints, matched or not.
        best_matches: hypotheses go through pairs of that many most similar putative matches.
        model: `similarity`, `affine` or `homography`.
        ratio: a match must be nearer than this share of the distance to the query feature's second
            nearest neighbour (Lowe, IJCV 2004); no such test by default.
        device: of torch, for a GPU: `cuda`; None compiles for the CPU. On a device all descriptors are
            matched as int8.
        threads: photos verified side by side; all cores by default. The result does not depend on it.

    Raises:
        ValueError: no such model, or a ratio outside (0, 1].
    """

    minimum_similarity: float = 0.75
    threshold: float = 0.0065
    best_matches: int = 40
    model: Model = "homography"
    ratio: float | None = None
    device: str | None = field(default=None, compare=False)
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
        return f"batched-3:{self.minimum_similarity}:{self.threshold}:{self.best_matches}{variant}"

    def verify(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Verification]:
        """Verify one photo against several; see `Verifier.verify`."""
        check_dimensions(query, candidates)
        if self.device is not None:
            return self._verify_on_device(self.device, query, candidates)
        prepared = _Prepared(query)
        matcher = None
        if prepared.whole is not None:
            matcher = Int8Matcher(prepared.whole, self.minimum_similarity * INT8_UNIT**2)
        with _libraries().limit(limits=1, user_api="blas"):
            if self.threads == 1 or len(candidates) < 2:
                return [self._pair(prepared, matcher, _Prepared(candidate)) for candidate in candidates]
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(lambda c: self._pair(prepared, matcher, _Prepared(c)), candidates))

    def _verify_on_device(
        self, device: str, query: LocalFeatures, candidates: Sequence[LocalFeatures]
    ) -> list[Verification]:
        from ranking.verification.batched.device import DevicePhotos, verify_pairs

        photos = DevicePhotos([query, *candidates], device)
        seconds = np.arange(1, len(candidates) + 1)
        found = verify_pairs(photos, np.column_stack([np.zeros_like(seconds), seconds]), self)
        return [found[pair] for pair in range(len(found))]

    def _pair(self, query: _Prepared, matcher: Int8Matcher | None, candidate: _Prepared) -> Verification:
        if query.frame is None or candidate.frame is None:
            return Verification.none()
        if matcher is not None and candidate.whole is not None:
            pairs, values = matcher.match(candidate.whole)
            values /= INT8_UNIT**2
        else:
            pairs, values = match_descriptors(query.vectors, candidate.vectors, self.minimum_similarity)
        if self.ratio is not None and len(candidate.points) > 1 and len(pairs):
            pairs = pairs[_distinct(query, candidate, pairs, values, self.ratio)]
        ours, theirs = query.points[pairs[:, 0]], candidate.points[pairs[:, 1]]
        forward = self._fit(ours, theirs, query.frame, candidate.frame)
        backward = self._fit(theirs, ours, candidate.frame, query.frame)
        turned = backward.significance > forward.significance
        best = backward if turned else forward
        if best.model is None:
            return Verification.none(len(pairs))
        return Verification(
            putatives=len(pairs),
            matches=pairs[best.inlier],
            model=np.asarray(np.linalg.inv(best.model), np.float64) if turned else best.model,
            significance=best.significance,
        )

    def _fit(
        self, source: NDArray[np.float64], target: NDArray[np.float64], start: Frame, end: Frame
    ) -> _Fitted:
        """The model from the points [P, 2] of one photo to those of the other, in their frames."""
        inlier = np.zeros(len(source), np.bool_)
        sample = SAMPLE[self.model]
        model = robust_homography(source, target, self.threshold, self.best_matches, inlier, 2 * sample)
        inliers = int(inlier.sum())
        if inliers < MINIMAL:
            return _Fitted()
        shrinks = np.linalg.det(model[:2, :2]) < 1
        frame, points = (end, target) if shrinks else (start, source)
        chance = chance_of_agreement(points[inlier], self.threshold, frame.area)
        return _Fitted(
            inlier,
            np.linalg.inv(end.to_unit) @ model @ start.to_unit,
            significance(len(source), inliers, sample, chance),
        )


class _Fitted(NamedTuple):
    """A model in pixels [3, 3], its inliers bool [P], and how significant they are; or none."""

    inlier: NDArray[np.bool_] = np.zeros(0, np.bool_)
    model: NDArray[np.float64] | None = None
    significance: float = -math.inf


class _Prepared:
    """Features of one photo as the kernels take them."""

    def __init__(self, features: LocalFeatures) -> None:
        self.descriptors = features.descriptors
        self.frame = Frame.of(features.keypoints) if len(features) else None
        self.points = np.zeros((0, 2))
        if self.frame is not None:
            self.points = (features.keypoints - self.frame.low) / self.frame.extent

    @cached_property
    def whole(self) -> Int8Descriptors | None:
        """The descriptors where they are whole numbers."""
        if self.descriptors.dtype != np.int8:
            return None
        return Int8Descriptors.of(self.descriptors.astype(np.int8, copy=False))

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The descriptors as unit vectors."""
        if self.descriptors.dtype == np.int8:
            return self.descriptors.astype(np.float32) / np.float32(INT8_UNIT)
        return np.ascontiguousarray(self.descriptors, np.float32)


def _distinct(
    query: _Prepared,
    candidate: _Prepared,
    pairs: NDArray[np.int32],
    values: NDArray[np.float32],
    ratio: float,
) -> NDArray[np.bool_]:
    """Which matches are much nearer than the second nearest neighbour of the query's feature: bool [P]."""
    similarity = query.vectors[pairs[:, 0]] @ candidate.vectors.T
    second = np.partition(similarity, -2, axis=1)[:, -2]
    # The squared distance of unit vectors is twice 1 - cosine.
    distinct: NDArray[np.bool_] = 1 - values < ratio**2 * (1 - second)
    return distinct


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
