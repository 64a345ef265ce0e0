import heapq

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ranking.egt import explore_exploit, symmetrised, symmetrised_as_published

INF = float("inf")


def matrix(images, edges):
    """From {(first, second): weight}, directed."""
    graph = sparse.lil_matrix((images, images), dtype=np.float32)
    for (first, second), weight in edges.items():
        graph[first, second] = weight
    graph = graph.tocsr()
    graph.sort_indices()
    return graph


def both_ways(edges):
    return edges | {(second, first): weight for (first, second), weight in edges.items()}


def as_dict(graph):
    graph = graph.tocoo()
    return {(int(i), int(j)): float(w) for i, j, w in zip(graph.row, graph.col, graph.data, strict=True)}


class MaxHeap:
    """Heaviest first; of equals, the one pushed first."""

    def __init__(self):
        self.entries = []
        self.pushed = 0

    def push(self, image, weight, before):
        heapq.heappush(self.entries, (-weight, self.pushed, image, before))
        self.pushed += 1

    def pop(self):
        weight, _, image, before = heapq.heappop(self.entries)
        return image, -weight, before

    def top_weight(self):
        return -self.entries[0][0]


def pseudo_code(edges, root, limit, tau, queries, offline):
    """EXPLORE and EXPLOIT of the paper, line by line."""
    leaving = {}
    for (first, second), weight in sorted(edges.items()):
        leaving.setdefault(first, []).append((second, weight))
    settled, frontier, heap, found, heaviest = {root}, [root], MaxHeap(), {}, {}
    while True:
        for v in frontier:
            for u, w in leaving.get(v, ()):
                if u not in settled and w > heaviest.get(u, -INF):
                    heap.push(u, w, v)
                    heaviest[u] = w
        frontier = []
        if not heap.entries:
            break
        while True:
            v, w, before = heap.pop()
            if v not in queries and v != root and v not in found:
                found[v] = (w, before)
            if v not in settled:
                if offline or v not in queries:
                    frontier.append(v)
                settled.add(v)
            if not (len(found) < limit and heap.entries and heap.top_weight() > tau):
                break
        if len(found) >= limit or not (heap.entries or frontier):
            break
    return [(v, w, before) for v, (w, before) in found.items()]


@st.composite
def graphs(draw, directed=True):
    images = draw(st.integers(2, 12))
    ends = st.tuples(st.integers(0, images - 1), st.integers(0, images - 1))
    pairs = draw(
        st.sets(ends.filter(lambda pair: pair[0] != pair[1] and (directed or pair[0] < pair[1])), max_size=40)
    )
    # Few different weights, so that there are many ties; none is zero, which `lil_matrix` would drop.
    return images, {pair: float(draw(st.integers(1, 5))) for pair in sorted(pairs)}


taus = st.sampled_from([-INF, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, INF])


@settings(max_examples=400, deadline=None)
@given(graphs(), st.data(), taus, st.integers(1, 13), st.booleans())
def test_agrees_with_the_pseudo_code(graph, data, tau, limit, offline):
    images, edges = graph
    numbers = st.integers(0, images - 1)
    root, queries = data.draw(numbers), data.draw(st.sets(numbers, max_size=4))
    order, weight, parent = explore_exploit(
        matrix(images, edges), root, limit, tau, np.array(sorted(queries), np.int64), offline
    )
    found = list(zip(order.tolist(), weight.tolist(), parent.tolist(), strict=True))
    assert found == pseudo_code(edges, root, limit, tau, queries, offline)


@settings(max_examples=200, deadline=None)
@given(graphs(directed=False), st.data())
def test_without_exploiting_it_is_prim(graph, data):
    images, edges = graph
    root = data.draw(st.integers(0, images - 1))
    order, weight, parent = explore_exploit(matrix(images, both_ways(edges)), root, images, INF)
    reference = nx.Graph()
    reference.add_nodes_from(range(images))
    reference.add_weighted_edges_from((a, b, w) for (a, b), w in edges.items())
    reached = nx.node_connected_component(reference, root)
    assert set(order.tolist()) == reached - {root}
    tree = nx.maximum_spanning_tree(reference.subgraph(reached))
    # Ties make several maximum spanning trees, all of which have the same weights.
    assert sorted(weight.tolist()) == sorted(w for _, _, w in tree.edges(data="weight"))
    inside = {root}
    for image, w, before in zip(order.tolist(), weight.tolist(), parent.tolist(), strict=True):
        assert before in inside
        cut = [edge for (a, b), edge in edges.items() if (a in inside) != (b in inside)]
        assert w == max(cut) == reference[before][image]["weight"]
        inside.add(image)


# 0 - 1 heavy, 0 - 2 light, 1 - 3 in between, 2 - 4 the heaviest of all.
LADDER = both_ways({(0, 1): 50.0, (0, 2): 10.0, (1, 3): 30.0, (2, 4): 90.0})


@pytest.mark.parametrize(
    ("tau", "order", "parent"),
    [
        (INF, [1, 3, 2, 4], [0, 1, 0, 2]),
        (60.0, [1, 3, 2, 4], [0, 1, 0, 2]),
        (-INF, [1, 2, 4, 3], [0, 0, 2, 1]),
        # An edge as heavy as tau is not exploited; one above it is.
        (10.0, [1, 3, 2, 4], [0, 1, 0, 2]),
        (9.0, [1, 2, 4, 3], [0, 0, 2, 1]),
    ],
)
def test_tau_by_hand(tau, order, parent):
    found = explore_exploit(matrix(5, LADDER), 0, 9, tau)
    assert found[0].tolist() == order
    assert found[2].tolist() == parent


def test_the_limit_ends_it():
    order, weight, parent = explore_exploit(matrix(5, LADDER), 0, 2)
    assert (order.tolist(), weight.tolist(), parent.tolist()) == ([1, 3], [50, 30], [0, 1])


def test_other_queries_are_bridges_offline_alone():
    chain = matrix(3, both_ways({(0, 1): 50.0, (1, 2): 50.0}))
    queries = np.array([0, 1])
    assert explore_exploit(chain, 0, 3, queries=queries)[0].tolist() == []
    order, _, parent = explore_exploit(chain, 0, 3, queries=queries, offline=True)
    assert (order.tolist(), parent.tolist()) == ([2], [1])


def test_a_query_without_edges_finds_nothing():
    assert [len(part) for part in explore_exploit(matrix(3, {}), 1, 3)] == [0, 0, 0]


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_symmetrised(graph):
    images, edges = graph
    expected = {}
    for (a, b), weight in edges.items():
        for pair in ((a, b), (b, a)):
            expected[pair] = max(weight, expected.get(pair, -INF))
    assert as_dict(symmetrised(matrix(images, edges))) == expected


def test_symmetrised_keeps_negative_weights():
    assert as_dict(symmetrised(matrix(2, {(0, 1): -2.0}))) == {(0, 1): -2.0, (1, 0): -2.0}


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_symmetrised_as_published(graph):
    images, edges = graph
    # One slot per image for edges turned round, overwritten as the images go by.
    slot = {}
    for (a, b), weight in sorted(edges.items()):
        slot[b] = (a, max(weight, edges.get((b, a), -INF)))
    expected = dict(edges)
    for image, (neighbour, weight) in slot.items():
        expected[image, neighbour] = weight
    assert as_dict(symmetrised_as_published(matrix(images, edges))) == expected


@pytest.mark.parametrize("symmetrise", [symmetrised, symmetrised_as_published])
def test_edges_to_oneself_are_dropped(symmetrise):
    assert as_dict(symmetrise(matrix(2, {(0, 0): 9.0, (0, 1): 2.0}))) == {(0, 1): 2.0, (1, 0): 2.0}
    assert symmetrise(matrix(2, {})).nnz == 0
