"""A table of methods on a labelled data set: mAP, mP@10, seconds, and what each step gains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landbridge.datasets import Dataset
from landbridge.index import Index
from landbridge.results import Ranking
from landbridge.retrieval import METHODS, Progress, Retrieval, silent


@dataclass(frozen=True)
class Evaluation:
    """Figures of some methods on one data set.

    Attributes:
        dataset: its name.
        queries: number of queries that count in some protocol.
        index: number of index images.
        protocols: protocol -> method -> `{"mAP": percent, "mP@10": percent}`.
        seconds: method -> wall time for all queries. A step that several methods need counts for the
            first of them.
        failed: photos that could not be read, with the reason; their queries count as unanswered.
        rankings: method -> query id -> ranking.
        retrieval: what ranked them.
    """

    dataset: str
    queries: int
    index: int
    protocols: dict[str, dict[str, dict[str, float]]]
    seconds: dict[str, float]
    failed: dict[Path, str]
    rankings: dict[str, dict[str, Ranking]]
    retrieval: Retrieval

    def as_dict(self) -> dict[str, Any]:
        """The figures in values that JSON can hold."""
        return {
            "dataset": self.dataset,
            "queries": self.queries,
            "index": self.index,
            "protocols": self.protocols,
            "seconds": self.seconds,
            "failed": {str(path): reason for path, reason in self.failed.items()},
        }

    def rows(self) -> list[tuple[str, dict[str, dict[str, float]], float]]:
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
    progress: Progress = silent,
) -> Evaluation:
    """Index a data set, rank its queries by several methods, and score the rankings.

    Args:
        dataset: photos and truth; index photos that are in the index already are not done again.
        index: where its index photos go. It must hold nothing else.
        methods: names of `METHODS`, in the order of the table.
        offline: queries serve as bridging images to one another.
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
    protocols: dict[str, dict[str, dict[str, float]]] = {}
    for method, ranked in rankings.items():
        scores = dataset.evaluate({query: ranking.image_ids for query, ranking in ranked.items()})
        for protocol, figures in scores.items():
            protocols.setdefault(protocol, {})[method] = figures
    return Evaluation(
        dataset.name,
        len({query for protocol in dataset.protocols for query in dataset.scored(protocol)}),
        len(index.library.ids),
        protocols,
        seconds,
        failed,
        rankings,
        retrieval,
    )
