"""An index of photos in Milvus: photos in, ranked photos out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from cachetools import LRUCache
from platformdirs import user_cache_path

from connector import payload
from connector.collection import Collection, Record, Source
from connector.errors import CollectionMissingError, FingerprintMismatchError
from extractor.extractor import LEARNING_SAMPLE, Extractor
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import Photo, PhotoError, read_photo
from extractor.registry import create_extractor, maker, registered
from extractor.whitening import Whitening
from landbridge.datasets import Box
from landbridge.photos import photos_in
from landbridge.results import Ranking
from landbridge.retrieval import Library, Progress, Query, Retrieval, silent
from ranking.match_store import KEY_BYTES, MatchStore
from ranking.verification import BatchedVerifier

T = TypeVar("T")

_WHITENING = "whitening"
_LEARNT = "extractor"
_WHITENING_SAMPLE = 2000
_BATCH = 32
_CACHED_PHOTOS = 4000


@dataclass(frozen=True)
class Added:
    """What `Index.add` did.

    Attributes:
        added: ids of photos that are new, or were changed since they were added.
        unchanged: how many were there already.
        failed: photos that could not be added, and why.
        verified: how many pairs of photos were verified.
    """

    added: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    verified: int = 0


class Index:
    """Photos in a Milvus collection, with the pairs of them that were verified.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        uri: str | Path = "landbridge.db",
        name: str = "landbridge",
        *,
        extractor: str | None = None,
        dimension: int | None = None,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
        matches: Path | None = None,
    ) -> None:
        """Open an index; the first `add` makes it.

        Args:
            uri: a path for the embedded Milvus Lite, or http(s)://host:port of a Milvus server.
            name: the collection.
            extractor: registered name, for a new collection the default one when not given; an existing
                collection knows its own. Its model is loaded when the first photo comes.
            dimension: of a new collection: global descriptors are PCA-whitened to so many components. By
                default they are centred alone. An existing collection keeps what it was made with.
            token: `token` or `user:password` of the server.
            db_name: database of the server.
            timeout: seconds that Milvus may take to answer.
            matches: folder of the verified pairs; by default beside the Milvus Lite file, or in the user's
                cache folder for a server.

        Raises:
            ConnectorError: Milvus cannot be reached, or the collection is not Landbridge's, or it was made
                by another extractor than the one given.
            ValueError: no extractor has this name.
        """
        self.uri = str(uri)
        self.name = name
        self._extractor_name = registered(extractor or "default")
        self._dimension = dimension
        self._access: dict[str, Any] = {"token": token, "db_name": db_name, "timeout": timeout}
        self._collection: Collection | None = None
        self._missing = CollectionMissingError(f"there is no {self.uri}: index photos into it first")
        if "://" in self.uri or Path(self.uri).exists():
            try:
                self._collection = Collection.open(self.uri, name, **self._access)
            except CollectionMissingError as error:
                self._missing = error
        if self._collection is not None:
            made_by = maker(self._collection.extractor)
            if extractor is not None and made_by != self._extractor_name:
                self._collection.close()
                raise self._mismatch(self._collection.extractor, self._extractor_name)
            self._extractor_name = made_by
        self._matches_folder = matches or self._usual_matches_folder(db_name)
        self._matches: MatchStore | None = None
        self._library: Library | None = None
        self._cache: LRUCache[str, LocalFeatures] = LRUCache(_CACHED_PHOTOS)

    def _usual_matches_folder(self, db_name: str) -> Path:
        if "://" not in self.uri:
            return Path(f"{self.uri}.matches") / self.name
        place = hashlib.sha256(f"{self.uri}\n{db_name}\n{self.name}".encode()).hexdigest()[:16]
        return user_cache_path("landbridge") / "matches" / f"{self.name}-{place}"

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
            self._matches = MatchStore(self._matches_folder, BatchedVerifier())
        return self._matches

    @cached_property
    def extractor(self) -> Extractor:
        """The model, loaded now.

        Raises:
            FingerprintMismatchError: the collection was made by another.
        """
        extractor = create_extractor(self._extractor_name)
        if self._collection is not None:
            learnt = self._collection.get_blob(_LEARNT) if extractor.learns else None
            if learnt is not None:
                try:
                    extractor.restore(learnt)
                except ValueError as error:
                    raise FingerprintMismatchError(f"{self.name!r} in {self.uri}: {error}") from error
            if not extractor.learns:
                self._check(extractor)
        return extractor

    def _check(self, extractor: Extractor) -> None:
        ours, theirs = extractor.fingerprint, self.collection.extractor
        if ours != theirs:
            raise self._mismatch(theirs, ours)

    def _mismatch(self, theirs: str, ours: str) -> FingerprintMismatchError:
        return FingerprintMismatchError(
            f"{self.name!r} in {self.uri} was made by {theirs}, this is {ours}: their features do "
            "not compare; use the extractor and the release that made it, or index into another name"
        )

    def _learn(self, sources: Mapping[str, Source], progress: Progress) -> None:
        """Let the extractor learn what it must from a sample of the first photos."""
        extractor = self.extractor
        if not extractor.learns:
            return
        sample = _sample(sources, LEARNING_SAMPLE)

        def photos() -> Iterator[Path]:
            for done, image_id in enumerate(sample, 1):
                progress("learn", done, len(sample))
                yield Path(sources[image_id].path)

        extractor.learn(photos())

    def info(self) -> dict[str, Any]:
        """What there is to know of the index, in values that JSON can hold."""
        return {
            **self.collection.info(),
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
        failed: dict[Path, str] = {}
        if isinstance(photos, Mapping):
            named = {image_id: Path(path) for image_id, path in photos.items()}
        else:
            named, failed = photos_in(Path(photos))
        sources = {}
        for image_id, path in named.items():
            try:
                sources[image_id] = _source(path)
            except OSError as error:
                failed[path] = f"cannot be read: {error.strerror}"
        if sources and self._collection is None:
            self._learn(sources, progress)
            self._collection = Collection.create(
                self.uri,
                self.name,
                dimension=self._new_dimension(len(sources)),
                extractor=self.extractor.fingerprint,
                **self._access,
            )
        if not sources:
            return Added(failed=failed)
        there = {record.image_id: record for record in self.collection.published()}
        new, moved, unchanged = {}, {}, 0
        for image_id, source in sources.items():
            record = there.get(image_id)
            if record is None:
                new[image_id] = source
            elif (record.file_bytes, record.modified_ns) == (source.file_bytes, source.modified_ns):
                unchanged += 1
                if record.path != source.path:
                    moved[image_id] = source
            elif record.path != source.path and Path(record.path).exists():
                failed[named[image_id]] = (
                    f"goes by the same id as {record.path} ({image_id}): rename it, index a folder above "
                    "both, or use another collection"
                )
            else:
                new[image_id] = source
        self._move(moved)
        if new:
            self._extract(new, failed, progress)
            self._library = None
        verified = self.library.join(progress)
        added = [image_id for image_id, source in new.items() if Path(source.path) not in failed]
        return Added(added, unchanged, failed, verified)

    def _move(self, moved: Mapping[str, Source]) -> None:
        """Note the new places of photos that are otherwise unchanged."""
        for part in _parts(list(moved), _BATCH):
            _, embeddings = self.collection.embeddings(part)
            records = self.collection.stage(list(self._stored(part)), [moved[i] for i in part])
            self.collection.publish(records, embeddings)

    def _new_dimension(self, photos: int) -> int:
        full = self.extractor.dimension
        if self._dimension is None:
            return full
        most = min(full - 1, min(photos, _WHITENING_SAMPLE) - 1)
        if not 1 <= self._dimension <= most:
            raise ValueError(
                f"cannot whiten {full} components to {self._dimension} with {photos} photos: give a "
                f"dimension from 1 to {most}, or none to centre them only"
            )
        return self._dimension

    def _extract(self, new: Mapping[str, Source], failed: dict[Path, str], progress: Progress) -> None:
        """Stage all new photos, fit the whitening when there is none, publish."""
        self._learn(new, progress)
        self._check(self.extractor)
        if self.extractor.learnt is not None and self.collection.get_blob(_LEARNT) is None:
            self.collection.put_blob(_LEARNT, self.extractor.learnt)
        staged = {record.image_id: record for record in self.collection.staged()}
        staged = {i: record for i, record in staged.items() if new.get(i) == record.source}
        whitening = self._whitening()
        waiting = [image_id for image_id in new if image_id not in staged]
        done = len(staged)
        progress("extract", done, len(new))
        if whitening is None:
            sample = _sample(new, _WHITENING_SAMPLE)
            chosen = set(sample)
            for batch in self._staging([i for i in waiting if i in chosen], new, failed):
                staged |= {record.image_id: record for record, _ in batch}
                done += _BATCH
                progress("extract", min(done, len(new)), len(new))
            fitted = [i for i in sample if i in staged]
            if not fitted:
                return
            descriptors = np.stack([f.global_descriptor for f in self._stored(fitted)])
            dimension = self.collection.dimension
            whitening = Whitening.fit(
                descriptors, None if dimension == self.extractor.dimension else dimension
            )
            self.collection.put_blob(_WHITENING, whitening.to_bytes())
            waiting = [image_id for image_id in waiting if image_id not in chosen]
        for part in _parts(list(staged.values()), _BATCH):
            descriptors = np.stack([f.global_descriptor for f in self._stored([r.image_id for r in part])])
            self.collection.publish(part, whitening.apply(descriptors))
        for batch in self._staging(waiting, new, failed):
            if batch:
                descriptors = np.stack([features.global_descriptor for _, features in batch])
                self.collection.publish([record for record, _ in batch], whitening.apply(descriptors))
            done += _BATCH
            progress("extract", min(done, len(new)), len(new))

    def _staging(
        self, image_ids: Sequence[str], sources: Mapping[str, Source], failed: dict[Path, str]
    ) -> Iterator[list[tuple[Record, ImageFeatures]]]:
        """Extract photos and write their features, a batch at a time; what fails is noted."""
        paths = [(image_id, Path(sources[image_id].path)) for image_id in image_ids]
        extracted = self.extractor.extract_many(paths)
        for part in _parts(image_ids, _BATCH):
            found = []
            for result in islice(extracted, len(part)):
                if isinstance(result, PhotoError):
                    failed[result.path] = result.reason
                else:
                    found.append(result)
            records = self.collection.stage(found, [sources[f.image_id] for f in found]) if found else []
            # What is stored is what is used: descriptors at the precision of the collection.
            yield list(zip(records, (_as_stored(features) for features in found), strict=True))

    def _stored(self, image_ids: Sequence[str]) -> Iterator[ImageFeatures]:
        for part in _parts(image_ids, _BATCH):
            yield from self.collection.features(part)

    def _whitening(self) -> Whitening | None:
        data = self.collection.get_blob(_WHITENING)
        return None if data is None else Whitening.from_bytes(data)

    # Searching

    @property
    def library(self) -> Library:
        """The index images as the rankers see them, read from Milvus once."""
        if self._library is None:
            ids, embeddings = self.collection.embeddings()
            records = self.collection.records(ids)
            keys = [_key("index", record.image_id, record.digest) for record in records]
            owner = dict(zip(keys, ids, strict=True))

            def features(wanted: Sequence[str]) -> Mapping[str, LocalFeatures]:
                unknown = [key for key in wanted if key not in self._cache]
                stored = self.collection.features([owner[key] for key in unknown])
                fresh = {key: image.local for key, image in zip(unknown, stored, strict=True)}
                found = {key: fresh[key] if key in fresh else self._cache[key] for key in wanted}
                self._cache.update(fresh)
                return found

            self._library = Library(ids, keys, embeddings, self.collection, self.matches, features)
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
        whitening = self._whitening()
        if whitening is None:
            raise CollectionMissingError(f"{self.name!r} in {self.uri} holds no photos yet: index some first")
        whole = [(query_id, path) for query_id, path in photos.items() if query_id not in boxes]
        cut = [(query_id, path) for query_id, path in photos.items() if query_id in boxes]
        found: dict[str, Query] = {}
        failed: dict[Path, str] = {}
        results = _chained(
            self.extractor.extract_many(whole),
            (self._extract_part(query_id, path, boxes[query_id]) for query_id, path in cut),
        )
        for done, result in enumerate(results, 1):
            if isinstance(result, PhotoError):
                failed[result.path] = result.reason
            else:
                packed = payload.pack(result)
                stored = payload.unpack(packed, image_id=result.image_id, extractor=result.extractor)
                embedding = whitening.apply(stored.global_descriptor[None])[0]
                key = _key("query", result.image_id, payload.digest(packed))
                found[result.image_id] = Query(result.image_id, key, embedding, stored.local)
            progress("extract queries", done, len(photos))
        return [found[query_id] for query_id in photos if query_id in found], failed

    def _extract_part(self, query_id: str, path: Path, box: Box) -> ImageFeatures | PhotoError:
        try:
            return self.extractor.extract(_cut(read_photo(path), box), query_id)
        except PhotoError as error:
            return error

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


def _source(path: Path) -> Source:
    status = path.stat()
    return Source(str(path.resolve()), status.st_size, status.st_mtime_ns)


def _sample(image_ids: Iterable[str], count: int) -> list[str]:
    """Ids drawn by their hash, so that a resumed run draws the same."""
    return sorted(image_ids, key=lambda image_id: hashlib.blake2b(image_id.encode()).digest())[:count]


def _key(role: str, image_id: str, digest: str) -> str:
    """Names an image among the verified pairs; two copies of one photo are two images."""
    text = f"{role}\0{image_id}\0{digest}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()


def _as_stored(features: ImageFeatures) -> ImageFeatures:
    half = features.global_descriptor.astype(np.float16).astype(np.float32)
    return replace(features, global_descriptor=half / np.linalg.norm(half))


def _cut(photo: Photo, box: Box) -> Photo:
    height, width = photo.pixels.shape[:2]
    left, top = max(0, round(box.x1)), max(0, round(box.y1))
    right, bottom = min(width, round(box.x2)), min(height, round(box.y2))
    pixels = np.ascontiguousarray(photo.pixels[top : max(bottom, top + 1), left : max(right, left + 1)])
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def _chained(
    *results: Iterable[ImageFeatures | PhotoError],
) -> Iterator[ImageFeatures | PhotoError]:
    for part in results:
        yield from part


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
