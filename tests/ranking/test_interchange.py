import re

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ranking.interchange import (
    NeighbourLists,
    read_egt,
    read_npz,
    to_networkx,
    write_egt,
    write_graphml,
    write_npz,
)
from ranking.match_graph import MatchGraph

GRAPH = MatchGraph.from_pairs(4, np.array([[2, 0], [0, 1], [3, 1]]), [0.75, 0.5, 0.25], minimum=0.5)
INLIERS = sparse.csr_matrix(np.array([[0, 7, 30, 0], [7, 0, 0, 4], [30, 0, 0, 0], [0, 4, 0, 0]]))
IDS = ["tower", "Église", "0", "x/y.jpg"]


@st.composite
def graphs(draw):
    images = draw(st.integers(0, 7))
    possible = [(i, j) for i in range(images) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    sure = draw(st.lists(st.floats(0, 1, width=32), min_size=len(chosen), max_size=len(chosen)))
    return MatchGraph.from_pairs(
        images, np.array(chosen, int).reshape(-1, 2), np.array(sure, "f4"), minimum=0
    )


def names(count, alphabet=None, **options):
    text = st.text(alphabet, **options) if alphabet is not None else st.text(**options)
    return st.lists(text, min_size=count, max_size=count, unique=True)


def table(graph, ids):
    matrix = graph.matrix().tocoo()
    return {
        frozenset((ids[i], ids[j])): value.item()
        for i, j, value in zip(matrix.row, matrix.col, matrix.data, strict=True)
    }


def entries(lists):
    """id -> [(id of the neighbour, value of each column)], in their order."""
    return {
        name: [
            (lists.ids[lists.indices[at]], *(column[at].item() for column in lists.columns.values()))
            for at in range(lists.indptr[row], lists.indptr[row + 1])
        ]
        for row, name in enumerate(lists.ids)
    }


def test_networkx_by_hand():
    plain = to_networkx(GRAPH)
    assert list(plain.nodes) == [0, 1, 2, 3]
    assert dict(plain.edges) == {(0, 1): {"confidence": 0.5}, (0, 2): {"confidence": 0.75}}
    named = to_networkx(GRAPH, IDS, INLIERS)
    assert list(named.nodes) == IDS
    assert dict(named.edges) == {
        ("tower", "Église"): {"confidence": 0.5, "inliers": 7},
        ("tower", "0"): {"confidence": 0.75, "inliers": 30},
    }
    assert type(named["tower"]["0"]["inliers"]) is int


@settings(deadline=None, max_examples=60)
@given(graphs(), st.data())
def test_networkx_has_every_edge(graph, data):
    ids = data.draw(names(len(graph)))
    found = to_networkx(graph, ids)
    assert list(found.nodes) == ids
    assert {frozenset((a, b)): sure for a, b, sure in found.edges(data="confidence")} == table(graph, ids)


XML = st.characters(
    min_codepoint=32, max_codepoint=0x2FFFF, exclude_categories=["Cs"], exclude_characters="￾￿"
)


@settings(deadline=None, max_examples=60)
@given(graphs(), st.data())
def test_graphml_goes_there_and_back(tmp_path_factory, graph, data):
    path = tmp_path_factory.mktemp("graphml") / "graph.graphml"
    ids = data.draw(names(len(graph), XML | st.sampled_from("\t\n\r\"'<>&")))
    write_graphml(path, graph, ids, (graph.matrix() * 8).astype(int))
    found = nx.read_graphml(path)
    assert list(found.nodes) == ids
    assert {frozenset((a, b)): sure for a, b, sure in found.edges(data="confidence")} == table(graph, ids)
    for _, _, values in found.edges(data=True):
        assert values["inliers"] == int(8 * values["confidence"])
    assert [file.name for file in path.parent.iterdir()] == ["graph.graphml"]


def test_graphml_without_ids(tmp_path):
    write_graphml(tmp_path / "g.graphml", GRAPH)
    assert set(nx.read_graphml(tmp_path / "g.graphml", node_type=int).edges) == {(0, 1), (0, 2)}


@pytest.mark.parametrize("name", ["a\0", "\x0b", "\ud800", "￿"])
def test_graphml_refuses_what_xml_cannot_hold(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(f"cannot hold the id {name!r}")):
        write_graphml(tmp_path / "g.graphml", GRAPH, ["a", "b", name, "d"])
    assert not list(tmp_path.iterdir())


def test_egt_by_hand(tmp_path):
    write_egt(tmp_path / "g.txt", INLIERS, IDS)
    assert (tmp_path / "g.txt").read_bytes().decode() == (
        "tower,Église 7 0 30\nÉglise,tower 7 x/y.jpg 4\n0,tower 30\nx/y.jpg,Église 4\n"
    )
    write_egt(tmp_path / "g.txt", GRAPH.matrix())
    assert (tmp_path / "g.txt").read_text() == "0,1 0.5 2 0.75\n1,0 0.5\n2,0 0.75\n3,\n"
    assert [path.name for path in tmp_path.iterdir()] == ["g.txt"]


def test_egt_text_of_others(tmp_path):
    text = "\ufeffq2,b 12 a 3.5\r\n\r\n  a,\nq1,b  -1e2\tq2 0 \n"
    (tmp_path / "g.txt").write_text(text, encoding="utf-8", newline="")
    lists = read_egt(tmp_path / "g.txt")
    assert lists.ids == ["q2", "a", "q1", "b"]
    assert entries(lists) == {"q2": [("b", 12), ("a", 3.5)], "a": [], "q1": [("b", -100), ("q2", 0)], "b": []}
    assert [column.dtype for column in (lists.indptr, lists.indices, lists.columns["weights"])] == [
        np.int64,
        np.int32,
        np.float32,
    ]
    assert lists.pairs().tolist() == [[0, 3], [0, 1], [2, 3], [2, 0]]
    assert lists.matrix("weights").toarray().tolist() == [
        [0, 3.5, 0, 12],
        [0, 0, 0, 0],
        [0, 0, 0, -100],
        [0, 0, 0, 0],
    ]
    numbered = read_egt(tmp_path / "g.txt", ids=["b", "unused", "q1", "q2", "a"])
    assert numbered.ids == ["b", "unused", "q1", "q2", "a"]
    assert entries(numbered) == entries(lists) | {"unused": []}


EGT_NAMES = st.characters(exclude_categories=["Cs", "Z"], exclude_characters=",\ufeff").filter(
    lambda letter: not letter.isspace()
)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_egt_goes_there_and_back(tmp_path_factory, data):
    count = data.draw(st.integers(0, 7))
    ids = data.draw(names(count, EGT_NAMES, min_size=1))
    dense = data.draw(
        st.lists(
            st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=count**2, max_size=count**2
        )
    )
    weights = sparse.csr_matrix(np.array(dense, np.float32).reshape(count, count))
    path = tmp_path_factory.mktemp("egt") / "graph.txt"
    write_egt(path, weights, ids)
    for known in (None, ids):
        lists = read_egt(path, known)
        assert lists.ids == ids
        found = lists.matrix("weights")
        assert (found.indptr == weights.indptr).all()
        assert (found.indices == weights.indices).all()
        assert (found.data == weights.data).all()


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a\tb", "a\n", "a\u2003b", "\ufeffa", "a\ud800", " "])
def test_egt_refuses_ids_that_would_break_a_line(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(f"EGT's format cannot hold the id {name!r}")):
        write_egt(tmp_path / "g.txt", INLIERS, ["a", "b", name, "d"])
    assert not list(tmp_path.iterdir())


def test_egt_refuses_weights_that_are_not_finite(tmp_path):
    (tmp_path / "g.txt").write_text("before")
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="a weight in the list of 'b' is not finite"):
            write_egt(tmp_path / "g.txt", sparse.csr_matrix([[0, 1.0], [wrong, 0]]), ["a", "b"])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("g.txt", "before")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"no comma 3", "line 3: it must begin with an id and a comma, not 'no comma 3'"),
        (b",b 3", "line 3: it must begin with an id and a comma"),
        (b"c d,b 3", "line 3: it must begin with an id and a comma"),
        (b"c,b 3 d", "line 3: 'd' has no weight"),
        (b"c,b,3", "line 3: 'b,3' has no weight"),
        (b"c,b, 3", "line 3: 'b,' holds a comma"),
        (b"c,b 3 d x4", "line 3: the weight of 'd' is 'x4', not a number"),
        (b"c,b nan", "line 3: the weight of 'b' is 'nan', not a number"),
        (b"c,b -inf", "line 3: the weight of 'b' is '-inf', not a number"),
        (b"c,b 1e39", "line 3: the weight of 'b' is '1e39', not a number"),
        (b"c,b 3.4028235677973366e38", "line 3: the weight of 'b' is '3.4028235677973366e38', not a number"),
        (b"c,b 3 d 4 b 5", "line 3: 'b' stands twice in the list of 'c'"),
        (b"a,c 3", "line 3: 'a' has a line already, 1"),
        (b"c,b\xff 3", "line 3: it is not UTF-8"),
    ],
)
def test_bad_lines_of_egt_are_named(tmp_path, line, message):
    (tmp_path / "g.txt").write_bytes(b"a,b 1\n\n" + line + b"\nd,a 1\n")
    with pytest.raises(ValueError, match=re.escape(f"g.txt, {message}")):
        read_egt(tmp_path / "g.txt")


def test_egt_with_an_unknown_image(tmp_path):
    (tmp_path / "g.txt").write_text("a,b 1\nb,a 1 c 2\n")
    with pytest.raises(ValueError, match=re.escape("line 2: the image 'c' is not known")):
        read_egt(tmp_path / "g.txt", ids=["a", "b"])


def test_npz_by_hand(tmp_path):
    path = tmp_path / "graph.npz"
    write_npz(path, GRAPH, IDS, INLIERS)
    with np.load(path) as file:
        assert {name: file[name].tolist() for name in file} == {
            "ids": IDS,
            "pairs": [[0, 1], [0, 2]],
            "confidence": [0.5, 0.75],
            "inliers": [7, 30],
        }
    assert entries(read_npz(path)) == {
        "tower": [("Église", 0.5, 7), ("0", 0.75, 30)],
        "Église": [],
        "0": [],
        "x/y.jpg": [],
    }
    assert [file.name for file in tmp_path.iterdir()] == ["graph.npz"]


@settings(deadline=None, max_examples=60)
@given(graphs(), st.data())
def test_npz_goes_there_and_back(tmp_path_factory, graph, data):
    path = tmp_path_factory.mktemp("npz") / "graph.npz"
    ids = data.draw(st.none() | names(len(graph), st.characters(exclude_characters="\0")))
    write_npz(path, graph, ids)
    lists = read_npz(path)
    assert lists.ids == (ids or [str(i) for i in range(len(graph))])
    for back in (
        MatchGraph.from_matrix(lists.matrix("confidence"), minimum=0),
        MatchGraph.from_pairs(len(lists.ids), lists.pairs(), lists.columns["confidence"], minimum=0),
    ):
        for name in ("indptr", "indices", "confidence"):
            assert (getattr(back, name) == getattr(graph, name)).all()


def test_lists_of_others(tmp_path):
    path = tmp_path / "knn.npz"
    neighbours = np.array([[2, 1], [-1, 0], [-1, -1]], np.int16)
    similarity = np.array([[0.9, 0.5], [np.nan, 0.25], [np.nan, np.inf]])
    np.savez(path, neighbours=neighbours, similarity=similarity, inliers=neighbours + 5, strange=np.ones(9))
    lists = read_npz(path)
    assert list(lists.columns) == ["inliers", "similarity"]
    assert entries(lists) == {"0": [("2", 7, np.float32(0.9)), ("1", 6, 0.5)], "1": [("0", 5, 0.25)], "2": []}
    np.savez(path, ids=np.array([b"a", b"\xc3\xa9"]), pairs=np.array([[1, 0], [0, 1]]))
    lists = read_npz(path)
    assert entries(lists) == {"a": [("é",)], "é": [("a",)]}
    with pytest.raises(ValueError, match="no 'inliers' in these lists: there is nothing"):
        lists.matrix("inliers")
    np.savez(path, ids=np.array([70, 9]), neighbours=np.zeros((2, 0), int))
    assert entries(read_npz(path)) == {"70": [], "9": []}
    np.savez(path, pairs=np.array([[4, 2]]))
    assert read_npz(path).ids == ["0", "1", "2", "3", "4"]


KNN = {"neighbours": np.array([[1], [0], [0]])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "must hold `neighbours` [n, k] or `pairs` [E, 2], one of the two"),
        (KNN | {"pairs": np.array([[0, 1]])}, "one of the two"),
        ({"neighbours": np.ones((2, 2))}, "neighbours must be integers [n, k], got float64 [2, 2]"),
        ({"neighbours": np.zeros(3, int)}, "neighbours must be integers [n, k], got int64 [3]"),
        ({"pairs": np.zeros((2, 3), int)}, "pairs must be integers [E, 2], got int64 [2, 3]"),
        (KNN | {"ids": np.array(["a", "b"])}, "2 ids, but neighbours [3, 1]"),
        (KNN | {"ids": np.array(["a", "b", "a"])}, "the id 'a' stands twice"),
        (KNN | {"ids": np.ones(3)}, "ids must be strings or integers [n], got float64 [3]"),
        (KNN | {"ids": np.array(["a", None, "b"], object)}, "is no .npz file of plain arrays"),
        ({"neighbours": np.array([[1], [3], [0]])}, "row 1 of neighbours names image 3 of 3"),
        ({"neighbours": np.array([[1], [0], [-2]])}, "row 2 of neighbours names image -2 of 3"),
        ({"neighbours": np.array([[-1, -1], [0, 0]])}, "row 1 of neighbours names an image twice"),
        ({"pairs": np.array([[0, 1], [0, -1]])}, "row 1 of pairs names image -1 of 2"),
        ({"pairs": np.array([[0, 1], [1, 0], [0, 1]])}, "row 2 of pairs names an image twice"),
        (KNN | {"similarity": np.ones(3)}, "similarity must be numbers [3, 1], got float64 [3]"),
        (KNN | {"weights": np.array([["a"]] * 3)}, "weights must be numbers [3, 1], got <U1 [3, 1]"),
        (
            KNN | {"confidence": np.array([[1], [np.nan], [np.inf]])},
            "row 1 of confidence holds what is not a number",
        ),
    ],
)
def test_bad_npz_files_are_explained(tmp_path, arrays, message):
    np.savez(tmp_path / "knn.npz", **arrays)
    with pytest.raises(ValueError, match=f"knn.npz.*{re.escape(message)}"):
        read_npz(tmp_path / "knn.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 broken", None])
def test_files_that_are_no_npz(tmp_path, content):
    path = tmp_path / "knn.npz"
    if content is None:
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"knn\.npz is no \.npz file of plain arrays"):
        read_npz(path)


def test_npz_refuses_what_numpy_would_cut_off(tmp_path):
    with pytest.raises(ValueError, match=re.escape("cannot hold the id 'b\\x00'")):
        write_npz(tmp_path / "g.npz", GRAPH, ["a", "b\0", "c", "d"])


@pytest.mark.parametrize(
    "write",
    [
        lambda path, ids, inliers: to_networkx(GRAPH, ids, inliers),
        lambda path, ids, inliers: write_graphml(path, GRAPH, ids, inliers),
        lambda path, ids, inliers: write_npz(path, GRAPH, ids, inliers),
        lambda path, ids, inliers: write_egt(path, GRAPH.matrix(), ids),
    ],
)
def test_ids_that_do_not_fit(tmp_path, write):
    with pytest.raises(ValueError, match="4 images, but 3 ids"):
        write(tmp_path / "it", IDS[:3], None)
    with pytest.raises(ValueError, match="the id 'b' stands twice"):
        write(tmp_path / "it", ["a", "b", "c", "b"], None)
    assert not list(tmp_path.iterdir())


def test_inliers_that_do_not_fit():
    with pytest.raises(ValueError, match=re.escape("a graph of 4 images, but inliers [3, 3]")):
        to_networkx(GRAPH, IDS, INLIERS[:3, :3])


def test_a_graph_without_bridges_has_no_undirected_form(tmp_path):
    closed = GRAPH.without_bridges(np.array([0]))
    for call in (to_networkx, lambda graph: write_npz(tmp_path / "g", graph)):
        with pytest.raises(ValueError, match="export it before `without_bridges`"):
            call(closed)


def test_lists_make_a_graph():
    lists = NeighbourLists(
        ["a", "b", "c"],
        np.array([0, 2, 3, 3]),
        np.array([2, 1, 0], np.int32),
        {"inliers": np.array([9, 4, 5], np.float32)},
    )
    graph = MatchGraph.from_matrix(lists.matrix("inliers"), minimum=5)
    assert graph.matrix().toarray().tolist() == [[0, 5, 9], [5, 0, 0], [9, 0, 0]]
