"""What a search gives back: rankings, how each photo was found, and the way that led to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

How = Literal["verified", "bridged", "similar"]

UNVERIFIED = 0.1
"""What a chain is worth where there is none: MMST-C keeps no chain that is worth less."""


@dataclass(frozen=True, slots=True)
class Link:
    """One verified pair of photos on the way from a query to a photo.

    Attributes:
        source: Image id on the query's side of the link.
        target: Image id on the found photo's side.
        inliers: Matches that agree with the fitted geometric model.
        confidence: Calibrated confidence in the pair, 0 to 1.
    """

    source: str
    target: str
    inliers: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One photo of a ranking.

    Attributes:
        image_id: The photo found.
        score: What it was ranked by; comparable within one ranking only.
        how: ``verified`` directly against the query (one link), ``bridged`` over other photos (two links
            or more, from the query to the photo), or ``similar``: no verified way leads to it, and it was
            ranked by the similarity of the (expanded) descriptors (no link).
        chain: The links from the query to the photo.
        confidence: Probability that the photo is right, 0 to 1, comparable between queries: see
            `hit_confidence`.
        fields: Of the photo's row in somebody's own collection: the primary key, and those asked for.

    Raises:
        ValueError: If the chain does not fit ``how``, breaks off, or ends at another photo.
    """

    image_id: str
    score: float
    how: How
    chain: tuple[Link, ...] = ()
    confidence: float = 0.0
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        links = len(self.chain)
        if self.how != ("similar" if links == 0 else "verified" if links == 1 else "bridged"):
            raise ValueError(f"photo {self.image_id!r}: a chain of {links} links cannot be {self.how!r}")
        stops = [link.target for link in self.chain]
        if stops and (stops[-1] != self.image_id or stops[:-1] != [link.source for link in self.chain[1:]]):
            raise ValueError(f"photo {self.image_id!r}: its chain {stops} does not lead to it without a gap")

    @property
    def bridges(self) -> tuple[str, ...]:
        """Ids of the photos between the query and this one, in order."""
        return tuple(link.target for link in self.chain[:-1])

    @property
    def reason(self) -> str:
        """How it was found, in words."""
        if self.how == "verified":
            return f"verified, {self.chain[0].inliers} inliers"
        return "bridged over " + " → ".join(self.bridges) if self.bridges else "similar"


def hit_confidence(chain: Sequence[Link], similarity: float) -> float:
    """Probability that a photo found shows what the query shows.

    A photo verified against the query has the confidence of the pair. Over a chain, one wrong link leads to
    the photos of another landmark, and the best chain is chosen among many; but a single wrong link moves
    the expanded descriptors little. So a bridged photo has the product of the confidences of its links times
    the similarity of the expanded descriptors, and a photo that is merely similar has `UNVERIFIED` times its
    similarity.

    Args:
        chain: links from the query to the photo.
        similarity: cosine of the (expanded) descriptors of query and photo; below 0 counts as 0.

    Returns:
        0 to 1.
    """
    if len(chain) == 1:
        return chain[0].confidence
    linked = math.prod(link.confidence for link in chain) if chain else UNVERIFIED
    return linked * min(max(similarity, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one query: photos in order, best first.

    Raises:
        ValueError: If a hit's chain starts elsewhere than at the query.
    """

    query_id: str
    hits: tuple[Hit, ...]

    def __post_init__(self) -> None:
        for hit in self.hits:
            if hit.chain and hit.chain[0].source != self.query_id:
                start = hit.chain[0].source
                raise ValueError(
                    f"query {self.query_id!r}: the chain to {hit.image_id!r} starts at {start!r}"
                )

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The photos' ids, best first."""
        return tuple(hit.image_id for hit in self.hits)

    def as_dict(self) -> dict[str, Any]:
        """The ranking as plain dictionaries, named as the attributes are; `fields` where there are some."""
        plain = asdict(self)
        for hit in plain["hits"]:
            if not hit["fields"]:
                del hit["fields"]
        return plain

    def to_json(self) -> str:
        """The ranking as one line of JSON.

        Raises:
            ValueError: If a score or a confidence is not finite.
        """
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class AttachedRanking(Ranking):
    """The answer to one query over somebody's own collection; see `landbridge.attach`.

    Attributes:
        ids: Primary keys of the photos, as they have them, best first; `image_id` is the same as text.
        unavailable: Of candidates whose photo could not be had, by primary key: why. They are ranked by the
            similarity of their vectors alone.
    """

    ids: tuple[int | str, ...] = ()
    unavailable: Mapping[int | str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, eq=False)
class Correspondences:
    """The inliers of one pair of photos.

    Attributes:
        source_points: float32 [M, 2], x and y in pixels of the original photo, EXIF orientation applied.
        target_points: float32 [M, 2], the matching points in the other photo.

    Raises:
        ValueError: If the two are not [M, 2] with the same M.
    """

    source_points: NDArray[np.float32]
    target_points: NDArray[np.float32]

    def __post_init__(self) -> None:
        source, target = self.source_points.shape, self.target_points.shape
        if source != target or source[1:] != (2,):
            raise ValueError(f"correspondences need two arrays [M, 2], got {source} and {target}")
