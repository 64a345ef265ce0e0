"""A data set to evaluate on: index photos, query photos, and the truth of one or more protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from numpy.typing import ArrayLike

from ranking.metrics import Evaluation, Metric, PrecisionRecall, Truth, evaluate, pooled_precision_recall


class DatasetError(ValueError):
    """A data set cannot be read; the message names the file and the way out."""


class Box(NamedTuple):
    """The part of a query photo that shows the landmark: left, top, right, bottom in pixels of the photo."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Dataset:
    """Photos and what each query should find.

    Query ids and index ids are separate: where a query photo is in the index too (leave-one-out, classic
    Oxford), the same id stands for it in both.

    Attributes:
        name: name of the folder.
        index: id -> photo, in the order of the ground truth or of the file names.
        queries: id -> photo, with or without enough positives.
        protocols: protocol -> query id -> truth. Every protocol knows every query.
        metric: how rankings are scored: see `ranking.metrics.evaluate`.
        min_positives: in a protocol, queries with fewer positives are left out of the means.
        leave_one_out: every query is an index photo that must not find itself; it is junk in its own truth.
        boxes: query id -> the part of its photo to search with; queries not named here use the whole photo.
        unjudged: ids of queries whose truth is not known; rankings of them are accepted and not scored.
        labels: index id -> its landmark; photos not named here show no landmark.
        landmarks: query id -> its landmarks, none where it shows no landmark. Every query is named, or the
            landmarks are not known and none is.
    """

    name: str
    index: dict[str, Path]
    queries: dict[str, Path]
    protocols: dict[str, dict[str, Truth[str]]]
    metric: Metric
    min_positives: int = 1
    leave_one_out: bool = False
    boxes: dict[str, Box] = field(default_factory=dict)
    unjudged: frozenset[str] = frozenset()
    labels: dict[str, str] = field(default_factory=dict)
    landmarks: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(self.scored(protocol) for protocol in self.protocols):
            raise DatasetError(
                f"{self.name}: no query has {self.min_positives} or more positives in any protocol "
                f"({', '.join(self.protocols)}); lower min_positives or complete the ground truth"
            )

    def scored(self, protocol: str) -> list[str]:
        """Ids of the queries that have enough positives to count in a protocol."""
        enough = max(self.min_positives, 1)
        return [query for query, truth in self.protocols[protocol].items() if len(truth.positives) >= enough]

    def evaluations(
        self, rankings: Mapping[str, Sequence[str]], ks: Sequence[int] = (10,)
    ) -> dict[str, Evaluation[str]]:
        """Score rankings query by query.

        Args:
            rankings: query id -> index ids, best first. A query without a ranking scores 0.
            ks: the k of mP@k.

        Returns:
            Protocol -> scores in percent. A protocol in which no query has enough positives is left out.

        Raises:
            ValueError: a ranking is for an unknown query, or holds an id that is not in the index.
        """
        judged = self._judged(rankings)
        return {
            protocol: evaluate(judged, truths, self.metric, ks, self.min_positives)
            for protocol, truths in self.protocols.items()
            if self.scored(protocol)
        }

    def precision_recall(
        self, rankings: Mapping[str, Sequence[str]], scores: Mapping[str, ArrayLike]
    ) -> dict[str, PrecisionRecall]:
        """Pool the results of all queries, those without positives too, and sweep a threshold.

        Args:
            rankings: as for `evaluations`.
            scores: query id -> a score for each id of its ranking: see `pooled_precision_recall`.

        Returns:
            Protocol -> curve, for the protocols that `evaluations` scores.

        Raises:
            ValueError: as `evaluations`, or the scores do not fit.
        """
        judged = self._judged(rankings)
        return {
            protocol: pooled_precision_recall(judged, scores, truths, self.min_positives)
            for protocol, truths in self.protocols.items()
            if self.scored(protocol)
        }

    def _judged(self, rankings: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        unknown = [query for query in rankings if query not in self.queries and query not in self.unjudged]
        if unknown:
            raise ValueError(f"{self.name} has no such queries: {some(unknown)}")
        judged = {query: ranking for query, ranking in rankings.items() if query in self.queries}
        for query, ranking in judged.items():
            strangers = [item for item in ranking if item not in self.index]
            if strangers:
                raise ValueError(
                    f"{self.name}: the ranking of {query} holds ids that are not in the index: "
                    f"{some(strangers)}"
                )
        return judged

    def evaluate(
        self, rankings: Mapping[str, Sequence[str]], ks: Sequence[int] = (10,)
    ) -> dict[str, dict[str, float]]:
        """Protocol -> `{"mAP": …, "mP@10": …, "Recall@1": …}` in percent: the means of `evaluations`."""
        return {protocol: scores.means() for protocol, scores in self.evaluations(rankings, ks).items()}


def some(names: Sequence[object], shown: int = 3) -> str:
    """The first few names and how many there are, for a message."""
    listed = ", ".join(str(name) for name in names[:shown])
    return listed if len(names) <= shown else f"{listed}, … ({len(names)} in all)"
