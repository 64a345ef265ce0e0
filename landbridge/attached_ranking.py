"""One query over candidates from somebody's collection: from their rows to ranked hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connector import payload
from connector.companion import Id
from connector.errors import PhotoUnavailableError
from extractor.features import ImageFeatures
from landbridge.attached_library import AttachedLibrary
from landbridge.queries import match_key
from landbridge.results import AttachedRanking, Hit
from landbridge.retrieval import Progress, Query, Retrieval
from ranking.nearest_neighbours import normalised

_UNVERIFIED = ("global", "aqe")
_WITHOUT_BRIDGES = (*_UNVERIFIED, "verify")

Rows = Mapping[Id, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Asked:
    """A query and its candidates.

    Attributes:
        query: features of a photo from outside, or the id of one of their images.
        vector: float32 [D], the query's, of their model; None where it is not known.
        ids: of the candidates, best first; the query is left out, if it is among them.
        rows: of candidates, and of the query if it is theirs, with vectors and places of photos.
    """

    query: ImageFeatures | Id
    vector: NDArray[np.float32] | None
    ids: Sequence[Id]
    rows: Rows


@dataclass(frozen=True, eq=False)
class Ranked:
    """All hits of a query.

    Attributes:
        query_id: the query's name.
        hits: best first, by id.
        unavailable: candidates whose photo cannot be had, and why.
        id_field: name of their primary key.
    """

    query_id: str
    hits: dict[Id, Hit]
    unavailable: dict[Id, str]
    id_field: str

    def answer(self, chosen: Sequence[Id], rows: Rows, output_fields: Sequence[str]) -> AttachedRanking:
        """The ranking of the ids that were chosen, with fields of their rows."""
        hits = tuple(
            replace(
                self.hits[id_],
                fields={self.id_field: id_, **{name: _plain(rows[id_][name]) for name in output_fields}},
            )
            for id_ in chosen
        )
        return AttachedRanking(self.query_id, hits, tuple(chosen), self.unavailable)


def rank(attached: AttachedLibrary, asked: Asked, method: str, progress: Progress) -> Ranked:
    """Rank candidates, and all other images with local features if the method has bridges.

    Without the query's vector, the sum of the candidates' vectors stands for it, each divided by its place.

    Raises:
        PhotoUnavailableError: the query is one of their images, and its photo cannot be had.
    """
    query, ids, rows = asked.query, asked.ids, asked.rows
    digests, unavailable = ({}, {}) if method in _UNVERIFIED else attached.prepare(rows, progress)
    if not isinstance(query, ImageFeatures) and query in unavailable:
        raise PhotoUnavailableError(f"image {query!r} cannot be searched with: {unavailable[query]}")
    vectors = normalised(attached.collection.decode(list(rows.values())))
    bridges = method not in _WITHOUT_BRIDGES
    library, order = attached.library(digests, dict(zip(rows, vectors, strict=True)), whole=bridges)
    if bridges:
        library.join(progress)
    place = {id_: i for i, id_ in enumerate(order)}
    candidates = library.embeddings[[place[id_] for id_ in ids]]
    vector = (candidates.T / np.arange(1, len(ids) + 1)).sum(1) if asked.vector is None else asked.vector
    embedding = normalised(vector)
    if isinstance(query, ImageFeatures):
        ranked = _from_outside(query, embedding)
    else:
        ranked = Query(str(query), library.keys[place[query]], embedding)
    given = [(place[id_], float(score)) for id_, score in zip(ids, candidates @ embedding, strict=True)]
    (ranking,) = Retrieval(library, [ranked], candidates=[given], progress=progress).rank(method)
    id_of = dict(zip(library.ids, order, strict=True))
    hits = {id_of[hit.image_id]: hit for hit in ranking.hits}
    return Ranked(ranked.query_id, hits, unavailable, attached.collection.id_field)


def _from_outside(features: ImageFeatures, embedding: NDArray[np.float32]) -> Query:
    """A query at the precision that local features are kept with."""
    packed = payload.pack(features)
    stored = payload.unpack(packed, image_id=features.image_id, extractor=features.extractor)
    key = match_key("query", features.image_id, payload.digest(packed))
    return Query(features.image_id, key, embedding, stored.local)


def _plain(value: Any) -> Any:
    """A value of a field as JSON can hold it; bytes in hex."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
