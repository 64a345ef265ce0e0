"""From the significance of a verification to the probability that the pair is right, without labels.

How significant a chance agreement gets depends on the features and the motifs: facades repeat, brick is
brick everywhere. So the distribution for unrelated photos is measured on the collection itself, on
verified pairs with little global similarity, almost all of which are unrelated. Its tail is close to
exponential; the confidence passes one half where only `FALSE_EDGE_RATE` of unrelated pairs remain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_EDGE_RATE = 2e-3
"""Share of unrelated pairs that may pass: with 100 candidates a photo, one false edge in five photos."""

_LOWER, _UPPER = 0.5, 0.9
_PRIOR = (0.0, 9.4)
"""Quantiles measured on `roxford_mini` with the default extractor, for collections too small to measure."""
_PRIOR_PAIRS = 200


@dataclass(frozen=True)
class Confidence:
    """A map from significance to confidence.

    Attributes:
        midpoint: significance at which a pair is as likely right as wrong.
        scale: decay of the significance among unrelated pairs; the steepness of the map.
    """

    midpoint: float
    scale: float

    @classmethod
    def fit(cls, significance: NDArray[np.float32], similarity: NDArray[np.float32]) -> Confidence:
        """Measure the unrelated pairs of a collection.

        Args:
            significance: float32 [P] of verified pairs.
            similarity: float32 [P], global similarity of the same pairs; the less similar half is taken
                to be unrelated. If one in fifty is related after all, the midpoint rises by a tenth.

        Raises:
            ValueError: the lengths differ.
        """
        if len(significance) != len(similarity):
            raise ValueError(f"{len(significance)} significances, but {len(similarity)} similarities")
        lower, upper = _PRIOR
        if len(significance):
            unrelated = significance[similarity <= np.median(similarity)]
            weight = len(unrelated) / (len(unrelated) + _PRIOR_PAIRS)
            measured = np.quantile(unrelated, (_LOWER, _UPPER))
            lower = (1 - weight) * lower + weight * float(measured[0])
            upper = (1 - weight) * upper + weight * float(measured[1])
        scale = max((upper - lower) / math.log((1 - _LOWER) / (1 - _UPPER)), 0.5)
        return cls(upper + scale * math.log((1 - _UPPER) / FALSE_EDGE_RATE), scale)

    def __call__(self, significance: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability that pairs are right: float32, the shape of `significance`, between 0 and 1."""
        steps = np.clip((np.asarray(significance, np.float64) - self.midpoint) / self.scale, -50, 50)
        return (1.0 / (1.0 + np.exp(-steps))).astype(np.float32)
