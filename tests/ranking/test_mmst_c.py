import math
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ranking.match_graph import MatchGraph
from ranking.mmst_c import BRIDGE_WEIGHT, DEPTH, SpanningTree, grow_tree, rank
from ranking.region import GRID

FULL = 2**64 - 1
LEFT, RIGHT = 0x0303030303030303, 0xC0C0C0C0C0C0C0C0
TOP = 0xFF


def build(images, edges, closed=()):
    """From (first, second, confidence[, region of the first, region of the second])."""
    edges = [(*edge, FULL, FULL)[:5] for edge in edges]
    graph = MatchGraph.from_pairs(
        images,
        np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2),
        np.array([edge[2] for edge in edges], np.float32),
        np.array([edge[3:] for edge in edges], np.uint64).reshape(-1, 2),
        minimum=0.0,
    )
    return graph.without_bridges(np.array(closed, np.int64))


def near(mask):
    """The cells of a mask and all that touch them, as a set of (row, column)."""
    bits = [divmod(bit, GRID) for bit in range(64) if mask >> bit & 1]
    return {
        (row + a, column + b)
        for row, column in bits
        for a in (-1, 0, 1)
        for b in (-1, 0, 1)
        if row + a in range(GRID) and column + b in range(GRID)
    }


def share(here, there):
    cells = {divmod(bit, GRID) for bit in range(64) if there >> bit & 1}
    return len(near(here) & cells) / len(cells) if cells else 0.0


def prim(images, edges, root, depth, minimum, closed=()):
    """Prim over dictionaries, looking at every edge that leaves the tree before each addition."""
    leaving = {i: [] for i in range(images)}
    for edge in edges:
        a, b, confidence, region_a, region_b = (*edge, FULL, FULL)[:5]
        if b not in closed:
            leaving[a].append((b, confidence, region_a, region_b))
        if a not in closed:
            leaving[b].append((a, confidence, region_b, region_a))
    # image -> (parent, confidence of its chain, region that its chain arrives in, edges from the root)
    tree = {root: (None, np.float32(1), None, 0)}
    while True:
        best = None
        for place, (image, (_, value, arrived, steps)) in enumerate(tree.items()):
            if steps == depth:
                continue
            for neighbour, confidence, region_here, region_there in leaving[image]:
                if neighbour in tree:
                    continue
                chain = float(value * np.float32(confidence))
                if image != root:
                    chain *= 0.5 + 0.5 * share(arrived, region_here)
                chain = np.float32(chain)
                if chain <= 0 or chain < minimum:
                    continue
                key = (-chain, neighbour, place)
                if best is None or key < best[0]:
                    best = key, neighbour, (image, chain, region_there, steps + 1)
        if best is None:
            del tree[root]
            return [(image, parent, float(chain)) for image, (parent, chain, _, _) in tree.items()]
        tree[best[1]] = best[2]


def listed(tree):
    assert (tree.order.dtype, tree.confidence.dtype, tree.parent.dtype) == (np.int32, np.float32, np.int32)
    return list(zip(tree.order.tolist(), tree.parent.tolist(), tree.confidence.tolist(), strict=True))


regions = st.one_of(st.sampled_from([0, TOP, LEFT, RIGHT, FULL]), st.integers(0, FULL))


@st.composite
def edge_lists(draw, regional=True, most=9):
    """Confidences in eighths: products are exact, and ties plenty."""
    images = draw(st.integers(1, most))
    possible = [(i, j) for i in range(images) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True, max_size=24)) if possible else []
    edges = []
    for pair in chosen:
        edge = (*draw(st.permutations(pair)), draw(st.integers(1, 8)) / 8)
        edges.append((*edge, draw(regions), draw(regions)) if regional else edge)
    return images, edges


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
@given(edge_lists(regional=False, most=14), st.data())
def test_with_full_regions_every_chain_is_the_best_path(case, data):
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


def test_a_photo_of_two_landmarks_is_half_a_bridge_between_them():
    # 0 and 1 show the left one, 2 the right one, 3 both; 4 shows the left one too.
    edges = [
        (0, 3, 1.0, FULL, LEFT),
        (3, 2, 1.0, RIGHT, FULL),
        (3, 1, 0.75, LEFT, FULL),
        (4, 3, 0.5, FULL, LEFT),
    ]
    left = [(3, 0, 1.0), (1, 3, 0.75), (2, 3, 0.5), (4, 3, 0.5)]
    assert listed(grow_tree(build(5, edges), 0, minimum=0.01)) == left
    right = [(3, 2, 1.0), (0, 3, 0.5), (1, 3, 0.375), (4, 3, 0.25)]
    assert listed(grow_tree(build(5, edges), 2, minimum=0.01)) == right


def test_half_the_inliers_elsewhere_cost_a_quarter_of_the_confidence():
    corner, far = 0x1, 0x8000000000000000
    edges = [(0, 1, 1.0, FULL, corner), (1, 2, 1.0, corner | far, FULL)]
    assert listed(grow_tree(build(3, edges), 0, minimum=0.01)) == [(1, 0, 1.0), (2, 1, 0.75)]
    # The way back starts at 2: all that 1 shares with 0 is in what it shares with 2.
    assert listed(grow_tree(build(3, edges), 2, minimum=0.01)) == [(1, 2, 1.0), (0, 1, 1.0)]


def test_the_region_of_the_root_binds_nothing():
    edges = [(0, 1, 1.0, LEFT, FULL), (0, 2, 1.0, RIGHT, FULL), (0, 3, 1.0, 0, FULL)]
    assert grow_tree(build(4, edges), 0, minimum=0.01).order.tolist() == [1, 2, 3]


def test_online_queries_are_reached_by_nobody():
    edges = [(0, 1, 1.0), (1, 2, 1.0), (0, 3, 1.0), (3, 4, 1.0)]
    assert grow_tree(build(5, edges, closed=[0, 3]), 0, minimum=0.01).order.tolist() == [1, 2]
    assert grow_tree(build(5, edges, closed=[0]), 0, minimum=0.01).order.tolist() == [1, 2, 3, 4]


def test_a_root_without_edges_reaches_nothing():
    tree = grow_tree(build(3, [(0, 1, 1.0)]), 2, minimum=0.01)
    assert listed(tree) == []
    assert tree.chain(0) == []


def grown(order, confidence):
    order = np.array(order, np.int32)
    return SpanningTree(order, np.array(confidence, np.float32), np.zeros(len(order), np.int32))


def test_rank_lifts_what_the_tree_is_sure_of():
    similarity = np.array([0.5, 0.25, 0.5, 0.0, 0.75], np.float32)
    images, scores = rank(grown([3, 1], [1.0, 0.5]), similarity, 5, bridge_weight=0.625)
    assert (images.dtype, scores.dtype) == (np.int64, np.float32)
    assert images.tolist() == [4, 3, 1, 0, 2]
    assert scores.tolist() == [0.75, 0.625, 0.5625, 0.5, 0.5]
    assert similarity.tolist() == [0.5, 0.25, 0.5, 0.0, 0.75]


def test_rank_by_default_weight():
    _, scores = rank(grown([0], [1.0]), np.zeros(2, np.float32), 2)
    assert scores.tolist() == [pytest.approx(BRIDGE_WEIGHT), 0]


def test_without_a_tree_the_order_is_that_of_the_descriptors():
    images, scores = rank(grown([], []), np.array([0.25, 0.5, 0.25], np.float32), 3)
    assert images.tolist() == [1, 0, 2]
    assert scores.tolist() == [0.5, 0.25, 0.25]


def test_what_is_left_out_stays_out_though_the_tree_reached_it():
    similarity = np.array([-np.inf, 0.5, -np.inf, 0.25], np.float32)
    assert rank(grown([0, 3], [1.0, 1.0]), similarity, 4, 0.5)[0].tolist() == [3, 1]
    assert rank(grown([0], [1.0]), np.full(2, -np.inf, np.float32), 2)[0].tolist() == []


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([-math.inf, -0.5, 0.0, 0.25, 0.5]), min_size=1, max_size=10),
    st.integers(1, 12),
    st.data(),
)
@example([0.0, 0.0, 0.0], 2, None)
def test_rank_as_by_sorting(similarity, limit, data):
    order = data.draw(st.lists(st.sampled_from(range(len(similarity))), unique=True)) if data else []
    confidence = [data.draw(st.sampled_from([0.25, 0.5, 1.0])) for _ in order]
    lifted = list(similarity)
    for image, value in zip(order, confidence, strict=True):
        lifted[image] += 0.5 * value
    kept = [i for i in range(len(lifted)) if math.isfinite(lifted[i])]
    expected = sorted(kept, key=lambda i: -lifted[i])[:limit]
    images, scores = rank(grown(order, confidence), np.array(similarity, np.float32), limit, 0.5)
    assert images.tolist() == expected
    assert scores.tolist() == [lifted[i] for i in expected]
