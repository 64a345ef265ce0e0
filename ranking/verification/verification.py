"""The contract of geometric verification: what a backend takes and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extractor.features import LocalFeatures


@dataclass(frozen=True, eq=False)
class Verification:
    """What two sets of local features have in common, geometrically.

    Attributes:
        putatives: number of putative matches, the correspondences that the model was fitted to.
        matches: int32 [inliers, 2], indices (query feature, candidate feature) of the inliers.
        model: float64 [3, 3], homography from query pixels to candidate pixels; identity without inliers.
        significance: -log10 of the expected number of equally good models in unrelated photos
            (number of false alarms); 0 or less is what chance gives.
    """

    putatives: int
    matches: NDArray[np.int32]
    model: NDArray[np.float64]
    significance: float

    @property
    def inliers(self) -> int:
        """Number of putative matches that agree with the model."""
        return len(self.matches)


class Verifier(Protocol):
    """A verification backend. The same input gives the same result on any number of threads."""

    @property
    def fingerprint(self) -> str:
        """Name and parameters: results of different fingerprints are not comparable."""
        ...

    def verify(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> list[Verification]:
        """Verify one photo against several.

        Args:
            query: features of one photo, N of them.
            candidates: features of the other photos; an empty set of features verifies nothing.

        Returns:
            One result per candidate, in their order.

        Raises:
            ValueError: descriptors differ in length.
        """
        ...
