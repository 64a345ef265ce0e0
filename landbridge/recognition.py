"""Recognition: the landmark that a query shows, by vote of its verified neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from landbridge.datasets.google_landmarks import read_labels
from landbridge.results import Ranking


@dataclass(frozen=True, slots=True)
class Recognition:
    """A landmark recognised in a query.

    Attributes:
        label: the landmark.
        confidence: probability that the query shows it, 0 to 1, comparable between queries.
    """

    label: str
    confidence: float


def recognise(ranking: Ranking, labels: Mapping[str, str]) -> Recognition | None:
    """Let the neighbours of the query vote for its landmark.

    Photos verified against the query vote for their landmarks with their confidence c; one that shows no
    landmark votes for none. With p_l = 1 - prod (1 - c) over the voters of l, the probability that one of
    them at least is right, the landmark of the largest p_l wins (of equals the first by name), and its
    confidence is::

        p_l * p_l / sum of p over all landmarks voted for, none included

    Photos reached over bridges do not vote: many weak chains into one large landmark would outvote a few
    sure neighbours. Where nothing is verified, the photo of the highest confidence decides alone.

    Args:
        ranking: what was found for the query.
        labels: image id -> landmark; photos not named here show none.

    Returns:
        The landmark, or None where the vote is for none, or nothing was found.
    """
    voters = [hit for hit in ranking.hits if hit.how == "verified"]
    voters = voters or sorted(ranking.hits, key=lambda hit: -hit.confidence)[:1]
    doubts: dict[str | None, float] = {}
    for hit in voters:
        label = labels.get(hit.image_id)
        doubts[label] = doubts.get(label, 1.0) * (1 - hit.confidence)
    winner = min(doubts, key=lambda label: (doubts[label], label or ""), default=None)
    if winner is None or doubts[winner] == 1:
        return None
    chance = 1 - doubts[winner]
    return Recognition(winner, chance * chance / sum(1 - doubt for doubt in doubts.values()))


def landmark_labels(image_ids: Sequence[str], table: Path | None = None) -> dict[str, str]:
    """The landmark of each index photo.

    Args:
        image_ids: the index photos.
        table: a CSV with the columns `id` and `landmark_id`, where an empty landmark is none. Without it the
            landmark is the first folder of an id, and a photo in no folder shows none.

    Returns:
        Id -> landmark, for the photos that show one.

    Raises:
        ValueError: the table is malformed or lacks photos, or there is none and no photo lies in a folder.
    """
    if table is not None:
        return read_labels([table], image_ids)
    labels = {item: item.partition("/")[0] for item in image_ids if "/" in item}
    if not labels:
        raise ValueError(
            "the landmarks of the index photos are not known: their ids have no folders; give a CSV with the "
            "columns id,landmark_id"
        )
    return labels
