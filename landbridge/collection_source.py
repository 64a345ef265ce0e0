"""A collection in Milvus, Landbridge's or anybody's, as match graphs are made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connector import filters
from connector.client import Client
from connector.errors import ImagesMissingError, InvalidInputError
from connector.key_column import Key
from connector.opening import describe
from connector.rows import batches
from connector.schema import TENANT, dimension_of, version_of
from connector.snapshot import Snapshot
from extractor.features import ImageFeatures, LocalFeatures
from landbridge.attached import attach
from landbridge.experiments.pairing import Progress
from landbridge.index import Index
from landbridge.queries import match_key
from ranking.match_store import MatchStore

_IMAGES_PER_READ = 500


@dataclass(frozen=True)
class CollectionSource:
    """Which images, and how to get at them.

    Attributes:
        uri: path of a Milvus Lite folder, or http(s)://host:port.
        collection: its name, or an alias of it.
        vector_field: field of the vectors; the only one when empty.
        id_field: field that names an image of somebody's; the primary key when empty.
        filter: a Milvus expression: these images alone.
        companion: collection of the local features of somebody's images; COLLECTION_landbridge when empty.
        tenant: whose photos, in a collection of Landbridge's that many share.
        token: `token` or `user:password`.
        db_name: database on the server.
        timeout: seconds for every call.
    """

    uri: str
    collection: str = "landbridge"
    vector_field: str = ""
    id_field: str = ""
    filter: str = ""
    companion: str = ""
    tenant: str = ""
    token: str = field(default="", repr=False)
    db_name: str = ""
    timeout: float = 30.0

    @property
    def images(self) -> str:
        """The expression that its images fulfil."""
        return filters.all_of(filters.equals(TENANT, self.tenant) if self.tenant else "", self.filter)

    @contextmanager
    def connect(self) -> Iterator[Client]:
        """A connection, for a while."""
        client = Client(self.uri, must_exist=True, **self._access)
        try:
            yield client
        finally:
            client.close()

    def is_landbridge(self, client: Client) -> bool:
        """Whether Landbridge made it."""
        described = describe(client, self.collection)
        return described is not None and bool(version_of(described) and dimension_of(described))

    def name_field(self, client: Client) -> str:
        """The field that names an image; the primary key when empty.

        Raises:
            InvalidInputError: Landbridge made the collection, and another field than its `image_id` is given.
        """
        if not self.is_landbridge(client):
            return self.id_field
        if self.id_field not in ("", "image_id"):
            raise InvalidInputError(
                f"{self.collection!r} was made by Landbridge, and its images are named by image_id: leave "
                f"out the id field {self.id_field!r}"
            )
        return "image_id"

    @contextmanager
    def photos(
        self, snapshot: Snapshot, names: Sequence[str], progress: Progress, *, landbridge: bool
    ) -> Iterator[tuple[CollectionPhotos, MatchStore]]:
        """The images with their local features, and the verified pairs that searches of them share.

        Args:
            snapshot: the images.
            names: of each.
            progress: told about reading the digests of all local features.
            landbridge: whether Landbridge made the collection.

        Raises:
            ImagesMissingError: no image has local features, or an image is gone.
            MatchStoreError: another process uses the verified pairs.
        """
        if landbridge:
            with Index(self.uri, self.collection, tenant=self.tenant, **self._access) as index:
                digests: list[str] = []
                for part in batches(names, _IMAGES_PER_READ):
                    digests += (record.digest for record in index.collection.records(part))
                    progress("read digests", len(digests), len(names))
                yield CollectionPhotos.of(snapshot, names, digests, index.collection.features), index.matches
            return
        with attach(
            self.uri, self.collection, self.vector_field, companion=self.companion, **self._access
        ) as attached:
            theirs = attached.collection
            ids, kept = snapshot.keys.read(0, len(snapshot)), theirs.digests()
            digests = [kept.get(id_, "") for id_ in ids]
            if not any(digests):
                raise ImagesMissingError(
                    f"no image of {self.collection!r} has local features in {theirs.companion!r} that could "
                    "be verified: add them (`landbridge attach`), or join images by their "
                    "similarity alone (`graph match --similarity`)"
                )
            yield CollectionPhotos.of(snapshot, ids, digests, theirs.local), attached.matches

    @property
    def _access(self) -> dict[str, Any]:
        return {"token": self.token, "db_name": self.db_name, "timeout": self.timeout}


@dataclass(frozen=True, eq=False)
class CollectionPhotos:
    """The images of a collection as `Pairing` takes them; local features are read when they are asked for.

    Attributes:
        keys: name the images among the verified pairs, as searches do.
        descriptors: float32 [n, D] of unit norm.
        ids: what `read` knows the images by.
        digests: of the local features of each; empty where there are none.
        read: gives the features of images by their ids.
        dimension: components of a local descriptor.
    """

    keys: list[str]
    descriptors: NDArray[np.float32]
    ids: Sequence[Key]
    digests: Sequence[str]
    read: Callable[[Sequence[Any]], list[ImageFeatures]]
    dimension: int

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        ids: Sequence[Key],
        digests: Sequence[str],
        read: Callable[[Sequence[Any]], list[ImageFeatures]],
    ) -> CollectionPhotos:
        """Look at the images of a snapshot; one of them at least has local features."""
        keys = [
            match_key("index" if digest else "featureless", str(id_), digest)
            for id_, digest in zip(ids, digests, strict=True)
        ]
        first = next(id_ for id_, digest in zip(ids, digests, strict=True) if digest)
        return cls(keys, snapshot.vectors, ids, digests, read, read([first])[0].local.dimension)

    @property
    def index(self) -> int:
        """Number of images: all are of the index."""
        return len(self.keys)

    def local(self, numbers: Sequence[int]) -> list[LocalFeatures]:
        """The local features of some images; none, of one that has none."""
        stored = [number for number in numbers if self.digests[number]]
        found: dict[int, LocalFeatures] = {}
        for part in batches(stored, _IMAGES_PER_READ):
            images = self.read([self.ids[number] for number in part])
            found |= {number: image.local for number, image in zip(part, images, strict=True)}
        return [found.get(number, LocalFeatures.empty(self.dimension)) for number in numbers]
