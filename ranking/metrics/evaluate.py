"""Mean average precision, mean precision at k and recall@k of the rankings of many queries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranking.metrics.average_precision import challenge_average_precision, trapezoidal_average_precision
from ranking.metrics.positive_ranks import positive_ranks
from ranking.metrics.precision_at_k import precision_at_k, revisited_precision_at_k
from ranking.metrics.recall_at_k import recall_at_k
from ranking.metrics.truth import Truth

Id = TypeVar("Id", bound=Hashable)
Query = TypeVar("Query", bound=Hashable)
Metric = Literal["trapezoid", "challenge"]

RECALL_AT = (1, 5, 10)
"""The k of Recall@k, as in place recognition."""


@dataclass(frozen=True, eq=False)
class Evaluation(Generic[Query]):
    """Scores of rankings, all in percent.

    Attributes:
        queries: the Q queries that were scored.
        average_precision: float64 [Q].
        precision_at: k -> float64 [Q].
        recall_at: k of `RECALL_AT` -> float64 [Q], 100 where a positive is among the first k, else 0.
    """

    queries: tuple[Query, ...]
    average_precision: NDArray[np.float64]
    precision_at: dict[int, NDArray[np.float64]]
    recall_at: dict[int, NDArray[np.float64]]

    def means(self) -> dict[str, float]:
        """`mAP` and, for every k, `mP@k` and `Recall@k`: means over the scored queries, in percent."""
        precisions = {f"mP@{k}": float(values.mean()) for k, values in self.precision_at.items()}
        recalls = {f"Recall@{k}": float(values.mean()) for k, values in self.recall_at.items()}
        return {"mAP": float(self.average_precision.mean())} | precisions | recalls


def evaluate(
    rankings: Mapping[Query, Sequence[Id] | NDArray[Any]],
    truths: Mapping[Query, Truth[Id]],
    metric: Metric = "trapezoid",
    ks: Sequence[int] = (10,),
    min_positives: int = 1,
) -> Evaluation[Query]:
    """Score rankings against the truth.

    Every query of `truths` with enough positives is scored: one without a ranking scores 0, and a positive
    that a ranking does not hold is missed. Junk and duplicates are treated as in `positive_ranks`.

    Args:
        rankings: per query, index ids, best first; may be incomplete or empty.
        truths: per query, what it should find.
        metric: `trapezoid` is the revisited protocol (`trapezoidal_average_precision`,
            `revisited_precision_at_k`); `challenge` is Google Landmark Retrieval
            (`challenge_average_precision` at 100, `precision_at_k`).
        ks: the k of mP@k.
        min_positives: queries with fewer positives are left out, and those without any always are.

    Returns:
        The scores per query, in the order of `truths`, and their means.

    Raises:
        ValueError: a ranking is for a query without truth, no query has enough positives, or the metric is
            unknown.
    """
    if metric not in ("trapezoid", "challenge"):
        raise ValueError(f"unknown metric {metric!r}: choose trapezoid or challenge")
    unknown = [query for query in rankings if query not in truths]
    if unknown:
        raise ValueError(f"{len(unknown)} rankings are for queries without truth, such as {unknown[:3]}")
    scored = [query for query, truth in truths.items() if len(truth.positives) >= max(min_positives, 1)]
    if not scored:
        raise ValueError(f"none of {len(truths)} queries has {max(min_positives, 1)} or more positives")

    average_precision = np.zeros(len(scored))
    precision_at = {k: np.zeros(len(scored)) for k in ks}
    recall_at = {k: np.zeros(len(scored)) for k in RECALL_AT}
    for row, query in enumerate(scored):
        truth = truths[query]
        positives = len(truth.positives)
        ranks = positive_ranks(rankings.get(query, ()), truth.positives, truth.junk)
        for k in RECALL_AT:
            recall_at[k][row] = recall_at_k(ranks, k)
        if metric == "trapezoid":
            average_precision[row] = trapezoidal_average_precision(ranks, positives)
            for k in ks:
                precision_at[k][row] = revisited_precision_at_k(ranks, positives, k)
        else:
            average_precision[row] = challenge_average_precision(ranks, positives)
            for k in ks:
                precision_at[k][row] = precision_at_k(ranks, k)
    percent = {k: 100 * values for k, values in precision_at.items()}
    return Evaluation(
        tuple(scored), 100 * average_precision, percent, {k: 100 * values for k, values in recall_at.items()}
    )
