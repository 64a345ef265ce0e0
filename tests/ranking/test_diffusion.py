import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from ranking.diffusion import diffuse
from ranking.nearest_neighbours import normalised


def dense(queries, index, k, query_k, gamma, alpha):
    """The system of the paper with full matrices, solved directly in double precision."""
    n = len(index)
    cosine = index @ index.T
    affinity = np.zeros((n, n))
    nearest = [
        sorted((j for j in range(n) if j != i), key=lambda j: (-cosine[i, j], j))[:k] for i in range(n)
    ]
    for i in range(n):
        for j in nearest[i]:
            if i in nearest[j]:
                affinity[i, j] = min(max(cosine[i, j], 0.0), max(cosine[j, i], 0.0)) ** gamma
    degree = affinity.sum(1)
    scale = np.diag([1 / np.sqrt(d) if d > 0 else 0.0 for d in degree])
    system = np.eye(n) - alpha * scale @ affinity @ scale
    result = []
    for query in queries:
        similarity = index @ query
        start = np.zeros(n)
        for i in sorted(range(n), key=lambda i: (-similarity[i], i))[:query_k]:
            start[i] = max(similarity[i], 0.0) ** gamma
        result.append(np.linalg.solve(system, start))
    return np.array(result)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(0, 2**31),
    st.integers(1, 8),
    st.integers(1, 5),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([0.5, 0.9, 0.99]),
    st.booleans(),
)
def test_agrees_with_dense_linear_algebra(n, seed, k, query_k, gamma, alpha, ties):
    rng = np.random.default_rng(seed)
    raw = rng.integers(-1, 2, (n + 2, 3)) if ties else rng.normal(size=(n + 2, 3))
    # Multiples of 1/16 have exact products, so that the order of neighbours does not hang on rounding.
    vectors = (np.round(normalised(raw.astype(np.float32)) * 16) / 16).astype(np.float32)
    index, queries = vectors[:n], vectors[n:]
    expected = dense(queries, index, k, query_k, gamma, alpha)
    found = diffuse(queries, index, k, query_k, gamma, alpha)
    assert found.dtype == np.float32
    # A residual of 1e-6 is a distance of at most 1e-6 / (1 - alpha) from the solution.
    norm = max(np.linalg.norm(expected, axis=1).max(), 1.0)
    assert found == pytest.approx(expected, abs=2e-4 * norm)


def test_by_hand():
    # Two images at 60 degrees: a = 1/2, both degrees 1/2, so S is the exchange of both.
    index = np.array([[1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    found = diffuse(index[:1], index, neighbours=1, query_neighbours=1, gamma=1.0, alpha=0.5)
    # f0 - f1 / 2 = 1 and f1 - f0 / 2 = 0.
    assert found[0] == pytest.approx([4 / 3, 2 / 3], abs=1e-5)


def test_follows_the_manifold_and_does_not_leave_it():
    # A chain of images every 5 degrees, which ends 100 degrees from the query; one image alone at -70.
    angles = np.radians([*range(0, 101, 5), -70])
    index = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = diffuse(index[:1], index, neighbours=2, query_neighbours=2)[0]
    assert (index @ index[0])[-1] > (index @ index[0])[-2]
    assert found[-2] > 0
    assert found[-1] == 0


def test_the_same_on_any_number_of_threads():
    rng = np.random.default_rng(0)
    vectors = normalised(rng.normal(size=(400, 16)).astype(np.float32))
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append(diffuse(vectors[:5], vectors))
    assert (results[0] == results[1]).all()
