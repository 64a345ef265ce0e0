import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.features import LocalFeatures
from ranking.region import GRID, covered_region, shared_region

masks = st.one_of(
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 63), max_size=6).map(lambda bits: sum(1 << bit for bit in set(bits))),
)


def features(points):
    n = len(points)
    nothing = np.zeros(n, np.float32)
    points = np.array(points, np.float32).reshape(n, 2)
    return LocalFeatures(points, nothing, nothing, np.zeros((n, 2), np.float32))


def cells(mask):
    return {(bit // GRID, bit % GRID) for bit in range(GRID * GRID) if int(mask) >> bit & 1}


def mask(*places):
    return np.uint64(sum(1 << (GRID * row + column) for row, column in places))


def share(here, there):
    """By sets of (row, column): how much of `there` is in `here` or touches it, diagonally too."""
    near = {
        (row + down, column + right)
        for row, column in cells(here)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
        if 0 <= row + down < GRID and 0 <= column + right < GRID
    }
    return len(near & cells(there)) / len(cells(there)) if there else 0.0


def covered(points, chosen):
    region = covered_region(features(points), np.array(chosen, np.int32))
    assert isinstance(region, np.uint64)
    return cells(region)


def test_cells_are_bits_row_by_row():
    # The bounding square goes from (100, 50) to (180, 130): ten pixels a cell.
    points = [(100, 50), (180, 50), (100, 130), (135, 72), (136, 73)]
    assert covered(points, [0]) == {(0, 0)}
    assert covered(points, [1]) == {(0, 7)}
    assert covered(points, [2]) == {(7, 0)}
    assert covered(points, [3, 4]) == {(2, 3)}
    assert covered(points, [0, 1, 3]) == {(0, 0), (0, 7), (2, 3)}
    assert covered_region(features(points), np.array([1], np.int32)) == 1 << 7
    assert covered_region(features(points), np.array([2], np.int32)) == 1 << 56


def test_the_square_is_as_wide_as_the_longer_side():
    assert covered([(0, 0), (80, 20)], [1]) == {(2, 7)}
    assert covered([(0, 0), (20, 80)], [1]) == {(7, 2)}


def test_nothing_chosen_covers_nothing():
    assert covered([(0, 0), (8, 8)], []) == set()
    assert covered([], []) == set()


def test_a_single_place_is_the_first_cell():
    assert covered([(31, 7)], [0]) == {(0, 0)}
    assert covered([(31, 7), (31, 7)], [0, 1]) == {(0, 0)}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=12),
    st.integers(0, 2**12 - 1),
)
def test_covered_cells_as_counted_one_by_one(points, picked):
    points = [*points, (0, 0), (64, 64)]  # eight pixels a cell, exactly
    chosen = [i for i in range(len(points)) if picked >> i & 1]
    expected = {(min(points[i][1] // 8, 7), min(points[i][0] // 8, 7)) for i in chosen}
    assert covered(points, chosen) == expected


@pytest.mark.parametrize("place", [(0, 0), (0, 7), (7, 0), (7, 7), (3, 0), (3, 7), (0, 3), (7, 3), (4, 4)])
def test_a_cell_reaches_its_neighbours_and_wraps_around_no_border(place):
    everything = {(row, column) for row in range(GRID) for column in range(GRID)}
    row, column = place
    near = {c for c in everything if abs(c[0] - row) <= 1 and abs(c[1] - column) <= 1}
    for other in everything:
        assert shared_region(mask(place), mask(other)) == (other in near)


def test_the_share_is_of_the_second_region():
    here, there = mask((0, 0)), mask((0, 0), (1, 1), (0, 2), (5, 5))
    assert shared_region(here, there) == 0.5
    assert shared_region(there, here) == 1.0


def test_an_empty_region_shares_nothing():
    full = np.uint64(2**64 - 1)
    assert shared_region(np.uint64(0), full) == 0.0
    assert shared_region(full, np.uint64(0)) == 0.0
    assert shared_region(full, full) == 1.0


@settings(deadline=None, max_examples=200)
@given(masks, masks)
def test_the_share_as_by_sets_of_cells(here, there):
    assert shared_region(np.uint64(here), np.uint64(there)) == share(here, there)
