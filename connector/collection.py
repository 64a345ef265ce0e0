"""A Landbridge collection: descriptors, local features and metadata of photos in Milvus.

An image enters in two steps: `stage` writes its features, `publish` its row. It is in the collection when its
row is there and agrees with its features, so a process that dies at any moment leaves nothing half-written:
what it had staged is found by `staged`, what it had published by `published`, and the rest is done again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from connector import payload as packing
from connector import schema
from connector.client import Client
from connector.errors import (
    CollectionMissingError,
    DimensionMismatchError,
    FingerprintMismatchError,
    ImagesMissingError,
    InvalidInputError,
    SchemaMismatchError,
    UnreachableError,
)
from extractor.features import ImageFeatures

if TYPE_CHECKING:
    from pymilvus import MilvusClient

MAX_LIMIT = 16_384
"""Most results that Milvus gives to one query."""

_WRITE_BYTES = 16 * 2**20
_KEYS_PER_READ = 400
_HITS_PER_SEARCH = 100_000
_QUERIES_PER_SEARCH = 128
_ROWS_PER_SCAN = 2000
_USUAL_CHUNKS = 2
_IMAGES_PER_READ = 25
_READERS = 4


@dataclass(frozen=True, slots=True)
class Source:
    """The file that an image was made of.

    Attributes:
        path: where it lies, as the user wrote it or relative to a root; text of at most 4096 bytes.
        file_bytes: its size.
        modified_ns: its time of modification in nanoseconds.
    """

    path: str
    file_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the collection knows of an image besides its descriptors.

    Attributes:
        image_id: the image.
        path: see `Source`.
        width: pixels of the original photo.
        height: pixels of the original photo.
        keypoints: number of local features.
        file_bytes: see `Source`.
        modified_ns: see `Source`.
        digest: hex hash of the stored features; changes when they do.
    """

    image_id: str
    path: str
    width: int
    height: int
    keypoints: int
    file_bytes: int
    modified_ns: int
    digest: str

    @property
    def source(self) -> Source:
        """The file, for comparison with the one on disk."""
        return Source(self.path, self.file_bytes, self.modified_ns)


_RECORD_FIELDS = list(Record.__dataclass_fields__)


class Hit(NamedTuple):
    """An image that a search found, and the cosine of its embedding and the query's."""

    image_id: str
    similarity: float


class Collection:
    """Photos in Milvus: made by `create`, found again by `open`, usable as a context manager.

    Attributes:
        name: the collection.
        dimension: of the embeddings.
        extractor: fingerprint of what made the features.
    """

    name: str
    dimension: int
    extractor: str

    def __init__(self, client: Client, described: Mapping[str, Any]) -> None:
        """Use `create` or `open`."""
        self._client = client
        self.name = described["collection_name"]
        self.dimension = schema.dimension_of(described)
        self.extractor = described["properties"][schema.EXTRACTOR_PROPERTY]
        index = json.loads(described["properties"][schema.INDEX_PROPERTY])
        self._images = schema.images(self.name, self.dimension, index)
        self._features = schema.features(self.name)

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
        drop_old: bool = False,
    ) -> Self:
        """Make a collection, or open the one of this name when it fits.

        A collection whose making was cut short is completed.

        Args:
            uri: path of a Milvus Lite folder, ending in .db, or http(s)://host:port.
            name: the collection; a second one, NAME_features, is made beside it.
            dimension: of the embeddings.
            extractor: fingerprint of what makes the features.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.
            client: a MilvusClient to use instead of connecting; it stays open at the end.
            index_params: `index_type`, `metric_type` (COSINE or IP) and `params` of the embeddings' index;
                exact search (FLAT, COSINE) when not given.
            drop_old: drop a Landbridge collection of this name first, with all it holds.

        Raises:
            FingerprintMismatchError: it exists with another extractor.
            DimensionMismatchError: it exists with another dimension.
            SchemaMismatchError: it exists and is not a Landbridge collection of this version.
            UnreachableError, AccessDeniedError, RefusedError: see `Client`.
        """
        schema.check_name(name)
        index = dict(index_params or schema.EXACT_INDEX)
        if index.get("metric_type") not in ("COSINE", "IP"):
            metric = index.get("metric_type")
            raise InvalidInputError(
                f"index_params of {name!r}: metric_type must be COSINE or IP, is {metric!r}"
            )
        images, features = schema.images(name, dimension, index), schema.features(name)
        connection = Client(uri, token=token, db_name=db_name, timeout=timeout, client=client)
        with _closed_on_error(connection):
            parts = {layout: _describe(connection, layout.name) for layout in (features, images)}
            if drop_old:
                for old in filter(None, parts.values()):
                    schema.check_owner(old)
            for layout, found in parts.items():
                if drop_old and found:
                    connection.call("drop_collection", collection_name=layout.name)
                if drop_old or not found:
                    _make(connection, layout, schema.properties(extractor, index))
            return cls._opened(connection, name, extractor, dimension)

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
    ) -> Self:
        """Open a collection that exists.

        Args:
            uri: path of a Milvus Lite folder, or http(s)://host:port.
            name: the collection.
            extractor: fingerprint that it must have; None accepts any.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.
            client: a MilvusClient to use instead of connecting; it stays open at the end.

        Raises:
            CollectionMissingError: there is none of this name; the message lists those that are there.
            FingerprintMismatchError: it has another extractor.
            SchemaMismatchError: it is not a Landbridge collection of this version.
            UnreachableError, AccessDeniedError, RefusedError: see `Client`.
        """
        connection = Client(
            uri, token=token, db_name=db_name, timeout=timeout, client=client, must_exist=True
        )
        with _closed_on_error(connection):
            return cls._opened(connection, name, extractor, None)

    @classmethod
    def _opened(cls, client: Client, name: str, extractor: str | None, dimension: int | None) -> Self:
        described = _describe(client, name)
        if described is None:
            names = client.call("list_collections")
            here = sorted(set(names) - {schema.features(other).name for other in names})
            raise CollectionMissingError(
                f"{client.uri} has no collection {name!r}; it has {', '.join(here) or 'none at all'}: "
                "give one of these, or index photos first"
            )
        schema.check_owner(described)
        opened = cls(client, described)
        if dimension is not None and dimension != opened.dimension:
            raise DimensionMismatchError(
                f"collection {opened.name!r} holds {opened.dimension}-d embeddings, not {dimension}-d: "
                "index into another name, or drop the old collection"
            )
        companion = _describe(client, opened._features.name)
        if companion is None:
            raise SchemaMismatchError(
                f"collection {opened.name!r} has lost its companion {opened._features.name!r}: "
                "index the photos again"
            )
        schema.check_owner(companion)
        for wanted in (extractor, companion["properties"][schema.EXTRACTOR_PROPERTY]):
            if wanted is not None and wanted != opened.extractor:
                raise FingerprintMismatchError(_other_extractor(opened.name, opened.extractor, wanted))
        schema.check_fields(described, opened._images)
        schema.check_fields(companion, opened._features)
        opened._load()
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of images that were published."""
        return self._count(self._images)

    def __repr__(self) -> str:
        return f"Collection({self.name!r} at {self._client.uri!r})"

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
            "index": self._images.index["index_type"],
            "metric": self._images.index["metric_type"],
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
        records, rows = [], []
        for image, source in zip(images, sources, strict=True):
            if image.extractor != self.extractor:
                raise FingerprintMismatchError(_other_extractor(self.name, self.extractor, image.extractor))
            _check_text("image id", image.image_id, schema.IMAGE_ID_BYTES)
            _check_text(f"path of {image.image_id!r}", source.path, schema.PATH_BYTES)
            payload = packing.pack(image)
            record = Record(
                image_id=image.image_id,
                path=source.path,
                width=image.size[0],
                height=image.size[1],
                keypoints=len(image.local),
                file_bytes=source.file_bytes,
                modified_ns=source.modified_ns,
                digest=packing.digest(payload),
            )
            records.append(record)
            rows.append(
                _chunk_rows(
                    schema.image_key(image.image_id),
                    payload,
                    record.digest,
                    json.dumps(asdict(record), ensure_ascii=False),
                )
            )
        _check_distinct(records)
        self._write_chunks(rows)
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
        _check_distinct(records)
        wrong = np.flatnonzero(~(np.abs(np.linalg.norm(embeddings, axis=1) - 1) < 1e-3))
        if len(wrong):
            raise InvalidInputError(f"the embedding of {records[wrong[0]].image_id!r} is not a unit vector")
        rows = [
            {"pk": schema.image_key(record.image_id), **asdict(record), "embedding": embedding}
            for record, embedding in zip(records, np.asarray(embeddings, np.float32), strict=True)
        ]
        self._write(self._images, rows, [4 * self.dimension + schema.PATH_BYTES] * len(rows))

    def delete(self, image_ids: Iterable[str]) -> None:
        """Take images out of the collection, staged ones too; unknown ids are no error."""
        for keys in _batches([schema.image_key(image_id) for image_id in image_ids], _KEYS_PER_READ):
            self._delete(self._images, keys)
            rows = self._query(self._features, f"owner in {json.dumps(keys)}", ["pk"])
            self._delete(self._features, [row["pk"] for row in rows])
        self._settle()

    def put_blob(self, name: str, data: bytes) -> None:
        """Keep bytes under a name beside the images, for example what was fitted to them once."""
        self._write_chunks([_chunk_rows(schema.blob_key(name), data, packing.digest(data), "")])

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
        rows = self._read(self._images, _keys(image_ids), ["pk", *_RECORD_FIELDS])
        return [_record(row) for row in self._in_order(rows, image_ids)]

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
        batches: Iterable[list[dict[str, Any]]]
        if image_ids is None:
            batches = (self._query(self._images, bounds, fields) for bounds in self._ranges(self._images))
            batches = (sorted(batch, key=lambda row: row["pk"]) for batch in batches)
        else:
            batches = [self._in_order(self._read(self._images, _keys(image_ids), fields), image_ids)]
        ids: list[str] = []
        blocks = [np.zeros((0, self.dimension), np.float32)]
        for batch in batches:
            ids += (row["image_id"] for row in batch)
            if batch:
                blocks.append(np.array([row["embedding"] for row in batch], np.float32))
        return ids, np.concatenate(blocks)

    def features(self, image_ids: Sequence[str]) -> list[ImageFeatures]:
        """Features of staged or published images, in the order of the ids.

        Meant for some hundred images at a time, the candidates of a query, whose features fit in memory.

        Raises:
            ImagesMissingError: some are not in the collection.
            CorruptPayloadError: what is stored of one is incomplete or damaged.
        """
        owners = {schema.image_key(image_id): image_id for image_id in image_ids}
        # A server answers several reads at once while others are decoded; Milvus Lite runs in this process.
        size = _KEYS_PER_READ // _USUAL_CHUNKS if self._client.lite else _IMAGES_PER_READ
        blocks = [dict(block) for block in _batches(list(owners.items()), size)]
        found: dict[str, ImageFeatures] = {}
        with ThreadPoolExecutor(_READERS) as readers:
            for block in readers.map(self._read_features, blocks):
                found |= block
        return self._in_order(found, image_ids)

    def get_blob(self, name: str) -> bytes | None:
        """Bytes that `put_blob` wrote; None when there are none, or when their writing was cut short.

        Raises:
            CorruptPayloadError: they are not what was written.
        """
        chunks = self._chunks([schema.blob_key(name)]).get(schema.blob_key(name), {})
        if not chunks or _gap(chunks):
            return None
        owner = f"blob {name!r}"
        data = bytes(packing.join(_texts(chunks), owner=owner))
        if packing.digest(data) != chunks[0]["digest"]:
            raise packing.damaged(owner, "its digest is wrong")
        return data

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
            search_params: `params` of the index, for example `{"ef": 256}` for HNSW.

        Raises:
            DimensionMismatchError: D is not the collection's.
            RefusedError: Milvus does not accept the filter.
        """
        self._check_dimension(queries)
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidInputError(
                f"limit must be 1 to {MAX_LIMIT}, is {limit}: Milvus gives no more to one query"
            )
        found: list[list[Hit]] = []
        for block in _batches(queries, max(1, min(_QUERIES_PER_SEARCH, _HITS_PER_SEARCH // limit))):
            answers = self._client.call(
                "search",
                collection_name=self.name,
                data=list(np.asarray(block, np.float32)),
                anns_field="embedding",
                limit=limit,
                filter=filter,
                output_fields=["image_id"],
                search_params={
                    "metric_type": self._images.index["metric_type"],
                    "params": dict(search_params or {}),
                },
                consistency_level="Session",
            )
            for answer in answers:
                hits = (Hit(hit["entity"]["image_id"], min(float(hit["distance"]), 1.0)) for hit in answer)
                found.append(sorted(hits, key=lambda hit: (-hit.similarity, hit.image_id)))
        return found

    # Milvus

    def _load(self) -> None:
        """Complete an index whose making was cut short, load both collections, wait until they serve."""
        layouts = (self._images, self._features)
        for layout in layouts:
            if not self._client.call(
                "list_indexes", collection_name=layout.name, field_name=layout.vector.name
            ):
                self._client.call(
                    "create_index", collection_name=layout.name, index_params=layout.milvus_index()
                )
            if not self._is_loaded(layout):
                self._client.call("load_collection", collection_name=layout.name, _async=True)
        deadline = time.monotonic() + self._client.timeout
        while not all(self._is_loaded(layout) for layout in layouts):
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"{self._client.uri} did not load collection {self.name!r} within "
                    f"{self._client.timeout:g} s: check its memory and logs, or allow a longer timeout"
                )
            time.sleep(0.05)
        self._settle()

    def _is_loaded(self, layout: schema.Layout) -> bool:
        state = self._client.call("get_load_state", collection_name=layout.name)
        return str(state["state"]) == "Loaded"

    def _settle(self) -> None:
        """Wait until everything written so far, by anyone, is visible.

        Session consistency covers the upserts of this process alone, and on Milvus 2.3 not even its deletes.
        """
        for layout in (self._images, self._features):
            self._count(layout, consistency_level="Strong")

    def _count(self, layout: schema.Layout, consistency_level: str = "Session") -> int:
        rows = self._client.call(
            "query",
            collection_name=layout.name,
            output_fields=["count(*)"],
            consistency_level=consistency_level,
        )
        return int(rows[0]["count(*)"])

    def _query(self, layout: schema.Layout, expression: str, fields: list[str]) -> list[dict[str, Any]]:
        return self._client.call(
            "query",
            collection_name=layout.name,
            filter=expression,
            output_fields=fields,
            consistency_level="Session",
        )

    def _read(
        self, layout: schema.Layout, keys: Iterable[str], fields: list[str]
    ) -> dict[str, dict[str, Any]]:
        """Rows by primary key; those that are not there are left out."""
        rows = (
            self._query(layout, f"pk in {json.dumps(batch)}", fields)
            for batch in _batches(list(keys), _KEYS_PER_READ)
        )
        return {row["pk"]: row for row in chain.from_iterable(rows)}

    def _chunks(self, owners: Sequence[str]) -> dict[str, dict[int, dict[str, Any]]]:
        """Chunks by owner and number. Most owners have few, so those are asked for at once."""
        fields = ["pk", "chunk", "chunks", "digest", "payload"]
        keys = [f"{owner}:{chunk}" for owner in owners for chunk in range(_USUAL_CHUNKS)]
        rows = self._read(self._features, keys, fields)
        more = [
            f"{owner}:{chunk}"
            for owner in owners
            if f"{owner}:0" in rows
            for chunk in range(_USUAL_CHUNKS, rows[f"{owner}:0"]["chunks"])
        ]
        if more:
            rows |= self._read(self._features, more, fields)
        grouped: dict[str, dict[int, dict[str, Any]]] = {}
        for key, row in rows.items():
            grouped.setdefault(key.partition(":")[0], {})[row["chunk"]] = row
        return grouped

    def _read_features(self, owners: Mapping[str, str]) -> dict[str, ImageFeatures]:
        found = {}
        for key, chunks in self._chunks(list(owners)).items():
            owner = f"image {owners[key]!r}"
            if gap := _gap(chunks):
                raise packing.damaged(owner, gap)
            payload = packing.join(_texts(chunks), owner=owner)
            found[key] = packing.unpack(payload, image_id=owners[key], extractor=self.extractor)
        return found

    def _survey(self) -> Iterator[tuple[dict[str, Record], dict[str, Record]]]:
        """Records of the rows, and of the complete features, by key; a range of the keys at a time."""
        for bounds in self._ranges(self._features):
            rows = self._query(self._images, bounds, ["pk", *_RECORD_FIELDS])
            grouped: dict[str, dict[int, dict[str, Any]]] = {}
            for chunk in self._query(
                self._features, bounds, ["owner", "chunk", "chunks", "digest", "record"]
            ):
                grouped.setdefault(chunk["owner"], {})[chunk["chunk"]] = chunk
            yield (
                {row["pk"]: _record(row) for row in rows},
                {
                    owner: Record(**json.loads(chunks[0]["record"]))
                    for owner, chunks in grouped.items()
                    if not _gap(chunks) and chunks[0]["record"]
                },
            )

    def _ranges(self, layout: schema.Layout) -> Iterator[str]:
        """Filters that part the keys, which are evenly spread hashes, into ranges of some 2000 rows."""
        parts = 1 + self._count(layout) // _ROWS_PER_SCAN
        edges = [f"{part * 2**32 // parts:08x}" for part in range(parts)] + ["g"]
        for low, high in pairwise(edges):
            yield f'pk >= "{low}" and pk < "{high}"'

    def _write_chunks(self, owners: Sequence[list[dict[str, Any]]]) -> None:
        """Write all chunks of some owners, less what an earlier, longer version left behind the last one."""
        beyond = [f"{rows[0]['owner']}:{len(rows)}" for rows in owners]
        for row in self._read(self._features, beyond, ["pk", "owner", "chunk", "chunks"]).values():
            self._delete(
                self._features, [f"{row['owner']}:{chunk}" for chunk in range(row["chunk"], row["chunks"])]
            )
        rows = list(chain.from_iterable(owners))
        self._write(
            self._features, rows, [len(row["payload"]) + 4 * len(row["record"]) + 256 for row in rows]
        )

    def _write(self, layout: schema.Layout, rows: list[dict[str, Any]], sizes: list[int]) -> None:
        """Upsert rows in batches that stay below Milvus's limit of one message."""
        filled, start = 0, 0
        for end, size in enumerate([*sizes, _WRITE_BYTES]):
            if end > start and filled + size > _WRITE_BYTES:
                self._client.call("upsert", collection_name=layout.name, data=rows[start:end])
                filled, start = 0, end
            filled += size

    def _delete(self, layout: schema.Layout, keys: list[str]) -> None:
        for batch in _batches(keys, 16 * _KEYS_PER_READ):
            self._client.call("delete", collection_name=layout.name, filter=f"pk in {json.dumps(batch)}")

    def _in_order(self, found: Mapping[str, Any], image_ids: Sequence[str]) -> list[Any]:
        missing = [image_id for image_id in image_ids if schema.image_key(image_id) not in found]
        if missing:
            some = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
            raise ImagesMissingError(
                f"collection {self.name!r} does not hold {len(missing)} of {len(image_ids)} images: {some}: "
                "index them first"
            )
        return [found[schema.image_key(image_id)] for image_id in image_ids]

    def _check_dimension(self, vectors: NDArray[np.float32]) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DimensionMismatchError(
                f"collection {self.name!r} takes descriptors of shape [N, {self.dimension}], "
                f"got {list(vectors.shape)}: use the extractor and projection that it was indexed with"
            )


def _describe(client: Client, name: str) -> dict[str, Any] | None:
    if not client.call("has_collection", collection_name=name):
        return None
    return client.call("describe_collection", collection_name=name)


def _make(client: Client, layout: schema.Layout, properties: Mapping[str, str]) -> None:
    client.forget_unfinished(layout.name)
    client.call(
        "create_collection",
        collection_name=layout.name,
        schema=layout.milvus_schema(),
        properties=dict(properties),
        consistency_level="Session",
    )


@contextmanager
def _closed_on_error(client: Client) -> Iterator[None]:
    try:
        yield
    except BaseException:
        client.close()
        raise


def _chunk_rows(owner: str, payload: bytes, digest: str, record: str) -> list[dict[str, Any]]:
    texts = packing.split(payload)
    return [
        {
            "pk": f"{owner}:{chunk}",
            "owner": owner,
            "chunk": chunk,
            "chunks": len(texts),
            "digest": digest,
            "record": "" if chunk else record,
            "payload": text,
            "placeholder": [0.0, 0.0],
        }
        for chunk, text in enumerate(texts)
    ]


def _gap(chunks: Mapping[int, Mapping[str, Any]]) -> str:
    """What keeps these chunks from being one whole payload; empty when nothing does."""
    count = next(iter(chunks.values()))["chunks"]
    absent = [number for number in range(count) if number not in chunks]
    if absent:
        return f"chunk {absent[0] + 1} of {count} is missing"
    if len({(row["digest"], row["chunks"]) for row in chunks.values()}) > 1:
        return "its chunks were written at different times"
    return ""


def _texts(chunks: Mapping[int, Mapping[str, Any]]) -> list[str]:
    return [chunks[number]["payload"] for number in range(len(chunks))]


def _record(row: Mapping[str, Any]) -> Record:
    return Record(**{field: row[field] for field in _RECORD_FIELDS})


def _keys(image_ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(schema.image_key, image_ids)))


def _batches(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _check_text(what: str, text: str, limit: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"{what} is not valid text ({text!r}): rename the file") from None
    if size > limit:
        raise InvalidInputError(f"{what} has {size} bytes, Milvus takes {limit}: shorten it ({text[:60]!r}…)")


def _check_distinct(records: Sequence[Record]) -> None:
    seen: set[str] = set()
    for record in records:
        if record.image_id in seen:
            raise InvalidInputError(
                f"image {record.image_id!r} comes twice in one batch: give each image its own id"
            )
        seen.add(record.image_id)


def _other_extractor(name: str, own: str, other: str) -> str:
    return (
        f"collection {name!r} holds features of {own!r}, these are of {other!r}: use the extractor of the "
        "collection, or index into another name"
    )
