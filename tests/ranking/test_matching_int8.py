import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.codegen import get_host_cpu_features

from ranking import matching_int8
from ranking.matching import match_descriptors
from ranking.matching_int8 import LANES, Int8Descriptors, Int8Matcher


def as_float32(query, candidate, minimum):
    """The matches of the same numbers in float32, whose sums are exact."""
    pairs, values = match_descriptors(query.astype(np.float32), candidate.astype(np.float32), float(minimum))
    return pairs.tolist(), values.tolist()


def as_int8(query, candidate, minimum):
    matcher = Int8Matcher(Int8Descriptors.of(query), minimum)
    pairs, values = matcher.match(Int8Descriptors.of(candidate))
    assert (pairs.dtype, values.dtype) == (np.int32, np.float32)
    return pairs.tolist(), values.tolist()


def quantised(random, n, dimension=64):
    vectors = random.normal(size=(n, dimension))
    return np.rint(127 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.int8)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 150), st.integers(1, 150), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1)
)
def test_the_matches_of_float32_with_ties_of_every_kind(rows, columns, dimension, largest, seed):
    random = np.random.default_rng(seed)
    query, candidate = (
        random.integers(-largest, largest, (n, dimension), endpoint=True).astype(np.int8)
        for n in (rows, columns)
    )
    for minimum in (-(10**6), -3.5, 0, largest**2):
        assert as_int8(query, candidate, minimum) == as_float32(query, candidate, minimum)


@pytest.mark.parametrize("dimension", [40, 64, 128, 130])
def test_the_matches_of_unit_vectors(dimension):
    random = np.random.default_rng(dimension)
    query = quantised(random, 700, dimension)
    candidate = np.vstack([quantised(random, 333, dimension), query[::2]])
    noise = random.integers(-4, 5, candidate.shape)
    candidate = np.clip(candidate + noise, -127, 127).astype(np.int8)[random.permutation(683)]
    found = as_int8(query, candidate, 0.75 * 127**2)
    assert found == as_float32(query, candidate, 0.75 * 127**2)
    assert len(found[0]) >= 340
    assert found[1] == sorted(found[1], reverse=True)


def test_a_match_exceeds_the_minimum():
    one = np.array([[3, 4, 0, 0]], np.int8)
    assert as_int8(one, one, 24.9) == ([[0, 0]], [25.0])
    assert as_int8(one, one, 25) == ([], [])


@pytest.mark.parametrize(
    "large", [np.full((9, 64), 127, np.int8), np.full((9, 64), -128, np.int8)], ids=["127", "-128"]
)
def test_numbers_too_large_for_a_key(large):
    """Products of up to 64 * 128 * 128 = 2**20."""
    random = np.random.default_rng(1)
    mixed = np.vstack([large, random.integers(-128, 128, (40, 64)).astype(np.int8)])
    assert not Int8Descriptors.of(mixed).fits
    small = quantised(random, 30)
    for pair in ((mixed, mixed), (mixed, small), (small, mixed)):
        assert as_int8(*pair, 0) == as_float32(*pair, 0)
    assert as_int8(large, large, 0)[0] == [[0, 0]]


def test_more_features_than_a_key_can_number():
    assert Int8Descriptors.of(np.zeros((65472, 1), np.int8)).fits == (LANES > 0)
    assert not Int8Descriptors.of(np.zeros((65473, 1), np.int8)).fits
    many = np.zeros((65472, 4), np.int8)
    many[-1] = 5
    one = np.full((1, 4), 5, np.int8)
    assert as_int8(many, one, 0) == ([[65471, 0]], [100.0])
    assert as_int8(one, many, 0) == ([[0, 65471]], [100.0])


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 4), (4, 0)])
def test_no_descriptors_no_matches(rows, columns):
    assert as_int8(np.zeros((rows, 8), np.int8), np.zeros((columns, 8), np.int8), -5) == ([], [])


def test_descriptors_need_not_be_contiguous():
    random = np.random.default_rng(2)
    wide = quantised(random, 80)
    query, candidate = wide[::2, ::2], np.asfortranarray(wide[1::2, ::2])
    assert as_int8(query, candidate, 0) == as_float32(
        np.ascontiguousarray(query), np.ascontiguousarray(candidate), 0
    )


OTHER_PROCESSORS = {
    "byte products of 256 bits": ("+sse4.2,+avx,+avx2,+fma,+avxvnni", 8),
    "no byte products": ("+sse4.2", 0),
}

ELSEWHERE = """
import sys
import numpy as np
from ranking.matching_int8 import LANES, Int8Descriptors, Int8Matcher
photos = np.load(sys.argv[1])
matcher = Int8Matcher(Int8Descriptors.of(photos["query"]), 0.75 * 127**2)
pairs, values = matcher.match(Int8Descriptors.of(photos["candidate"]))
np.savez(sys.argv[2], lanes=LANES, pairs=pairs, values=values)
"""


@pytest.mark.parametrize("processor", OTHER_PROCESSORS)
def test_other_processors_find_the_same(processor, monkeypatch, tmp_path):
    features, lanes = OTHER_PROCESSORS[processor]
    if not set(features.split(",")) <= set(get_host_cpu_features().split(",")):
        pytest.skip(f"this processor cannot run code for one with {features}")
    random = np.random.default_rng(3)
    query = quantised(random, 130)
    candidate = query[random.permutation(130)[:77]] + random.integers(-3, 4, (77, 64)).astype(np.int8)
    np.savez(tmp_path / "photos.npz", query=query, candidate=candidate)
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    process = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "photos.npz", tmp_path / "found.npz"],
        cwd=Path(matching_int8.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    found = np.load(tmp_path / "found.npz")
    assert found["lanes"] == lanes
    expected = as_int8(query, candidate, 0.75 * 127**2)
    assert (found["pairs"].tolist(), found["values"].tolist()) == expected
    assert len(expected[0]) > 70
