import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.match_graph import MatchGraph
from ranking.mmst_c import grow_trees
from ranking.support import LARGEST_ODDS, SPREAD, support


def graph_of(images, edges):
    pairs = np.array([pair for pair, _ in edges], np.int64).reshape(-1, 2)
    return MatchGraph.from_pairs(images, pairs, np.array([c for _, c in edges], np.float32))


def supported(graph, root, depth=99, **more):
    trees = grow_trees(graph, np.array([root]), len(graph), depth=depth, minimum=0.0)
    found = support(graph, np.array([root]), trees, **more)
    return dict(zip(trees.order.tolist(), found.tolist(), strict=True))


def dense(graph, root, members):
    """The same system by plain linear algebra on full matrices."""
    n = len(graph)
    c = graph.matrix().toarray().astype(np.float64)
    odds = np.minimum(np.divide(c, 1 - c, out=np.full_like(c, 1e9), where=c < 1), LARGEST_ODDS) * (c > 0)
    degree = odds.sum(1)
    nodes = [*members, root] if odds[:, root].any() else list(members)
    system = np.eye(len(nodes))
    for i, a in enumerate(nodes):
        for j, b in enumerate(nodes):
            if odds[a, b]:
                system[i, j] -= SPREAD * odds[a, b] / np.sqrt(degree[a] * degree[b])
    solution = np.linalg.solve(system, odds[root, nodes])[: len(members)]
    assert n >= len(nodes)
    return np.maximum(solution / solution.max(), odds[root, members] / LARGEST_ODDS)


@st.composite
def graphs(draw):
    images = draw(st.integers(2, 9))
    pairs = [(a, b) for a in range(images) for b in range(a)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    levels = st.sampled_from([0.5, 0.6, 0.75, 0.9, 0.99, 1.0])
    return graph_of(images, [(pair, draw(levels)) for pair in chosen]), draw(st.integers(0, images - 1))


@given(graphs(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_equals_a_dense_solution(drawn, closed):
    graph, root = drawn
    if closed:
        graph = graph.without_bridges(np.array([root]))
    found = supported(graph, root)
    if found:
        assert list(found.values()) == pytest.approx(dense(graph, root, list(found)), abs=1e-4)


@given(graphs(), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_only_the_first_members_of_the_tree_take_part(drawn, members):
    graph, root = drawn
    found = supported(graph, root, members=members)
    inside = list(found)[:members]
    if inside:
        assert [found[image] for image in inside] == pytest.approx(dense(graph, root, inside), abs=1e-4)
    assert all(found[image] == 0 for image in list(found)[members:])


def test_two_photos_by_hand():
    # Query 0, closed; 1 and 2 verified with it at odds 4 and 1, and with each other at odds 4.
    graph = graph_of(3, [((0, 1), 0.8), ((0, 2), 0.5), ((1, 2), 0.8)]).without_bridges(np.array([0]))
    # Inside, both have degree 4, so f ~ [4 + .95, 1 + 4 * .95].
    assert supported(graph, 0) == pytest.approx({1: 1.0, 2: 4.8 / 4.95}, abs=1e-5)


def test_several_chains_count_for_more_than_one():
    # 5 hangs on one sure edge of 1; 6 is reached over 2, 3 and 4, by edges that are no surer.
    pairs = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (2, 6), (3, 6), (4, 6)]
    edges = [(pair, 0.9) for pair in pairs]
    found = supported(graph_of(7, edges).without_bridges(np.array([0])), 0)
    assert found[6] > found[5] > 0


def test_a_false_edge_carries_little_into_another_landmark():
    here = [((a, b), 0.95) for a in range(1, 6) for b in range(a + 1, 6)]
    there = [((a, b), 0.95) for a in range(6, 11) for b in range(a + 1, 11)]
    edges = [((0, 1), 0.95), ((0, 2), 0.95), ((5, 6), 0.6)]
    found = supported(graph_of(11, here + there + edges).without_bridges(np.array([0])), 0)
    assert min(found[i] for i in range(1, 6)) > 4 * max(found[i] for i in range(6, 11))


def test_trees_side_by_side_equal_each_alone_on_any_number_of_threads():
    random = np.random.default_rng(0)
    pairs = [(a, b) for a in range(600) for b in range(a) if random.random() < 0.01]
    graph = graph_of(600, [(pair, random.uniform(0.5, 1)) for pair in pairs])
    roots = np.arange(600)
    trees = grow_trees(graph, roots, 50)
    one, many = (support(graph, roots, trees, threads=threads) for threads in (1, 4))
    assert one.tobytes() == many.tobytes()
    for root in (0, 17, 599):
        alone = support(graph, roots[[root]], grow_trees(graph, roots[[root]], 50))
        assert alone.tobytes() == one[trees.indptr[root] : trees.indptr[root + 1]].tobytes()


def test_a_root_without_edges_supports_nothing():
    graph = graph_of(3, [((1, 2), 0.9)])
    assert supported(graph, 0) == {}
    assert support(graph, np.zeros(0, np.int64), grow_trees(graph, np.zeros(0, np.int64), 3)).shape == (0,)


def test_roots_and_trees_must_agree():
    graph = graph_of(3, [((1, 2), 0.9)])
    with pytest.raises(ValueError, match="2 roots, but 1 trees"):
        support(graph, np.array([0, 1]), grow_trees(graph, np.array([0]), 3))
