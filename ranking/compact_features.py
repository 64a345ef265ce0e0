"""Local features in 19 bytes each: projected, quantised descriptors and positions on a grid.

A descriptor is projected onto the principal components of a sample and each component coded in four bits by
the best sixteen levels for its distribution (Lloyd, IEEE Trans. Inf. Theory 1982); a position is coded in two
times twelve bits of the extent of the photo's keypoints. Decoding makes int8 features, which any verifier
takes; it costs a tenth of a match, so features stay coded until they are matched.
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from extractor.features import INT8_UNIT, LocalFeatures

DIMENSION = 32
_LEVELS = 16
_STEPS = 2**12 - 1
_ROUNDS = 40
_HEADER = struct.Struct("<Ifff")
"""Number of features, least x and y, extent of the keypoints."""

Descriptors = NDArray[np.float32] | NDArray[np.int8]


class CompactFeaturesError(ValueError):
    """The bytes are no compact features of this codec; the message says why."""


@dataclass(frozen=True, eq=False)
class CompactCodec:
    """Codes local features of one extractor; learned once, from a sample of its descriptors.

    Features that are to be matched must be coded by the same codec. What only orders or labels features is
    not kept: decoded ones are in the order of the original ones, with scales of 1 and falling scores.

    Attributes:
        projection: float32 [d, k], orthonormal columns, k even.
        levels: float32 [k, 16], ascending values of each component.
    """

    projection: NDArray[np.float32]
    levels: NDArray[np.float32]

    def __post_init__(self) -> None:
        k = self.projection.shape[1]
        if k % 2 or self.levels.shape != (k, _LEVELS):
            raise ValueError(f"a projection to {k} components cannot have levels {self.levels.shape}")

    @classmethod
    def fit(cls, descriptors: Descriptors, dimension: int = DIMENSION) -> CompactCodec:
        """Learn a codec.

        Args:
            descriptors: float32 or int8 [n, d], a sample from many photos; some 10,000 are enough.
            dimension: components kept, even and at most d; a feature takes `dimension / 2 + 3` bytes.

        Raises:
            ValueError: there are fewer descriptors than components or levels, or no such dimension.
        """
        n, d = descriptors.shape
        if dimension % 2 or not 0 < dimension <= d:
            raise ValueError(f"dimension must be even and at most {d}, got {dimension}")
        if n < max(d, _LEVELS):
            raise ValueError(f"{n} descriptors are too few to learn from: give at least {max(d, _LEVELS)}")
        sample = _unit(descriptors).astype(np.float64)
        _, axes = np.linalg.eigh(sample.T @ sample)
        projection = axes[:, : -dimension - 1 : -1]
        # The sign of an axis is arbitrary: fixed, so that the same sample gives the same codec anywhere.
        projection = projection * np.where(
            projection[np.abs(projection).argmax(0), range(dimension)] < 0, -1, 1
        )
        levels = np.stack([_best_levels(component) for component in (sample @ projection).T])
        return cls(np.ascontiguousarray(projection, np.float32), np.ascontiguousarray(levels, np.float32))

    @property
    def fingerprint(self) -> str:
        """A digest of what was learned: features of different fingerprints never meet."""
        content = self.projection.astype("<f4").tobytes() + self.levels.astype("<f4").tobytes()
        return f"compact-1:{hashlib.sha256(content).hexdigest()[:16]}"

    @property
    def bytes_per_feature(self) -> int:
        """Bytes of one feature; a photo takes 16 more."""
        return len(self.levels) // 2 + 3

    def encode(self, features: LocalFeatures) -> bytes:
        """Code the features of one photo.

        Raises:
            ValueError: the descriptors are of another length than those the codec was learned from.
        """
        if features.dimension != len(self.projection):
            raise ValueError(
                f"the codec is for descriptors of length {len(self.projection)}, not {features.dimension}"
            )
        n = len(features)
        if not n:
            return _HEADER.pack(0, 0, 0, 1)
        low = features.keypoints.min(0)
        extent = max(float((features.keypoints.max(0) - low).max()), 1e-6)
        steps = np.rint((features.keypoints - low) * (_STEPS / extent)).astype(np.uint32)
        positions = steps[:, 0] | steps[:, 1] << np.uint32(12)
        rows = np.empty((n, self.bytes_per_feature), np.uint8)
        rows[:, :3] = positions.astype("<u4").view(np.uint8).reshape(n, 4)[:, :3]
        components = _unit(features.descriptors) @ self.projection
        middles = (self.levels[:, 1:] + self.levels[:, :-1]) / 2
        codes = np.stack(
            [np.searchsorted(middle, values) for middle, values in zip(middles, components.T, strict=True)], 1
        ).astype(np.uint8)
        rows[:, 3:] = codes[:, ::2] | codes[:, 1::2] << 4
        return _HEADER.pack(n, float(low[0]), float(low[1]), extent) + rows.tobytes()

    def decode(self, payload: bytes) -> LocalFeatures:
        """The features of one photo, with int8 descriptors of `len(levels)` components.

        Raises:
            CompactFeaturesError: the length of the payload is not what its header says.
        """
        if len(payload) < _HEADER.size:
            raise CompactFeaturesError(f"{len(payload)} bytes are no compact features: they are cut short")
        n, left, top, extent = _HEADER.unpack_from(payload)
        if len(payload) != _HEADER.size + n * self.bytes_per_feature:
            raise CompactFeaturesError(
                f"{len(payload)} bytes do not hold {n} features of {self.bytes_per_feature} bytes: "
                "they are damaged, or of another codec"
            )
        rows = np.frombuffer(payload, np.uint8, offset=_HEADER.size).reshape(n, self.bytes_per_feature)
        keypoints, descriptors = _decoded(rows, self.levels)
        keypoints = keypoints * np.float32(extent / _STEPS) + np.array([left, top], np.float32)
        scores = (np.arange(n, 0, -1) / max(n, 1)).astype(np.float32)
        return LocalFeatures(keypoints, np.ones(n, np.float32), scores, descriptors)

    def to_bytes(self) -> bytes:
        """The codec itself, to be kept beside what it coded."""
        buffer = io.BytesIO()
        np.savez(buffer, projection=self.projection, levels=self.levels)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> CompactCodec:
        """The codec that `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(arrays["projection"], arrays["levels"])


def _unit(descriptors: Descriptors) -> NDArray[np.float32]:
    """Unit vectors float32 [n, d]; all-zero ones stay zero."""
    vectors = descriptors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    vectors /= lengths
    return vectors


def _best_levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The levels of least mean squared error, by Lloyd's iteration from the quantiles: [16], ascending."""
    values = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    levels = np.quantile(values, (np.arange(_LEVELS) + 0.5) / _LEVELS)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(values, (levels[1:] + levels[:-1]) / 2)
        bounds = np.concatenate([[0], ends, [len(values)]])
        counts = np.diff(bounds)
        means = np.diff(sums[bounds]) / np.maximum(counts, 1)
        levels = np.sort(np.where(counts > 0, means, levels))
    return levels


@numba.njit(cache=True, nogil=True)
def _decoded(
    rows: NDArray[np.uint8], levels: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Positions in steps, float32 [n, 2], and descriptors of unit norm in int8 [n, k]."""
    n, k = len(rows), len(levels)
    keypoints = np.empty((n, 2), np.float32)
    descriptors = np.empty((n, k), np.int8)
    values = np.empty(k, np.float32)
    for i in range(n):
        row = rows[i]
        keypoints[i, 0] = np.uint32(row[0]) | np.uint32(row[1] & 15) << 8
        keypoints[i, 1] = np.uint32(row[1]) >> 4 | np.uint32(row[2]) << 4
        square = np.float32(0)
        for byte in range(k // 2):
            code = row[3 + byte]
            values[2 * byte] = levels[2 * byte, code & 15]
            values[2 * byte + 1] = levels[2 * byte + 1, code >> 4]
            square += values[2 * byte] ** 2 + values[2 * byte + 1] ** 2
        scale = np.float32(INT8_UNIT) / np.sqrt(max(square, np.float32(1e-12)))
        for component in range(k):
            descriptors[i, component] = np.int8(np.rint(values[component] * scale))
    return keypoints, descriptors
