"""The k-NN graph of a whole collection: every image with its nearest neighbours, as Milvus finds them.

Only a page of rows is in memory at a time. The graph grows in a folder, and a build that was stopped at any
moment goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from scipy import sparse

from connector import half, vector_index
from connector.client import Client
from connector.errors import CollectionChangedError, InvalidInputError
from connector.key_column import Key, KeyColumn
from connector.knn_files import KnnFiles
from connector.scan import Table

NEIGHBOURS = 100

_MOST_HITS = 16_384
_HITS_PER_SEARCH = 100_000
_QUERIES_PER_SEARCH = 128
_NUMBERS_PER_PAGE = 2**20
_LITE_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class KnnGraph:
    """The neighbours of N images, mapped from disk.

    Attributes:
        keys: the primary key of each image, by row number; the rows are in their order.
        ids: what names each image.
        neighbours: int32 [N, k], row numbers of the nearest others, most similar first, equal ones by number;
            -1 where Milvus found fewer.
        similarity: float32 [N, k]. The cosine or the inner product, as the collection's metric is; for L2
            1 - d²/2, which is the cosine where the vectors have unit norm. NaN beside a -1.
    """

    keys: KeyColumn
    ids: KeyColumn
    neighbours: NDArray[np.int32]
    similarity: NDArray[np.float32]

    @classmethod
    def build(
        cls,
        client: Client,
        collection: str,
        folder: Path,
        neighbours: int = NEIGHBOURS,
        *,
        vector_field: str = "",
        id_field: str = "",
        filter: str = "",  # noqa: A002
        search_params: Mapping[str, Any] | None = None,
        anew: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> KnnGraph:
        """Search a collection for the neighbours of each of its images.

        The rows are read twice, first their keys, then their vectors, and the keys once more at the end: when
        images came or went meanwhile, the graph is not finished. A vector that is replaced under its old key
        is not noticed.

        Args:
            client: the connection.
            collection: Landbridge's or anybody's, with an index on its vectors and, on a server, loaded.
            folder: where the graph lies; begun when it is not there, and gone on with when it is.
            neighbours: k, at most 16,383.
            vector_field: field of the vectors, float32, float16 or bfloat16; the only one when empty.
            id_field: field of text or integers that names an image; the primary key when empty.
            filter: a Milvus expression: the graph of these images alone.
            search_params: `params` of the index; chosen for its type and k when None.
            anew: do not go on with a graph of the same collection and arguments, but begin it again.
            progress: called with the number of images done and of all.

        Returns:
            The finished graph.

        Raises:
            CollectionChangedError: images were added or deleted since the graph was begun.
            InvalidInputError: the folder holds another graph or is in use, the vectors have no index, or a
                field is not what it must be.
            NotLoadedError: the collection is not loaded.
            UnreachableError, AccessDeniedError, RefusedError: see `Client`.
        """
        if not 1 <= neighbours < _MOST_HITS:
            raise InvalidInputError(f"neighbours must be 1 to {_MOST_HITS - 1}, is {neighbours}")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / "lock", timeout=0):
                job = _Job(client, collection, KnnFiles(folder), neighbours, vector_field, id_field, filter)
                job.run(search_params, anew, progress)
        except Timeout:
            raise InvalidInputError(f"another process builds the k-NN graph in {folder}: wait") from None
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> KnnGraph:
        """Map a finished graph.

        Raises:
            FileNotFoundError: the folder holds none.
            InvalidInputError: it is not finished, or of another version.
        """
        files = KnnFiles(folder)
        header = files.header()
        if header is None:
            raise FileNotFoundError(f"{folder} holds no k-NN graph: build one")
        if not header["finished"]:
            raise InvalidInputError(
                f"the k-NN graph in {folder} has {files.rows()} of {header['images']} images: "
                "build it once more, and it goes on"
            )
        return cls(files.keys, files.ids, *files.columns())

    def __len__(self) -> int:
        return len(self.neighbours)

    def matrix(self) -> sparse.csr_matrix:
        """The similarities as a scipy matrix [N, N]; row i holds those of the neighbours of image i."""
        present = self.neighbours >= 0
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(present.sum(1, dtype=np.int64))])
        if present.all():
            data, indices = self.similarity.reshape(-1), self.neighbours.reshape(-1)
        else:
            data, indices = self.similarity[present], self.neighbours[present]
        return sparse.csr_matrix((data, indices, indptr), shape=(len(self), len(self)))


class _Job:
    """The building of one graph."""

    def __init__(
        self,
        client: Client,
        collection: str,
        files: KnnFiles,
        neighbours: int,
        vector_field: str,
        id_field: str,
        filter: str,  # noqa: A002
    ) -> None:
        self.client, self.files, self.neighbours, self.filter = client, files, neighbours, filter
        self.table = Table.of(client, collection)
        self.id_field = id_field or self.table.key
        self.table.field(self.id_field)
        vectors = self.table.vector_field(vector_field)
        self.vector_field, self.vector_type = vectors["name"], vectors["type"]
        self.dimension = int(vectors["params"]["dim"])
        self.index = self._describe_index()

    def run(
        self,
        search_params: Mapping[str, Any] | None,
        anew: bool,
        progress: Callable[[int, int], None],
    ) -> None:
        header = self._header(anew)
        keys = self.files.keys
        if not header["finished"]:
            index = {"index_type": self.index["index_type"], "params": self.index}
            chosen = vector_index.search_params(index, self.neighbours + 1)
            self._search_all(keys, chosen if search_params is None else search_params, progress)
        self._check_keys(keys)
        self.files.finish()

    def _header(self, anew: bool) -> Mapping[str, Any]:
        """The header of the graph, which is begun when there is none."""
        settings = {
            "collection": self.table.name,
            "vector_field": self.vector_field,
            "id_field": self.id_field,
            "filter": self.filter,
            "metric": self.index["metric_type"],
            "neighbours": self.neighbours,
        }
        header = self.files.header()
        for name, value in settings.items():
            if header is not None and header[name] != value:
                raise InvalidInputError(
                    f"{self.files.folder} holds a k-NN graph with {name} {header[name]!r}, not {value!r}: "
                    "give another folder, or delete this one"
                )
        if header is None or anew:
            return self.files.begin(settings, self.neighbours, self._key_pages())
        return header

    def _key_pages(self) -> Iterator[tuple[list[Key], list[Key]]]:
        self.table.count(self.client)  # waits until everything written so far can be read
        others = {self.id_field} - {self.table.key}
        for page in self.table.pages(self.client, list(others), filter=self.filter):
            yield [row[self.table.key] for row in page], [row[self.id_field] for row in page]

    def _search_all(
        self, keys: KeyColumn, params: Mapping[str, Any], progress: Callable[[int, int], None]
    ) -> None:
        row, images = self.files.rows(), len(keys)
        progress(row, images)
        pages = self.table.pages(
            self.client,
            [self.vector_field],
            filter=self.filter,
            after=keys[row - 1] if row else None,
            rows=max(1, _NUMBERS_PER_PAGE // self.dimension),
        )
        with self.files.append() as append:
            for page in pages:
                self._compare(keys, row, [line[self.table.key] for line in page])
                size = self._queries_per_search(images)
                vectors = half.decode(
                    [line[self.vector_field] for line in page], self.vector_type, self.dimension
                )
                for start in range(0, len(page), size):
                    queries = vectors[start : start + size]
                    append(*self._search(keys, row, queries, params), start + size >= len(page))
                    row += len(queries)
                    progress(row, images)

    def _search(
        self, keys: KeyColumn, first: int, queries: NDArray[np.float32], params: Mapping[str, Any]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The neighbours of the images from a row on."""
        answers = self.client.call(
            "search",
            collection_name=self.table.name,
            data=half.encode(queries, self.vector_type),
            anns_field=self.vector_field,
            limit=self.neighbours + 1,
            filter=self.filter,
            output_fields=[],
            search_params={"metric_type": self.index["metric_type"], "params": dict(params)},
            consistency_level="Session",
        )
        hits = list(chain.from_iterable(answer.ids for answer in answers))
        row = keys.rows(hits)
        if (row < 0).any():
            raise self._changed(f"{hits[int(np.argmax(row < 0))]!r} was added")
        distance = np.fromiter(chain.from_iterable(answer.distances for answer in answers), np.float32)
        query = np.repeat(np.arange(len(queries)), [len(answer.ids) for answer in answers])
        return _nearest(query, row, self._similarity(distance), first, (len(queries), self.neighbours))

    def _similarity(self, distance: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.index["metric_type"] == "L2":  # which Milvus gives squared
            return (1 - distance / 2).astype(np.float32)
        return np.minimum(distance, 1) if self.index["metric_type"] == "COSINE" else distance

    def _queries_per_search(self, images: int) -> int:
        size = min(_QUERIES_PER_SEARCH, _HITS_PER_SEARCH // (self.neighbours + 1))
        if self.client.lite:
            # Exact search makes a table of all queries and images, for L2 even of all their components.
            numbers = images * (self.dimension if self.index["metric_type"] == "L2" else 1)
            size = min(size, _LITE_BYTES // (4 * numbers))
        return max(size, 1)

    def _describe_index(self) -> Mapping[str, Any]:
        names = self.client.call(
            "list_indexes", collection_name=self.table.name, field_name=self.vector_field
        )
        if not names:
            raise InvalidInputError(
                f"field {self.vector_field!r} of collection {self.table.name!r} has no index: create one"
            )
        self.table.check_loaded(self.client)
        index: Mapping[str, Any] = self.client.call(
            "describe_index", collection_name=self.table.name, index_name=names[0]
        )
        if index["metric_type"] not in ("COSINE", "IP", "L2"):
            raise InvalidInputError(
                f"the metric of {self.vector_field!r} is {index['metric_type']}: COSINE, IP or L2 is needed"
            )
        return index

    def _check_keys(self, keys: KeyColumn) -> None:
        """Whether the collection holds the images that it held at the beginning."""
        row = 0
        for page, _ in self._key_pages():
            self._compare(keys, row, page)
            row += len(page)
        if row < len(keys):
            raise self._changed(f"{keys[row]!r} was deleted")

    def _compare(self, keys: KeyColumn, row: int, found: list[Key]) -> None:
        """Whether the keys of a page are those from a row on."""
        expected = keys.read(row, min(row + len(found), len(keys)))
        if expected != found:
            unknown = keys.rows(found) < 0
            if unknown.any():
                raise self._changed(f"{found[int(np.argmax(unknown))]!r} was added")
            raise self._changed(f"{next(key for key in expected if key not in found)!r} was deleted")

    def _changed(self, what: str) -> CollectionChangedError:
        return CollectionChangedError(
            f"collection {self.table.name!r} changed since its k-NN graph was begun ({what}): "
            f"delete {self.files.folder} and build it again"
        )


def _nearest(
    query: NDArray[np.int64],
    row: NDArray[np.int64],
    similarity: NDArray[np.float32],
    first: int,
    shape: tuple[int, int],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Lists of one length, of hits in any order; an image is left out of its own list."""
    other = np.flatnonzero(row != first + query)
    order = other[np.lexsort((row[other], -similarity[other], query[other]))]
    query = query[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    near = place < shape[1]
    neighbours = np.full(shape, -1, np.int32)
    similarities = np.full(shape, np.nan, np.float32)
    neighbours[query[near], place[near]] = row[order[near]]
    similarities[query[near], place[near]] = similarity[order[near]]
    return neighbours, similarities
