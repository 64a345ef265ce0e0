"""Somebody's own collection of global vectors, read and never written, with local features kept beside it.

Their collection may be made by any model and any program. The local features lie in a collection of
Landbridge's, keyed by their ids: removing it leaves no trace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from connector import filters, half, opening, schema, searchable
from connector import search as nearest
from connector.client import Client, DataType
from connector.companion import Companion, Id
from connector.errors import (
    DimensionMismatchError,
    ImagesMissingError,
    InvalidInputError,
    RefusedError,
    some,
)
from connector.rows import KEYS_PER_READ, batches
from connector.scan import Table
from extractor.features import ImageFeatures

if TYPE_CHECKING:
    from pymilvus import MilvusClient


class Found(NamedTuple):
    """What a search found, for each query.

    Attributes:
        ids: primary keys, best first.
        scores: float32, as Milvus gives them: the cosine or the inner product, the larger the better; for L2
            the squared distance, the smaller the better.
        fields: the output fields of each hit.
    """

    ids: list[list[Id]]
    scores: list[NDArray[np.float32]]
    fields: list[list[dict[str, Any]]]


class AttachedCollection:
    """Their collection, read; and local features beside it. A context manager.

    Attributes:
        name: their collection, or the alias that was given.
        vector_field: of the global vectors.
        id_field: the primary key.
        text_ids: whether ids are text; otherwise they are 64-bit integers.
        dimension: of the vectors.
        metric: COSINE, IP or L2, as their index has it.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        collection: str,
        vector_field: str = "",
        id_field: str = "",
        *,
        companion: str = "",
        extractor: str | None = None,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
        client: MilvusClient | None = None,
        consistency_level: str = "Session",
        load: bool = False,
    ) -> None:
        """Look a collection up; nothing is made or changed, nor loaded unless that is asked for.

        Args:
            uri: path of a Milvus Lite folder, or http(s)://host:port.
            collection: theirs, or an alias of it.
            vector_field: field of float32, float16 or bfloat16 vectors; the only one when empty.
            id_field: the primary key, of either type; need not be given.
            companion: collection for the local features; COLLECTION_landbridge when empty.
            extractor: fingerprint that the local features must have; None accepts any.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.
            client: a MilvusClient to use instead of connecting; it stays open at the end.
            consistency_level: of reads of their collection.
            load: if their collection is not loaded, load it, and release it at the end. A Milvus Lite folder
                needs this: what is loaded there is loaded within a process.

        Raises:
            CollectionMissingError: there is no such collection.
            NotLoadedError: it is not loaded, or its vectors have no index.
            InvalidInputError: a field is not what it must be, or its metric is none of the three.
            RefusedError: the server holds vectors of half precision and searches them wrongly.
            FingerprintMismatchError: the local features are of another extractor.
            SchemaMismatchError: the companion is not Landbridge's.
            UnreachableError, AccessDeniedError: see `Client`.
        """
        companion = companion or f"{collection}_landbridge"
        schema.check_name(companion)
        self._level = consistency_level
        self._client = Client(
            uri, token=token, db_name=db_name, timeout=timeout, client=client, must_exist=True
        )
        with opening.closed_on_error(self._client):
            self._table = Table.of(self._client, collection)
            self.name, self.id_field = self._table.name, self._table.key
            self.text_ids = self._table.text_keys
            if id_field not in ("", self.id_field):
                raise InvalidInputError(
                    f"ids of {collection!r} are those of its primary key, {self.id_field!r}: ask for "
                    f"{id_field!r} as an output field"
                )
            vectors = self._table.vector_field(vector_field)
            self.vector_field, self._kind = str(vectors["name"]), int(vectors["type"])
            self.dimension = int(vectors["params"]["dim"])
            self._index = searchable.index_of(self._client, self.name, self.vector_field)
            self._held = searchable.hold(self._client, self.name, may_load=load)
            self.metric = str(self._index["metric_type"])
            if self._kind != DataType.FLOAT_VECTOR:
                self._check_half()
            self._companion = Companion(self._client, companion, extractor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of their rows, everything written so far included."""
        return self.count()

    def __repr__(self) -> str:
        return f"AttachedCollection({self.name!r} at {self._client.uri!r})"

    @property
    def companion(self) -> str:
        """Name of the collection of local features, which the first `put_local` makes."""
        return self._companion.name

    @property
    def extractor(self) -> str | None:
        """Fingerprint of what made the local features; None until it is known."""
        return self._companion.extractor

    def close(self) -> None:
        """Close the connection; further calls fail."""
        try:
            if self._held:
                searchable.let_go(self._client, self.name)
                self._held = False
        finally:
            self._client.close()

    # Their rows

    def count(
        self,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
    ) -> int:
        """Number of their rows that fulfil a filter, in some partitions; see `search`."""
        self._check_partitions(partitions)
        return self._table.count(self._client, filter=filter, partitions=partitions)

    def check_field(self, name: str) -> None:
        """Refuse a field that their rows cannot have.

        Raises:
            InvalidInputError: there is none of this name, and rows have no dynamic ones.
        """
        if not self._table.dynamic:
            self._table.field(name)

    def search(
        self,
        vectors: NDArray[np.float32],
        limit: int,
        *,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
        output_fields: Sequence[str] = (),
        search_params: Mapping[str, Any] | None = None,
    ) -> Found:
        """The nearest of their rows to each query.

        Args:
            vectors: float32 [Q, D], of the model that made theirs.
            limit: most hits for each query, at most 16,384.
            filter: a Milvus expression over their fields.
            partitions: names of those to search; None searches all.
            output_fields: of their fields, dynamic ones too; a row that lacks a dynamic one has None.
            search_params: `params` of their index; those that are not given are chosen for the limit.

        Raises:
            DimensionMismatchError: D is not theirs.
            InvalidInputError: the limit is none that Milvus has, or there is no such partition.
            RefusedError: Milvus does not accept the filter or a field.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DimensionMismatchError(
                f"{self.vector_field!r} of collection {self.name!r} takes vectors of shape "
                f"[N, {self.dimension}], got {list(vectors.shape)}: use the model that made it"
            )
        self._check_partitions(partitions)
        return self._search(
            vectors,
            limit,
            output_fields,
            search_params=search_params,
            filter=filter,
            partition_names=list(partitions) if partitions is not None else None,
            consistency_level=self._level,
        )

    def _search(
        self, vectors: NDArray[np.float32], limit: int, output_fields: Sequence[str] = (), **options: Any
    ) -> Found:
        answers = nearest.answers(
            self._client,
            self.name,
            self.vector_field,
            self._index,
            half.encode(vectors, self._kind),
            limit,
            rows=len(self) if self._client.lite and len(vectors) > 1 else 0,
            output_fields=list(output_fields) or [self.id_field],
            **options,
        )
        found = Found([], [], [])
        for answer in answers:
            found.ids.append(list(answer.ids))
            found.scores.append(np.asarray(answer.distances, np.float32))
            found.fields.append([{name: hit["entity"].get(name) for name in output_fields} for hit in answer])
        return found

    def find(
        self,
        ids: Sequence[Id],
        output_fields: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
    ) -> dict[Id, dict[str, Any]]:
        """Some fields, the id among them, of those of their rows that are there, by id.

        Args:
            ids: theirs, or not.
            output_fields: see `search`.
            filter: a Milvus expression that the rows fulfil.
            partitions: names of those that the rows are in; None reads all.

        Raises:
            InvalidInputError: an id is of the wrong type, or there is no such partition.
            RefusedError: Milvus does not accept the filter or a field.
        """
        wrong = [id_ for id_ in ids if isinstance(id_, str) != self.text_ids]
        if wrong:
            raise InvalidInputError(
                f"ids of {self.name!r} are {'text' if self.text_ids else 'integers'}, and not {some(wrong)}"
            )
        self._check_partitions(partitions)
        found = self._read(ids, output_fields, filter, partitions)
        return {
            id_: {name: row.get(name) for name in (self.id_field, *output_fields)}
            for id_, row in found.items()
        }

    def rows(self, ids: Sequence[Id], output_fields: Sequence[str]) -> list[dict[str, Any]]:
        """Some fields of their rows, in the order of the ids.

        Raises:
            ImagesMissingError: they do not have some of the ids.
            InvalidInputError, RefusedError: see `find`.
        """
        found = self.find(ids, output_fields)
        self._check_there(ids, found)
        return [found[id_] for id_ in ids]

    def vectors(self, ids: Sequence[Id]) -> NDArray[np.float32]:
        """Their vectors, float32 [N, D], in the order of the ids.

        Raises:
            ImagesMissingError: they do not have some of the ids.
        """
        return self.decode(self.rows(ids, [self.vector_field]))

    def decode(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """The vectors in rows that were read with the vector field, float32 [N, D]."""
        return half.decode([row[self.vector_field] for row in rows], self._kind, self.dimension)

    def scan(
        self,
        output_fields: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
        rows: int = 1000,
    ) -> Iterator[tuple[list[Id], NDArray[np.float32], list[dict[str, Any]]]]:
        """All their rows, a page at a time, in ascending order of their ids.

        Rows that others write meanwhile are read, or not.

        Args:
            output_fields: fields to be read besides.
            filter: a Milvus expression that the rows fulfil.
            partitions: names of those that are read; None reads all.
            rows: of a page.

        Yields:
            Ids, vectors float32 [B, D], and the output fields.

        Raises:
            InvalidInputError: there is no such partition.
            RefusedError: Milvus does not accept the filter or a field.
        """
        fields = [self.vector_field, *output_fields]
        self._check_partitions(partitions)
        len(self)  # waits until everything written so far can be read
        pages = self._table.pages(self._client, fields, filter=filter, partitions=partitions, rows=rows)
        # Milvus 2.3 gives so many rows of each of its segments at once.
        for page in chain.from_iterable(batches(given, rows) for given in pages):
            ids = [row[self.id_field] for row in page]
            vectors = self.decode(page)
            yield ids, vectors, [{name: row.get(name) for name in output_fields} for row in page]

    # Local features beside them

    def put_local(self, ids: Sequence[Id], features: Sequence[ImageFeatures]) -> None:
        """Keep the local features of some of their images; those kept before are replaced.

        Args:
            ids: theirs.
            features: of each, of one extractor, which is that of all kept before.

        Raises:
            FingerprintMismatchError: features of another extractor.
            ImagesMissingError: they do not have some of the ids.
            InvalidInputError: an id comes twice, or features cannot be packed; nothing is written.
        """
        self._check_there(ids, self._read(ids, []))
        self._companion.put(ids, features)

    def local(self, ids: Sequence[Id]) -> list[ImageFeatures]:
        """The local features that were kept, in the order of the ids; their `image_id` is the id as text.

        Raises:
            ImagesMissingError: some have none; see `missing`.
            CorruptPayloadError: what is stored of one is damaged.
        """
        return self._companion.get(ids)

    def missing(self, ids: Sequence[Id]) -> list[Id]:
        """Those of the ids whose local features are not kept, whole, in their order."""
        return self._companion.missing(ids)

    def digests(self, ids: Sequence[Id] | None = None) -> dict[Id, str]:
        """Digests of the local features that are kept, whole, by id: they differ when the features do.

        Args:
            ids: those of these images; None gives all that are kept, those of rows that are gone as well.
        """
        return self._companion.digests(ids)

    def drop_local(self) -> None:
        """Remove the companion with all local features: what is left is what was there before attaching."""
        self._companion.drop()

    # Milvus

    def _read(
        self,
        ids: Sequence[Id],
        fields: Sequence[str],
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
    ) -> dict[Id, dict[str, Any]]:
        found: dict[Id, dict[str, Any]] = {}
        # What this process did not write itself may be seen late, except by a strong read; but most of what
        # a filter leaves out is there.
        chosen = bool(filter) or partitions is not None
        for level in (self._level,) if chosen else (self._level, "Strong"):
            for batch in batches([id_ for id_ in dict.fromkeys(ids) if id_ not in found], KEYS_PER_READ):
                rows = self._client.call(
                    "query",
                    collection_name=self.name,
                    filter=filters.all_of(filters.is_in(self.id_field, batch), filter),
                    partition_names=list(partitions) if partitions is not None else None,
                    output_fields=[self.id_field, *fields],
                    consistency_level=level,
                )
                found |= {row[self.id_field]: row for row in rows}
        return found

    def _check_there(self, ids: Sequence[Id], found: Mapping[Id, Any]) -> None:
        absent = [id_ for id_ in ids if id_ not in found]
        if absent:
            raise ImagesMissingError(
                f"collection {self.name!r} does not hold {len(absent)} of {len(ids)} ids: {some(absent)}"
            )

    def _check_half(self) -> None:
        """Whether a search of their first row tells the true score of what it finds."""
        first = next(self.scan(rows=1), None)
        if first is None:
            return
        query = first[1]
        found = self._search(query, 1, consistency_level="Strong")
        if not found.ids[0]:
            return  # it was deleted meanwhile
        score = float(found.scores[0][0])
        truth = _score(self.metric, query[0], self.vectors(found.ids[0])[0])
        if abs(score - truth) > 0.02 * max(1.0, abs(truth)):
            raise RefusedError(
                f"Milvus at {self._client.uri} searches the half-precision vectors {self.vector_field!r} of "
                f"{self.name!r} wrongly (it says {score:.3f} where {truth:.3f} is right): search with Milvus "
                "2.4 or later, or keep them as FLOAT_VECTOR"
            )

    def _check_partitions(self, partitions: Sequence[str] | None) -> None:
        """Whether they have these; Milvus Lite finds nothing in those that they have not."""
        if partitions is None:
            return
        there = self._client.call("list_partitions", collection_name=self.name)
        unknown = sorted(set(partitions) - set(there))
        if unknown:
            raise InvalidInputError(
                f"collection {self.name!r} has no partition {some(unknown)}; "
                f"it has {', '.join(sorted(there))}"
            )


def _score(metric: str, query: NDArray[np.float32], vector: NDArray[np.float32]) -> float:
    if metric == "L2":
        return float(((query - vector) ** 2).sum())
    product = float(query @ vector)
    return product if metric == "IP" else product / float(np.linalg.norm(query) * np.linalg.norm(vector))
