"""Verified ranking on top of somebody's own collection of global vectors, which is read and never written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from connector.attached import AttachedCollection
from connector.companion import Id
from connector.errors import DimensionMismatchError, InvalidInputError
from connector.roots import Roots
from connector.rows import KEYS_PER_READ, batches
from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import read_photo
from extractor.registry import create_extractor, verification
from landbridge.attached_extractor import check, choose
from landbridge.attached_library import AttachedLibrary
from landbridge.attached_ranking import Asked, rank
from landbridge.matches_folder import matches_folder
from landbridge.results import AttachedRanking
from landbridge.retrieval import CANDIDATES, METHODS, Progress, silent
from landbridge.row_photos import RowPhotos
from ranking.match_store import MatchStore
from ranking.verification import BatchedVerifier

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_ROWS_PER_PAGE = 256

Place = str | os.PathLike[str]


def attach(
    uri: Place,
    collection: str,
    vector_field: str = "",
    id_field: str = "",
    *,
    photo_field: str = "",
    roots: Place | Iterable[Place] = (),
    extractor: str | Extractor | None = None,
    keep: bool = True,
    companion: str = "",
    matches: Path | None = None,
    token: str = "",
    db_name: str = "",
    timeout: float = 30.0,
    client: MilvusClient | None = None,
) -> AttachedPhotos:
    """Attach to a collection of global vectors that any model made; nothing of it is ever changed.

    Args:
        uri: path of a Milvus Lite folder, or http(s)://host:port.
        collection: theirs, or an alias of it.
        vector_field: of the global vectors; the only one when empty.
        id_field: the primary key, which need not be given.
        photo_field: of their rows, that holds the path or URL of the photo. Without it, local features must
            be there already.
        roots: folders that photos are read from, and beginnings of URLs that they are fetched from; see
            `connector.roots.Roots`.
        extractor: of local features: registered name, or one that is ready; by default that of the features
            that are kept already, or the default one. Its global descriptors are not used.
        keep: store local features that are extracted, beside their collection; otherwise they are in memory
            until `close`, and nothing is written at all.
        companion: collection for local features; COLLECTION_landbridge when empty.
        matches: folder of the verified pairs; by default beside the Milvus Lite folder, or in the user's
            cache folder for a server.
        token: `token` or `user:password`.
        db_name: database on the server.
        timeout: seconds that Milvus may take to answer.
        client: a MilvusClient to use instead of connecting; it stays open at the end.

    Raises:
        ConnectorError: see `connector.attached.AttachedCollection`; or a root is none.
        ValueError: no extractor has this name, or a photo field came without roots.
    """
    places = [roots] if isinstance(roots, str | os.PathLike) else list(roots)
    urls = [place for place in places if isinstance(place, str) and "://" in place]
    folders = [place for place in places if place not in urls]
    if places and not photo_field:
        raise ValueError("roots need a photo field: name the one that holds the path or URL of a row's photo")
    if photo_field and not places:
        raise ValueError(
            f"the photo field {photo_field!r} needs roots: name the folders that the photos lie in, or the "
            "beginnings of their URLs"
        )
    opened = AttachedCollection(
        uri,
        collection,
        vector_field,
        id_field,
        companion=companion,
        token=token,
        db_name=db_name,
        timeout=timeout,
        client=client,
        load=client is None and "://" not in str(uri),
    )
    try:
        return AttachedPhotos(
            opened,
            matches or matches_folder(str(uri), opened.companion, db_name=db_name),
            photo_field=photo_field,
            roots=Roots(folders, urls),
            extractor=extractor,
            keep=keep,
        )
    except BaseException:
        opened.close()
        raise


@dataclass(frozen=True)
class LocalAdded:
    """What became of the photos of somebody's rows.

    Attributes:
        added: how many were extracted, and are kept from now on.
        unchanged: of how many the local features were there already.
        failed: rows whose photo cannot be had, by primary key, and why.
        verified: how many pairs of photos were verified.
    """

    added: int = 0
    unchanged: int = 0
    failed: dict[Id, str] = field(default_factory=dict)
    verified: int = 0


class AttachedPhotos:
    """Somebody's collection, searched by their vectors and ranked by verified pairs; see `attach`.

    Use it as a context manager, or call `close`.

    Attributes:
        collection: theirs, with the local features beside it.
    """

    def __init__(
        self,
        collection: AttachedCollection,
        matches: Path,
        *,
        photo_field: str = "",
        roots: Roots | None = None,
        extractor: str | Extractor | None = None,
        keep: bool = True,
    ) -> None:
        """Rank on top of what is attached; see `attach`, which attaches too."""
        self.collection = collection
        self.photo_field = photo_field
        self._keep = keep
        self._chosen = choose(collection, extractor)
        self._photos = None
        if photo_field:
            collection.check_field(photo_field)
            self._photos = RowPhotos(photo_field, roots or Roots(), lambda: self.extractor)
        self._matches_folder = matches
        self._matches: MatchStore | None = None
        self._rows = AttachedLibrary(collection, self._photos, lambda: self.matches, keep=keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.collection)

    def close(self) -> None:
        """Let go of Milvus and of the verified pairs."""
        if self._matches is not None:
            self._matches.close()
        self.collection.close()

    @property
    def matches(self) -> MatchStore:
        """The verified pairs; their folder is made, and locked, when they are first asked for.

        Raises:
            MatchStoreError: another process uses them, or another verifier made them.
        """
        if self._matches is None:
            name = self._chosen if isinstance(self._chosen, str) else self._chosen.name
            self._matches = MatchStore(self._matches_folder, BatchedVerifier(**verification(name)))
        return self._matches

    @cached_property
    def extractor(self) -> Extractor:
        """The model of the local features, loaded now.

        Raises:
            FingerprintMismatchError: those that are kept are of another.
            ValueError: it must learn from photos first.
        """
        loaded = create_extractor(self._chosen) if isinstance(self._chosen, str) else self._chosen
        check(self.collection, loaded)
        return loaded

    def info(self) -> dict[str, Any]:
        """What was found, in values that JSON can hold."""
        theirs = self.collection
        return {
            "collection": theirs.name,
            "rows": len(theirs),
            "vector_field": theirs.vector_field,
            "dimension": theirs.dimension,
            "metric": theirs.metric,
            "id_field": theirs.id_field,
            "id_type": "text" if theirs.text_ids else "integer",
            "companion": theirs.companion,
            "local_features": len(theirs.digests()),
            "extractor": theirs.extractor,
        }

    # Ahead of time

    def add(
        self,
        *,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
        progress: Progress = silent,
    ) -> LocalAdded:
        """Extract and keep the local features of their rows' photos, and verify neighbours.

        Rows whose features are there already are passed over, so that, stopped at any moment, a second call
        goes on where the first ended. Photos that could not be had are tried again. While neighbours are
        verified, the vectors of all rows with local features are in memory.

        Args:
            filter: a Milvus expression that the rows fulfil; all rows when empty.
            partitions: names of those that the rows are in; None takes all.
            progress: told about the long steps.

        Raises:
            ConnectorError: Milvus failed.
            ValueError: there is no photo field, or nothing is to be kept.
        """
        if not self._keep:
            raise ValueError("to add local features is to keep them: attach without keep=False")
        if self._photos is None:
            raise ValueError("to get at the photos, attach with a photo field and roots")
        total = self.collection.count(filter, partitions)
        done, added = 0, 0
        failed: dict[Id, str] = {}
        pages = self.collection.scan(
            [self.photo_field], filter=filter, partitions=partitions, rows=_ROWS_PER_PAGE
        )
        for ids, _, fields in pages:
            missing = set(self.collection.missing(ids))
            done += len(ids) - len(missing)
            progress("extract", done, max(done, total))
            rows = {id_: row for id_, row in zip(ids, fields, strict=True) if id_ in missing}
            for found, reasons in self._rows.extract(rows):
                added += len(found)
                failed |= reasons
                done += len(found) + len(reasons)
                progress("extract", done, max(done, total))
        self._rows.forget()
        library, _ = self._rows.library({}, {}, whole=True)
        return LocalAdded(added, done - added - len(failed), failed, library.join(progress))

    def remove(self) -> None:
        """Remove the local features and the verified pairs: what is left is what was there before.

        Raises:
            MatchStoreError: another process uses them.
        """
        if self._matches_folder.exists():
            self.matches.close()
            self._matches = None
            shutil.rmtree(self._matches_folder)
        self.collection.drop_local()
        self._rows.forget()

    # Ranking

    def rerank(
        self,
        photo: Place | None = None,
        ids: Sequence[Id] = (),
        *,
        image: Id | None = None,
        vector: ArrayLike | None = None,
        limit: int | None = None,
        output_fields: Sequence[str] = (),
        method: str = "mmst-c",
        progress: Progress = silent,
    ) -> AttachedRanking:
        """Bring candidates, such as a search gave, into the order of verified ranking; none is left out.

        Their local features come from beside the collection, or are extracted now. A candidate whose photo
        cannot be had is ranked by the similarity of its vector, and named in `unavailable`. Photos that are
        no candidates serve as bridges, when their local features are kept.

        Args:
            photo: the query.
            ids: primary keys of the candidates, best first.
            image: in place of a photo, the primary key of one of their images, which does not find itself.
            vector: float [D], the query's, of the model that made theirs; that of one of their images is
                known. Without it, the candidates' vectors stand for it, the first ones most.
            limit: longest list; all candidates by default.
            output_fields: of their fields, for the hits.
            method: one of `landbridge.METHODS`; `global` is the given order.
            progress: told about the long steps.

        Raises:
            PhotoError: the query cannot be read.
            PhotoUnavailableError: the query is one of their images, and its photo cannot be had.
            ImagesMissingError: they do not have some of the ids.
            ConnectorError: Milvus failed.
            ValueError: there is no such method; neither a photo nor an image is given, or both.
        """
        _check_query(photo, image, method)
        candidates = list(dict.fromkeys(ids))
        asked = self._asked(photo, image, self._vector(vector, image), candidates, output_fields)
        ranked = rank(self._rows, asked, method, progress)
        chosen = [id_ for id_ in ranked.hits if id_ in asked.rows]
        return ranked.answer(chosen[:limit], asked.rows, output_fields)

    def search(
        self,
        photo: Place | None = None,
        vector: ArrayLike | None = None,
        limit: int = 20,
        *,
        image: Id | None = None,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
        output_fields: Sequence[str] = (),
        search_params: Mapping[str, Any] | None = None,
        method: str = "mmst-c",
        progress: Progress = silent,
    ) -> AttachedRanking:
        """Search by their model's vector, then rank what is found, and what bridges lead to.

        The first 100 found (or `limit`, if that is more) are verified; see `rerank`. Photos to which only
        bridges lead are found when their local features are kept; they fulfil the filter, too.

        Args:
            photo: the query.
            vector: float [D], the query's, of the model that made theirs; that of one of their images is
                known.
            limit: longest list.
            image: in place of a photo, the primary key of one of their images, which does not find itself.
            filter: a Milvus expression over their fields.
            partitions: names of those to search; None searches all.
            output_fields: of their fields, for the hits.
            search_params: `params` of their index.
            method: one of `landbridge.METHODS`; `global` is their own search.
            progress: told about the long steps.

        Raises:
            ConnectorError, PhotoError, ValueError: see `rerank`, and `AttachedCollection.search`.
        """
        _check_query(photo, image, method)
        query = self._vector(vector, image)
        if query is None:
            raise ValueError(
                f"give vector=, the query's, of the model that made {self.collection.vector_field!r}; or "
                "rerank the ids that your own search gave"
            )
        wanted = max(limit, CANDIDATES)
        found = self.collection.search(
            query[None],
            wanted + (image is not None),
            filter=filter,
            partitions=partitions,
            search_params=search_params,
        )
        ids = [id_ for id_ in found.ids[0] if id_ != image][:wanted]
        asked = self._asked(photo, image, query, ids, output_fields)
        ranked = rank(self._rows, asked, method, progress)
        rows = dict(asked.rows)
        chosen: list[Id] = []
        for block in batches(list(ranked.hits), KEYS_PER_READ):
            beyond = [id_ for id_ in block if id_ not in rows]
            rows |= self.collection.find(beyond, output_fields, filter=filter, partitions=partitions)
            chosen += [id_ for id_ in block if id_ in rows]
            if len(chosen) >= limit:
                break
        return ranked.answer(chosen[:limit], rows, output_fields)

    def _vector(self, vector: ArrayLike | None, image: Id | None) -> NDArray[np.float32] | None:
        """The query's vector, float32 [D], where it is known."""
        if vector is None:
            return None if image is None else self.collection.vectors([image])[0]
        checked = np.asarray(vector, np.float32)
        if checked.shape != (self.collection.dimension,):
            raise DimensionMismatchError(
                f"{self.collection.vector_field!r} of collection {self.collection.name!r} has "
                f"{self.collection.dimension} components, the query's vector is of shape "
                f"{list(checked.shape)}: use the model that made theirs"
            )
        if not np.isfinite(checked).all():
            raise InvalidInputError("the query's vector holds NaN or infinite values")
        return checked

    def _asked(
        self,
        photo: Place | None,
        image: Id | None,
        vector: NDArray[np.float32] | None,
        ids: Sequence[Id],
        output_fields: Sequence[str],
    ) -> Asked:
        """The query with the rows of its candidates, and its own."""
        wanted = [*ids, *([] if image is None else [image])]
        photo_field = [self.photo_field] if self.photo_field else []
        fields = dict.fromkeys([self.collection.vector_field, *photo_field, *output_fields])
        rows = dict(zip(wanted, self.collection.rows(wanted, list(fields)), strict=True))
        query: ImageFeatures | Id | None = image
        if photo is not None:
            path = Path(photo)
            query = self.extractor.extract(read_photo(path, self.extractor.longest_side), path.stem)
        assert query is not None, "a query is a photo or an image"
        return Asked(query, vector, ids, rows)


def _check_query(photo: Place | None, image: Id | None, method: str) -> None:
    if (photo is None) == (image is None):
        raise ValueError("give the query: a photo, or image=, the id of one of theirs")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: there are {', '.join(METHODS)}")
