"""The files of a k-NN graph: the keys of its images, columns that grow, and a journal of what is safe.

The keys are written first; with the header they are complete. Then the columns grow, and each line of the
journal says how many of their rows lie on the disk. What stands behind was cut short, and is written again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from connector.errors import InvalidInputError
from connector.key_column import Key, KeyColumn, KeyWriter

_FORMAT = 1
_COLUMNS: Mapping[str, np.dtype] = {"neighbours": np.dtype("<i4"), "similarity": np.dtype("<f4")}


Append = Callable[[NDArray[np.int32], NDArray[np.float32], bool], None]
"""Writes the next neighbours and similarities; the third argument asks to put all of them on the disk."""


class KnnFiles:
    """The folder of a k-NN graph, finished or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path, self._journal = folder / "graph.json", folder / "journal"

    def header(self) -> dict[str, Any] | None:
        """Settings of the graph, `images` and `finished`; None when the keys are not all written.

        Raises:
            InvalidInputError: it is of another version.
        """
        if not self._path.exists():
            return None
        header: dict[str, Any] = json.loads(self._path.read_text())
        if header["format"] != _FORMAT:
            raise InvalidInputError(
                f"the k-NN graph in {self.folder} is of another version: delete it and build it again"
            )
        return header

    def begin(
        self,
        settings: Mapping[str, Any],
        neighbours: int,
        pages: Iterable[tuple[Sequence[Key], Sequence[Key]]],
    ) -> dict[str, Any]:
        """Write the keys and ids, page by page, and columns without rows; the new header.

        A graph that was there is lost.
        """
        self._path.unlink(missing_ok=True)
        with KeyWriter(self.folder / "keys") as keys, KeyWriter(self.folder / "ids") as ids:
            for page in pages:
                keys.append(page[0])
                ids.append(page[1])
        images = len(self.keys)
        if images > np.iinfo(np.int32).max:
            raise InvalidInputError(f"{images} images are more than a k-NN graph can number: use a filter")
        for name, dtype in _COLUMNS.items():
            with (self.folder / f"{name}.npy").open("wb") as file:
                layout = {"descr": dtype.str, "fortran_order": False, "shape": (images, neighbours)}
                np.lib.format.write_array_header_1_0(file, layout)
                _to_disk(file)
        self._journal.write_bytes(b"")
        return self._write_header({**settings, "format": _FORMAT, "images": images, "finished": False})

    def finish(self) -> None:
        """Mark the graph as finished."""
        self._write_header({**(self.header() or {}), "finished": True})

    @property
    def keys(self) -> KeyColumn:
        """The primary keys by row number, ascending."""
        return KeyColumn(self.folder / "keys")

    @property
    def ids(self) -> KeyColumn:
        """What names the images, by row number."""
        return KeyColumn(self.folder / "ids")

    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The neighbours and similarities of a finished graph, mapped."""
        neighbours, similarity = (np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS)
        return np.asarray(neighbours), np.asarray(similarity)

    def rows(self) -> int:
        """Number of images whose neighbours are on the disk."""
        lines = self._journal.read_bytes().split(b"\n")[:-1]
        return int(lines[-1]) if lines else 0

    @contextmanager
    def append(self) -> Iterator[Append]:
        """Write behind the rows that are on the disk."""
        done = self.rows()
        with ExitStack() as stack:
            files = [stack.enter_context(self._column(name, done)) for name in _COLUMNS]
            journal = stack.enter_context(self._journal.open("ab"))

            def write(neighbours: NDArray[np.int32], similarity: NDArray[np.float32], safe: bool) -> None:
                nonlocal done
                for file, rows in zip(files, (neighbours, similarity), strict=True):
                    file.write(rows.tobytes())
                done += len(neighbours)
                if safe:
                    for file in files:
                        _to_disk(file)
                    journal.write(b"%d\n" % done)
                    _to_disk(journal)

            yield write

    def _column(self, name: str, rows: int) -> BinaryIO:
        file = (self.folder / f"{name}.npy").open("r+b")
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        file.truncate(file.tell() + rows * shape[1] * dtype.itemsize)
        file.seek(0, os.SEEK_END)
        return file

    def _write_header(self, header: dict[str, Any]) -> dict[str, Any]:
        part = self._path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(json.dumps(header).encode())
            _to_disk(file)
        part.replace(self._path)
        return header


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
