"""A Landbridge collection: descriptors, local features and metadata of photos in Milvus.

An image enters in two steps: `stage` writes its features, `publish` its row. It is in the collection when its
row is there and agrees with its features, so a process that dies at any moment leaves nothing half-written:
what it had staged is found by `staged`, what it had published by `published`, and the rest is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from connector import opening, payload, schema
from connector import search as nearest
from connector.client import Client
from connector.errors import (
    DimensionMismatchError,
    FingerprintMismatchError,
    ImagesMissingError,
    InvalidInputError,
    RefusedError,
    some,
)
from connector.local_index import LocalIndex
from connector.payload_store import Entry, PayloadStore
from connector.record import RECORD_FIELDS, Hit, Record, Source, check_distinct, check_text
from connector.rows import KEYS_PER_READ, Rows, batches
from connector.search import MAX_LIMIT
from extractor.features import ImageFeatures

if TYPE_CHECKING:
    from pymilvus import MilvusClient

__all__ = ["MAX_LIMIT", "Collection", "Hit", "Record", "Source"]


class Collection:
    """Photos in Milvus: made by `create`, found again by `open`, usable as a context manager.

    Attributes:
        name: the collection; not an alias of it.
        dimension: of the embeddings.
        extractor: fingerprint of what made the features.
        tenant: whose photos these are; empty in a collection that is not shared.
        local: its local descriptors, a row each, where they were indexed too.
    """

    def __init__(self, client: Client, opened: opening.Opened, tenant: str = "") -> None:
        """Use `create` or `open`."""
        self.name = opened.images.name
        self.dimension = opened.images.vector.size
        self.extractor = opened.extractor
        self.tenant = tenant
        self._client = client
        self._index = opened.index
        self._consistency_level = opened.consistency_level
        self._images = Rows(client, opened.images, tenant)
        self._features = PayloadStore(Rows(client, opened.features, tenant), concurrent=not client.lite)
        self._blobs = PayloadStore(Rows(client, opened.blobs, tenant), concurrent=not client.lite)
        self.local = LocalIndex(self, client, opened.consistency_level)

    @classmethod
    def create(
        cls,
        uri: str | os.PathLike[str],
        name: str = "landbridge",
        *,
        dimension: int,
        extractor: str,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
        client: MilvusClient | None = None,
        index_params: Mapping[str, Any] | None = None,
        images: int | None = None,
        tenant: str = "",
        consistency_level: str = "Session",
        ttl_seconds: int | None = None,
        drop_old: bool = False,
    ) -> Self:
        """Make a collection, or open the one of this name when it fits.

        A collection whose making was cut short is completed.

        Args:
            uri: path of a Milvus Lite folder, ending in .db, or http(s)://host:port.
            name: the collection; NAME_features and NAME_blobs are made beside it.
            dimension: of the embeddings.
            extractor: fingerprint of what makes the features.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.
            client: a MilvusClient to use instead of connecting; it stays open at the end.
            index_params: `index_type`, `metric_type` (COSINE or IP) and `params` of the embeddings' index;
                the last two may be left out. It is tried out before a collection with it is made.
            images: how many there will be, for which the index is chosen (`vector_index.chosen`) when
                `index_params` does not say. With neither, exact search (FLAT, COSINE).
            tenant: whose photos these are, in a collection that many share: the partition key, named in every
                search and read. A collection is made for tenants, or not, for good.
            consistency_level: of searches: Strong, Session, Bounded or Eventually. Whatever it is, this
                object reads what it wrote.
            ttl_seconds: after which Milvus forgets images. Milvus Lite does not.
            drop_old: drop a Landbridge collection of this name first, with all it holds, of all tenants.

        Raises:
            FingerprintMismatchError: it exists with another extractor.
            DimensionMismatchError: it exists with another dimension.
            SchemaMismatchError: it exists and is not a Landbridge collection of this version, or it has
                another index than `index_params`, or it is for tenants and none is given, or the reverse.
            InvalidInputError: an argument is none that Milvus has.
            RefusedError: the backend cannot build the index, or forget images.
            UnreachableError, AccessDeniedError: see `Client`.
        """
        wanted = opening.Wanted(
            name, dimension, extractor, index_params, images, tenant, consistency_level, ttl_seconds
        )
        connection = Client(uri, token=token, db_name=db_name, timeout=timeout, client=client)
        with opening.closed_on_error(connection):
            return cls(connection, opening.create(connection, wanted, drop_old=drop_old), tenant)

    @classmethod
    def open(
        cls,
        uri: str | os.PathLike[str],
        name: str = "landbridge",
        *,
        extractor: str | None = None,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
        client: MilvusClient | None = None,
        tenant: str = "",
    ) -> Self:
        """Open a collection that exists.

        Args:
            uri: path of a Milvus Lite folder, or http(s)://host:port.
            name: the collection, or an alias of it.
            extractor: fingerprint that it must have; None accepts any.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.
            client: a MilvusClient to use instead of connecting; it stays open at the end.
            tenant: whose photos, in a collection of many tenants.

        Raises:
            CollectionMissingError: there is none of this name; the message lists those that are there.
            FingerprintMismatchError: it has another extractor.
            SchemaMismatchError: it is not a Landbridge collection of this version, or it is for tenants and
                none is given, or the reverse.
            UnreachableError, AccessDeniedError, RefusedError: see `Client`.
        """
        connection = Client(
            uri, token=token, db_name=db_name, timeout=timeout, client=client, must_exist=True
        )
        with opening.closed_on_error(connection):
            return cls(connection, opening.open(connection, name, extractor, tenant), tenant)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of images that were published."""
        return len(self._images)

    def __repr__(self) -> str:
        whose = f" of {self.tenant!r}" if self.tenant else ""
        return f"Collection({self.name!r}{whose} at {self._client.uri!r})"

    def close(self) -> None:
        """Close the connection; further calls fail."""
        self._client.close()

    def info(self) -> dict[str, Any]:
        """What there is to know: name, uri (without secrets), backend, versions, extractor, index, count."""
        return {
            "name": self.name,
            "uri": self._client.uri,
            "backend": "milvus-lite" if self._client.lite else "milvus",
            "server_version": self._client.call("get_server_version"),
            "schema_version": schema.VERSION,
            "extractor": self.extractor,
            "dimension": self.dimension,
            "index": self._index["index_type"],
            "metric": self._index["metric_type"],
            "count": len(self),
        }

    # Writing

    def stage(self, images: Sequence[ImageFeatures], sources: Sequence[Source]) -> list[Record]:
        """Write the features of images: the first of two steps. An image written before is replaced.

        Args:
            images: distinct images of this collection's extractor.
            sources: the file of each.

        Returns:
            Their records, which `publish` takes.

        Raises:
            FingerprintMismatchError: features of another extractor.
            InvalidInputError: an id or path is too long or no text, or an id comes twice; nothing is written.
        """
        records, entries = [], []
        for image, source in zip(images, sources, strict=True):
            if image.extractor != self.extractor:
                raise FingerprintMismatchError(
                    opening.other_extractor(self.name, self.extractor, image.extractor)
                )
            check_text("image id", image.image_id, schema.IMAGE_ID_BYTES)
            check_text(f"path of {image.image_id!r}", source.path, schema.PATH_BYTES)
            packed = payload.pack(image)
            digest = payload.digest(packed)
            record = Record(
                image_id=image.image_id,
                path=source.path,
                width=image.size[0],
                height=image.size[1],
                keypoints=len(image.local),
                file_bytes=source.file_bytes,
                modified_ns=source.modified_ns,
                digest=digest,
            )
            records.append(record)
            text = json.dumps(asdict(record), ensure_ascii=False)
            entries.append(Entry(self._key(image.image_id), packed, text, digest))
        check_distinct(records)
        self._features.put(entries)
        return records

    def publish(self, records: Sequence[Record], embeddings: NDArray[np.float32]) -> None:
        """Write the rows of staged images: the second step, after which searches find them.

        Args:
            records: what `stage` or `staged` gave.
            embeddings: float32 [B, D] of unit norm, one for each record.

        Raises:
            DimensionMismatchError: D is not the collection's.
            InvalidInputError: an embedding is no unit vector, or an id comes twice; nothing is written.
        """
        self._check_dimension(embeddings)
        if len(records) != len(embeddings):
            raise ValueError(f"{len(records)} records came with {len(embeddings)} embeddings")
        check_distinct(records)
        wrong = np.flatnonzero(~(np.abs(np.linalg.norm(embeddings, axis=1) - 1) < 1e-3))
        if len(wrong):
            raise InvalidInputError(f"the embedding of {records[wrong[0]].image_id!r} is not a unit vector")
        rows = [
            {"pk": self._key(record.image_id), **asdict(record), "embedding": embedding}
            for record, embedding in zip(records, np.asarray(embeddings, np.float32), strict=True)
        ]
        self._images.write(rows, [4 * self.dimension + schema.PATH_BYTES] * len(rows))

    def delete(self, image_ids: Iterable[str]) -> None:
        """Take images out of the collection, staged ones too; unknown ids are no error."""
        for keys in batches(self._keys(image_ids), KEYS_PER_READ):
            self._images.delete(keys)
            self._features.delete(keys)
            self.local.delete(keys)
        self._images.settle()
        self._features.rows.settle()

    def put_blob(self, name: str, data: bytes) -> None:
        """Keep bytes under a name beside the images, for example what was fitted to them once."""
        self._blobs.put([Entry(schema.blob_key(name, self.tenant), data)])

    # Reading

    def staged(self) -> Iterator[Record]:
        """Images whose features are written, but whose row is missing or older: what `publish` waits for."""
        for rows, features in self._survey():
            yield from (features[key] for key in sorted(features) if rows.get(key) != features[key])

    def published(self) -> Iterator[Record]:
        """Images that are in the collection, whole: what need not be done again unless the file changed."""
        for rows, features in self._survey():
            yield from (rows[key] for key in sorted(rows) if rows[key] == features.get(key))

    def records(self, image_ids: Sequence[str]) -> list[Record]:
        """Records of published images, in the order of the ids.

        Raises:
            ImagesMissingError: some are not in the collection.
        """
        rows = self._images.read(self._keys(image_ids), ["pk", *RECORD_FIELDS])
        return [Record.of(row) for row in self._in_order(rows, image_ids)]

    def embeddings(self, image_ids: Sequence[str] | None = None) -> tuple[list[str], NDArray[np.float32]]:
        """Embeddings of published images.

        Args:
            image_ids: whose, in this order; None gives all, in an order that depends on the ids alone.

        Returns:
            The ids, and float32 [N, D].

        Raises:
            ImagesMissingError: some are not in the collection.
        """
        fields = ["pk", "image_id", "embedding"]
        parts: Iterable[list[dict[str, Any]]]
        if image_ids is None:
            parts = (self._images.query(bounds, fields) for bounds in self._images.ranges())
            parts = (sorted(part, key=lambda row: row["pk"]) for part in parts)
        else:
            parts = [self._in_order(self._images.read(self._keys(image_ids), fields), image_ids)]
        ids: list[str] = []
        blocks = [np.zeros((0, self.dimension), np.float32)]
        for part in parts:
            ids += (row["image_id"] for row in part)
            if part:
                blocks.append(np.array([row["embedding"] for row in part], np.float32))
        return ids, np.concatenate(blocks)

    def features(self, image_ids: Sequence[str]) -> list[ImageFeatures]:
        """Features of staged or published images, in the order of the ids.

        Meant for some hundred images at a time, the candidates of a query, whose features fit in memory.

        Raises:
            ImagesMissingError: some are not in the collection.
            CorruptPayloadError: what is stored of one is incomplete or damaged.
        """
        owners = {self._key(image_id): image_id for image_id in image_ids}
        return self._in_order(self._features.features(owners, self.extractor), image_ids)

    def get_blob(self, name: str) -> bytes | None:
        """Bytes that `put_blob` wrote; None when there are none, or when their writing was cut short.

        Raises:
            CorruptPayloadError: they are not what was written.
        """
        return self._blobs.get(schema.blob_key(name, self.tenant), f"blob {name!r}")

    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        *,
        filter: str = "",  # noqa: A002
        search_params: Mapping[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """The nearest images of each query, best first; equal ones in the order of their ids.

        Args:
            queries: float32 [Q, D].
            limit: most hits for each query, at most 16,384.
            filter: a Milvus expression over the fields of the collection, for example `width > 500`.
            search_params: `params` of the index, for example `{"ef": 256}` for HNSW; those that are not given
                are chosen for the limit (`vector_index.search_params`).

        Raises:
            DimensionMismatchError: D is not the collection's.
            RefusedError: Milvus does not accept the filter, or it reaches for the images of another tenant.
        """
        self._check_dimension(queries)
        answers = nearest.answers(
            self._client,
            self.name,
            "embedding",
            self._index,
            list(np.asarray(queries, np.float32)),
            limit,
            search_params=search_params,
            filter=self._images.own(filter),
            output_fields=["image_id", schema.TENANT] if self.tenant else ["image_id"],
            consistency_level=self._client.at_level(self._consistency_level, self.name),
        )
        found: list[list[Hit]] = []
        for answer in answers:
            fields = [hit["entity"] for hit in answer]
            if self.tenant and any(field[schema.TENANT] != self.tenant for field in fields):
                raise RefusedError(
                    f"the filter {filter!r} reaches for images of other tenants than {self.tenant!r}: "
                    "close its parentheses in the order in which they open"
                )
            distances = np.negative(np.minimum(answer.distances, 1.0)).tolist()
            hits = sorted(zip(distances, (field["image_id"] for field in fields), strict=True))
            found.append([Hit(image_id, -distance) for distance, image_id in hits])
        return found

    def _survey(self) -> Iterator[tuple[dict[str, Record], dict[str, Record]]]:
        """Records of the rows, and of the complete features, by key; a range of the keys at a time."""
        for bounds in self._features.rows.ranges():
            rows = self._images.query(bounds, ["pk", *RECORD_FIELDS])
            features = self._features.records(bounds)
            yield (
                {row["pk"]: Record.of(row) for row in rows},
                {owner: Record(**json.loads(text)) for owner, text in features.items()},
            )

    def _key(self, image_id: str) -> str:
        return schema.image_key(image_id, self.tenant)

    def _keys(self, image_ids: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(map(self._key, image_ids)))

    def _in_order(self, found: Mapping[str, Any], image_ids: Sequence[str]) -> list[Any]:
        missing = [image_id for image_id in image_ids if self._key(image_id) not in found]
        if missing:
            raise ImagesMissingError(
                f"collection {self.name!r} does not hold {len(missing)} of {len(image_ids)} images: "
                f"{some(missing)}: index them first"
            )
        return [found[self._key(image_id)] for image_id in image_ids]

    def _check_dimension(self, vectors: NDArray[np.float32]) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DimensionMismatchError(
                f"collection {self.name!r} takes descriptors of shape [N, {self.dimension}], "
                f"got {list(vectors.shape)}: use the extractor and projection that it was indexed with"
            )
