import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from ranking import match_graph as module
from ranking.match_graph import MINIMUM_CONFIDENCE, MatchGraph


@st.composite
def edge_lists(draw):
    """(images, [(first, second, confidence)])."""
    images = draw(st.integers(0, 8))
    possible = [(i, j) for i in range(images) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    return images, [(*draw(st.permutations(pair)), draw(st.integers(0, 8)) / 8) for pair in chosen]


def build(images, edges, **options):
    pairs = np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2)
    return MatchGraph.from_pairs(images, pairs, np.array([edge[2] for edge in edges]), **options)


def table(edges, minimum):
    """(here, there) -> confidence, both ways round."""
    kept = [edge for edge in edges if edge[2] >= minimum]
    return {(a, b): c for a, b, c in kept} | {(b, a): c for a, b, c in kept}


def read(graph):
    found = {}
    for here in range(len(graph)):
        span = slice(graph.indptr[here], graph.indptr[here + 1])
        neighbours = graph.indices[span].tolist()
        assert neighbours == sorted(set(neighbours))
        values = graph.confidence[span].tolist()
        found |= {(here, there): value for there, value in zip(neighbours, values, strict=True)}
    assert len(found) == len(graph.indices) == len(graph.confidence) == graph.indptr[-1]
    return found


def dense(graph):
    matrix = np.zeros((len(graph), len(graph)))
    for (here, there), confidence in read(graph).items():
        matrix[here, there] = confidence
    return matrix


def test_by_hand():
    graph = build(4, [(2, 0, 0.75), (0, 1, 0.5), (3, 1, 0.25)])
    assert (len(graph), graph.edges) == (4, 2)
    assert graph.indptr.tolist() == [0, 2, 3, 4, 4]
    assert graph.indices.tolist() == [1, 2, 0, 0]
    assert graph.confidence.tolist() == [0.5, 0.75, 0.5, 0.75]


def test_types():
    graph = build(3, [(0, 1, 1.0)])
    columns = graph.indptr, graph.indices, graph.confidence
    assert [column.dtype for column in columns] == [np.int64, np.int32, np.float32]


@settings(deadline=None, max_examples=100)
@given(edge_lists(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_both_directions(case, minimum):
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
    turned = [(b, a, c) if random.random() < 0.5 else (a, b, c) for a, b, c in edges]
    assert read(build(images, random.sample(turned, len(turned)))) == read(build(images, edges))


def test_pairs_are_kept_from_the_minimum_on():
    below = float(np.nextafter(np.float32(MINIMUM_CONFIDENCE), np.float32(0)))
    graph = build(3, [(0, 1, MINIMUM_CONFIDENCE), (1, 2, below)])
    assert read(graph).keys() == {(0, 1), (1, 0)}


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
        ([[0, 1], [2, 1], [1, 0]], "images 0 and 1 stands twice"),
        ([[0.0, 1.0]], "pairs must be integers, got float64"),
    ],
)
def test_errors(pairs, message):
    with pytest.raises(ValueError, match=message):
        MatchGraph.from_pairs(3, np.array(pairs), np.ones(len(pairs), np.float32))


@pytest.mark.parametrize("confidence", [[0.1, 0.1], [0.1, 0.9], [0.9, 0.1]])
def test_a_pair_that_stands_twice_below_the_minimum(confidence):
    with pytest.raises(ValueError, match="images 1 and 2 stands twice"):
        MatchGraph.from_pairs(3, np.array([[1, 2], [2, 1]]), confidence)


def test_a_confidence_that_is_not_a_number():
    with pytest.raises(ValueError, match=r"confidence \[1\] of pairs is not a number"):
        MatchGraph.from_pairs(3, np.array([[0, 1], [1, 2]]), [0.9, np.nan])
    with pytest.raises(ValueError, match=r"confidence \[0, 1\] of neighbours is not a number"):
        MatchGraph.from_neighbours(np.array([[1, 1], [0, -1]]), [[0.9, np.nan], [0.9, np.nan]])
    assert MatchGraph.from_neighbours(np.array([[1, -1], [0, -1]]), [[0.9, np.nan], [0.9, np.nan]]).edges == 1


def test_lengths_that_differ():
    pairs = np.array([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"pairs \[2\], but confidences \[3\]"):
        MatchGraph.from_pairs(3, pairs, np.ones(3))
    with pytest.raises(ValueError, match=r"neighbours \[2, 2\], but confidences \[2, 3\]"):
        MatchGraph.from_neighbours(np.array([[1, -1], [0, -1]]), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"neighbours must be \[n, k\], got \[2\]"):
        MatchGraph.from_neighbours(np.array([1, 0]), np.ones(2))


def test_neighbours_out_of_range():
    for wrong in (2, -2):
        with pytest.raises(ValueError, match=rf"images 0 to 1, got .*{wrong}"):
            MatchGraph.from_neighbours(np.array([[wrong], [0]]), np.ones((2, 1)))


def test_neighbours_by_hand():
    neighbours = np.array([[1, 2, 0], [0, -1, -1], [1, 1, 0]], np.int32)
    confidence = np.array([[0.5, 0.25, 1.0], [0.75, 1.0, 1.0], [0.5, 0.625, 0.375]])
    graph = MatchGraph.from_neighbours(neighbours, confidence)
    assert read(graph) == {(0, 1): 0.75, (1, 0): 0.75, (1, 2): 0.625, (2, 1): 0.625}
    assert MatchGraph.from_neighbours(neighbours, confidence, minimum=0.375).edges == 3


def test_a_matrix_by_hand():
    weights = sparse.csr_matrix([[1, 0.75, 0.25], [0.5, 0, 0], [0, 0.625, 0]])
    assert MatchGraph.from_matrix(weights).matrix().toarray().tolist() == [
        [0, 0.75, 0],
        [0.75, 0, 0.625],
        [0, 0.625, 0],
    ]
    weights.data[2] = np.nan
    with pytest.raises(ValueError, match=r"confidence \[2\] of edges is not a number"):
        MatchGraph.from_matrix(weights)
    with pytest.raises(ValueError, match=r"weights must be \[n, n\], got \[2, 3\]"):
        MatchGraph.from_matrix(weights[:2])


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_neighbours_are_symmetrised_by_the_maximum(data):
    images, k = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 4))
    neighbours = data.draw(arrays(st.sampled_from([np.int32, np.int64, np.int16]), (images, k),
                                  elements=st.integers(-1, images - 1)))  # fmt: skip
    confidence = data.draw(arrays(np.float32, (images, k), elements=st.integers(0, 8).map(lambda i: i / 8)))
    expected = {}
    for here in range(images):
        for there, sure in zip(neighbours[here].tolist(), confidence[here].tolist(), strict=True):
            if there >= 0 and there != here:
                for edge in ((here, there), (there, here)):
                    expected[edge] = max(expected.get(edge, 0), sure)
    graph = MatchGraph.from_neighbours(neighbours, confidence, minimum=0.25)
    assert read(graph) == {edge: sure for edge, sure in expected.items() if sure >= 0.25}


def test_nothing_leads_into_what_is_no_bridge():
    graph = build(4, [(0, 1, 1.0), (1, 2, 0.5), (2, 3, 0.75)]).without_bridges(np.array([1, 3]))
    assert read(graph) == {(1, 0): 1.0, (1, 2): 0.5, (3, 2): 0.75}


@settings(deadline=None, max_examples=100)
@given(edge_lists(), st.data())
def test_without_bridges_as_columns_of_zeros(case, data):
    images, edges = case
    closed = data.draw(st.lists(st.sampled_from(range(images)), unique=True)) if images else []
    graph = build(images, edges)
    before = read(graph)
    opened = graph.without_bridges(np.array(closed, np.int64))
    assert len(opened) == images
    left = {edge: value for edge, value in before.items() if edge[1] not in closed}
    assert read(opened) == left
    assert opened.edges == len({frozenset(edge) for edge in left})
    expected = dense(graph)
    expected[:, closed] = 0
    assert (opened.matrix().toarray() == expected).all()
    assert read(graph) == before


def full(images=5):
    return build(images, [(a, b, 1.0) for a in range(images) for b in range(a)])


@settings(deadline=None, max_examples=50)
@given(edge_lists(), st.booleans())
def test_saved_and_opened(tmp_path_factory, case, symmetric):
    images, edges = case
    graph = build(images, edges)
    if not symmetric:
        graph = graph.without_bridges(np.arange(images // 2))
    folder = tmp_path_factory.mktemp("graph") / "in" / "depth"
    graph.save(folder)
    opened = MatchGraph.open(folder)
    assert read(opened) == read(graph)
    assert (len(opened), opened.edges) == (len(graph), graph.edges)
    opened.without_bridges(np.arange(images)).matrix()
    opened.save(folder)
    assert read(MatchGraph.open(folder)) == read(graph)


def test_an_opened_graph_is_mapped(tmp_path):
    full().save(tmp_path)
    opened = MatchGraph.open(tmp_path)
    for column in (opened.indptr, opened.indices, opened.confidence):
        assert isinstance(column.base, np.memmap)
        assert not column.flags.writeable


def test_saving_replaces_in_one_step(tmp_path, monkeypatch):
    first, second = full(4), full(6)
    strange = tmp_path / "strange-1.npy"
    strange.write_text("not ours")
    first.save(tmp_path)
    opened = MatchGraph.open(tmp_path)
    for step in range(7):
        left = [step]

        def fail(*arguments, left=left, call):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("disk full")
            return call(*arguments)

        for name in ("fsync", "replace"):
            owner = module.os if name == "fsync" else module.Path
            call = getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda *a, call=call, fail=fail: fail(*a, call=call))
        if step < 5:
            with pytest.raises(OSError, match="disk full"):
                second.save(tmp_path)
        else:
            second.save(tmp_path)
        monkeypatch.undo()
        assert read(MatchGraph.open(tmp_path)) == read(first if step < 5 else second)
        assert read(opened) == read(first)
    assert len(list(tmp_path.iterdir())) == 3 + 1 + 1
    assert strange.read_text() == "not ours"


def test_a_folder_without_a_graph(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no match graph"):
        MatchGraph.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "graph.json").write_text("{"),
        lambda folder: (folder / "graph.json").write_text('{"format": 2, "files": {}}'),
        lambda folder: (folder / "indices-1.npy").unlink(),
        lambda folder: (folder / "indices-1.npy").write_bytes((folder / "indices-1.npy").read_bytes()[:-4]),
        lambda folder: np.save(folder / "indptr-1.npy", np.array([0, 2, 1, 20])),
        lambda folder: np.save(folder / "indptr-1.npy", np.array([0, 4, 8])),
        lambda folder: np.save(folder / "indptr-1.npy", np.array([4, 8, 20])),
        lambda folder: np.save(folder / "indptr-1.npy", np.zeros(0, np.int64)),
        lambda folder: np.save(folder / "confidence-1.npy", np.ones(19, np.float32)),
        lambda folder: np.save(folder / "confidence-1.npy", np.ones(20)),
    ],
)
def test_damaged_files(tmp_path, damage):
    full().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=r"the match graph in .* cannot be read \(.+\); build it again"):
        MatchGraph.open(tmp_path)


def test_another_format(tmp_path):
    full().save(tmp_path)
    header = tmp_path / "graph.json"
    for other in (1, 3):
        header.write_text(json.dumps(json.loads(header.read_text()) | {"format": other}))
        with pytest.raises(ValueError, match=rf"its format is {other}, not 2\); build it again"):
            MatchGraph.open(tmp_path)
