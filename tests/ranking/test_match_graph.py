import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.match_graph import MINIMUM_CONFIDENCE, MatchGraph

FULL = 2**64 - 1


@st.composite
def edge_lists(draw):
    """(images, [(first, second, confidence, region of the first, region of the second)])."""
    images = draw(st.integers(0, 8))
    possible = [(i, j) for i in range(images) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    edges = []
    for i, j in chosen:
        first, second = draw(st.permutations([i, j]))
        confidence = draw(st.integers(0, 8)) / 8
        edges.append((first, second, confidence, draw(st.integers(0, FULL)), draw(st.integers(0, FULL))))
    return images, edges


def build(images, edges, **options):
    regions = np.array([edge[3:] for edge in edges], np.uint64).reshape(-1, 2)
    pairs = np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2)
    return MatchGraph.from_pairs(images, pairs, np.array([edge[2] for edge in edges]), regions, **options)


def table(edges, minimum):
    """(here, there) -> (confidence, region here, region there), both ways round."""
    kept = [edge for edge in edges if edge[2] >= minimum]
    return {(a, b): (c, p, q) for a, b, c, p, q in kept} | {(b, a): (c, q, p) for a, b, c, p, q in kept}


def read(graph):
    found = {}
    for here in range(len(graph)):
        span = slice(graph.indptr[here], graph.indptr[here + 1])
        neighbours = graph.indices[span].tolist()
        assert neighbours == sorted(set(neighbours))
        values = zip(
            graph.confidence[span].tolist(),
            graph.region_here[span].tolist(),
            graph.region_there[span].tolist(),
            strict=True,
        )
        found |= {(here, there): value for there, value in zip(neighbours, values, strict=True)}
    assert len(found) == len(graph.indices) == len(graph.confidence) == graph.indptr[-1]
    return found


def dense(graph):
    matrix = np.zeros((len(graph), len(graph)))
    for (here, there), (confidence, _, _) in read(graph).items():
        matrix[here, there] = confidence
    return matrix


def test_by_hand():
    graph = build(4, [(2, 0, 0.75, 5, 6), (0, 1, 0.5, 7, 8), (3, 1, 0.25, 9, 10)])
    assert (len(graph), graph.edges) == (4, 2)
    assert graph.indptr.tolist() == [0, 2, 3, 4, 4]
    assert graph.indices.tolist() == [1, 2, 0, 0]
    assert graph.confidence.tolist() == [0.5, 0.75, 0.5, 0.75]
    assert graph.region_here.tolist() == [7, 6, 8, 5]
    assert graph.region_there.tolist() == [8, 5, 7, 6]


def test_types():
    graph = build(3, [(0, 1, 1.0, 1, 2)])
    columns = graph.indptr, graph.indices, graph.confidence, graph.region_here, graph.region_there
    assert [column.dtype for column in columns] == [np.int64, np.int32, np.float32, np.uint64, np.uint64]


@settings(deadline=None, max_examples=100)
@given(edge_lists(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_both_directions_with_their_regions(case, minimum):
    images, edges = case
    graph = build(images, edges, minimum=minimum)
    expected = table(edges, minimum)
    assert read(graph) == expected
    assert len(graph) == images
    assert graph.edges == len(expected) // 2
    matrix = graph.matrix()
    assert matrix.shape == (images, images)
    assert (matrix.toarray() == dense(graph)).all()
    assert (matrix.toarray() == matrix.toarray().T).all()


@settings(deadline=None, max_examples=50)
@given(edge_lists(), st.randoms(use_true_random=False))
def test_the_order_of_pairs_and_within_pairs_does_not_matter(case, random):
    images, edges = case
    turned = [(b, a, c, q, p) if random.random() < 0.5 else (a, b, c, p, q) for a, b, c, p, q in edges]
    assert read(build(images, random.sample(turned, len(turned)))) == read(build(images, edges))


def test_pairs_are_kept_from_the_minimum_on():
    below = float(np.nextafter(np.float32(MINIMUM_CONFIDENCE), np.float32(0)))
    graph = build(3, [(0, 1, MINIMUM_CONFIDENCE, 1, 1), (1, 2, below, 1, 1)])
    assert read(graph).keys() == {(0, 1), (1, 0)}


def test_everything_is_covered_unless_regions_are_given():
    graph = MatchGraph.from_pairs(2, np.array([[1, 0]]), np.array([0.9], np.float32))
    assert read(graph) == {(0, 1): (np.float32(0.9), FULL, FULL), (1, 0): (np.float32(0.9), FULL, FULL)}


@pytest.mark.parametrize("images", [0, 3])
def test_no_pairs(images):
    graph = MatchGraph.from_pairs(images, np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    assert (len(graph), graph.edges) == (images, 0)
    assert graph.matrix().shape == (images, images)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([[0, 3]], "images 0 to 2, got 0 to 3"),
        ([[-1, 2]], "images 0 to 2, got -1 to 2"),
        ([[0, 1], [2, 2]], "to itself"),
        ([[0, 1], [0, 1]], "twice"),
        ([[0, 1], [2, 1], [1, 0]], "twice"),
    ],
)
def test_errors(pairs, message):
    with pytest.raises(ValueError, match=message):
        MatchGraph.from_pairs(3, np.array(pairs), np.ones(len(pairs), np.float32))


def test_nothing_leads_into_what_is_no_bridge():
    graph = build(4, [(0, 1, 1.0, 1, 2), (1, 2, 0.5, 3, 4), (2, 3, 0.75, 5, 6)]).without_bridges(
        np.array([1, 3])
    )
    assert read(graph) == {(1, 0): (1.0, 2, 1), (1, 2): (0.5, 3, 4), (3, 2): (0.75, 6, 5)}


@settings(deadline=None, max_examples=100)
@given(edge_lists(), st.data())
def test_without_bridges_as_columns_of_zeros(case, data):
    images, edges = case
    closed = data.draw(st.lists(st.sampled_from(range(images)), unique=True)) if images else []
    graph = build(images, edges)
    before = read(graph)
    opened = graph.without_bridges(np.array(closed, np.int64))
    assert len(opened) == images
    assert read(opened) == {edge: value for edge, value in before.items() if edge[1] not in closed}
    expected = dense(graph)
    expected[:, closed] = 0
    assert (opened.matrix().toarray() == expected).all()
    assert read(graph) == before
