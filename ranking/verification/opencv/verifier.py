"""Verification with OpenCV: brute-force matching with cross-check, then USAC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from extractor.features import LocalFeatures
from ranking.verification.frame import Frame
from ranking.verification.significance import chance_of_agreement, significance
from ranking.verification.verification import (
    SAMPLE,
    Model,
    Verification,
    check_dimensions,
    check_model,
    unit_descriptors,
)

_SINGULAR = 1e-6
"""A model that shrinks areas beyond this maps everything to a line or a point."""


@dataclass(frozen=True)
class OpenCVVerifier:
    """Mutual nearest neighbours by `cv2.BFMatcher`, then MAGSAC++ (Barath et al., CVPR 2020) by `cv2`.

    One pair after the other on one thread of OpenCV's, so the result depends on input and seed alone.

    Attributes:
        minimum_similarity: cosine that a putative match must exceed.
        threshold: largest error of an inlier, as a share of the candidate's extent: of the longer side of the
            bounding box of all its keypoints.
        model: `homography` or `affine`.
        seed: of USAC's random samples.

    Raises:
        ValueError: no such model.
    """

    minimum_similarity: float = 0.75
    threshold: float = 0.012
    model: Model = "homography"
    seed: int = 0

    def __post_init__(self) -> None:
        check_model(self.model, ("affine", "homography"))

    @property
    def fingerprint(self) -> str:
        """Name and parameters: results of different fingerprints are not comparable."""
        return f"opencv-2:{self.minimum_similarity}:{self.threshold}:{self.model}:{self.seed}"

    def verify(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Verification]:
        """Verify one photo against several; see `Verifier.verify`."""
        check_dimensions(query, candidates)
        descriptors = unit_descriptors(query)
        return [self._pair(query, descriptors, candidate) for candidate in candidates]

    def _pair(
        self, query: LocalFeatures, descriptors: NDArray[np.float32], candidate: LocalFeatures
    ) -> Verification:
        if not len(query) or not len(candidate):
            return Verification.none()
        furthest = math.sqrt(max(2 - 2 * self.minimum_similarity, 0))
        theirs = unit_descriptors(candidate)
        found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(descriptors, theirs)
        pairs = np.array(
            [(match.queryIdx, match.trainIdx) for match in found if match.distance < furthest], np.int32
        ).reshape(-1, 2)
        pairs = pairs[descriptors[pairs[:, 0]].any(1) & theirs[pairs[:, 1]].any(1)]
        sample = SAMPLE[self.model]
        if len(pairs) < sample:
            return Verification.none(len(pairs))
        frame = Frame.of(candidate.keypoints)
        source, target = query.keypoints[pairs[:, 0]], candidate.keypoints[pairs[:, 1]]
        model, inlier = self._fit(source, target, self.threshold * frame.extent)
        inliers = int(inlier.sum())
        if inliers < sample:
            return Verification.none(len(pairs))
        points = target[inlier] / np.float64(frame.extent)
        chance = chance_of_agreement(points, self.threshold, frame.area)
        return Verification(
            putatives=len(pairs),
            matches=pairs[inlier],
            model=model,
            significance=significance(len(pairs), inliers, sample, chance),
        )

    def _fit(
        self, source: NDArray[np.float32], target: NDArray[np.float32], pixels: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Model [3, 3] and inliers [P]; no inliers where USAC finds no model."""
        parameters = cv2.UsacParams()
        parameters.threshold = pixels
        parameters.score = cv2.SCORE_METHOD_MAGSAC
        parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
        parameters.final_polisher = cv2.MAGSAC
        parameters.randomGeneratorState = self.seed
        estimate = cv2.findHomography if self.model == "homography" else cv2.estimateAffine2D
        found, mask = estimate(source, target, parameters)
        model = np.eye(3)
        if found is not None:
            model[: len(found)] = found
        if found is None or not np.isfinite(model).all() or abs(np.linalg.det(model[:2, :2])) < _SINGULAR:
            return np.eye(3), np.zeros(len(source), np.bool_)
        return model, mask.ravel() > 0
