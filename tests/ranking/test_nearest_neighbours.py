import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ranking import nearest_neighbours as module
from ranking.nearest_neighbours import nearest_neighbours, normalised, ranked


def by_brute_force(similarity, limit):
    """Sort every row in full; Python's sort is stable, so equal ones stay in the order of their index."""
    return [sorted(range(len(row)), key=lambda j: -row[j])[:limit] for row in similarity.tolist()]


# Small whole numbers: dot products are exact, and ties plenty.
@st.composite
def vector_sets(draw):
    dimension = draw(st.integers(1, 4))
    sides = st.integers(0, 5), st.integers(1, 12)
    return [
        draw(arrays(np.float32, (draw(side), dimension), elements=st.integers(-2, 2).map(float)))
        for side in sides
    ]


def test_by_hand():
    index = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    indices, similarity = nearest_neighbours(np.array([[1, 0], [0, 1]], np.float32), index, 3)
    assert indices.dtype == np.int64
    assert similarity.dtype == np.float32
    assert indices.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert similarity.tolist() == [pytest.approx([1, 0.6, 0]), pytest.approx([1, 0.8, 0])]


def test_equal_ones_come_by_index():
    values = np.array([[1, 3, 2, 3, 3, 2, 1]], np.float32)
    assert ranked(values, 2).tolist() == [[1, 3]]
    assert ranked(values, 4).tolist() == [[1, 3, 4, 2]]
    assert ranked(values, 7).tolist() == [[1, 3, 4, 2, 5, 0, 6]]


def test_left_out_images_come_last():
    values = np.array([[-np.inf, 1, -np.inf, 2]], np.float32)
    assert ranked(values, 3).tolist() == [[3, 1, 0]]
    assert ranked(values, 9).tolist() == [[3, 1, 0, 2]]


@settings(deadline=None, max_examples=100)
@given(
    arrays(
        np.float32, st.tuples(st.integers(0, 4), st.integers(1, 9)), elements=st.integers(-2, 2).map(float)
    ),
    st.integers(1, 11),
)
def test_ranked_as_by_brute_force(similarity, limit):
    expected = by_brute_force(similarity, limit)
    found = ranked(similarity, limit)
    assert found.dtype == np.int64
    assert found.shape == (len(similarity), min(limit, similarity.shape[1]))
    assert found.tolist() == expected


@settings(deadline=None, max_examples=100)
@given(vector_sets(), st.integers(1, 13), st.integers(1, 400))
def test_neighbours_as_by_brute_force_in_blocks_of_any_size(vectors, limit, block_bytes):
    queries, index = vectors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block_bytes)
        indices, similarity = nearest_neighbours(queries, index, limit)
    products = [
        [sum(a * b for a, b in zip(q, x, strict=True)) for x in index.tolist()] for q in queries.tolist()
    ]
    expected = [sorted(range(len(index)), key=lambda j, row=row: -row[j])[:limit] for row in products]
    assert indices.shape == similarity.shape == (len(queries), min(limit, len(index)))
    assert indices.tolist() == expected
    assert similarity.tolist() == [
        [row[j] for j in best] for row, best in zip(products, expected, strict=True)
    ]


def test_an_empty_index_has_no_neighbours():
    indices, similarity = nearest_neighbours(np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32), 5)
    assert indices.shape == similarity.shape == (2, 0)


def test_normalised_rows_and_zero_rows():
    rows = normalised(np.array([[3, 4], [0, 0], [-2, 0]], np.float32))
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.array([[0.6, 0.8], [0, 0], [-1, 0]]))
    assert normalised(np.array([0, 5], np.float32)).tolist() == [0, 1]


def test_a_list_of_no_length():
    assert ranked(np.eye(3, dtype=np.float32), 0).shape == (3, 0)
    indices, similarity = nearest_neighbours(np.eye(3, dtype=np.float32), np.zeros((0, 3), np.float32), 5)
    assert indices.shape == similarity.shape == (3, 0)
