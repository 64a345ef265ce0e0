from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ranking.local_votes import local_votes


def votes(owners: list[list[int]], similarity: list[list[float]], images: int) -> list[float]:
    return local_votes(np.array(owners), np.array(similarity, np.float32), images).tolist()


def test_a_vote_is_what_a_neighbour_is_nearer_than_the_background() -> None:
    # Squared distances .2, .6, 1: .8 and .4 nearer than the last, which is no vote.
    assert votes([[2, 0, 1]], [[0.9, 0.7, 0.5]], 4) == pytest.approx([0.4, 0, 0.8, 0])


def test_a_query_descriptor_votes_once_for_an_image_and_descriptors_add_up() -> None:
    assert votes([[1, 1, 0]], [[0.9, 0.8, 0.5]], 2) == pytest.approx([0, 0.8])
    assert votes([[1, 1, 0], [1, 0, 0]], [[0.9, 0.8, 0.5], [0.7, 0.6, 0.5]], 2) == pytest.approx([0.2, 1.2])


def test_what_resembles_everything_votes_for_nothing() -> None:
    assert votes([[0, 1, 2]], [[0.99, 0.99, 0.99]], 3) == [0, 0, 0]


def test_neighbours_that_are_missing() -> None:
    # The background is then the last that is there.
    assert votes([[0, 1, -1], [-1, -1, -1]], [[0.9, 0.4, 0], [0, 0, 0]], 2) == pytest.approx([1, 0])
    assert votes([[-1, -1]], [[0, 0]], 3) == [0, 0, 0]
    assert local_votes(np.zeros((0, 5), np.int64), np.zeros((0, 5), np.float32), 3).tolist() == [0, 0, 0]


@given(st.data())
def test_votes_as_they_are_defined(data: st.DataObject) -> None:
    queries, limit, images = (data.draw(st.integers(1, 6)) for _ in range(3))
    owners = data.draw(arrays(np.int64, (queries, limit), elements=st.integers(0, images - 1)))
    drawn = data.draw(arrays(np.float32, (queries, limit), elements=st.floats(-1, 1, width=32)))
    similarity = -np.sort(-drawn, axis=1)

    expected = np.zeros(images)
    for own, near in zip(owners, similarity, strict=True):
        for image in set(own.tolist()):
            best = max(s for o, s in zip(own.tolist(), near.tolist(), strict=True) if o == image)
            expected[image] += 2 * (best - float(near[-1]))

    np.testing.assert_allclose(local_votes(owners, similarity, images), expected, atol=1e-5)
