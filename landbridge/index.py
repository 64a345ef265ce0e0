"""An index of photos in Milvus: photos in, ranked photos out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from connector.choices import Choices
from connector.collection import Collection
from connector.collection import Hit as Neighbour
from connector.errors import CollectionMissingError, ConnectorError
from connector.local_index import Updated
from extractor.configuration import ExternalConfiguration
from extractor.extractor import Extractor
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import PhotoError
from extractor.registry import verification
from extractor.sampling import learn_from_sample
from landbridge.collection_extractor import check, check_takes_photos, choose, load
from landbridge.datasets import Box
from landbridge.feature_files import StoredPhotos, store_label, stored_label
from landbridge.ingest import (
    Added,
    Arrivals,
    arrivals,
    embedding_dimension,
    ingest,
    note_moved,
    photo_sources,
    stored_whitening,
)
from landbridge.matches_folder import matches_folder
from landbridge.queries import extract_part, match_key, query_of
from landbridge.results import Ranking
from landbridge.retrieval import Library, Progress, Query, Retrieval, silent
from ranking.match_store import MatchStore
from ranking.verification import BatchedVerifier

_LABEL = "label"
_CACHED_PHOTOS = 4000


class Index:
    """Photos in a Milvus collection, with the pairs of them that were verified.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        uri: str | Path = "landbridge.db",
        name: str = "landbridge",
        *,
        extractor: str | Extractor | None = None,
        dimension: int | None = None,
        index_params: Mapping[str, Any] | None = None,
        consistency_level: str | None = None,
        ttl_seconds: int | None = None,
        tenant: str = "",
        search_params: Mapping[str, Any] | None = None,
        local_index: bool = True,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
        matches: Path | None = None,
    ) -> None:
        """Open an index; the first `add` makes it.

        Args:
            uri: a path for the embedded Milvus Lite, or http(s)://host:port of a Milvus server.
            name: the collection, or an alias of it.
            extractor: registered name, for a new collection the default one when not given; an existing
                collection knows its own. Its model is loaded when the first photo comes. Or an extractor
                that is ready: one with options, on another device, or behind a service.
            dimension: of a new collection: global descriptors are PCA-whitened to so many components. By
                default they are centred alone. An existing collection keeps what it was made with.
            index_params: of a new collection: `index_type`, `metric_type` and `params` of the descriptors'
                index; the last two may be left out. By default the index is chosen for the number of photos
                that the first `add` brings.
            consistency_level: of a new collection, see `Collection.create`; Session by default.
            ttl_seconds: of a new collection: after which a server forgets photos.
            tenant: whose photos, in a collection that many share; every call then sees these alone.
            search_params: of searches, `params` of the index such as `{"ef": 512}` for HNSW; those that are
                not given are chosen for the limit.
            local_index: whether searches also verify what local descriptors vote for, where
                `build_local_index` was called for the collection.
            token: `token` or `user:password` of the server.
            db_name: database of the server.
            timeout: seconds that Milvus may take to answer.
            matches: folder of the verified pairs; by default beside the Milvus Lite file, or in the user's
                cache folder for a server.

        Raises:
            ConnectorError: Milvus cannot be reached, or the collection is not Landbridge's, or it was made
                by another extractor than the one given, with another index, consistency or time, or for
                tenants and none is given.
            ValueError: no extractor has this name.
        """
        self.uri = str(uri)
        self.name = name
        self.tenant = tenant
        self._dimension = dimension
        self._wanted: dict[str, Any] = {
            "index_params": index_params,
            "consistency_level": consistency_level,
            "ttl_seconds": ttl_seconds,
        }
        self._search_params = search_params
        self._uses_local_index = local_index
        self._access: dict[str, Any] = {"token": token, "db_name": db_name, "timeout": timeout}
        self._collection: Collection | None = None
        self._missing = CollectionMissingError(f"there is no {self.uri}: index photos into it first")
        if "://" in self.uri or Path(self.uri).exists():
            try:
                self._collection = Collection.open(self.uri, name, tenant=tenant, **self._access)
            except CollectionMissingError as error:
                self._missing = error
        self._matches_folder = matches
        self._matches: MatchStore | None = None
        self._library: Library | None = None
        self._cache: LRUCache[str, LocalFeatures] = LRUCache(_CACHED_PHOTOS)
        try:
            self._chosen = choose(self._collection, extractor)
            if self._collection is not None and any(self._wanted.values()):
                self.choices.check(**self._wanted)
        except (ConnectorError, ValueError):
            self.close()
            raise

    def close(self) -> None:
        """Let go of Milvus and of the verified pairs."""
        if self._matches is not None:
            self._matches.close()
        if self._collection is not None:
            self._collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return 0 if self._collection is None else len(self._collection)

    @property
    def collection(self) -> Collection:
        """The collection in Milvus.

        Raises:
            CollectionMissingError: nothing was added yet.
        """
        if self._collection is None:
            raise self._missing
        return self._collection

    @property
    def matches(self) -> MatchStore:
        """The verified pairs; their folder is made, and locked, when they are first asked for.

        Raises:
            MatchStoreError: another process uses them, or another verifier made them.
        """
        if self._matches is None:
            made_by = self._chosen.name if isinstance(self._chosen, Extractor) else self._chosen
            # An alias may lead to another collection tomorrow: the pairs are those of the collection.
            name = self.name if self._collection is None else self._collection.name
            usual = matches_folder(self.uri, name, self.tenant, self._access["db_name"])
            folder = self._matches_folder or usual
            self._matches = MatchStore(folder, BatchedVerifier(**verification(made_by)))
        return self._matches

    @property
    def local_index(self) -> dict[str, Any] | None:
        """What `build_local_index` made; None where it was not called, or its work dropped."""
        return self.collection.local.info() if self.collection.local.exists else None

    @property
    def choices(self) -> Choices:
        """What the collection was made with.

        Raises:
            CollectionMissingError: nothing was added yet.
        """
        return Choices.of(self.uri, self.collection.name, **self._access)

    @cached_property
    def extractor(self) -> Extractor:
        """The model, loaded now.

        Raises:
            FingerprintMismatchError: the collection was made by another.
        """
        return load(self._collection, self._chosen)

    def info(self) -> dict[str, Any]:
        """What there is to know of the index, in values that JSON can hold."""
        choices = self.choices
        return {
            **self.collection.info(),
            "index_params": dict(choices.index_params["params"]),
            "consistency_level": choices.consistency_level,
            "ttl_seconds": choices.ttl_seconds,
            "tenant": self.tenant or None,
            "local_index": self.local_index,
            "verified_pairs": len(self.matches),
            "joined": len(self.matches.joined),
            "verifier": self.matches.verifier.fingerprint,
            "matches": str(self.matches.folder),
        }

    # Adding

    def add(self, photos: str | Path | Mapping[str, str | Path], progress: Progress = silent) -> Added:
        """Add photos: extract, store in Milvus, verify against their neighbours.

        A photo that is there already, by id, size and time of its file, is not done again, wherever its
        folder was moved. Stopped at any moment, a second call goes on where the first ended and comes to the
        same index. A photo whose id belongs to another file, which is still there, is refused.

        Args:
            photos: a folder, one photo, or photos by id.
            progress: told about the long steps.

        Raises:
            ConnectorError: Milvus failed.
        """
        if self._collection is not None:
            check_takes_photos(self._collection)
        sources, failed = photo_sources(photos)
        if not sources:
            return Added(failed=failed)
        paths = {image_id: Path(source.path) for image_id, source in sources.items()}
        if self._collection is None:
            learn_from_sample(self.extractor, paths, progress)
            self._create(self.extractor, len(sources))
        found = arrivals(self.collection, sources, failed)
        if found.new:
            extractor = self.extractor
            learn_from_sample(extractor, {image_id: paths[image_id] for image_id in found.new}, progress)
            check(self.collection, extractor)

            def extract(image_ids: Sequence[str]) -> Iterator[ImageFeatures | PhotoError]:
                return extractor.extract_many((image_id, paths[image_id]) for image_id in image_ids)

            ingest(self.collection, found, extractor, extract, progress)
        return self._joined(found, progress)

    def add_features(
        self,
        features: str | Path | Sequence[str | Path],
        photos: str | Path | Mapping[str, Path] | None = None,
        *,
        label: str | None = None,
        progress: Progress = silent,
    ) -> Added:
        """Add photos whose features are in files: store them in Milvus, verify against their neighbours.

        Otherwise like `add`. What `landbridge extract` wrote makes the collection that `add` would have made
        of the photos; others' features make one that is searched with their features of the queries.

        Args:
            features: feature files, folders of them, or a folder that `landbridge extract` wrote.
            photos: the photos, by the names that they have in the files, or their folder. They are needed
                where the files have no global descriptors, which the default model computes then; and reports
                show them.
            label: what others' features are called, by default as those of the collection: features of two
                labels do not meet.
            progress: told about the long steps.

        Raises:
            ConnectorError: Milvus failed, or the collection holds other features.
            FeatureFileError: there are no such files, or they cannot be read.
            ValueError: the files have no global descriptors, and no photos are given.
        """
        stored = StoredPhotos(features, photos, label or self._label)
        sources, failed = stored.sources()
        if not sources:
            return Added(failed=failed)
        if self._collection is None:
            self._create(stored.external, len(sources))
        check(self.collection, stored.external)
        store_label(self.collection, stored.external)
        found = arrivals(self.collection, sources, failed)
        if found.new:
            ingest(self.collection, found, stored.external, stored.take, progress)
        return self._joined(found, progress)

    @property
    def _label(self) -> str:
        """What others' features are called, unless one says otherwise."""
        return stored_label(self._collection) or ExternalConfiguration.label

    def _create(self, extractor: Extractor, photos: int) -> None:
        self._collection = Collection.create(
            self.uri,
            self.name,
            dimension=embedding_dimension(self._dimension, extractor.dimension, photos),
            extractor=extractor.fingerprint,
            images=photos,
            tenant=self.tenant,
            **{name: choice for name, choice in self._wanted.items() if choice is not None},
            **self._access,
        )
        self._chosen = choose(self._collection, None if isinstance(self._chosen, str) else self._chosen)

    def _joined(self, found: Arrivals, progress: Progress) -> Added:
        """Verify what was added with its neighbours."""
        note_moved(self.collection, found.moved)
        if found.new:
            self._library = None
        if self.collection.local.exists:
            self.collection.local.update(_counted(progress))
        verified = self.library.join(progress)
        added = [i for i, source in found.new.items() if Path(source.path) not in found.failed]
        return Added(added, found.unchanged, found.failed, verified)

    def build_local_index(
        self, progress: Progress = silent, *, index_params: Mapping[str, Any] | None = None
    ) -> Updated:
        """Give every photo's strongest local descriptors rows of their own, which searches then use.

        They find candidates that the global descriptor misses; see docs/local_index.md for what it brings and
        costs. Made of the features in Milvus: no photo is extracted. From now on `add` keeps it up to date.

        Args:
            progress: told how many photos have their rows.
            index_params: see `LocalIndex.build`.

        Raises:
            ConnectorError: nothing was added yet, Milvus failed, or it is there with another index.
        """
        self._library = None
        return self.collection.local.build(index_params=index_params, progress=_counted(progress))

    def drop_local_index(self) -> None:
        """Remove what `build_local_index` made; searches do without."""
        self._library = None
        self.collection.local.drop()

    # Searching

    @property
    def library(self) -> Library:
        """The index images as the rankers see them, read from Milvus once."""
        if self._library is None:
            ids, embeddings = self.collection.embeddings()
            records = self.collection.records(ids)
            keys = [match_key("index", record.image_id, record.digest) for record in records]
            owner = dict(zip(keys, ids, strict=True))

            def features(wanted: Sequence[str]) -> Mapping[str, LocalFeatures]:
                unknown = [key for key in wanted if key not in self._cache]
                stored = self.collection.features([owner[key] for key in unknown])
                fresh = {key: image.local for key, image in zip(unknown, stored, strict=True)}
                found = {key: fresh[key] if key in fresh else self._cache[key] for key in wanted}
                self._cache.update(fresh)
                return found

            searched = _Tuned(self.collection, self._search_params)
            local = self.collection.local if self._uses_local_index and self.collection.local.exists else None
            self._library = Library(ids, keys, embeddings, searched, self.matches, features, local=local)
        return self._library

    def queries(
        self,
        photos: Mapping[str, Path],
        boxes: Mapping[str, Box] | None = None,
        progress: Progress = silent,
    ) -> tuple[list[Query], dict[Path, str]]:
        """Extract query photos.

        Args:
            photos: photos by query id.
            boxes: the part of the photo to search with, for some of them.
            progress: told about each photo.

        Returns:
            The queries, and the photos that could not be read with the reason.
        """
        boxes = boxes or {}
        whole = [(query_id, path) for query_id, path in photos.items() if query_id not in boxes]
        cut = [(query_id, path) for query_id, path in photos.items() if query_id in boxes]
        results = chain(
            self.extractor.extract_many(whole),
            (extract_part(self.extractor, query_id, path, boxes[query_id]) for query_id, path in cut),
        )
        return self._queries(list(photos), results, progress)

    def stored_queries(
        self,
        features: str | Path | Sequence[str | Path],
        photos: Mapping[str, Path] | None = None,
        progress: Progress = silent,
    ) -> tuple[list[Query], dict[Path, str]]:
        """Query photos whose features are in files, made by what made those of the index.

        Args:
            features: feature files, folders of them, or a folder that `landbridge extract` wrote.
            photos: photos by query id, the name in the files; by default the queries are all that the files
                hold. They are needed where global descriptors are computed: see `add_features`.
            progress: told about each photo.

        Returns:
            The queries, and the photos whose features cannot be used with the reason.

        Raises:
            ConnectorError: nothing was indexed, or these features do not compare with those of the index.
            FeatureFileError, ValueError: see `add_features`.
        """
        stored = StoredPhotos(features, photos, self._label)
        check(self.collection, stored.external)
        return self._queries(stored.names, stored.take(stored.names), progress)

    def _queries(
        self,
        query_ids: Sequence[str],
        results: Iterable[ImageFeatures | PhotoError],
        progress: Progress,
    ) -> tuple[list[Query], dict[Path, str]]:
        whitening = stored_whitening(self.collection)
        if whitening is None:
            raise CollectionMissingError(f"{self.name!r} in {self.uri} holds no photos yet: index some first")
        found: dict[str, Query] = {}
        failed: dict[Path, str] = {}
        for done, result in enumerate(results, 1):
            if isinstance(result, PhotoError):
                failed[result.path] = result.reason
            else:
                found[result.image_id] = query_of(result, whitening)
            progress("extract queries", done, len(query_ids))
        return [found[query_id] for query_id in query_ids if query_id in found], failed

    def members(self, image_ids: Iterable[str]) -> list[Query]:
        """Index images as queries: they are not extracted again, and do not find themselves.

        Raises:
            KeyError: an id is not in the index.
        """
        library = self.library
        return [
            Query(image_id, library.keys[i], library.embeddings[i])
            for image_id in image_ids
            for i in [library.number[image_id]]
        ]

    def retrieval(
        self, queries: Sequence[Query], *, offline: bool = False, progress: Progress = silent
    ) -> Retrieval:
        """Rank the index for these queries by one method or several; see `Retrieval`."""
        return Retrieval(self.library, queries, offline=offline, progress=progress)

    def search(self, photo: str | Path, limit: int = 20, method: str = "mmst-c") -> Ranking:
        """Find the photos that show what one photo shows.

        Args:
            photo: the query.
            limit: longest list.
            method: one of `landbridge.METHODS`.

        Raises:
            PhotoError: the photo cannot be read.
            ConnectorError: nothing was indexed, or Milvus failed.
        """
        path = Path(photo)
        queries, failed = self.queries({path.stem: path})
        for problem, reason in failed.items():
            raise PhotoError(problem, reason)
        return self.retrieval(queries).rank(method, limit)[0]

    def write_report(
        self,
        path: Path,
        retrieval: Retrieval,
        rankings: Sequence[Ranking],
        queries: Mapping[str, Path],
        **more: Any,
    ) -> None:
        """Write rankings as a page to look at, with every bridge drawn.

        Args:
            path: the HTML file.
            retrieval: what ranked them.
            rankings: those to show.
            queries: query photos by id, those from outside the index.
            more: what else `landbridge.report.write_report` takes.
        """
        from landbridge.report import write_report

        shown = {
            name for ranking in rankings for hit in ranking.hits for name in (hit.image_id, *hit.bridges)
        }
        shown |= {ranking.query_id for ranking in rankings}
        known = [name for name in shown if name in self.library.number]
        paths = {record.image_id: Path(record.path) for record in self.collection.records(known)}
        paths |= queries
        write_report(
            path, rankings, photo=paths.__getitem__, correspondences=retrieval.correspondences, **more
        )


def _counted(progress: Progress) -> Callable[[int, int], None]:
    return lambda done, total: progress("index local descriptors", done, total)


@dataclass(frozen=True)
class _Tuned:
    """A collection that is searched with some parameters."""

    collection: Collection
    search_params: Mapping[str, Any] | None

    def search(self, queries: NDArray[np.float32], limit: int) -> list[list[Neighbour]]:
        return self.collection.search(queries, limit, search_params=self.search_params)
