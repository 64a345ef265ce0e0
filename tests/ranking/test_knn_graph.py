import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.knn_graph import knn_graph, knn_lists

AXES = np.concatenate([np.eye(2), -np.eye(2)]).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_agrees_with_sorting(kinds, neighbours):
    # Exact products and many duplicates.
    vectors = AXES[kinds]
    products = vectors @ vectors.T
    found, similarity = knn_lists(vectors, neighbours)
    graph = knn_graph(vectors, neighbours).toarray()
    for i in range(len(vectors)):
        others = [j for j in range(len(vectors)) if j != i]
        expected = sorted(others, key=lambda j: (-products[i, j], j))[:neighbours]
        assert found[i].tolist() == expected
        assert similarity[i].tolist() == products[i, expected].tolist()
        row = np.zeros(len(vectors))
        row[expected] = products[i, expected]
        assert graph[i] == pytest.approx(row)


def test_an_image_with_more_duplicates_than_room_keeps_the_first_of_them():
    found, similarity = knn_lists(AXES[[0] * 5], 2)
    assert found.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    assert (similarity == 1).all()
