import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ranking.matching import match_descriptors, mutual_nearest_neighbours


def matrix(rows):
    return np.array(rows, np.float32)


def matches(similarity, minimum):
    pairs, values = mutual_nearest_neighbours(similarity, float(minimum))
    assert pairs.dtype == np.int32
    assert values.dtype == np.float32
    assert pairs.shape == (len(values), 2)
    return [(i, j) for i, j in pairs.tolist()], values.tolist()


def first_best(similarity, minimum):
    """Every (i, j) of which each is the first of the other's nearest neighbours, line by line."""
    rows = similarity.tolist()
    columns = [[row[j] for row in rows] for j in range(similarity.shape[1])]
    nearest_row = [column.index(max(column)) for column in columns]
    pairs = {(i, row.index(max(row))) for i, row in enumerate(rows)}
    return {(i, j) for i, j in pairs if nearest_row[j] == i and rows[i][j] > minimum}


def test_each_others_best_by_hand():
    similarity = matrix([[0.9, 0.1, 0.8], [0.95, 0.3, 0.2], [0.0, 0.85, 0.7]])
    # Row 0 prefers column 0, which prefers row 1; column 2 prefers row 0, which prefers column 0.
    pairs, values = matches(similarity, 0.5)
    assert pairs == [(1, 0), (2, 1)]
    assert values == pytest.approx([0.95, 0.85])


@pytest.mark.parametrize(
    ("minimum", "expected"), [(0.4, [(0, 0), (1, 1)]), (0.5, [(0, 0)]), (0.75, []), (0.9, [])]
)
def test_a_match_exceeds_the_minimum(minimum, expected):
    assert matches(matrix([[0.75, 0.0], [0.0, 0.5]]), minimum)[0] == expected


def test_negative_similarities_match_above_a_negative_minimum():
    assert matches(matrix([[-0.5, -0.25], [-0.75, -0.5]]), -1)[0] == [(0, 1)]
    assert matches(matrix([[-0.5, -0.25], [-0.75, -0.5]]), 0)[0] == []


def test_the_first_of_equals_wins():
    assert matches(matrix([[1, 1, 1]]), 0)[0] == [(0, 0)]
    assert matches(matrix([[1], [1], [1]]), 0)[0] == [(0, 0)]
    assert matches(matrix([[0, 1, 1], [0, 1, 1]]), 0)[0] == [(0, 1)]
    # Row 1 and column 1 are each as good as any for the other, but both have their first elsewhere.
    assert matches(matrix([[1, 0], [1, 1]]), 0)[0] == [(0, 0)]
    assert matches(matrix([[1, 1], [0, 1]]), 0)[0] == [(0, 0)]


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_no_features_no_matches(shape):
    assert matches(np.zeros(shape, np.float32), 0.5) == ([], [])


def test_the_most_similar_comes_first():
    similarity = np.diag(np.array([0.6, 0.9, 0.8, 0.7], np.float32))
    assert matches(similarity, 0.5)[0] == [(1, 1), (2, 2), (3, 3), (0, 0)]


@settings(deadline=None, max_examples=200)
@given(
    arrays(
        np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-2, 3).map(float)
    ),
    st.integers(-3, 3),
)
def test_ties_as_by_brute_force(similarity, minimum):
    pairs, values = matches(similarity, minimum)
    assert set(pairs) == first_best(similarity, minimum)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    swapped, _ = matches(np.ascontiguousarray(similarity.T), minimum)
    assert {(i, j) for j, i in swapped} == set(pairs)
    assert values == [similarity[pair] for pair in pairs]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 30)])
def test_without_ties_as_by_brute_force(shape):
    similarity = np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)
    pairs, values = matches(similarity, 0.25)
    assert set(pairs) == first_best(similarity, 0.25)
    assert len(set(pairs)) == len(pairs)
    assert values == sorted(values, reverse=True)
    swapped, _ = matches(np.ascontiguousarray(similarity.T), 0.25)
    assert [(i, j) for j, i in swapped] == pairs


@pytest.mark.parametrize("rows", [1, 3, 7, 255, 256, 257, 600])
def test_descriptors_as_their_products(rows):
    """Whole numbers: products are exact, and ties plenty, within tiles and across them."""
    random = np.random.default_rng(rows)
    query = random.integers(-2, 3, (rows, 4)).astype(np.float32)
    candidate = random.integers(-2, 3, (90, 4)).astype(np.float32)
    products = (query.astype(int) @ candidate.T.astype(int)).astype(np.float32)
    pairs, values = match_descriptors(query, candidate, 2.0)
    assert ([(i, j) for i, j in pairs.tolist()], values.tolist()) == matches(products, 2)
    assert {(i, j) for i, j in pairs.tolist()} == first_best(products, 2)


def test_descriptors_without_ties_as_by_brute_force():
    random = np.random.default_rng(8)
    query, candidate = (random.normal(size=(n, 16)).astype(np.float32) for n in (530, 120))
    pairs, values = match_descriptors(query, candidate, 4.0)
    products = query.astype(np.float64) @ candidate.T.astype(np.float64)
    assert {(i, j) for i, j in pairs.tolist()} == first_best(products, 4.0)
    assert values == pytest.approx(products[pairs[:, 0], pairs[:, 1]], abs=1e-4)
    assert values.tolist() == sorted(values.tolist(), reverse=True)
    assert 20 < len(pairs) < 120


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 4), (4, 0)])
def test_no_descriptors_no_matches(rows, columns):
    pairs, values = match_descriptors(
        np.zeros((rows, 8), np.float32), np.zeros((columns, 8), np.float32), 0.5
    )
    assert (pairs.shape, values.shape) == ((0, 2), (0,))
