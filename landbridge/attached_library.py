"""Rows of somebody's collection as the rankers see them: their vectors, and local features beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from connector import payload
from connector.attached import AttachedCollection
from connector.collection import Hit as Neighbour
from connector.companion import Id
from connector.rows import KEYS_PER_READ, batches
from extractor.features import ImageFeatures, LocalFeatures
from landbridge.queries import match_key
from landbridge.retrieval import Library, Progress
from landbridge.row_photos import RowPhotos
from ranking.match_store import MatchStore
from ranking.nearest_neighbours import nearest_neighbours, normalised

_CACHED_PHOTOS = 4000


class AttachedLibrary:
    """Local features of their images, stored or extracted now, and the libraries made of them.

    Attributes:
        collection: theirs.
    """

    def __init__(
        self,
        collection: AttachedCollection,
        photos: RowPhotos | None,
        matches: Callable[[], MatchStore],
        *,
        keep: bool,
    ) -> None:
        """Read nothing yet.

        Args:
            collection: theirs.
            photos: where the photos of rows are; None when they cannot be had.
            matches: gives the verified pairs.
            keep: whether features that are extracted are stored beside the collection, or held in memory.
        """
        self.collection = collection
        self._photos = photos
        self._matches = matches
        self._keep = keep
        self._cache: LRUCache[str, LocalFeatures] = LRUCache(_CACHED_PHOTOS)
        self._unkept: dict[Id, tuple[str, LocalFeatures]] = {}
        self._kept: dict[Id, tuple[str, NDArray[np.float32]]] | None = None

    def forget(self) -> None:
        """Read everything anew."""
        self._cache.clear()
        self._unkept.clear()
        self._kept = None

    def extract(self, rows: Mapping[Id, Mapping[str, Any]]) -> Iterator[tuple[dict[Id, str], dict[Id, str]]]:
        """Extract the photos of rows and keep their features, some at a time.

        Yields:
            Digests of the features, and the reasons why there are none, by id.
        """
        if not rows:
            return
        if self._photos is None:
            yield {}, dict.fromkeys(rows, "no local features of it are stored, and no field names its photo")
            return
        for features, reasons in self._photos.features(rows):
            yield self._take(features), reasons

    def _take(self, features: Mapping[Id, ImageFeatures]) -> dict[Id, str]:
        """Store features, or hold them."""
        packed = {id_: payload.pack(image) for id_, image in features.items()}
        digests = {id_: payload.digest(data) for id_, data in packed.items()}
        if self._keep:
            self.collection.put_local(list(features), list(features.values()))
            return digests
        for id_, data in packed.items():
            # As they would come back from the collection.
            stored = payload.unpack(data, image_id=str(id_), extractor=features[id_].extractor)
            self._unkept[id_] = digests[id_], stored.local
        return digests

    def prepare(
        self, rows: Mapping[Id, Mapping[str, Any]], progress: Progress
    ) -> tuple[dict[Id, str], dict[Id, str]]:
        """Have the local features of rows, by extracting those that are not there.

        Returns:
            Digests of the features, and the reasons why there are none, by id.
        """
        digests = self.collection.digests(list(rows))
        digests |= {id_: self._unkept[id_][0] for id_ in rows if id_ in self._unkept and id_ not in digests}
        unavailable: dict[Id, str] = {}
        for found, reasons in self.extract({id_: rows[id_] for id_ in rows if id_ not in digests}):
            digests |= found
            unavailable |= reasons
            progress("extract candidates", len(digests) + len(unavailable), len(rows))
        return digests, unavailable

    def library(
        self, digests: Mapping[Id, str], embeddings: Mapping[Id, NDArray[np.float32]], *, whole: bool
    ) -> tuple[Library, list[Id]]:
        """What the rankers take.

        Args:
            digests: of the features of some images; see `prepare`.
            embeddings: float32 [D] of unit norm, of these and of images without features.
            whole: with all images besides whose features are stored.

        Returns:
            The library, and the ids of its images in order.
        """
        known = self._read_kept() if whole else {}
        for id_, embedding in embeddings.items():
            if id_ in digests:
                known[id_] = digests[id_], embedding
            else:
                known.pop(id_, None)
        without = [id_ for id_ in embeddings if id_ not in digests]
        ids = [*sorted(known), *without]
        names = [str(id_) for id_ in ids]
        keys = [match_key("index", str(id_), known[id_][0]) for id_ in ids[: len(known)]]
        keys += [match_key("featureless", str(id_), "") for id_ in without]
        vectors = [known[id_][1] if id_ in known else embeddings[id_] for id_ in ids]
        stacked = np.stack(vectors) if ids else np.zeros((0, self.collection.dimension), np.float32)
        library = Library(
            names,
            keys,
            stacked,
            _Exact(names, stacked),
            self._matches(),
            lambda wanted: self._features(wanted, dict(zip(keys, ids, strict=True))),
            np.arange(len(known), len(ids)),
        )
        return library, ids

    def _read_kept(self) -> dict[Id, tuple[str, NDArray[np.float32]]]:
        """Digest and embedding of every image whose features are stored, and that they still have."""
        if self._kept is None:
            digests = self.collection.digests()
            field = self.collection.vector_field
            self._kept = {}
            for ids in batches(sorted(digests), KEYS_PER_READ):
                rows = self.collection.find(ids, [field])
                vectors = normalised(self.collection.decode(list(rows.values())))
                self._kept |= {id_: (digests[id_], vector) for id_, vector in zip(rows, vectors, strict=True)}
        return self._kept

    def _features(self, wanted: Sequence[str], owner: Mapping[str, Id]) -> dict[str, LocalFeatures]:
        """Local features by key, stored or held."""
        held = {key: self._unkept[owner[key]][1] for key in wanted if owner[key] in self._unkept}
        unknown = [key for key in wanted if key not in self._cache and key not in held]
        stored = self.collection.local([owner[key] for key in unknown])
        fresh = {key: image.local for key, image in zip(unknown, stored, strict=True)} | held
        found = {key: fresh[key] if key in fresh else self._cache[key] for key in wanted}
        self._cache.update(fresh)
        return found


class _Exact:
    """A search among vectors in memory."""

    def __init__(self, names: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._names, self._vectors = names, vectors

    def search(self, queries: NDArray[np.float32], limit: int) -> list[list[Neighbour]]:
        found = nearest_neighbours(queries, self._vectors, limit)
        return [
            [Neighbour(self._names[i], float(s)) for i, s in zip(places, scores, strict=True)]
            for places, scores in zip(*found, strict=True)
        ]
