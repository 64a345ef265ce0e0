"""Precision and recall of the results of all queries at once, over a sweep of one threshold."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranking.metrics.truth import Truth

Id = TypeVar("Id", bound=Hashable)
Query = TypeVar("Query", bound=Hashable)


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """A curve of T points, one for every threshold that tells results apart, the highest first.

    Attributes:
        thresholds: float64 [T], falling; results of this score and above are taken.
        precision: float64 [T], share of the taken results that are right.
        recall: float64 [T], share of all positives that are taken, rising.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area under the steps of the curve, 0 to 1: the sum of precision times gain in recall.

        Where no two scores are equal, this is the average precision of the pooled results (µAP).
        """
        return float((np.diff(self.recall, prepend=0.0) * self.precision).sum())

    def recall_at_precision(self, precision: float) -> float:
        """The highest recall of a threshold at which the precision is at least this; 0 where there is none.

        Raises:
            ValueError: `precision` is not between 0 and 1.
        """
        if not 0 <= precision <= 1:
            raise ValueError(f"precision must be between 0 and 1, got {precision}")
        return float(self.recall[self.precision >= precision].max(initial=0.0))


def pooled_precision_recall(
    rankings: Mapping[Query, Sequence[Id] | NDArray[Any]],
    scores: Mapping[Query, ArrayLike],
    truths: Mapping[Query, Truth[Id]],
    min_positives: int = 1,
) -> PrecisionRecall:
    """Pool the results of all queries, and sweep one threshold over their scores.

    With R_q(t) the results of query q that score at least t, and P_q its positives::

        precision(t) = sum_q |R_q(t) & P_q| / sum_q |R_q(t)|
        recall(t) = sum_q |R_q(t) & P_q| / sum_q |P_q|

    Whatever is found for a query without positives is wrong, so a good curve needs scores that compare
    between queries. Results of equal score are taken together. Junk does not count, and a repeat is wrong.

    Source: Noh et al., Large-scale image retrieval with attentive deep local features, ICCV 2017; the area
    is the µAP of Perronnin et al., CVPR 2009.

    Args:
        rankings: per query, index ids; may be incomplete, empty or missing, which loses recall.
        scores: per query, float [n] or [n, k]: the score of each id of its ranking; with k columns, each
            breaks the ties of those before it.
        truths: per query, what it should find; queries without positives are what the curve is for.
        min_positives: queries with fewer positives, but some, are left out.

    Raises:
        ValueError: a ranking is for a query without truth, its scores are not one per id or are NaN, or no
            query has positives.
    """
    unknown = [query for query in rankings if query not in truths]
    if unknown:
        raise ValueError(f"{len(unknown)} rankings are for queries without truth, such as {unknown[:3]}")
    pooled = {query: truth for query, truth in truths.items() if not 0 < len(truth.positives) < min_positives}
    positives = sum(len(truth.positives) for truth in pooled.values())
    if not positives:
        raise ValueError(f"recall is undefined: none of {len(truths)} queries has positives")
    parts = [
        _judged(query, rankings[query], scores.get(query, ()), truth)
        for query, truth in pooled.items()
        if query in rankings
    ]
    widths = {own.shape[1] for own, _ in parts if len(own)}
    if len(widths) > 1:
        raise ValueError(
            f"the scores have {min(widths)} columns for some queries and {max(widths)} for others"
        )
    if not widths:
        return PrecisionRecall(np.zeros(0), np.zeros(0), np.zeros(0))
    keys = np.concatenate([own for own, _ in parts if len(own)])
    right = np.concatenate([own for _, own in parts])
    order = np.lexsort(-keys.T[::-1])
    keys, found = keys[order], np.cumsum(right[order])
    last = np.append((keys[1:] != keys[:-1]).any(1), True)
    taken = np.flatnonzero(last) + 1
    return PrecisionRecall(keys[last, 0], found[last] / taken, found[last] / positives)


def _judged(
    query: Query, ranking: Sequence[Id] | NDArray[Any], scores: ArrayLike, truth: Truth[Id]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores [n, k] of the results that count, and whether each is right."""
    ids = ranking.tolist() if isinstance(ranking, np.ndarray) else list(ranking)
    keys = np.asarray(scores, dtype=np.float64)
    if len(keys) != len(ids):
        raise ValueError(f"query {query!r} has {len(ids)} results and {len(keys)} scores")
    if np.isnan(keys).any():
        raise ValueError(f"a score of query {query!r} is NaN")
    first = {item: place for place, item in reversed(list(enumerate(ids)))}
    right = np.zeros(len(ids), dtype=np.bool_)
    right[[first[item] for item in truth.positives if item in first]] = True
    junk = truth.junk - truth.positives
    counts = np.array([item not in junk for item in ids], dtype=np.bool_)
    return (keys[:, None] if keys.ndim == 1 else keys)[counts], right[counts]
