"""The contract of geometric verification: what a backend takes and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from extractor.features import LocalFeatures

Model = Literal["similarity", "affine", "homography"]
SAMPLE: dict[Model, int] = {"similarity": 2, "affine": 3, "homography": 4}
"""Correspondences that determine a model."""


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

    @classmethod
    def none(cls, putatives: int = 0) -> Verification:
        """No model was found among so many putative matches."""
        return cls(putatives, np.zeros((0, 2), np.int32), np.eye(3), 0.0)

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


def check_dimensions(query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> None:
    """Refuse features that cannot be compared.

    Raises:
        ValueError: descriptors differ in length.
    """
    for candidate in candidates:
        if candidate.dimension != query.dimension:
            raise ValueError(
                f"descriptors differ in length: {query.dimension} in the query, "
                f"{candidate.dimension} in a candidate; they come from different extractors"
            )


def check_model(model: str, models: Sequence[str]) -> None:
    """Refuse the name of a model that a backend does not fit.

    Raises:
        ValueError: the name is none of `models`.
    """
    if model not in models:
        raise ValueError(f"no model {model!r}; there are {', '.join(models)}")


def unit_descriptors(features: LocalFeatures) -> NDArray[np.float32]:
    """Descriptors as float32 unit vectors [N, d]; all-zero ones stay zero."""
    vectors = features.descriptors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    vectors /= lengths
    return vectors
