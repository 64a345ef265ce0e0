"""Mean-centring and PCA-whitening of global descriptors, fitted once on the index and stored with it.

Jégou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening"
(ECCV 2012).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

SHRINKAGE = 10.0
"""Times d / N of the mean variance is added to each variance before whitening d directions learnt from N
descriptors: the fewer there are, the less their small variances are to be trusted, and blown up."""

_CHUNK = 16_384  # descriptors that are held in double precision at a time


@dataclass(frozen=True, eq=False)
class Whitening:
    """An affine map of global descriptors, followed by scaling to unit norm.

    Attributes:
        mean: float32 [D], subtracted first.
        projection: float32 [D, d], applied next; None leaves the components as they are.

    Raises:
        ValueError: shapes or types disagree, or a value is not finite.
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.dtype != np.float32 or not np.isfinite(self.mean).all():
            raise ValueError(f"mean must be finite float32 [D], got {self.mean.dtype} {self.mean.shape}")
        p = self.projection
        if p is None:
            return
        if p.ndim != 2 or p.dtype != np.float32 or len(p) != len(self.mean) or not np.isfinite(p).all():
            raise ValueError(
                f"projection must be finite float32 [{len(self.mean)}, d], got {p.dtype} {p.shape}"
            )

    @property
    def dimension(self) -> int:
        """Components of a descriptor after the map."""
        return len(self.mean) if self.projection is None else int(self.projection.shape[1])

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that tell two maps apart."""
        digest = hashlib.sha256(self.mean.tobytes())
        if self.projection is not None:
            digest.update(self.projection.tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def fit(
        cls, descriptors: NDArray[np.float32], dimension: int | None = None, *, scaled: bool = True
    ) -> Whitening:
        """Learn the map from the descriptors of an index.

        Args:
            descriptors: float [N, D]; one alone has no spread, so nothing is subtracted for N = 1.
            dimension: components to keep by PCA-whitening; None only centres. Directions are signed so that
                their largest component is positive.
            scaled: divide each component by its standard deviation; without it the map is plain PCA.

        Raises:
            ValueError: no descriptors, a value is not finite, or the dimension is not below N and at most D.
        """
        if descriptors.ndim != 2 or descriptors.size == 0:
            raise ValueError(
                f"descriptors must have shape [N, D], N and D at least 1, got {descriptors.shape}"
            )
        n, full = descriptors.shape
        if dimension is not None and not 1 <= dimension <= min(n - 1, full):
            raise ValueError(
                f"cannot whiten to {dimension} dimensions from {n} descriptors of {full}: "
                f"at most {min(n - 1, full)}; ask for fewer, or centre only"
            )
        with threadpool_limits(1, "blas"):  # more of them could change the last bits
            return cls._fit(descriptors, dimension, scaled)

    @classmethod
    def _fit(cls, descriptors: NDArray[np.float32], dimension: int | None, scaled: bool) -> Whitening:
        n, full = descriptors.shape
        mean = descriptors.mean(axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise ValueError("descriptors hold NaN or infinite values")
        if dimension is None:
            return cls((mean if n > 1 else np.zeros(full)).astype(np.float32))
        covariance = np.zeros((full, full))
        for start in range(0, n, _CHUNK):
            centred = descriptors[start : start + _CHUNK] - mean
            covariance += centred.T @ centred / n
        variances, directions = np.linalg.eigh(covariance)
        variances, directions = variances[::-1][:dimension], directions[:, ::-1][:, :dimension]
        largest = np.abs(directions).argmax(axis=0)
        directions = directions * np.sign(directions[largest, np.arange(dimension)])
        if not scaled:
            return cls(mean.astype(np.float32), directions.astype(np.float32))
        variances = np.maximum(variances, np.finfo(np.float32).tiny)
        spread = variances + SHRINKAGE * dimension / n * variances.mean()
        return cls(mean.astype(np.float32), (directions / np.sqrt(spread)).astype(np.float32))

    def apply(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map descriptors float [N, D] to float32 [N, dimension] of unit norm.

        Raises:
            ValueError: the descriptors are not [N, D].
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != len(self.mean):
            raise ValueError(f"descriptors must have shape [N, {len(self.mean)}], got {descriptors.shape}")
        mapped: NDArray[np.float32] = descriptors.astype(np.float32, copy=False) - self.mean
        if self.projection is not None:
            mapped = mapped @ self.projection
        return unit_rows(mapped)

    def to_bytes(self) -> bytes:
        """The map as a NumPy `.npz` archive, the same bytes for the same map."""
        arrays = {"mean": self.mean}
        if self.projection is not None:
            arrays["projection"] = self.projection
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Whitening:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: the bytes are not such an archive.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return cls(archive["mean"], archive.get("projection"))
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"not a stored whitening: {error}") from error


def unit_rows(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the rows of float32 [N, d] to unit norm.

    A row of zeros has no direction: all its components become equal, which is nearly orthogonal to centred
    descriptors.
    """
    squares = np.einsum("nd,nd->n", descriptors, descriptors, dtype=np.float64)  # which float32 may not hold
    norms = np.sqrt(squares).astype(np.float32)[:, None]
    directed = norms > np.finfo(np.float32).tiny
    even = np.float32(descriptors.shape[1] ** -0.5)
    unit: NDArray[np.float32] = np.where(directed, descriptors / np.where(directed, norms, 1), even)
    return unit.astype(np.float32, copy=False)
