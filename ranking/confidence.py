"""From a verification to the probability that the pair is right, calibrated without labels.

How significant a chance agreement gets depends on the features and the motifs: facades repeat, brick is
brick everywhere. So the distribution for unrelated photos is measured on the collection itself, on
verified pairs with little global similarity, almost all of which are unrelated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_EDGE_RATE = 2e-3
"""Share of unrelated pairs that may pass: with 100 candidates a photo, one false edge in five photos."""

SIMILARITY_WEIGHT = 0.5
"""Evidence in one standard deviation of the global similarity, as a share of `Confidence.scale`."""

STEEPNESS = 3.0
"""The odds that a pair is right grow with this power of its evidence: false pairs have a heavy tail."""

_QUANTILES = (0.5, 0.9)
_FIRST_QUANTILES = (0.3, 0.7)
"""Of all pairs, the related ones among them: up to three in ten do not reach these."""
_PRIOR = (24.8, 4.97)
"""Midpoint and scale on `roxford_mini` with the default extractor, for collections too small to measure."""
_PRIOR_PAIRS = 200
_LEAST_MIDPOINT = -math.log10(FALSE_EDGE_RATE)
"""What the significance itself promises: so many false alarms to expect."""
_ROUNDS = 50
_NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class Confidence:
    """A map from significance and global similarity to confidence.

    Attributes:
        midpoint: evidence at which a pair is as likely right as wrong.
        scale: decay of the significance among unrelated pairs.
        usual: median global similarity of the pairs it was measured on.
        deviation: standard deviation of the similarity, from the median absolute deviation.
        similarity_weight: evidence in one deviation of similarity, in units of `scale`.
    """

    midpoint: float
    scale: float
    usual: float = 0.0
    deviation: float = 1.0
    similarity_weight: float = 0.0

    @classmethod
    def fit(cls, significance: NDArray[np.float32], similarity: NDArray[np.float32]) -> Confidence:
        """Measure the unrelated pairs of a collection.

        The tail of their significance is taken for exponential, and the midpoint put where only
        `FALSE_EDGE_RATE` of them remain. Pairs beyond the midpoint are related: they are left out and the
        rest is measured again, until nothing changes. The fewer pairs there are, the more a prior counts for
        the significance, and the less the similarity counts at all.

        Args:
            significance: float32 [P] of verified pairs.
            similarity: float32 [P], global similarity of the same pairs; the less similar half is taken
                to be unrelated. If one in ten is related after all, the midpoint rises by 3 to 8 %.

        Raises:
            ValueError: the lengths differ.
        """
        if len(significance) != len(similarity):
            raise ValueError(f"{len(significance)} significances, but {len(similarity)} similarities")
        if not len(significance):
            return cls(*_PRIOR)
        usual = float(np.median(similarity))
        deviation = _NORMAL * float(np.median(np.abs(similarity - usual)))
        unrelated = np.sort(significance[similarity <= usual].astype(np.float64))
        modelled = unrelated[unrelated != 0]
        if not len(modelled):
            return cls(*_PRIOR)
        # Pairs without any model are 0 and no part of the tail.
        rate = min(FALSE_EDGE_RATE * len(unrelated) / len(modelled), 1.0 - _QUANTILES[1])
        midpoint, scale = _tail(modelled, 1.0, _FIRST_QUANTILES, rate)
        left = 0
        for _ in range(_ROUNDS):
            before, left = left, max(int(np.searchsorted(modelled, midpoint, "right")), 1)
            if left == before:
                break
            midpoint, scale = _tail(modelled[:left], 1.0 - rate, _QUANTILES, rate)
        weight = len(unrelated) / (len(unrelated) + _PRIOR_PAIRS)
        midpoint, scale = weight * np.array((midpoint, scale)) + (1 - weight) * np.array(_PRIOR)
        if deviation == 0:
            return cls(float(midpoint), float(scale))
        return cls(float(midpoint), float(scale), usual, deviation, SIMILARITY_WEIGHT * weight)

    def evidence(
        self, significance: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Significance, plus what the global similarity says: float32, of the same shape."""
        deviations = (np.asarray(similarity, np.float64) - self.usual) / self.deviation
        total = np.asarray(significance, np.float64) + self.similarity_weight * self.scale * deviations
        return total.astype(np.float32)

    def __call__(
        self, significance: NDArray[np.float32], similarity: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Probability that pairs are right.

        Args:
            significance: float32 [P] of verified pairs.
            similarity: float32 [P], global similarity of the same pairs.

        Returns:
            float32 [P], between 0 and 1.
        """
        evidence = np.maximum(self.evidence(significance, similarity).astype(np.float64), 1e-3)
        return (1.0 / (1.0 + (self.midpoint / evidence) ** STEEPNESS)).astype(np.float32)


def _tail(
    significance: NDArray[np.float64], share: float, quantiles: tuple[float, float], rate: float
) -> tuple[float, float]:
    """Where an exponential tail falls to the rate of pairs that may pass, and its decay.

    Args:
        significance: float64 [P], the least significant part of a distribution.
        share: which share of it they are.
        quantiles: of the whole distribution, that the tail goes through.
        rate: of the whole distribution.
    """
    lower, upper = np.quantile(significance, np.minimum(np.divide(quantiles, share), 1.0))
    scale = max(float(upper - lower) / math.log((1 - quantiles[0]) / (1 - quantiles[1])), 0.5)
    midpoint = float(upper) + scale * math.log((1 - quantiles[1]) / rate)
    return max(midpoint, _LEAST_MIDPOINT), scale
