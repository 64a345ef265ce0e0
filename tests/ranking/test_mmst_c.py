import math
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ranking import mmst_c
from ranking.match_graph import MatchGraph
from ranking.mmst_c import DEPTH, SpanningTree, grow_tree, grow_trees, rank


def build(images, edges, closed=()):
    """From (first, second, confidence)."""
    graph = MatchGraph.from_pairs(
        images,
        np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2),
        np.array([edge[2] for edge in edges], np.float32),
        minimum=0.0,
    )
    return graph.without_bridges(np.array(closed, np.int64))


def prim(images, edges, root, depth, minimum, closed=()):
    """Prim over dictionaries, looking at every edge that leaves the tree before each addition."""
    leaving = {i: [] for i in range(images)}
    for a, b, confidence in edges:
        if b not in closed:
            leaving[a].append((b, confidence))
        if a not in closed:
            leaving[b].append((a, confidence))
    # image -> (parent, confidence of its chain, edges from the root)
    tree = {root: (None, np.float32(1), 0)}
    while True:
        best = None
        for place, (image, (_, value, steps)) in enumerate(tree.items()):
            if steps == depth:
                continue
            for neighbour, confidence in leaving[image]:
                if neighbour in tree:
                    continue
                chain = value * np.float32(confidence)
                if chain <= 0 or chain < minimum:
                    continue
                key = (-chain, neighbour, place)
                if best is None or key < best[0]:
                    best = key, neighbour, (image, chain, steps + 1)
        if best is None:
            del tree[root]
            return [(image, parent, float(chain)) for image, (parent, chain, _) in tree.items()]
        tree[best[1]] = best[2]


def listed(tree):
    assert (tree.order.dtype, tree.confidence.dtype, tree.parent.dtype) == (np.int32, np.float32, np.int32)
    return list(zip(tree.order.tolist(), tree.parent.tolist(), tree.confidence.tolist(), strict=True))


@st.composite
def edge_lists(draw, most=9):
    """Confidences in eighths: products are exact, and ties plenty."""
    images = draw(st.integers(1, most))
    possible = [(i, j) for i in range(images) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True, max_size=24)) if possible else []
    return images, [(*draw(st.permutations(pair)), draw(st.integers(1, 8)) / 8) for pair in chosen]


def test_the_most_confident_chain_first_by_hand():
    edges = [(0, 1, 0.5), (0, 2, 0.75), (2, 3, 0.875), (3, 1, 0.875), (1, 4, 1.0), (5, 6, 1.0)]
    # 0-2 0.75, 0-2-3 0.65625, 0-2-3-1 0.57421875 beats 0-1 0.5, and 4 hangs on 1.
    expected = [(2, 0, 0.75), (3, 2, 0.65625), (1, 3, 0.57421875), (4, 1, 0.57421875)]
    assert listed(grow_tree(build(7, edges), 0, minimum=0.01)) == expected


def test_equal_confidences_by_index():
    edges = [(0, 3, 0.5), (0, 2, 0.5), (0, 1, 1.0), (1, 4, 0.5)]
    assert [entry[:2] for entry in listed(grow_tree(build(5, edges), 0, minimum=0.01))] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 1),
    ]


def test_the_first_of_equal_parents():
    edges = [(0, 1, 1.0), (0, 2, 1.0), (1, 3, 0.5), (2, 3, 0.5)]
    assert listed(grow_tree(build(4, edges), 0, minimum=0.01))[-1] == (3, 1, 0.5)


@settings(deadline=None, max_examples=200)
@given(edge_lists(), st.integers(0, 5), st.sampled_from([0.0, 0.01, 0.125, 0.25, 0.75]), st.data())
def test_as_by_prim_over_dictionaries(case, depth, minimum, data):
    images, edges = case
    image = st.integers(0, images - 1)
    root = data.draw(image)
    closed = data.draw(st.lists(image, unique=True, max_size=2))
    tree = grow_tree(build(images, edges, closed), root, depth, minimum)
    assert listed(tree) == prim(images, edges, root, depth, minimum, closed)


@settings(deadline=None, max_examples=60)
@given(edge_lists(most=14), st.data())
def test_every_chain_is_the_best_path(case, data):
    images, edges = case
    root = data.draw(st.integers(0, images - 1))
    tree = grow_tree(build(images, edges), root, depth=images, minimum=0.0)
    network = nx.Graph()
    network.add_nodes_from(range(images))
    network.add_weighted_edges_from((a, b, -math.log(c)) for a, b, c in edges)
    assert set(tree.order.tolist()) == nx.node_connected_component(network, root) - {root}
    distance = nx.single_source_dijkstra_path_length(network, root)
    for image, confidence in zip(tree.order.tolist(), tree.confidence.tolist(), strict=True):
        assert confidence == pytest.approx(math.exp(-distance[image]), rel=1e-5)
        chain = tree.chain(image)
        assert (chain[0], chain[-1], len(set(chain))) == (root, image, len(chain))
        steps = [network.edges[step]["weight"] for step in pairwise(chain)]
        assert math.exp(-sum(steps)) == pytest.approx(confidence, rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(edge_lists(), st.integers(1, 4), st.data())
def test_chains_follow_edges_and_are_no_longer_than_the_depth(case, depth, data):
    images, edges = case
    root = data.draw(st.integers(0, images - 1))
    tree = grow_tree(build(images, edges), root, depth, 0.0)
    pairs = {frozenset(edge[:2]) for edge in edges}
    for image in tree.order.tolist():
        chain = tree.chain(image)
        assert (chain[0], chain[-1]) == (root, image)
        assert 2 <= len(chain) <= depth + 1
        assert all(frozenset(step) in pairs for step in pairwise(chain))
    assert sorted(tree.confidence.tolist(), reverse=True) == tree.confidence.tolist()


def test_chain_by_hand():
    tree = grow_tree(build(6, [(3, 1, 1.0), (1, 4, 1.0), (4, 0, 1.0), (3, 5, 1.0)]), 3, minimum=0.01)
    assert tree.chain(0) == [3, 1, 4, 0]
    assert tree.chain(5) == [3, 5]
    assert tree.chain(2) == []
    assert tree.chain(3) == []


@pytest.mark.parametrize(("depth", "reached"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_depth_is_the_longest_chain_in_edges(depth, reached):
    path = build(4, [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0)])
    assert grow_tree(path, 0, depth).order.tolist() == reached


def test_chains_are_cut_by_default():
    long = DEPTH + 3
    path = build(long, [(i, i + 1, 1.0) for i in range(long - 1)])
    assert grow_tree(path, 0).order.tolist() == list(range(1, DEPTH + 1))


def test_chains_are_cut_below_the_minimum():
    path = build(4, [(0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.5)])
    assert grow_tree(path, 0, minimum=0.25).order.tolist() == [1, 2]
    assert grow_tree(path, 0, minimum=0.2500001).order.tolist() == [1]


def test_online_queries_are_reached_by_nobody():
    edges = [(0, 1, 1.0), (1, 2, 1.0), (0, 3, 1.0), (3, 4, 1.0)]
    assert grow_tree(build(5, edges, closed=[0, 3]), 0, minimum=0.01).order.tolist() == [1, 2]
    assert grow_tree(build(5, edges, closed=[0]), 0, minimum=0.01).order.tolist() == [1, 2, 3, 4]


def test_a_root_without_edges_reaches_nothing():
    tree = grow_tree(build(3, [(0, 1, 1.0)]), 2, minimum=0.01)
    assert listed(tree) == []
    assert tree.chain(0) == []


@settings(deadline=None, max_examples=200)
@given(edge_lists(), st.integers(1, 4), st.sampled_from([0.0, 0.125, 0.5]), st.data())
def test_many_trees_are_single_trees_cut_at_the_limit(case, limit, minimum, data):
    images, edges = case
    roots = data.draw(st.lists(st.integers(0, images - 1), max_size=5))
    index = data.draw(st.none() | st.integers(0, images))
    graph = build(images, edges)
    trees = grow_trees(graph, np.array(roots, np.int64), limit, index, depth=3, minimum=minimum)
    assert len(trees) == len(roots)
    for root, tree in zip(roots, trees, strict=True):
        expected = []
        for entry in prim(images, edges, root, 3, minimum):
            if sum(image < (images if index is None else index) for image, *_ in expected) == limit:
                break
            expected.append(entry)
        assert listed(tree) == expected


@pytest.fixture(scope="module")
def crowded():
    """300 images of 40 neighbours each; many chains compete, and confidences in 64ths often tie."""
    random = np.random.default_rng(7)
    pairs = np.unique(np.sort(random.integers(0, 300, (6000, 2)), 1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    confidence = (random.integers(1, 65, len(pairs)) / 64).astype(np.float32)
    return MatchGraph.from_pairs(300, pairs, confidence, minimum=0.0)


@pytest.mark.parametrize("limit", [1, 7, 50, 300, 1000])
@pytest.mark.parametrize("index", [None, 120])
def test_a_limit_changes_nothing_before_it(crowded, limit, index):
    roots = np.arange(300)
    trees = grow_trees(crowded, roots, limit, index)
    for root, tree in zip(roots, trees, strict=True):
        whole = listed(grow_tree(crowded, root))
        assert len(whole) > 100
        counted = np.cumsum([image < (index or 300) for image, *_ in whole])
        assert listed(tree) == whole[: np.searchsorted(counted, limit) + 1]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_on_any_number_of_threads(crowded, threads, monkeypatch):
    roots = np.random.default_rng(8).integers(0, 300, 100)
    expected = grow_trees(crowded, roots, 20)
    monkeypatch.setattr(mmst_c, "_BLOCK", 7)
    trees = grow_trees(crowded, roots, 20, threads=threads)
    for column in ("indptr", "order", "confidence", "parent"):
        assert (getattr(trees, column) == getattr(expected, column)).all()


def test_queries_are_bridges_that_do_not_count():
    path = build(6, [(5, 4, 1.0), (4, 3, 1.0), (3, 0, 1.0), (0, 2, 0.5), (2, 1, 0.5)])
    trees = grow_trees(path, np.array([5, 5]), 2, index=3, minimum=0.01)
    for tree in trees:
        assert listed(tree) == [(4, 5, 1.0), (3, 4, 1.0), (0, 3, 1.0), (2, 0, 0.5)]
        assert tree.chain(2) == [5, 4, 3, 0, 2]


def test_trees_by_number():
    trees = grow_trees(build(4, [(0, 1, 1.0), (1, 2, 0.5)]), np.array([2, 3, 0]), 9)
    assert trees.indptr.tolist() == [0, 2, 2, 4]
    assert [tree.order.tolist() for tree in trees] == [[1, 0], [], [1, 2]]
    assert trees[-1].order.tolist() == trees[2].order.tolist() == [1, 2]
    with pytest.raises(IndexError):
        trees[3]


def test_no_roots_no_trees():
    trees = grow_trees(build(2, []), np.array([], np.int64), 5)
    assert (len(trees), trees.indptr.tolist(), list(trees)) == (0, [0], [])


@pytest.mark.parametrize("root", [-1, 3])
def test_a_root_must_be_an_image(root):
    with pytest.raises(ValueError, match=f"no image {root} in a match graph of 3"):
        grow_trees(build(3, []), np.array([0, root]), 5)
    with pytest.raises(ValueError, match=f"no image {root} in a match graph of 3"):
        grow_tree(build(3, []), root)


def test_a_limit_of_nothing():
    with pytest.raises(ValueError, match="limit must be 1 or more, got 0"):
        grow_trees(build(3, []), np.array([0]), 0)


@pytest.fixture
def doubled(monkeypatch):
    monkeypatch.setattr(mmst_c, "SUPPORT_WEIGHT", 2.0)


def lifted(order, support, similarity, limit=99):
    tree = SpanningTree(
        np.array(order, np.int32), np.ones(len(order), np.float32), np.zeros(len(order), np.int32)
    )
    images, scores = rank(tree, np.array(support, np.float32), np.array(similarity, np.float32), limit)
    assert (images.dtype, scores.dtype) == (np.int64, np.float32)
    assert (scores <= 1).all()
    scaled = scores.astype(float) * (1 + mmst_c.SUPPORT_WEIGHT)
    return list(zip(images.tolist(), scaled.round(4).tolist(), strict=True))


@pytest.mark.usefixtures("doubled")
def test_rank_lifts_what_tree_and_descriptors_agree_on():
    # 1 is trebled, 5 doubled, and 3 is as far away as it was.
    found = lifted([1, 3, 5], [1.0, 1.0, 0.5], [0.5, 0.25, 0.5, -0.5, 0.875, 0.375])
    assert found == [(4, 0.875), (1, 0.75), (5, 0.75), (0, 0.5), (2, 0.5), (3, -0.5)]


def test_rank_leaves_the_similarities_alone():
    similarity = np.array([0.5, 0.25], np.float32)
    rank(SpanningTree(*np.array([[1], [1], [0]])), np.ones(1, np.float32), similarity, 2)
    assert similarity.tolist() == [0.5, 0.25]


def test_without_a_tree_the_order_is_that_of_the_descriptors():
    assert lifted([], [], [0.25, 0.5, 0.25]) == [(1, 0.5), (0, 0.25), (2, 0.25)]


@pytest.mark.usefixtures("doubled")
def test_what_is_left_out_stays_out_though_the_tree_reached_it():
    assert lifted([0, 3], [1.0, 1.0], [-np.inf, 0.5, -np.inf, 0.25]) == [(3, 0.75), (1, 0.5)]
    assert lifted([0], [1.0], [-np.inf, -np.inf]) == []


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([-math.inf, -0.5, 0.0, 0.25, 0.5]), min_size=1, max_size=10),
    st.integers(1, 12),
    st.data(),
)
@example([0.0, 0.0, 0.0], 2, None)
def test_rank_as_by_sorting(similarity, limit, data):
    order = data.draw(st.lists(st.sampled_from(range(len(similarity))), unique=True)) if data else []
    support = [data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) for _ in order]
    raised = list(similarity)
    for image, value in zip(order, support, strict=True):
        if similarity[image] > 0:
            raised[image] *= 1 + mmst_c.SUPPORT_WEIGHT * value
    kept = [i for i in range(len(raised)) if math.isfinite(raised[i])]
    expected = sorted(kept, key=lambda i: -raised[i])[:limit]
    assert lifted(order, support, similarity, limit) == [(i, raised[i]) for i in expected]
