"""Putative matches of int8 descriptors: exact whole-number similarities, searched where they are made.

The matches are those of `ranking.matching` on the same whole numbers. Processors with byte dot products (VNNI
of x86) multiply four components at a time and keep the best of every row and column in registers, so that no
similarity is ever written to memory; on others the float32 product of the BLAS gives the same numbers, as
sums of that size are exact in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic
from numpy.typing import NDArray

from ranking.matching import match_descriptors


def _lanes() -> int:
    """Whole numbers in a register of the byte dot product: 16, 8, or 0 where there is none."""
    chosen = config.CPU_FEATURES  # type: ignore[attr-defined]
    found = get_host_cpu_features() if chosen is None else chosen
    features = set(found.split(","))
    if {"+avx512vnni", "+avx512bw"} <= features:
        return 16
    return 8 if "+avxvnni" in features else 0


LANES = _lanes()
_VECTORS = 4 if LANES == 16 else 2
_ROWS = 6
_COLUMNS = _VECTORS * LANES
"""A tile of _ROWS x _COLUMNS sums fills most of the registers."""

_LAST = 2**16 - 1
"""A key is a similarity in its upper half, and below this less the index: of equals the first is largest."""
_MOST = 2**16 - 64
"""Descriptors whose index, rounded up to whole tiles, fits in half a key."""
_LARGEST_NORM = 2**15 - 1
"""Descriptors of at most this squared norm have similarities that fit in half a key."""

_compiled = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True, eq=False)
class Int8Descriptors:
    """Descriptors laid out for multiplication.

    Attributes:
        descriptors: int8 [N, d].
        rows: uint8 [N', 4g], each component plus 128; the last is repeated to whole tiles and loses its ties.
        fits: whether the byte dot product can be used.
    """

    descriptors: NDArray[np.int8]
    rows: NDArray[np.uint8]
    fits: bool

    @classmethod
    def of(cls, descriptors: NDArray[np.int8]) -> Int8Descriptors:
        """Lay out int8 [N, d]."""
        descriptors = np.ascontiguousarray(descriptors)
        fits = LANES > 0 and 0 < len(descriptors) <= _MOST and descriptors.shape[1] > 0
        if not fits:
            return cls(descriptors, np.zeros((0, 0), np.uint8), False)
        rows, largest = _as_rows(descriptors)
        return cls(descriptors, rows, largest <= _LARGEST_NORM)


class Int8Matcher:
    """Matches the int8 descriptors of one photo with those of others."""

    def __init__(self, query: Int8Descriptors, minimum: float) -> None:
        """Prepare the side that all matches share.

        Args:
            query: its descriptors.
            minimum: pairs at or below this similarity, the dot product of whole numbers, are no match.
        """
        self._query = query
        self._minimum = minimum
        self._panels = _as_panels(query.rows) if query.fits else None

    def match(self, candidate: Int8Descriptors) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Descriptors that are each other's nearest neighbour; as `ranking.matching.match_descriptors`."""
        if self._panels is None or not candidate.fits:
            ours, theirs = (side.descriptors.astype(np.float32) for side in (self._query, candidate))
            return match_descriptors(ours, theirs, self._minimum)
        return _match_panels(*self._panels, candidate.rows, len(candidate.descriptors), self._minimum)


@_compiled
def _as_rows(descriptors: NDArray[np.int8]) -> tuple[NDArray[np.uint8], int]:
    """Rows of whole tiles, and the largest squared norm."""
    count, dimension = descriptors.shape
    rows = np.full((-(-count // _ROWS) * _ROWS, -(-dimension // 4) * 4), 128, np.uint8)
    largest = 0
    for i in range(count):
        descriptor, row = descriptors[i], rows[i]
        norm = np.int32(0)
        for k in range(dimension):
            value = np.int32(descriptor[k])
            norm = np.int32(norm + value * value)
            row[k] = np.uint8(value + 128)
        largest = max(largest, int(norm))
    rows[count:] = rows[count - 1]
    return rows, largest


@_compiled
def _as_panels(rows: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Four components each of `_COLUMNS` descriptors side by side, and where their sums start.

    The other side's components carry 128 too much, so a sum starts at -128 times the sum of the descriptor.

    Returns:
        int32 [panels, g, _COLUMNS], four int8 components each, and int32 [panels, _COLUMNS].
    """
    count = len(rows)
    words = rows.view(np.uint32)
    groups = words.shape[1]
    panels = np.empty((-(-count // _COLUMNS), groups, _COLUMNS), np.int32)
    start = np.zeros((len(panels), _COLUMNS), np.int32)
    for panel in range(len(panels)):
        for column in range(_COLUMNS):
            i = min(panel * _COLUMNS + column, count - 1)
            for group in range(groups):
                panels[panel, group, column] = np.int32(words[i, group] ^ np.uint32(0x80808080))
            total = np.int32(0)
            for k in range(4 * groups):
                total += np.int32(rows[i, k]) - 128
            start[panel, column] = -128 * total
    return panels, start


@_compiled
def _match_panels(
    panels: NDArray[np.int32],
    start: NDArray[np.int32],
    rows: NDArray[np.uint8],
    count: int,
    minimum: float,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Mutual nearest neighbours of the panels' descriptors (in columns) and the rows."""
    nothing = np.int32(-(2**31))
    column_best = np.full((len(panels), _COLUMNS), nothing, np.int32)
    row_best = np.full((len(rows), LANES), nothing, np.int32)
    for panel in range(len(panels)):
        for i in range(0, len(rows), _ROWS):
            _tile(  # type: ignore[call-arg]
                rows.ctypes.data + i * rows.shape[1],
                rows.shape[1],
                panels[panel].ctypes.data,
                panels.shape[1],
                start[panel].ctypes.data,
                _LAST - i,
                _LAST - panel * _VECTORS,
                column_best[panel].ctypes.data,
                row_best[i].ctypes.data,
            )
    best = column_best.reshape(-1)
    keys = np.empty(count, np.int64)
    found = 0
    for i in range(count):
        # A lane holds the first of its registers; between lanes the first index wins again.
        key = np.int64(-(2**62))
        for lane in range(LANES):
            value, register = np.int64(row_best[i, lane]) >> 16, _LAST - (row_best[i, lane] & _LAST)
            key = max(key, (value << 32) - (register * LANES + lane))
        nearest = -key & _LAST
        value = (key + nearest) >> 32
        if value > minimum and _LAST - (best[nearest] & _LAST) == i:
            keys[found] = (value << 32) - (np.int64(i) << 16) - nearest
            found += 1
    keys = np.sort(keys[:found])[::-1]
    pairs = np.empty((found, 2), np.int32)
    values = np.empty(found, np.float32)
    for place in range(found):
        key = -keys[place]
        pairs[place, 0] = key & _LAST
        pairs[place, 1] = key >> 16 & _LAST
        values[place] = -(key >> 32)
    return pairs, values


@intrinsic
def _tile(  # type: ignore[no-untyped-def]
    typing_context,
    rows,
    row_bytes,
    panel,
    groups,
    start,
    row_key,
    column_key,
    column_best,
    row_best,
):
    """Multiply `_ROWS` rows with one panel and take the sums into account; all arguments are whole numbers.

    `rows`, `panel`, `start`, `column_best` and `row_best` are addresses. A sum stands in the upper half of
    its key; in the lower half is `row_key` less its row for the best of columns, and `column_key` less its
    register for the best of rows.
    """
    number, size = ir.IntType(32), ir.IntType(64)
    vector = ir.VectorType(number, LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, row_bytes, panel, groups, start, row_key, column_key, column_best, row_best = arguments
        product = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [vector, vector, vector]),
            f"llvm.x86.avx512.vpdpbusd.{32 * LANES}",
        )

        def pointer(address: Any, kind: Any) -> Any:
            return builder.inttoptr(address, kind.as_pointer())

        def place(base: Any, index: Any) -> Any:
            return builder.gep(base, [index if isinstance(index, ir.Value) else size(index)])

        def constant(value: int) -> Any:
            return ir.Constant(vector, [value] * LANES)

        def everywhere(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, number(0))
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), constant(0))

        def larger(one: Any, other: Any) -> Any:
            return builder.select(builder.icmp_signed(">", one, other), one, other)

        def largest(sums: list[Any], key: Any) -> Any:
            best = sums[0]
            for later, value in enumerate(sums[1:], 1):
                best = larger(best, builder.add(value, constant(-later)))
            return builder.add(best, everywhere(builder.trunc(key, number)))

        def absorb(address: Any, index: int, keys: Any) -> None:
            where = place(pointer(address, vector), index)
            builder.store(larger(builder.load(where, align=4), keys), where, align=4)

        sums = [[cgutils.alloca_once(builder, vector) for _ in range(_VECTORS)] for _ in range(_ROWS)]
        for row in sums:
            for v, total in enumerate(row):
                builder.store(builder.load(place(pointer(start, vector), v), align=4), total)
        with cgutils.for_range(builder, groups) as loop:
            base = builder.mul(loop.index, size(_VECTORS))
            right = [
                builder.load(place(pointer(panel, vector), builder.add(base, size(v))), align=4)
                for v in range(_VECTORS)
            ]
            for r, row in enumerate(sums):
                address = builder.add(rows, builder.mul(row_bytes, size(r)))
                four = everywhere(builder.load(place(pointer(address, number), loop.index), align=4))
                for total, other in zip(row, right, strict=True):
                    builder.store(builder.call(product, [builder.load(total), four, other]), total)
        upper = [[builder.shl(builder.load(total), constant(16)) for total in row] for row in sums]
        for v in range(_VECTORS):
            absorb(column_best, v, largest([row[v] for row in upper], row_key))
        for r, row in enumerate(upper):
            absorb(row_best, r, largest(row, column_key))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9), generate
