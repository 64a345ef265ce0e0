"""Global average precision (GAP, also called µAP) of landmark recognition."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

import numpy as np

Query = TypeVar("Query", str, int)
Label = TypeVar("Label", bound=Hashable)


def global_average_precision(
    predictions: Mapping[Query, tuple[Label, float]], truth: Mapping[Query, Collection[Label]]
) -> float:
    """Pool the predictions of all queries, most confident first, and average the precision at the right ones.

    With the N pooled predictions in falling order of score (ties in rising order of the query's id)::

        GAP = 1 / M * sum_i P(i) * rel(i)

    rel(i) is 1 if the i-th prediction is right and 0 if not, P(i) is the precision of the first i, and M is
    the number of queries that show a landmark. A prediction for a query that shows none is always wrong, so
    confidence has to be comparable between queries.

    Source: Perronnin et al., A family of contextual measures of similarity between distributions with
    application to image retrieval, CVPR 2009; Weyand et al., Google Landmarks Dataset v2, CVPR 2020.

    Args:
        predictions: per query, the predicted label and its score; queries may be left out.
        truth: per query, every right label; empty where the query shows no landmark.

    Returns:
        GAP, 0 to 1.

    Raises:
        ValueError: no query shows a landmark, a prediction is for a query without truth, or a score is NaN.
    """
    with_landmark = sum(1 for labels in truth.values() if len(labels))
    if not with_landmark:
        raise ValueError("GAP is undefined: no query has a landmark label")
    unknown = [query for query in predictions if query not in truth]
    if unknown:
        raise ValueError(f"{len(unknown)} predictions are for queries without truth, such as {unknown[:3]}")
    if not predictions:
        return 0.0
    queries = sorted(predictions)
    scores = np.array([predictions[query][1] for query in queries], dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"the score of query {queries[int(np.isnan(scores).argmax())]!r} is NaN")
    right = np.array([predictions[query][0] in truth[query] for query in queries])
    right = right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].sum() / with_landmark)
