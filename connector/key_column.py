"""A column of keys in files, mapped and not read: text or 64-bit integers, and the row of each."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from connector.errors import InvalidInputError

Key = str | int

_SUFFIXES = (".int64", ".utf8", ".ends")


class KeyColumn:
    """Keys by row number.

    Integers lie in NAME.int64; text lies in NAME.utf8, one after the other, the end of each in NAME.ends.
    """

    def __init__(self, stem: Path) -> None:
        """Map the files that a `KeyWriter` left at a path without suffix."""
        paths = (stem.with_suffix(suffix) for suffix in _SUFFIXES)
        self._integers, self._text, self._ends = map(_mapped, paths, ("<i8", "u1", "<i8"))

    def __len__(self) -> int:
        return len(self._integers) + len(self._ends)

    def __getitem__(self, row: int) -> Key:
        if row < 0:
            row += len(self)
        return self.read(row, row + 1)[0]

    def read(self, start: int, stop: int) -> list[Key]:
        """The keys of some rows.

        Raises:
            IndexError: they are not all there.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of {len(self)} keys")
        if len(self._integers):
            return self._integers[start:stop].tolist()
        ends = self._ends[start:stop].tolist()
        begin = int(self._ends[start - 1]) if start else 0
        block = self._text[begin : ends[-1] if ends else begin].tobytes()
        return [block[a - begin : b - begin].decode() for a, b in zip([begin, *ends], ends, strict=False)]

    def rows(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Rows of keys, by bisection of a column in ascending order.

        Args:
            keys: of the type of the column.

        Returns:
            int64 [K]; -1 for a key that is not there.
        """
        if not len(self) or not len(keys):
            return np.full(len(keys), -1, np.int64)
        if len(self._integers):
            wanted = np.asarray(keys, np.int64)
            found = np.searchsorted(self._integers, wanted)
            found[found == len(self)] = 0
            return np.where(self._integers[found] == wanted, found, -1)
        encoded = [str(key).encode() for key in keys]
        return _bisect(
            self._text,
            self._ends,
            np.frombuffer(b"".join(encoded), np.uint8),
            np.cumsum([len(key) for key in encoded]),
        )


class KeyWriter:
    """Writes a column, a context manager; one that lay there is replaced."""

    def __init__(self, stem: Path) -> None:
        """Begin the files NAME.int64, NAME.utf8 and NAME.ends at a path without suffix."""
        self._integers, self._text, self._ends = (stem.with_suffix(s).open("wb") for s in _SUFFIXES)

    def append(self, keys: Sequence[Key]) -> None:
        """Write the next keys.

        Raises:
            InvalidInputError: a key is neither text nor a 64-bit integer, or not of the type of the others.
        """
        if not keys:
            return
        try:
            if isinstance(keys[0], str):
                encoded = [str.encode(key) for key in keys]  # type: ignore[arg-type]
                ends = self._text.tell() + np.cumsum([len(key) for key in encoded])
                self._text.write(b"".join(encoded))
                self._ends.write(ends.astype("<i8").tobytes())
            else:
                integers = list(map(operator.index, keys))  # type: ignore[arg-type]
                self._integers.write(np.array(integers, "<i8").tobytes())
        except (TypeError, OverflowError) as error:
            raise InvalidInputError(f"keys must be text alone or integers alone ({error})") from None

    def __enter__(self) -> KeyWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in (self._integers, self._text, self._ends):
            file.flush()
            os.fsync(file.fileno())
            file.close()


def _mapped(path: Path, dtype: str) -> NDArray:
    empty = not path.stat().st_size  # which cannot be mapped
    return np.zeros(0, dtype) if empty else np.asarray(np.memmap(path, dtype, "r"))


@numba.njit(cache=True, nogil=True)
def _bisect(text, ends, wanted, wanted_ends):  # type: ignore[no-untyped-def]
    found = np.full(len(wanted_ends), -1, np.int64)
    for number in range(len(wanted_ends)):
        key = wanted[wanted_ends[number - 1] if number else 0 : wanted_ends[number]]
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high) // 2
            order = _compare(text[ends[middle - 1] if middle else 0 : ends[middle]], key)
            if order == 0:
                found[number] = middle
                break
            if order < 0:
                low = middle + 1
            else:
                high = middle
    return found


@numba.njit(cache=True, nogil=True)
def _compare(first, second):  # type: ignore[no-untyped-def]
    for place in range(min(len(first), len(second))):
        if first[place] != second[place]:
            return -1 if first[place] < second[place] else 1
    return len(first) - len(second)
