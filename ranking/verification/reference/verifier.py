"""The reference matcher of DELF: one-way nearest neighbours in a k-d tree, then plain RANSAC."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

try:
    from skimage.measure import ransac
    from skimage.transform import AffineTransform
except ImportError as error:
    raise ImportError(
        "the reference verifier needs scikit-image: pip install 'landbridge[reference]'"
    ) from error

from extractor.features import LocalFeatures
from ranking.verification.frame import Frame
from ranking.verification.significance import chance_of_agreement, significance
from ranking.verification.verification import Verification, check_dimensions, unit_descriptors

_SAMPLE = 3


@dataclass(frozen=True)
class ReferenceVerifier:
    """What the published DELF (Noh et al., ICCV 2017) matches with, its parameters the defaults.

    Every feature of the candidate takes its nearest neighbour in the query, so a feature of the query may
    appear in several matches. Slow: for comparison only.

    Attributes:
        distance: Euclidean distance of unit descriptors that a putative match must stay below.
        residual: largest error of an inlier in pixels of the candidate.
        trials: random samples of three matches.
        seed: of the samples.
    """

    distance: float = 0.8
    residual: float = 20.0
    trials: int = 1000
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Name and parameters: results of different fingerprints are not comparable."""
        return f"reference-2:{self.distance}:{self.residual}:{self.trials}:{self.seed}"

    def verify(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Verification]:
        """Verify one photo against several; see `Verifier.verify`."""
        check_dimensions(query, candidates)
        if not len(query):
            return [Verification.none() for _ in candidates]
        descriptors = unit_descriptors(query)
        return [self._pair(query, descriptors, candidate) for candidate in candidates]

    def _pair(
        self, query: LocalFeatures, descriptors: NDArray[np.float32], candidate: LocalFeatures
    ) -> Verification:
        # The published code builds the tree of the first photo anew for every pair, and so do we.
        searched = unit_descriptors(candidate)
        _, nearest = cKDTree(descriptors).query(searched, distance_upper_bound=self.distance)
        theirs = np.flatnonzero(nearest < len(query))
        pairs = np.stack([nearest[theirs], theirs], axis=1).astype(np.int32)
        pairs = pairs[descriptors[pairs[:, 0]].any(1) & searched[pairs[:, 1]].any(1)]
        if len(pairs) < _SAMPLE:
            return Verification.none(len(pairs))
        source = query.keypoints[pairs[:, 0]].astype(np.float64)
        target = candidate.keypoints[pairs[:, 1]].astype(np.float64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No inliers found")
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="skimage")
            model, inlier = ransac(
                (source, target),
                AffineTransform,
                min_samples=_SAMPLE,
                residual_threshold=self.residual,
                max_trials=self.trials,
                rng=self.seed,
            )
        if not model or inlier is None or inlier.sum() < _SAMPLE or not np.isfinite(model.params).all():
            return Verification.none(len(pairs))
        frame = Frame.of(candidate.keypoints)
        threshold = self.residual / frame.extent
        chance = chance_of_agreement(target[inlier] / frame.extent, threshold, frame.area)
        return Verification(
            putatives=len(pairs),
            matches=pairs[inlier],
            model=model.params,
            significance=significance(len(pairs), int(inlier.sum()), _SAMPLE, chance),
        )
