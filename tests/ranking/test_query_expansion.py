import numpy as np
import pytest

from ranking.query_expansion import (
    ALPHA,
    ALPHA_TOP,
    alpha_query_expansion,
    average_query_expansion,
    database_augmentation,
)

QUERY = np.array([[1, 0]], np.float32)
# Cosines with the query: 0.8, 0.6, 0, -0.6.
INDEX = np.array([[0.8, 0.6], [0.6, -0.8], [0, 1], [-0.6, 0.8]], np.float32)


def unit(*vector):
    return np.array(vector) / np.hypot(*vector)


@pytest.mark.parametrize(
    ("top", "alpha", "expected"),
    [
        (1, 0.0, unit(1.8, 0.6)),
        (2, 0.0, unit(2.4, -0.2)),
        (3, 0.0, unit(2.4, 0.8)),
        (4, 0.0, unit(1.8, 1.6)),
        (9, 0.0, unit(1.8, 1.6)),
        (1, 1.0, unit(1 + 0.8 * 0.8, 0.8 * 0.6)),
        (2, 2.0, unit(1 + 0.64 * 0.8 + 0.36 * 0.6, 0.64 * 0.6 - 0.36 * 0.8)),
        (2, 3.0, unit(1 + 0.512 * 0.8 + 0.216 * 0.6, 0.512 * 0.6 - 0.216 * 0.8)),
        # The last is turned away from the query: it weighs nothing.
        (4, 1.0, unit(1 + 0.8 * 0.8 + 0.6 * 0.6, 0.8 * 0.6 - 0.6 * 0.8)),
    ],
)
def test_by_hand(top, alpha, expected):
    expanded = average_query_expansion(QUERY, INDEX, top, alpha)
    assert expanded.dtype == np.float32
    assert expanded[0] == pytest.approx(expected, abs=1e-6)


def test_five_neighbours_of_equal_weight_by_default():
    index = np.array([[1, 0, 0]] * 3 + [[0, 1, 0]] * 3 + [[0, 0, 1]], np.float32)
    expanded = average_query_expansion(np.array([[1, 0, 0]], np.float32), index)
    assert expanded[0] == pytest.approx(np.array([4, 2, 0]) / np.sqrt(20))


def test_every_query_by_itself():
    queries = np.array([[1, 0], [0, -1], [0.6, 0.8]], np.float32)
    together = average_query_expansion(queries, INDEX, 2, 1.5)
    for query, expanded in zip(queries, together, strict=True):
        assert expanded == pytest.approx(average_query_expansion(query[None], INDEX, 2, 1.5)[0], abs=1e-6)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1)


def test_alpha_query_expansion_weighs_by_a_power_of_the_similarity():
    expanded = alpha_query_expansion(QUERY, INDEX, 2, 3.0)
    assert expanded[0] == pytest.approx(
        unit(1 + 0.512 * 0.8 + 0.216 * 0.6, 0.512 * 0.6 - 0.216 * 0.8), abs=1e-6
    )
    by_default = average_query_expansion(QUERY, INDEX, ALPHA_TOP, ALPHA)
    assert alpha_query_expansion(QUERY, INDEX) == pytest.approx(by_default)


def test_database_augmentation_leaves_the_image_itself_out():
    # Similarities: 0-1 .8, 0-2 0, 1-2 -.6.
    index = np.array([[1, 0], [0.8, 0.6], [0, -1]], np.float32)
    assert database_augmentation(index, 1) == pytest.approx(
        np.array([unit(1.8, 0.6), unit(1.8, 0.6), unit(1, -1)]), abs=1e-6
    )
    weighed = database_augmentation(index, 2, alpha=2.0)
    expected = np.array([unit(1 + 0.64 * 0.8, 0.64 * 0.6), unit(0.8 + 0.64, 0.6), unit(0, -1)])
    assert weighed == pytest.approx(expected, abs=1e-6)
    assert weighed.dtype == np.float32


def test_index_in_both_places():
    # Each is its own nearest: (1, 0) + (1, 0) + (.8, .6) and (.8, .6) + (.8, .6) + (1, 0).
    index = np.array([[1, 0], [0.8, 0.6], [0, -1]], np.float32)
    expanded = average_query_expansion(index, index, 2)
    assert expanded[0] == pytest.approx(unit(2.8, 0.6))
    assert expanded[1] == pytest.approx(unit(2.6, 1.2))


def test_nothing_to_search_leaves_queries_as_they_are():
    assert average_query_expansion(QUERY, np.zeros((0, 2), np.float32)).tolist() == QUERY.tolist()
