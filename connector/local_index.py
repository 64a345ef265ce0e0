"""One row per local descriptor in Milvus: local features of a query find what its global descriptor misses.

A row is an image's key, a number and a descriptor; where the feature lies in the photo is in the packed
features alone. The first row of an image carries a mark with the digest of the features that its rows are
made of: it is written unfinished before the other rows and finished behind them, so that what a killed
process left is told from what is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from connector import filters, opening, schema, vector_index
from connector import search as nearest
from connector.client import Client
from connector.errors import (
    CollectionMissingError,
    DimensionMismatchError,
    FingerprintMismatchError,
    SchemaMismatchError,
)
from connector.rows import Rows, batches
from extractor.features import LocalFeatures

if TYPE_CHECKING:
    from connector.collection import Collection

DESCRIPTORS = 100
"""Most descriptors of an image, the strongest. More of them find hardly more images (docs/local_index.md)."""

DESCRIPTORS_PROPERTY = "landbridge.descriptors"

_MOST_DESCRIPTORS = 4096
_IMAGES_PER_WRITE = 64
_MARKS_PER_READ = 2000
_ROW_BYTES = 512


@dataclass(frozen=True)
class Updated:
    """What an update changed.

    Attributes:
        added: images whose descriptors were written, or written anew.
        removed: images that are no longer in the collection.
    """

    added: int = 0
    removed: int = 0


class Neighbours(NamedTuple):
    """The nearest rows of some query descriptors.

    Attributes:
        images: keys of the images that have any, see `LocalIndex.key`.
        owners: int64 [Q, k], places in `images`, best first; -1 where fewer than k were found.
        similarity: float32 [Q, k], cosines.
    """

    images: list[str]
    owners: NDArray[np.int64]
    similarity: NDArray[np.float32]


class LocalIndex:
    """The local descriptors of a collection's images, in NAME_local; `Collection.local` is one.

    One process at a time may change it. Where the collection is shared, an object sees and changes the rows
    of its tenant alone.
    """

    def __init__(self, collection: Collection, client: Client, consistency_level: str) -> None:
        """Look at nothing yet; see `Collection.local`."""
        self._collection = collection
        self._client = client
        self._consistency_level = consistency_level
        self._opened: _Opened | None = None

    @property
    def name(self) -> str:
        """Its collection in Milvus."""
        return schema.local_name(self._collection.name)

    @property
    def exists(self) -> bool:
        """Whether it was built, for this tenant where the collection is shared."""
        opened = self._open()
        return opened is not None and (not self._collection.tenant or len(opened.rows) > 0)

    def build(
        self,
        *,
        descriptors: int | None = None,
        index_params: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Updated:
        """Make it, or bring the one that is there up to date; see `update`.

        Args:
            descriptors: most of an image, 1 to 4096, the strongest; by default `DESCRIPTORS`.
            index_params: as in `Collection.create`. By default IVF_PQ with a byte for four components, or
                HNSW on Milvus Lite. It is tried out first.
            progress: told how many of how many images have their rows.

        Raises:
            ValueError: so many descriptors of an image cannot be kept.
            SchemaMismatchError: it is there, with other numbers or another index.
            RefusedError: the backend cannot build the index.
        """
        if descriptors is not None and not 1 <= descriptors <= _MOST_DESCRIPTORS:
            raise ValueError(f"descriptors must be 1 to {_MOST_DESCRIPTORS} of an image, is {descriptors}")
        opened = self._open() or self._make(descriptors or DESCRIPTORS, index_params)
        made = (opened.descriptors, opened.index["index_type"])
        asked = (descriptors or made[0], (index_params or {}).get("index_type") or made[1])
        if made != asked:
            raise SchemaMismatchError(
                f"{self.name!r} holds {made[0]} descriptors of an image under {made[1]}, not {asked[0]} "
                f"under {asked[1]}: drop it first, or leave that out"
            )
        return self.update(progress)

    def update(self, progress: Callable[[int, int], None] = lambda done, total: None) -> Updated:
        """Write the descriptors of images that are new or changed, and remove those of images that are gone.

        Reads the packed features; no photo is extracted. Cut short at any moment, it is completed by calling
        again.

        Raises:
            CollectionMissingError: it was not built.
        """
        opened = self._built()
        marks = self._marks(opened)
        records = {self.key(record.image_id): record for record in self._collection.published()}
        changed = [
            key
            for key, record in records.items()
            if marks.get(key) != _mark(record.digest, min(record.keypoints, opened.descriptors))
            and (record.keypoints or key in marks)
        ]
        gone = [key for key in marks if key not in records]
        self._remove(opened, {key: marks[key] for key in gone})
        done = len(records) - len(changed)
        progress(done, len(records))
        for keys in batches(changed, _IMAGES_PER_WRITE):
            self._remove(opened, {key: marks[key] for key in keys if key in marks})
            images = self._collection.features([records[key].image_id for key in keys])
            self._write(
                opened, {key: (records[key].digest, i.local) for key, i in zip(keys, images, strict=True)}
            )
            done += len(keys)
            progress(done, len(records))
        opened.rows.settle()
        return Updated(len(changed), len(gone))

    def key(self, image_id: str) -> str:
        """What `Neighbours` call an image."""
        return schema.image_key(image_id, self._collection.tenant)

    def search(self, descriptors: NDArray[np.float32] | NDArray[np.int8], limit: int) -> Neighbours:
        """The rows that are nearest to query descriptors.

        Args:
            descriptors: [Q, d], float32 or int8 as in `LocalFeatures`, of any length but zero.
            limit: most rows for each.

        Raises:
            CollectionMissingError: it was not built.
            DimensionMismatchError: d is not that of the rows.
        """
        opened = self._built()
        layout = opened.rows.layout
        if descriptors.ndim != 2 or descriptors.shape[1] != layout.vector.size:
            raise DimensionMismatchError(
                f"{self.name!r} takes descriptors of shape [Q, {layout.vector.size}], got "
                f"{list(descriptors.shape)}: use the extractor that the collection was indexed with"
            )
        owners = np.full((len(descriptors), limit), -1, np.int64)
        similarity = np.zeros((len(descriptors), limit), np.float32)
        places: dict[str, int] = {}
        answers = nearest.answers(
            self._client,
            self.name,
            layout.vector.name,
            opened.index,
            list(_unit(descriptors)),
            limit,
            rows=len(Rows(self._client, layout)) if self._client.lite and len(descriptors) else 0,
            filter=opened.rows.own(""),
            output_fields=["pk"],
            consistency_level=self._client.at_level(self._consistency_level, self.name),
        )
        for query, answer in enumerate(answers):
            for rank, hit in enumerate(answer):
                owners[query, rank] = places.setdefault(_owner(hit["pk"]), len(places))
                similarity[query, rank] = min(float(hit["distance"]), 1.0)
        return Neighbours(list(places), owners, similarity)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the rows of images by their keys, where it was built; unknown ones are no error."""
        if (opened := self._open()) is not None:
            marks = opened.rows.read([_row_key(key, 0) for key in keys], ["pk", "mark"])
            self._remove(opened, {_owner(pk): row["mark"] for pk, row in marks.items()})
            opened.rows.settle()

    def drop(self) -> None:
        """Remove it; in a collection that is shared, the rows of this tenant.

        Raises:
            SchemaMismatchError: what is there of its name is not Landbridge's.
        """
        if self._collection.tenant and (opened := self._open()) is not None:
            self._remove(opened, self._marks(opened))
            opened.rows.settle()
            if len(Rows(self._client, opened.rows.layout)):
                return
        described = opening.describe(self._client, self.name)
        if described is not None:
            schema.check_owner(described)
            self._client.call("drop_collection", collection_name=self.name)
        self._opened = None

    def info(self) -> dict[str, Any]:
        """Its name, rows, index, and most descriptors of an image.

        Raises:
            CollectionMissingError: it was not built.
        """
        opened = self._built()
        return {
            "name": self.name,
            "rows": len(opened.rows),
            "descriptors": opened.descriptors,
            "dimension": opened.rows.layout.vector.size,
            "index": opened.index["index_type"],
            "index_params": dict(opened.index["params"]),
        }

    def _make(self, descriptors: int, index_params: Mapping[str, Any] | None) -> _Opened:
        first = next(iter(self._collection.published()), None)
        if first is None:
            raise CollectionMissingError(f"{self._collection.name!r} holds no photos yet: index some first")
        dimension = self._collection.features([first.image_id])[0].local.dimension
        rows = descriptors * len(self._collection)
        index = (
            vector_index.chosen_local(rows, dimension, lite=self._client.lite)
            if index_params is None
            else vector_index.completed(index_params, rows, dimension)
        )
        layout = schema.local(self._collection.name, dimension, index, tenants=bool(self._collection.tenant))
        vector_index.probe(self._client, layout)
        said = schema.properties(self._collection.extractor, index, self._consistency_level)
        opening.make(self._client, layout, said | {DESCRIPTORS_PROPERTY: str(descriptors)})
        opened = self._open()
        assert opened is not None, "it was made"
        return opened

    def _open(self) -> _Opened | None:
        """Check and load what is there; None when nothing is."""
        if self._opened is not None:
            return self._opened
        described = opening.describe(self._client, self.name)
        if described is None:
            return None
        schema.check_owner(described)
        said = described["properties"]
        if said[schema.EXTRACTOR_PROPERTY] != self._collection.extractor:
            raise FingerprintMismatchError(
                f"{self.name!r} holds descriptors of {said[schema.EXTRACTOR_PROPERTY]!r}, its collection "
                f"those of {self._collection.extractor!r}: drop it and build it again"
            )
        layout = schema.local(
            self._collection.name,
            schema.dimension_of(described, "descriptor"),
            json.loads(said[schema.INDEX_PROPERTY]),
            tenants=bool(self._collection.tenant),
        )
        schema.check_fields(described, layout)
        opening.load(self._client, [layout])
        rows = Rows(self._client, layout, self._collection.tenant)
        index = vector_index.described(self._client, layout) or layout.index
        self._opened = _Opened(rows, index, int(said[DESCRIPTORS_PROPERTY]))
        return self._opened

    def _built(self) -> _Opened:
        if (opened := self._open()) is None:
            raise CollectionMissingError(
                f"collection {self._collection.name!r} has no local index: build it first"
            )
        return opened

    def _marks(self, opened: _Opened) -> dict[str, str]:
        """The marks of all images that have rows, by key."""
        parts = 1 + len(self._collection) // _MARKS_PER_READ
        edges = [f"{part * 2**32 // parts:08x}" for part in range(parts)] + ["g"]
        rows = (
            row
            for low, high in pairwise(edges)
            for row in opened.rows.query(
                filters.all_of(
                    filters.at_least("pk", _row_key(low, 0)), filters.less("pk", _row_key(high, 0))
                ),
                ["pk", "mark"],
            )
        )
        return {_owner(row["pk"]): row["mark"] for row in rows}

    def _write(self, opened: _Opened, images: Mapping[str, tuple[str, LocalFeatures]]) -> None:
        """Write the rows of images that have none."""
        first, others, finished = [], [], []
        for key, (digest, local) in images.items():
            descriptors = _unit(local.descriptors[: opened.descriptors])
            rows = [
                {"pk": _row_key(key, number), "mark": "", "descriptor": descriptor}
                for number, descriptor in enumerate(descriptors)
            ]
            if rows:
                first.append({**rows[0], "mark": _mark("", len(rows))})
                finished.append({**rows[0], "mark": _mark(digest, len(rows))})
                others += rows[1:]
        for part in (first, others, finished):
            opened.rows.write(part, [4 * opened.rows.layout.vector.size + _ROW_BYTES] * len(part))

    def _remove(self, opened: _Opened, marks: Mapping[str, str]) -> None:
        """Remove the rows of images by their marks, which go last."""
        numbers = {key: range(1, int(mark.partition(":")[2])) for key, mark in marks.items()}
        opened.rows.delete([_row_key(key, number) for key in marks for number in numbers[key]])
        opened.rows.delete([_row_key(key, 0) for key in marks])


@dataclass(frozen=True)
class _Opened:
    rows: Rows
    index: Mapping[str, Any]
    descriptors: int


def _row_key(key: str, number: int) -> str:
    """The number goes first, so that the marks of all images lie together."""
    return f"{number:03x}{key}"


def _owner(row_key: str) -> str:
    return row_key[3:]


def _mark(digest: str, rows: int) -> str:
    """Of unfinished rows, the digest is empty."""
    return f"{digest}:{rows}"


def _unit(descriptors: NDArray[np.float32] | NDArray[np.int8]) -> NDArray[np.float32]:
    floats = descriptors.astype(np.float32)
    norms = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.divide(floats, norms, out=floats, where=norms > 0)
