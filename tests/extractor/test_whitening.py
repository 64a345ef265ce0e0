from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from extractor.whitening import Whitening, unit_rows


def descriptors(n: int = 200, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    spread = np.geomspace(4, 0.1, dimension)
    return (rng.normal(size=(n, dimension)) * spread + rng.normal(size=dimension)).astype(np.float32)


CROSS = np.array([[2, 0], [-2, 0], [0, 1], [0, -1]], np.float32)


def test_centring_by_hand() -> None:
    points = np.array([[1, 0], [3, 0], [2, 3]], np.float32)
    whitening = Whitening.fit(points)
    np.testing.assert_allclose(whitening.mean, [2, 1])
    assert whitening.dimension == 2
    root = np.sqrt(0.5)
    np.testing.assert_allclose(whitening.apply(points), [[-root, -root], [root, -root], [0, 1]], atol=1e-6)


def test_whitening_by_hand() -> None:
    # The variances are 2 and 1/2, their mean 5/4; 10 * 2 / 4 times that, 25/4, is added to each.
    whitening = Whitening.fit(CROSS, 2)
    np.testing.assert_allclose(whitening.mean, [0, 0])
    np.testing.assert_allclose(whitening.projection, np.diag([8.25**-0.5, 6.75**-0.5]), rtol=1e-6)
    expected = np.array([3 * 8.25**-0.5, 4 * 6.75**-0.5])
    np.testing.assert_allclose(
        whitening.apply(np.array([[3, 4]], np.float32))[0], expected / np.linalg.norm(expected), rtol=1e-6
    )


def test_whitening_keeps_the_widest_directions() -> None:
    whitening = Whitening.fit(CROSS, 1)
    assert whitening.dimension == 1
    assert whitening.projection is not None
    assert whitening.projection[1, 0] == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(whitening.apply(np.array([[5, 9], [-5, 9]], np.float32)), [[1], [-1]])


def test_mean_is_zero_and_directions_are_uncorrelated() -> None:
    points = descriptors()
    centred = points - Whitening.fit(points).mean
    np.testing.assert_allclose(centred.mean(0), 0, atol=1e-5)
    whitening = Whitening.fit(points, 6)
    assert whitening.projection is not None
    mapped = (points - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(mapped.mean(0), 0, atol=1e-5)
    covariance = np.cov(mapped.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-4
    spreads = np.diag(covariance)
    assert (np.diff(spreads) < 0).all()
    assert spreads.max() / spreads.min() < (points.std(0).max() / np.sort(points.std(0))[-6]) ** 2


def test_with_many_descriptors_variances_become_equal() -> None:
    points = descriptors(40_000, 4)  # more than one chunk
    whitening = Whitening.fit(points, 4)
    assert whitening.projection is not None
    mapped = (points - whitening.mean) @ whitening.projection
    # Variances from 16 to 0.01; the least is shrunk most, by 10 * 4 / 40000 * 4.6 = 0.0046.
    np.testing.assert_allclose(np.diag(np.cov(mapped.T))[[0, 3]], [1, 0.01 / 0.0146], atol=0.02)


def test_signs_do_not_depend_on_order() -> None:
    points = descriptors()
    ours, theirs = Whitening.fit(points, 5).projection, Whitening.fit(points[::-1].copy(), 5).projection
    assert ours is not None
    assert theirs is not None
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (ours[np.abs(ours).argmax(0), range(5)] > 0).all()


@pytest.mark.parametrize("dimension", [None, 5])
def test_round_trip(dimension: int | None) -> None:
    points = descriptors()
    whitening = Whitening.fit(points, dimension)
    data = whitening.to_bytes()
    read = Whitening.from_bytes(data)
    np.testing.assert_array_equal(read.apply(points), whitening.apply(points))
    assert read.dimension == whitening.dimension == (dimension or 16)
    assert read.fingerprint == whitening.fingerprint
    assert read.to_bytes() == data


def test_fingerprints_differ() -> None:
    points = descriptors()
    maps = [Whitening.fit(points, d) for d in (None, 4, 5)] + [Whitening.fit(points[1:])]
    assert len({whitening.fingerprint for whitening in maps}) == 4


def test_damaged_bytes_are_refused() -> None:
    data = Whitening.fit(descriptors(), 5).to_bytes()
    pickled = io.BytesIO()
    np.savez(pickled, mean=np.array([{"a": 1}], object))
    other = io.BytesIO()
    np.savez(other, average=np.zeros(3, np.float32))
    for damaged in (b"", b"not an archive", data[:200], data[:-30], pickled.getvalue(), other.getvalue()):
        with pytest.raises(ValueError, match="not a stored whitening"):
            Whitening.from_bytes(damaged)


def test_one_descriptor_alone_is_not_centred() -> None:
    whitening = Whitening.fit(np.array([[3, 4]], np.float32))
    np.testing.assert_array_equal(whitening.mean, [0, 0])
    np.testing.assert_allclose(whitening.apply(np.array([[3, 4]], np.float32)), [[0.6, 0.8]])


def test_the_mean_itself_gets_a_unit_vector() -> None:
    whitening = Whitening.fit(CROSS)
    np.testing.assert_allclose(whitening.apply(np.zeros((1, 2), np.float32)), [[0.5**0.5, 0.5**0.5]])


def test_errors() -> None:
    points = descriptors(10, 16)
    for dimension in (0, 10, 17):
        with pytest.raises(ValueError, match=f"cannot whiten to {dimension} dimensions from 10 .* at most 9"):
            Whitening.fit(points, dimension)
    assert Whitening.fit(points, 9).dimension == 9
    with pytest.raises(ValueError, match=r"N and D at least 1, got \(0, 16\)"):
        Whitening.fit(points[:0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        Whitening.fit(np.array([[1, np.nan]], np.float32))
    with pytest.raises(ValueError, match=r"must have shape \[N, 16\], got \(1, 15\)"):
        Whitening.fit(points).apply(points[:1, :15])
    with pytest.raises(ValueError, match="mean must be"):
        Whitening(np.zeros(3))
    with pytest.raises(ValueError, match="projection must be"):
        Whitening(np.zeros(3, np.float32), np.zeros((2, 2), np.float32))


def test_very_small_and_very_large_rows() -> None:
    rows = np.array([[3e-23, 4e-23], [3e30, 4e30], [0, 1e-30]], np.float32)
    np.testing.assert_allclose(unit_rows(rows), [[0.6, 0.8], [0.6, 0.8], [0, 1]], rtol=1e-6)


@given(arrays(np.float32, (5, 3), elements=st.floats(-100, 100, width=32)))
def test_rows_are_always_of_unit_norm(points: NDArray[np.float32]) -> None:
    centring, whitening = Whitening.fit(points), Whitening.fit(points, 2)
    for mapped in (unit_rows(points), centring.apply(points), whitening.apply(points)):
        assert mapped.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, rtol=1e-4)
