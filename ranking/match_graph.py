"""The match graph: images joined by verified pairs, sparse and symmetric, in memory or mapped from disk."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

MINIMUM_CONFIDENCE = 0.5

_FORMAT = 2
_HEADER = "graph.json"
_COLUMNS = {"indptr": np.int64, "indices": np.int32, "confidence": np.float32}
_FILE = re.compile(rf"(?:{'|'.join(_COLUMNS)})-(\d+)\.npy")
_PLACE = np.uint64(2**32 - 1)


@dataclass(frozen=True, eq=False)
class MatchGraph:
    """Edges of n images in compressed rows; every edge stands in both directions.

    Attributes:
        indptr: int64 [n + 1], where the neighbours of each image begin and end.
        indices: int32 [2E], neighbours, ascending within an image.
        confidence: float32 [2E], probability that the pair is right.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    confidence: NDArray[np.float32]

    @classmethod
    def from_pairs(
        cls,
        images: int,
        pairs: NDArray[np.integer],
        confidence: ArrayLike,
        minimum: float = MINIMUM_CONFIDENCE,
    ) -> MatchGraph:
        """Build from undirected pairs.

        Besides its input and its result it takes 8 bytes a pair.

        Args:
            images: number of images.
            pairs: int [E, 2], each pair once, in any order; no image pairs with itself.
            confidence: float32 [E].
            minimum: pairs below this confidence are left out.

        Raises:
            ValueError: the lengths differ, an index is out of range, a confidence is not a number, or a pair
                joins an image to itself or stands twice, be it below the minimum.
        """
        pairs = _integers(np.asarray(pairs), "pairs").reshape(-1, 2)
        confidence = _confidences(confidence, pairs.shape[:1], "pairs")
        _check_range(pairs, 0, images, "pairs")
        alone = pairs[:, 0] == pairs[:, 1]
        if alone.any():
            raise ValueError(f"pair {np.argmax(alone)} joins image {pairs[np.argmax(alone), 0]} to itself")
        starts, keys = _sorted_pairs(pairs[:, :1], pairs[:, 1:], images)
        ends, first, second = _distinct(starts, keys, confidence, np.float32(minimum))
        if first >= 0:
            raise ValueError(f"the pair of images {first} and {second} stands twice")
        return cls(*_both_directions(starts, ends, keys, confidence))

    @classmethod
    def from_neighbours(
        cls, neighbours: NDArray[np.integer], confidence: ArrayLike, minimum: float = MINIMUM_CONFIDENCE
    ) -> MatchGraph:
        """Build from directed k-NN lists; of two edges between the same images the surer one counts.

        Besides its input and its result it takes 8 bytes an entry of the lists.

        Args:
            neighbours: int [n, k], the neighbours of each image, in any order; -1 where a list is shorter.
                An image that stands in its own list is passed over.
            confidence: float32 [n, k], of each edge; what stands beside a -1 is not looked at.
            minimum: edges below this confidence are left out.

        Raises:
            ValueError: the shapes differ, an index is out of range, or a confidence is not a number.
        """
        neighbours = _integers(np.asarray(neighbours), "neighbours")
        if neighbours.ndim != 2:
            raise ValueError(f"neighbours must be [n, k], got {list(neighbours.shape)}")
        confidence = _confidences(confidence, neighbours.shape, "neighbours", neighbours >= 0).reshape(-1)
        images = len(neighbours)
        _check_range(neighbours, -1, images, "neighbours")
        own = np.broadcast_to(np.arange(images, dtype=neighbours.dtype)[:, None], neighbours.shape)
        starts, keys = _sorted_pairs(own, neighbours, images)
        ends, _, _ = _distinct(starts, keys, confidence, np.float32(minimum))
        return cls(*_both_directions(starts, ends, keys, confidence))

    @classmethod
    def from_matrix(cls, weights: sparse.csr_matrix, minimum: float = MINIMUM_CONFIDENCE) -> MatchGraph:
        """Build from directed lists of any lengths, as `from_neighbours` does from lists of one length.

        Args:
            weights: [n, n], row i holds the confidences of the edges out of image i. Stored zeros are edges.
            minimum: edges below this confidence are left out.

        Raises:
            ValueError: the matrix is not square, or a confidence is not a number.
        """
        images = weights.shape[0]
        if weights.shape != (images, images):
            raise ValueError(f"weights must be [n, n], got {list(weights.shape)}")
        confidence = _confidences(weights.data, weights.indices.shape, "edges")
        _check_range(weights.indices, 0, images, "edges")
        own = np.repeat(np.arange(images, dtype=weights.indices.dtype), np.diff(weights.indptr))
        starts, keys = _sorted_pairs(own[:, None], weights.indices[:, None], images)
        ends, _, _ = _distinct(starts, keys, confidence, np.float32(minimum))
        return cls(*_both_directions(starts, ends, keys, confidence))

    @classmethod
    def open(cls, folder: Path) -> MatchGraph:
        """Map a saved graph: nothing but the 8 bytes an image of `indptr` is read before it is used.

        Raises:
            FileNotFoundError: the folder holds no match graph.
            ValueError: it is of another version, or its files do not fit together.
        """
        path = folder / _HEADER
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no match graph: there is no {_HEADER}")
        try:
            header = json.loads(path.read_text())
            if header["format"] != _FORMAT:
                raise ValueError(f"its format is {header['format']}, not {_FORMAT}")
            files = header["files"].items()
            graph = cls(**{name: np.asarray(np.load(folder / file, mmap_mode="r")) for name, file in files})
            graph._check()
        except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
            message = f"the match graph in {folder} cannot be read ({error}); build it again"
            raise ValueError(message) from None
        return graph

    def _check(self) -> None:
        edges = len(self.indices)
        for name, column in self._columns().items():
            length = len(self.indptr) if name == "indptr" else edges
            if column.dtype != _COLUMNS[name] or column.shape != (length,):
                raise ValueError(f"{name} is {column.dtype} {list(column.shape)} beside {edges} indices")
        if not (self.indptr[0] == 0 and self.indptr[-1] == edges and (np.diff(self.indptr) >= 0).all()):
            raise ValueError(f"indptr does not divide {edges} indices")

    def _columns(self) -> dict[str, NDArray]:
        return {name: getattr(self, name) for name in _COLUMNS}

    def save(self, folder: Path) -> None:
        """Write to a folder of .npy files, which `open` maps.

        A graph that was saved there before is replaced in one step: whatever happens, `open` finds the one or
        the other, and a graph that was opened stays what it was.
        """
        folder.mkdir(parents=True, exist_ok=True)
        before = {path: int(found[1]) for path in folder.iterdir() if (found := _FILE.fullmatch(path.name))}
        number = 1 + max(before.values(), default=0)
        files = {}
        for name, column in self._columns().items():
            files[name] = f"{name}-{number}.npy"
            with (folder / files[name]).open("wb") as file:
                np.save(file, column)
                file.flush()
                os.fsync(file.fileno())
        part = folder / f"{_HEADER}.part"
        with part.open("w") as text:
            json.dump({"format": _FORMAT, "files": files}, text)
            text.flush()
            os.fsync(text.fileno())
        part.replace(folder / _HEADER)
        for path in before:
            path.unlink()

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def edges(self) -> int:
        """Number of pairs joined in both directions or, after `without_bridges`, in one."""
        return len(self.indices) - int(_mutual(self.indptr, self.indices))

    def matrix(self) -> sparse.csr_matrix:
        """The confidences as a scipy matrix [n, n]: symmetric, but for `without_bridges`."""
        return sparse.csr_matrix((self.confidence, self.indices, self.indptr), shape=(len(self), len(self)))

    def without_bridges(self, images: NDArray[np.int64]) -> MatchGraph:
        """The same graph, but nothing leads into the given images: they reach, and are not passed through.

        It is not symmetric: the edges out of these images stand in one direction.
        """
        closed = np.zeros(len(self), np.bool_)
        closed[images] = True
        kept = ~closed[self.indices]
        return MatchGraph(_rows_of(self.indptr, kept), self.indices[kept], self.confidence[kept])


def _integers(numbers: NDArray[np.integer], name: str) -> NDArray[np.integer]:
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {numbers.dtype}")
    return numbers if numbers.dtype in (np.int32, np.int64) else numbers.astype(np.int64)


def _check_range(numbers: NDArray[np.integer], low: int, images: int, name: str) -> None:
    if images > np.iinfo(np.int32).max or numbers.size > _PLACE:
        raise ValueError(f"{images} images and {numbers.size} {name} are more than a match graph can number")
    if numbers.size and (numbers.min() < low or numbers.max() >= images):
        raise ValueError(f"{name} must be images 0 to {images - 1}, got {numbers.min()} to {numbers.max()}")


def _confidences(
    confidence: ArrayLike, shape: tuple[int, ...], name: str, used: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """As float32 in the order of memory."""
    values = np.ascontiguousarray(confidence, np.float32)
    if values.shape != shape:
        raise ValueError(f"{name} {list(shape)}, but confidences {list(values.shape)}")
    unknown = np.isnan(values)
    if used is not None:
        unknown &= used
    if unknown.any():
        place = np.unravel_index(int(np.argmax(unknown)), shape)
        raise ValueError(f"confidence {[int(i) for i in place]} of {name} is not a number")
    return values


@numba.njit(cache=True, nogil=True)
def _sorted_pairs(first, second, images):  # type: ignore[no-untyped-def]
    """Counting sort of pairs by the smaller image, then by the larger.

    Where the pairs of each smaller image begin; and of each pair one number: the larger image and the
    place in the input (31 and 32 bits).
    """
    starts = np.zeros(images + 1, np.int64)
    for row in range(second.shape[0]):
        for column in range(second.shape[1]):
            a, b = first[row, column], second[row, column]
            if b >= 0 and a != b:
                starts[min(a, b) + 1] += 1
    for image in range(images):
        starts[image + 1] += starts[image]
    free = starts.copy()
    keys = np.empty(starts[images], np.uint64)
    place = np.uint64(0)
    for row in range(second.shape[0]):
        for column in range(second.shape[1]):
            a, b = first[row, column], second[row, column]
            if b >= 0 and a != b:
                keys[free[min(a, b)]] = np.uint64(max(a, b)) << np.uint64(32) | place
                free[min(a, b)] += 1
            place += np.uint64(1)
    for image in range(images):
        keys[starts[image] : starts[image + 1]].sort()
    return starts, keys


@numba.njit(cache=True, nogil=True)
def _distinct(starts, keys, confidence, minimum):  # type: ignore[no-untyped-def]
    """Keep, in place, the surest of each pair if it reaches the minimum.

    Where the kept pairs of each image end; and the last pair that stood twice, or -1 and -1.
    """
    ends = starts[:-1].copy()
    first = second = np.int64(-1)
    for image in range(len(ends)):
        at = starts[image]
        while at < starts[image + 1]:
            best = keys[at]
            at += 1
            while at < starts[image + 1] and _larger(keys[at]) == _larger(best):
                first, second = np.int64(image), _larger(best)
                if confidence[_place(keys[at])] > confidence[_place(best)]:
                    best = keys[at]
                at += 1
            if confidence[_place(best)] >= minimum:
                keys[ends[image]] = best
                ends[image] += 1
    return ends, first, second


@numba.njit(cache=True, nogil=True)
def _larger(key: np.uint64) -> np.int64:
    return np.int64(key >> np.uint64(32))


@numba.njit(cache=True, nogil=True)
def _place(key: np.uint64) -> np.int64:
    return np.int64(key & _PLACE)


@numba.njit(cache=True, nogil=True)
def _both_directions(starts, ends, keys, confidence):  # type: ignore[no-untyped-def]
    """The columns of the graph: as images come in order, so do the smaller neighbours of each."""
    images = len(ends)
    indptr = np.zeros(images + 1, np.int64)
    for image in range(images):
        indptr[image + 1] += ends[image] - starts[image]
        for at in range(starts[image], ends[image]):
            indptr[_larger(keys[at]) + 1] += 1
    for image in range(images):
        indptr[image + 1] += indptr[image]
    free = indptr[:-1].copy()
    indices = np.empty(indptr[images], np.int32)
    sure = np.empty(len(indices), np.float32)
    for image in range(images):
        for at in range(starts[image], ends[image]):
            other, place = _larger(keys[at]), _place(keys[at])
            up, down = free[image], free[other]
            free[image] += 1
            free[other] += 1
            indices[up], indices[down] = other, image
            sure[up] = sure[down] = confidence[place]
    return indptr, indices, sure


@numba.njit(cache=True, nogil=True)
def _rows_of(indptr, kept):  # type: ignore[no-untyped-def]
    """Where the rows begin and end when only some edges are kept."""
    result = np.zeros_like(indptr)
    for image in range(len(indptr) - 1):
        result[image + 1] = result[image] + kept[indptr[image] : indptr[image + 1]].sum()
    return result


@numba.njit(cache=True, nogil=True)
def _mutual(indptr, indices):  # type: ignore[no-untyped-def]
    """Number of pairs that stand in both directions."""
    count = 0
    reached = indptr[:-1].copy()
    for here in range(len(reached)):
        for there in indices[indptr[here] : indptr[here + 1]]:
            if here < there:
                while reached[there] < indptr[there + 1] and indices[reached[there]] < here:
                    reached[there] += 1
                count += reached[there] < indptr[there + 1] and indices[reached[there]] == here
    return count
