from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from connector.client import DataType
from connector.half import decode, encode


def test_bytes_by_hand() -> None:
    vectors = np.array([[1, -2], [0.5, 3.140625]], np.float32)
    assert encode(vectors, DataType.FLOAT16_VECTOR) == [
        bytes.fromhex("003c 00c0"),
        bytes.fromhex("0038 4842"),
    ]
    assert encode(vectors, DataType.BFLOAT16_VECTOR) == [
        bytes.fromhex("803f 00c0"),
        bytes.fromhex("003f 4940"),
    ]


def test_bfloat16_rounds_to_even() -> None:
    step = np.float32(2**-7)  # of bfloat16 from 1 to 2
    values = np.array([[1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step, 1 + 0.49 * step]], np.float32)
    data = encode(values, DataType.BFLOAT16_VECTOR)
    found = decode(data, DataType.BFLOAT16_VECTOR, 4)
    np.testing.assert_array_equal(found, [[1, 1 + 2 * step, 1 + step, 1]])


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(DataType.FLOAT_VECTOR, 0), (DataType.FLOAT16_VECTOR, 2**-11), (DataType.BFLOAT16_VECTOR, 2**-8)],
)
@given(vectors=arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32)))
def test_vectors_survive_within_their_precision(kind: int, precision: float, vectors: np.ndarray) -> None:
    sent = encode(vectors, kind)
    for answer in (sent, sent if kind == DataType.FLOAT_VECTOR else [[value] for value in sent]):
        found = decode(answer, kind, 5)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, vectors, rtol=precision, atol=1e-7)


@pytest.mark.parametrize("kind", [DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR])
def test_none(kind: int) -> None:
    assert encode(np.zeros((0, 4), np.float32), kind) == []
    assert decode([], kind, 4).shape == (0, 4)
