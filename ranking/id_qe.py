"""ID-QE, iterative DELF query expansion: verified photos move towards the centre of their landmark."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranking.match_graph import MatchGraph
from ranking.nearest_neighbours import normalised

ITERATIONS = 3
PARTNERS = 20
MEMORY = 2 << 30
THREADS = os.cpu_count() or 1
_ROWS = 2048


def expand(
    descriptors: NDArray[np.float32],
    graph: MatchGraph,
    iterations: int = ITERATIONS,
    partners: int = PARTNERS,
) -> NDArray[np.float32]:
    """Move every descriptor towards those of the images it is verified with.

    x_i <- L2(x_i + sum over the most confident partners j of c_ij x_j), all images at once, a few times.
    The source of the method (an entry of the Google Landmark Retrieval Challenge 2018) gives the idea
    alone: images of a landmark approach the centre of their cluster, and geometric verification decides
    who takes part. Weights, partners and the number of iterations are Landbridge's reading.

    Args:
        descriptors: float32 [n, D] of unit norm, index and query images alike.
        graph: match graph of the same n images. An image that nothing leads into
            (`MatchGraph.without_bridges`) is moved, and moves nobody.
        iterations: how often every descriptor is moved.
        partners: at most that many neighbours move an image.

    Returns:
        float32 [n, D] of unit norm; an image without neighbours stays where it is.

    Raises:
        ValueError: the graph and the descriptors disagree on the number of images, or there is no partner.
    """
    if len(graph) != len(descriptors):
        raise ValueError(f"{len(descriptors)} descriptors, but the match graph has {len(graph)} images")
    weights = _strongest(graph, partners)
    expanded = descriptors
    for _ in range(iterations):
        expanded = normalised(expanded + weights @ expanded)
    return expanded


def expand_file(
    source: Path,
    target: Path,
    graph: MatchGraph,
    iterations: int = ITERATIONS,
    partners: int = PARTNERS,
    memory: int = MEMORY,
    threads: int = THREADS,
) -> None:
    """Do as `expand` does, out of core: from one file of float16 descriptors to another.

    The descriptors are moved in stripes, some components of all images at a time, so that everybody's
    partners are at hand; norms follow when the last stripe is through. Values are rounded to float16 in
    every iteration and once more at the end. Beside the target, its folder needs room for as much again.

    Args:
        source: .npy file, float16 [n, D] of unit norm.
        target: .npy file, written as the source is, and in one step: it is complete, or what it was before.
        graph: see `expand`.
        iterations: see `expand`.
        partners: see `expand`.
        memory: bytes for a stripe, before and after the move; the graph comes on top.
        threads: images moved side by side. The result does not depend on it.

    Raises:
        ValueError: the source does not hold float16 [n, D], or as for `expand`.
    """
    layout = np.lib.format.open_memmap(source, mode="r")
    if layout.dtype != np.float16 or layout.ndim != 2:
        raise ValueError(f"{source} must hold rows of float16, got {layout.dtype} {list(layout.shape)}")
    if not layout.flags.c_contiguous:
        raise ValueError(f"{source} must hold row after row, got columns: save np.ascontiguousarray(...)")
    images, dimensions = layout.shape
    if len(graph) != images:
        raise ValueError(f"{images} descriptors in {source}, but the match graph has {len(graph)} images")
    weights = _strongest(graph, partners)
    width = max(memory // (2 * layout.itemsize * max(images, 1)), 1)
    # Stripes hold the expanded descriptors but for a factor of each image.
    factors = np.ones(images, np.float32)
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as folder,
        ThreadPoolExecutor(threads) as pool,
    ):
        stripes = [Path(folder) / str(column) for column in range(0, dimensions, width)]
        _split(source, layout, stripes, width)
        for _ in range(iterations):
            squares = np.zeros(images)
            for stripe in stripes:
                _move_stripe(stripe, weights, factors, squares, pool)
            factors[:] = 1 / np.sqrt(np.where(squares > 0, squares, 1))
        whole = Path(folder) / "whole"
        _merge(stripes, factors, layout, whole)
        whole.replace(target)


def _split(source: Path, layout: np.memmap, stripes: list[Path], width: int) -> None:
    images, dimensions = layout.shape
    for start in range(0, images, _ROWS):
        # Not by the map: pages that are looked at would stay in the memory of the process.
        skipped = layout.offset + start * dimensions * layout.itemsize
        rows = np.fromfile(source, np.uint16, _ROWS * dimensions, offset=skipped).reshape(-1, dimensions)
        for number, stripe in enumerate(stripes):
            with stripe.open("ab") as file:
                np.ascontiguousarray(rows[:, number * width : (number + 1) * width]).tofile(file)


def _move_stripe(
    stripe: Path,
    weights: sparse.csr_matrix,
    factors: NDArray[np.float32],
    squares: NDArray[np.float64],
    pool: ThreadPoolExecutor,
) -> None:
    """Move some components of all images, and add them to their squared norms."""
    values = np.fromfile(stripe, np.uint16).reshape(len(factors), -1)
    moved = np.empty_like(values)

    def move(start: int) -> None:
        _move(
            values,
            weights.indptr,
            weights.indices,
            weights.data,
            factors,
            start,
            moved[start : start + _ROWS],
            squares[start : start + _ROWS],
        )

    list(pool.map(move, range(0, len(factors), _ROWS)))
    moved.tofile(stripe)


def _merge(stripes: list[Path], factors: NDArray[np.float32], layout: np.memmap, whole: Path) -> None:
    with whole.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(layout))
        for start in range(0, len(factors), _ROWS):
            block = factors[start : start + _ROWS]
            rows = []
            for stripe in stripes:
                row = stripe.stat().st_size // len(factors)
                values = np.fromfile(stripe, np.uint16, len(block) * row // 2, offset=start * row)
                rows.append(values.reshape(len(block), -1))
            moved = np.concatenate(rows, axis=1)
            _scale(moved, block)
            moved.tofile(file)


@numba.njit(cache=True, nogil=True)
def _move(values, indptr, indices, weights, factors, start, moved, squares):  # type: ignore[no-untyped-def]
    total = np.empty(values.shape[1], np.float32)
    for row in range(len(moved)):
        image = start + row
        for column in range(len(total)):
            total[column] = factors[image] * _single(values[image, column])
        for edge in range(indptr[image], indptr[image + 1]):
            partner = indices[edge]
            weight = weights[edge] * factors[partner]
            for column in range(len(total)):
                total[column] += weight * _single(values[partner, column])
        square = 0.0
        for column in range(len(total)):
            square += np.float64(total[column]) ** 2
            moved[row, column] = _half(total[column])
        squares[row] += square


@numba.njit(cache=True, nogil=True)
def _scale(values, factors):  # type: ignore[no-untyped-def]
    for row in range(len(values)):
        for column in range(values.shape[1]):
            values[row, column] = _half(factors[row] * _single(values[row, column]))


@numba.njit(cache=True, nogil=True)
def _single(half):  # type: ignore[no-untyped-def]
    """The value of the bits of a finite float16 (numba has no such type on a processor)."""
    signed = np.uint32(np.int32(np.int16(half))) << np.uint32(13)
    return np.uint32(signed & np.uint32(0x8FFFE000)).view(np.float32) * np.float32(2.0**112)


@numba.njit(cache=True, nogil=True)
def _half(single):  # type: ignore[no-untyped-def]
    """The bits of the float16 next to a value below 65504, the even one of two."""
    bits = np.float32(np.float32(single) * np.float32(2.0**-112)).view(np.uint32)
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    rest = bits & np.uint32(0x7FFFFFFF)
    rest = (rest + np.uint32(0xFFF) + ((rest >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
    return np.uint16(sign | rest)


def _strongest(graph: MatchGraph, partners: int) -> sparse.csr_matrix:
    """The confidences of each image's most confident neighbours; equal ones by index."""
    if partners < 1:
        raise ValueError(f"partners must be 1 or more, got {partners}")
    indptr, indices, confidence = _select(graph.indptr, graph.indices, graph.confidence, partners)
    return sparse.csr_matrix((confidence, indices, indptr), shape=(len(graph), len(graph)))


@numba.njit(cache=True, nogil=True)
def _select(indptr, indices, confidence, partners):  # type: ignore[no-untyped-def]
    starts = np.zeros(len(indptr), np.int64)
    for image in range(len(indptr) - 1):
        starts[image + 1] = starts[image] + min(indptr[image + 1] - indptr[image], partners)
    chosen = np.empty(starts[-1], np.int32)
    weights = np.empty(starts[-1], np.float32)
    for image in range(len(indptr) - 1):
        row = confidence[indptr[image] : indptr[image + 1]]
        cut = -np.inf
        if len(row) > partners:
            cut = np.partition(row, len(row) - partners)[len(row) - partners]
        # Everything above the last confidence that counts, and the first of those equal to it.
        room = starts[image + 1] - starts[image] - np.sum(row > cut)
        place = starts[image]
        for at in range(len(row)):
            if row[at] > cut or (row[at] == cut and room > 0):
                room -= row[at] == cut
                chosen[place] = indices[indptr[image] + at]
                weights[place] = row[at]
                place += 1
    return starts, chosen, weights
