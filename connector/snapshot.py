"""What a collection holds at a moment: the names, keys and vectors of its images, in files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connector import half
from connector.client import Client
from connector.errors import InvalidInputError
from connector.key_column import KeyColumn, KeyWriter
from connector.scan import Table

_NUMBERS_PER_PAGE = 2**20
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Snapshot:
    """N images, mapped from disk, in ascending order of their keys.

    Attributes:
        keys: the primary key of each.
        ids: what names each.
        vectors: float32 [N, D], scaled to unit norm where they do not have it to rounding; zero stays zero.
        fingerprint: hash of the collection's name, the fields, the filter, and all of the above as Milvus
            gave it.
    """

    keys: KeyColumn
    ids: KeyColumn
    vectors: NDArray[np.float32]
    fingerprint: str

    @classmethod
    def read(
        cls,
        client: Client,
        collection: str,
        folder: Path,
        *,
        vector_field: str = "",
        id_field: str = "",
        filter: str = "",  # noqa: A002
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Snapshot:
        """Read a collection into a folder, a page in memory at a time; what lay there is replaced.

        Args:
            client: the connection.
            collection: Landbridge's or anybody's.
            folder: where the files go.
            vector_field: see `KnnGraph.build`.
            id_field: see `KnnGraph.build`.
            filter: see `KnnGraph.build`.
            progress: called with the number of images read and of all.

        Raises:
            InvalidInputError: there are no images, or a field is not what it must be.
            NotLoadedError: it is not loaded.
            CollectionMissingError, UnreachableError, AccessDeniedError, RefusedError: see `Client`.
        """
        table = Table.of(client, collection)
        table.check_loaded(client)
        vector = table.vector_field(vector_field)
        id_field = id_field or table.key
        table.field(id_field)
        dimension = int(vector["params"]["dim"])
        names, numbers = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        names.update(repr((collection, vector["name"], id_field, filter)).encode())
        folder.mkdir(parents=True, exist_ok=True)
        images = table.count(client, filter=filter)  # waits until everything written so far can be read
        pages = table.pages(
            client,
            list(dict.fromkeys([vector["name"], id_field])),
            filter=filter,
            rows=max(1, _NUMBERS_PER_PAGE // dimension),
        )
        done = 0
        with (
            KeyWriter(folder / "keys") as keys,
            KeyWriter(folder / "ids") as ids,
            (folder / "vectors").open("wb") as file,
        ):
            for page in pages:
                columns = [[row[name] for row in page] for name in (table.key, id_field)]
                vectors = half.decode([row[vector["name"]] for row in page], vector["type"], dimension)
                keys.append(columns[0])
                ids.append(columns[1])
                _unit(vectors).tofile(file)
                names.update("".join(f"{row!r}\n" for row in zip(*columns, strict=True)).encode())
                numbers.update(vectors.tobytes())
                done += len(page)
                progress(done, images)
        if not done:
            raise InvalidInputError(
                f"collection {collection!r} holds no images" + f" that fulfil {filter!r}" * bool(filter)
            )
        return cls(
            KeyColumn(folder / "keys"),
            KeyColumn(folder / "ids"),
            np.asarray(np.memmap(folder / "vectors", np.float32, "r", shape=(done, dimension))),
            names.hexdigest() + numbers.hexdigest(),
        )

    def __len__(self) -> int:
        return len(self.vectors)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[(norms == 0) | (np.abs(norms - 1) < _ROUNDING)] = 1
    return np.asarray(vectors / norms, np.float32)
