import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.k_reciprocal import k_reciprocal_similarity
from ranking.nearest_neighbours import normalised


def brute_force(descriptors, k1, k2, global_weight):
    """The formulas of the docstring with sets and dictionaries: [n][n]."""
    n = len(descriptors)
    cosine = (descriptors @ descriptors.T).tolist()

    def nearest(p, k):
        others = sorted((g for g in range(n) if g != p), key=lambda g: (-cosine[p][g], g))
        return [p, *others[:k]]

    def reciprocal(p, k):
        return {g for g in nearest(p, k) if p in nearest(g, k)}

    encodings = []
    for p in range(n):
        core = reciprocal(p, k1)
        members = set(core)
        for g in core:
            more = reciprocal(g, round(k1 / 2))
            if len(more & core) >= 2 / 3 * len(more):
                members |= more
        values = {g: math.exp(cosine[p][g] - 1) for g in members}
        encodings.append({g: value / sum(values.values()) for g, value in values.items()})
    averaged = []
    for p in range(n):
        near = nearest(p, k2 - 1)
        averaged.append([sum(encodings[g].get(h, 0) for g in near) / len(near) for h in range(n)])
    return [
        [
            (1 - global_weight) * sum(map(min, a, b)) / sum(map(max, a, b)) + global_weight * cosine[p][g]
            for g, b in enumerate(averaged)
        ]
        for p, a in enumerate(averaged)
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 24),
    st.integers(0, 2**31),
    st.integers(1, 8),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
)
def test_agrees_with_brute_force(n, seed, k1, k2, global_weight, ties):
    rng = np.random.default_rng(seed)
    # Few different descriptors in few dimensions: images that are equal, or equally far away.
    raw = rng.integers(-1, 2, (n, 3)) if ties else rng.normal(size=(n, 3))
    # Multiples of 1/16 have exact products, so that the order of neighbours does not hang on rounding.
    descriptors = (np.round(normalised(raw.astype(np.float32)) * 16) / 16).astype(np.float32)
    queries = rng.permutation(n)[: rng.integers(1, n + 1)]
    found = k_reciprocal_similarity(descriptors, queries, k1, k2, global_weight)
    assert found.dtype == np.float32
    assert found.shape == (len(queries), n)
    expected = np.array(brute_force(descriptors, k1, k2, global_weight))[queries]
    assert found == pytest.approx(expected, abs=1e-5)


def test_by_hand():
    # 0 and 1 are each other's nearest; 2 has 1 for its nearest, which does not have it.
    angles = np.radians([0, 10, 30])
    descriptors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = k_reciprocal_similarity(descriptors, np.array([0, 2]), k1=1, k2=1, global_weight=0.0)
    # V(0) and V(1) hold 0 and 1: what they share is twice the smaller of the two normalised weights.
    weight = math.exp(math.cos(math.radians(10)) - 1)
    small, large = weight / (1 + weight), 1 / (1 + weight)
    assert found[0] == pytest.approx([1, small / large, 0], abs=1e-6)
    assert found[1] == pytest.approx([0, 0, 1], abs=1e-6)


def test_lifts_an_image_of_the_same_neighbourhood_above_a_closer_outlier():
    # 0 .. 3 are a row of neighbours on a circle; 4 lies on the other side of 0, nearer to it than 3 is,
    # among five others that are near to one another.
    angles = np.radians([0, 12, 24, 36, -33, -37, -41, -45, -49, -53])
    descriptors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    alone = k_reciprocal_similarity(descriptors, np.array([0]), global_weight=1.0)[0]
    assert alone[4] > alone[3]
    found = k_reciprocal_similarity(descriptors, np.array([0]), k1=3, k2=2)[0]
    assert found[3] > found[4]
