"""A table of methods on a labelled data set: what each finds, what it is sure of, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.datasets import Dataset
from landbridge.index import Index
from landbridge.recognition import recognise
from landbridge.results import Ranking
from landbridge.retrieval import METHODS, Progress, Retrieval, silent
from ranking.metrics import PrecisionRecall, global_average_precision

SURE = (90, 95)
"""Percent of precision at which recall is told."""

Figures = dict[str, dict[str, float]]
"""Method -> name of a figure -> value in percent."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of some methods on one data set.

    Attributes:
        dataset: its name.
        queries: number of queries that count in some protocol.
        index: number of index images.
        protocols: protocol -> method -> `{"mAP": percent, "mP@10": percent, "Recall@1": percent, …}`.
        left_out: protocol -> number of queries left out of these means: without positives, or with fewer
            than the data set's `min_positives`.
        without_positives: protocol -> number of queries without any positive: the right answer to them is
            nothing.
        pooled: protocol -> method -> figures of the precision-recall curve of the results of all queries,
            those without positives too: `area`, `recall@P90` and `recall@P95` where results are pooled by
            their confidence (by their score where it is equal), and `area by score`, by their score alone.
        recognition: method -> `GAP`, and `accuracy`: the share of the queries with a landmark that are
            given a right one. Empty where the data set has no landmarks.
        seconds: method -> wall time for all queries. A step that several methods need counts for the
            first of them.
        failed: photos that could not be read, with the reason; their queries count as unanswered.
        rankings: method -> query id -> ranking.
        curves: protocol -> method -> the curve that `pooled` describes.
        retrieval: what ranked them.
    """

    dataset: str
    queries: int
    index: int
    protocols: dict[str, Figures]
    left_out: dict[str, int]
    without_positives: dict[str, int]
    pooled: dict[str, Figures]
    recognition: Figures
    seconds: dict[str, float]
    failed: dict[Path, str]
    rankings: dict[str, dict[str, Ranking]]
    curves: dict[str, dict[str, PrecisionRecall]]
    retrieval: Retrieval

    def as_dict(self) -> dict[str, Any]:
        """The figures in values that JSON can hold."""
        return {
            "dataset": self.dataset,
            "queries": self.queries,
            "index": self.index,
            "protocols": self.protocols,
            "left_out": self.left_out,
            "without_positives": self.without_positives,
            "pooled": self.pooled,
            "recognition": self.recognition,
            "seconds": self.seconds,
            "failed": {str(path): reason for path, reason in self.failed.items()},
        }

    def write_curves(self, path: Path) -> None:
        """Draw the precision-recall curves as a PNG: a frame for each protocol, a curve for each method.

        Raises:
            OSError: the file cannot be written.
        """
        from landbridge.curves import draw_curves  # matplotlib takes its time

        draw_curves(path, self.curves, f"{self.dataset}: results of all queries, by confidence")

    def rows(self) -> list[tuple[str, Figures, float]]:
        """Method, its figures by protocol, and its seconds, in the order of the methods."""
        return [
            (method, {name: table[method] for name, table in self.protocols.items()}, self.seconds[method])
            for method in self.seconds
        ]

    def write_report(self, path: Path, dataset: Dataset, index: Index, most: int = 24, **more: Any) -> None:
        """Write the last method's rankings as a page to look at, right and wrong marked.

        Args:
            path: the HTML file.
            dataset: what was evaluated.
            index: where.
            most: queries shown; those with positives come first.
            more: what else `landbridge.report.write_report` takes.
        """
        method, ranked = list(self.rankings.items())[-1]
        protocol = "medium" if "medium" in dataset.protocols else next(iter(dataset.protocols))
        truths = dataset.protocols[protocol]
        chosen = sorted(ranked, key=lambda query: not truths[query].positives)[:most]
        scores = dataset.evaluations({query: ranking.image_ids for query, ranking in ranked.items()})
        average_precision = (
            dict(zip(scores[protocol].queries, scores[protocol].average_precision.tolist(), strict=True))
            if protocol in scores
            else {}
        )

        def truth(query: str, image: str) -> bool | None:
            return None if image in truths[query].junk else image in truths[query].positives

        facts = {
            "data set": self.dataset,
            "index photos": self.index,
            "queries": self.queries,
            "ranked by": method,
            "right and wrong": f"protocol {protocol!r}",
        }
        index.write_report(
            path,
            self.retrieval,
            [ranked[query] for query in chosen],
            {} if dataset.leave_one_out else dataset.queries,
            truth=truth,
            average_precision={q: average_precision[q] for q in chosen if q in average_precision},
            table=self.rows(),
            **{"title": f"{self.dataset}, ranked by {method}", "facts": facts} | more,
        )


def evaluate(
    dataset: Dataset,
    index: Index,
    methods: Sequence[str] = METHODS,
    *,
    offline: bool = False,
    local_index: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """Index a data set, rank its queries by several methods, and score the rankings.

    Args:
        dataset: photos and truth; index photos that are in the index already are not done again.
        index: where its index photos go. It must hold nothing else.
        methods: names of `METHODS`, in the order of the table.
        offline: queries serve as bridging images to one another.
        local_index: index local descriptors too, a row each; see `Index.build_local_index`.
        progress: told about the long steps.

    Raises:
        ValueError: the index holds other photos, or a method is unknown.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"unknown method {unknown[0]!r}: there are {', '.join(METHODS)}")
    strangers = set(index.library.ids if len(index) else ()) - set(dataset.index)
    if strangers:
        raise ValueError(
            f"{index.name!r} in {index.uri} holds {len(strangers)} photos that are not of {dataset.name}, "
            f"such as {min(strangers)}: evaluate into a collection of its own"
        )
    failed = dict(index.add(dataset.index, progress).failed)
    if local_index:
        index.build_local_index(progress)
    if dataset.leave_one_out:
        queries = index.members(query for query in dataset.queries if query in index.library.number)
    else:
        queries, unread = index.queries(dataset.queries, dataset.boxes, progress)
        failed |= unread
    retrieval = index.retrieval(queries, offline=offline, progress=progress)
    rankings: dict[str, dict[str, Ranking]] = {}
    seconds: dict[str, float] = {}
    for method in methods:
        start = time.perf_counter()
        rankings[method] = {ranking.query_id: ranking for ranking in retrieval.rank(method)}
        seconds[method] = time.perf_counter() - start
    protocols: dict[str, Figures] = {}
    pooled: dict[str, Figures] = {}
    curves: dict[str, dict[str, PrecisionRecall]] = {}
    for method, ranked in rankings.items():
        found = {query: ranking.image_ids for query, ranking in ranked.items()}
        for protocol, figures in dataset.evaluate(found).items():
            protocols.setdefault(protocol, {})[method] = figures
        sure = {
            query: [(hit.confidence, hit.score) for hit in ranking.hits] for query, ranking in ranked.items()
        }
        raw = {query: [hit.score for hit in ranking.hits] for query, ranking in ranked.items()}
        by_score = dataset.precision_recall(found, raw)
        for protocol, curve in dataset.precision_recall(found, sure).items():
            curves.setdefault(protocol, {})[method] = curve
            pooled.setdefault(protocol, {})[method] = {
                "area": 100 * curve.area,
                **{f"recall@P{at}": 100 * curve.recall_at_precision(at / 100) for at in SURE},
                "area by score": 100 * by_score[protocol].area,
            }
    return Evaluation(
        dataset.name,
        len({query for protocol in dataset.protocols for query in dataset.scored(protocol)}),
        len(index.library.ids),
        protocols,
        {protocol: len(dataset.queries) - len(dataset.scored(protocol)) for protocol in protocols},
        {
            protocol: sum(not truth.positives for truth in dataset.protocols[protocol].values())
            for protocol in protocols
        },
        pooled,
        {method: _recognition(dataset, ranked) for method, ranked in rankings.items() if dataset.landmarks},
        seconds,
        failed,
        rankings,
        curves,
        retrieval,
    )


def _recognition(dataset: Dataset, ranked: Mapping[str, Ranking]) -> dict[str, float]:
    recognised = {query: recognise(ranking, dataset.labels) for query, ranking in ranked.items()}
    predictions = {query: (it.label, it.confidence) for query, it in recognised.items() if it is not None}
    right = [query for query, (label, _) in predictions.items() if label in dataset.landmarks[query]]
    with_landmark = sum(bool(landmarks) for landmarks in dataset.landmarks.values())
    return {
        "GAP": 100 * global_average_precision(predictions, dataset.landmarks),
        "accuracy": 100 * len(right) / with_landmark,
    }
