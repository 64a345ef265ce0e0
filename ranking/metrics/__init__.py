"""Retrieval and recognition metrics, one per module, on plain ids and numpy alone."""

from ranking.metrics.average_precision import challenge_average_precision, trapezoidal_average_precision
from ranking.metrics.evaluate import RECALL_AT, Evaluation, Metric, evaluate
from ranking.metrics.gap import global_average_precision
from ranking.metrics.positive_ranks import positive_ranks
from ranking.metrics.precision_at_k import precision_at_k, revisited_precision_at_k
from ranking.metrics.precision_recall import PrecisionRecall, pooled_precision_recall
from ranking.metrics.recall_at_k import recall_at_k
from ranking.metrics.truth import Truth

__all__ = [
    "RECALL_AT",
    "Evaluation",
    "Metric",
    "PrecisionRecall",
    "Truth",
    "challenge_average_precision",
    "evaluate",
    "global_average_precision",
    "pooled_precision_recall",
    "positive_ranks",
    "precision_at_k",
    "recall_at_k",
    "revisited_precision_at_k",
    "trapezoidal_average_precision",
]
