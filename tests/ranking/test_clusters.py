import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.clusters import clusters
from ranking.match_graph import MatchGraph

CONFIDENCES = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def build(images, edges):
    pairs = np.array(list(edges), np.int64).reshape(-1, 2)
    return MatchGraph.from_pairs(images, pairs, np.array(list(edges.values()), np.float32))


@st.composite
def graphs(draw):
    images = draw(st.integers(0, 12))
    pairs = [(a, b) for a in range(images) for b in range(a)]
    chosen = draw(st.sets(st.sampled_from(pairs), max_size=25)) if pairs else set()
    return images, {pair: draw(st.sampled_from(CONFIDENCES)) for pair in sorted(chosen)}


@settings(max_examples=200, deadline=None)
@given(graphs(), st.sampled_from(CONFIDENCES))
def test_is_the_cut_of_the_maximum_spanning_forest(graph, confidence):
    images, edges = graph
    labels = clusters(build(images, edges), float(np.float32(confidence)))
    reference = nx.Graph()
    reference.add_nodes_from(range(images))
    reference.add_weighted_edges_from((a, b, w) for (a, b), w in edges.items())
    forest = nx.maximum_spanning_tree(reference)
    forest.remove_edges_from([(a, b) for a, b, w in forest.edges(data="weight") if w < confidence])
    parts = sorted(map(sorted, nx.connected_components(forest)), key=lambda part: (-len(part), part[0]))
    assert labels.tolist() == [next(i for i, part in enumerate(parts) if n in part) for n in range(images)]


def test_by_hand():
    # 5 - 3 - 1 hang together surely, 0 - 4 too; 1 - 0 is doubtful; 2 is alone.
    edges = {(5, 3): 0.9, (3, 1): 0.8, (4, 0): 0.95, (1, 0): 0.6}
    graph = build(6, edges)
    assert clusters(graph, 0.7).tolist() == [1, 0, 2, 0, 1, 0]
    assert clusters(graph, 0.5).tolist() == [0, 0, 1, 0, 0, 0]
    # 0 and 4 are the largest; of those alone, the first image comes first.
    assert clusters(graph, 0.92).tolist() == [0, 1, 2, 3, 0, 4]


def test_an_edge_of_just_that_confidence_holds():
    assert clusters(build(2, {(0, 1): 0.75}), 0.75).tolist() == [0, 0]


@pytest.mark.parametrize("closed", [[0], [1], [0, 1]])
def test_images_that_are_no_bridges_belong_where_they_lead(closed):
    graph = build(2, {(0, 1): 0.75}).without_bridges(np.array(closed))
    assert len(set(clusters(graph, 0.5).tolist())) == (2 if closed == [0, 1] else 1)
