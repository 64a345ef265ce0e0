"""Vectors of half precision, as Milvus stores and sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connector.client import DataType


def encode(vectors: NDArray[np.float32], kind: int) -> list[Any]:
    """Vectors as a search of a field of this type takes them.

    Args:
        vectors: float32 [N, D].
        kind: FLOAT_VECTOR, FLOAT16_VECTOR or BFLOAT16_VECTOR.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    if kind == DataType.FLOAT16_VECTOR:
        return [vector.tobytes() for vector in vectors.astype("<f2")]
    if kind == DataType.BFLOAT16_VECTOR:
        # The upper half of a float32, rounded to even.
        bits = vectors.view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return [vector.tobytes() for vector in rounded.astype("<u2")]
    return list(vectors)


def decode(values: Sequence[Any], kind: int, dimension: int) -> NDArray[np.float32]:
    """Vectors that Milvus gave, as float32 [N, D].

    Args:
        values: of a field, of each row.
        kind: its type.
        dimension: D.
    """
    if kind == DataType.FLOAT_VECTOR:
        return np.array(values, np.float32).reshape(-1, dimension)
    # A query gives each vector in a list, a search gives it bare.
    data = b"".join(value if isinstance(value, bytes) else b"".join(value) for value in values)
    if kind == DataType.FLOAT16_VECTOR:
        return np.frombuffer(data, "<f2").astype(np.float32).reshape(-1, dimension)
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(-1, dimension)
