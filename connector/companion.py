"""Local features of the images of somebody's collection, beside it, keyed by their ids."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from itertools import chain

from connector import opening, payload, schema
from connector.client import Client
from connector.errors import FingerprintMismatchError, ImagesMissingError, InvalidInputError, some
from connector.payload_store import Entry, PayloadStore
from connector.rows import Rows
from extractor.features import ImageFeatures

Id = int | str


class Companion:
    """Made by the first `put`; loaded when it is there.

    Attributes:
        name: the collection.
        extractor: fingerprint of what made the features; None until it is known.
    """

    def __init__(self, client: Client, name: str, extractor: str | None) -> None:
        """Open it when it is there.

        Args:
            client: the connection.
            name: the collection.
            extractor: fingerprint that it must have; None accepts any.

        Raises:
            FingerprintMismatchError: it has another extractor.
            SchemaMismatchError: it is not Landbridge's.
        """
        self.name, self.extractor = name, extractor
        self._client = client
        self._store: PayloadStore | None = None
        if opening.describe(client, name) is not None:
            self._open()

    def put(self, ids: Sequence[Id], features: Sequence[ImageFeatures]) -> None:
        """Keep features; see `AttachedCollection.put_local`."""
        if len(ids) != len(features):
            raise ValueError(f"{len(ids)} ids came with the features of {len(features)} images")
        if not ids:
            return
        if len(set(ids)) < len(ids):
            raise InvalidInputError("an id comes twice in one batch: give the features of each image once")
        extractor = self.extractor or features[0].extractor
        for image in features:
            if image.extractor != extractor:
                raise FingerprintMismatchError(opening.other_extractor(self.name, extractor, image.extractor))
        packed = [payload.pack(image) for image in features]
        entries = [
            Entry(_owner(id_), data, _record(id_, payload.digest(data)))
            for id_, data in zip(ids, packed, strict=True)
        ]
        self._made(extractor).put(entries)

    def get(self, ids: Sequence[Id]) -> list[ImageFeatures]:
        """The features of images; see `AttachedCollection.local`."""
        owners = {_owner(id_): str(id_) for id_ in ids}
        found = {} if self._store is None else self._store.features(owners, str(self.extractor))
        without = [id_ for id_ in ids if _owner(id_) not in found]
        if without:
            raise ImagesMissingError(
                f"{self.name!r} holds no local features of {len(without)} of {len(ids)} images: "
                f"{some(without)}: extract them and put_local"
            )
        return [found[_owner(id_)] for id_ in ids]

    def missing(self, ids: Sequence[Id]) -> list[Id]:
        """Those of the ids whose features are not there, whole, in their order."""
        if self._store is None:
            return list(ids)
        there = self._store.whole([_owner(id_) for id_ in dict.fromkeys(ids)])
        return [id_ for id_ in ids if _owner(id_) not in there]

    def digests(self, ids: Sequence[Id] | None = None) -> dict[Id, str]:
        """Digests of whole features by id; see `AttachedCollection.digests`."""
        if self._store is None:
            return {}
        if ids is None:
            self._store.rows.settle()
            parts = (self._store.records(bounds).values() for bounds in self._store.rows.ranges())
            records = list(chain.from_iterable(parts))
        else:
            whole = self._store.whole([_owner(id_) for id_ in dict.fromkeys(ids)])
            first = self._store.rows.read([f"{owner}:0" for owner in sorted(whole)], ["pk", "record"])
            records = [row["record"] for row in first.values()]
        kept = {entry["id"]: entry["digest"] for entry in map(json.loads, records)}
        return kept if ids is None else {id_: kept[id_] for id_ in dict.fromkeys(ids) if id_ in kept}

    def drop(self) -> None:
        """Remove it with all that it holds.

        Raises:
            SchemaMismatchError: what is there of its name is not Landbridge's.
        """
        described = opening.describe(self._client, self.name)
        if described is not None:
            schema.check_owner(described)
            self._client.call("drop_collection", collection_name=self.name)
        self._store = self.extractor = None

    def _made(self, extractor: str) -> PayloadStore:
        if self._store is not None:
            return self._store
        if opening.describe(self._client, self.name) is None:
            opening.make(self._client, schema.payloads(self.name), schema.properties(extractor))
        return self._open()

    def _open(self) -> PayloadStore:
        described = self._client.call("describe_collection", collection_name=self.name)
        layout = schema.payloads(self.name)
        schema.check_owner(described)
        schema.check_fields(described, layout)
        own = described["properties"][schema.EXTRACTOR_PROPERTY]
        if self.extractor not in (None, own):
            raise FingerprintMismatchError(opening.other_extractor(self.name, own, str(self.extractor)))
        opening.load(self._client, [layout])
        self.extractor = own
        self._store = PayloadStore(Rows(self._client, layout), concurrent=not self._client.lite)
        return self._store


def _owner(id_: Id) -> str:
    return schema.image_key(str(id_))


def _record(id_: Id, digest: str) -> str:
    return json.dumps({"id": id_, "digest": digest}, ensure_ascii=False, default=operator.index)
