import numpy as np
import pytest
from scipy import sparse

from ranking.egt import explore_exploit
from ranking.match_graph import MatchGraph
from ranking.nearest_neighbours import normalised
from ranking.query_expansion import (
    alpha_query_expansion,
    average_query_expansion,
    database_augmentation,
)
from ranking.rankers import RANKERS, Images, rank

INDEX, QUERIES = 30, 4


def pairs_as(images, pairs, inliers):
    """Match graph and inliers of undirected pairs; 40 inliers are as good as certain."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    matrix = sparse.csr_matrix((np.tile(inliers, 2), (both[:, 0], both[:, 1])), shape=(images, images))
    confidence = np.clip(inliers / 40, 0, 1).astype(np.float32)
    return {"graph": MatchGraph.from_pairs(images, pairs, confidence), "inliers": matrix}


def world(queries=QUERIES, seed=0):
    """A ring of index images, verified with those beside them, queries beside them, and wrong pairs."""
    rng = np.random.default_rng(seed)
    angles = np.concatenate([np.linspace(0, 6, INDEX), np.linspace(0.1, 5, QUERIES)])
    circle = np.stack([np.cos(angles), np.sin(angles), np.ones(len(angles))], 1)
    descriptors = normalised((circle + rng.normal(0, 0.2, circle.shape)).astype(np.float32))
    near = [(i, i + 1) for i in range(INDEX - 1)]
    own = [(int(np.abs(angles[:INDEX] - angles[INDEX + q]).argmin()), INDEX + q) for q in range(QUERIES)]
    wrong = [(0, 17), (5, 26), (9, 22), (INDEX, INDEX + 1), (INDEX + 1, INDEX + 2)]
    pairs = np.array(near + own + wrong)
    inliers = rng.integers(5, 60, len(pairs)).astype(np.float32)
    images = INDEX + queries
    kept = (pairs < images).all(1)
    return Images(descriptors[:images], INDEX, **pairs_as(images, pairs[kept], inliers[kept]))


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("method", RANKERS)
def test_contract(method, offline):
    images = world()
    queries = np.array([INDEX + 2, 7, INDEX])
    found = rank(method, images, queries, INDEX, offline=offline)
    assert (found.ids.dtype, found.scores.dtype, found.parents.dtype) == (np.int64, np.float32, np.int64)
    for row, query in enumerate(queries):
        listed = INDEX - (query < INDEX)
        assert sorted(found.ids[row, :listed]) == [i for i in range(INDEX) if i != query]
        assert (np.diff(found.scores[row, :listed]) <= 0).all()
        assert (found.ids[row, listed:] == -1).all()
        assert (found.parents[row, listed:] == -1).all()
        verified = images.graph.matrix()
        for image, parent in zip(found.ids[row, :listed], found.parents[row, :listed], strict=True):
            if parent >= 0 and method != "egt-cosine":
                assert images.inliers[parent, image] > 0
            if parent >= 0 and method in ("id-qe", "mmst-c"):
                assert verified[parent, image] >= 0.5
            if not offline:
                assert parent < INDEX or parent == query
    shorter = rank(method, images, queries, 5, offline=offline)
    assert (shorter.ids == found.ids[:, :5]).all()
    assert (shorter.scores == found.scores[:, :5]).all()
    assert (shorter.parents == found.parents[:, :5]).all()


@pytest.mark.parametrize("method", RANKERS)
def test_online_a_query_knows_nothing_of_the_others(method, monkeypatch):
    monkeypatch.setattr("ranking.rankers.EGT_NEIGHBOURS", 3)
    together = rank(method, world(), np.array([3, INDEX, INDEX + 1]), INDEX)
    alone = rank(method, world(queries=1), np.array([3, INDEX]), INDEX)
    assert (together.ids[:2] == alone.ids).all()
    assert together.scores[:2] == pytest.approx(alone.scores, abs=1e-5)
    assert (together.parents[:2] == alone.parents).all()


@pytest.mark.parametrize("method", sorted(set(RANKERS) - {"global", "inliers"}))
def test_offline_queries_serve_one_another(method, monkeypatch):
    monkeypatch.setattr("ranking.rankers.EGT_NEIGHBOURS", 3)
    queries = np.arange(INDEX, INDEX + QUERIES)
    online, offline = (rank(method, world(), queries, INDEX, offline=mode) for mode in (False, True))
    assert (online.ids != offline.ids).any() or online.scores != pytest.approx(offline.scores, abs=1e-4)


@pytest.mark.parametrize("method", RANKERS)
def test_nothing_to_rank(method):
    found = rank(method, world(), np.array([], np.int64), 10)
    assert found.ids.shape == (0, 10)


def bridge():
    """A query verified with 0; 0 - 1 and 1 - 2 verified too; 3 is the most similar and not verified."""
    angles = np.radians([10, 50, 90, 5, 0])
    descriptors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    pairs = np.array([[0, 4], [0, 1], [1, 2]])
    return Images(descriptors, 4, **pairs_as(5, pairs, np.array([45, 42, 50], np.float32)))


@pytest.mark.parametrize(
    ("method", "ids", "parents"),
    [
        ("global", [3, 0, 1, 2], [-1, -1, -1, -1]),
        ("inliers", [0, 3, 1, 2], [4, -1, -1, -1]),
        ("egt", [0, 1, 2, 3], [4, 0, 1, -1]),
    ],
)
def test_bridges_by_hand(method, ids, parents):
    found = rank(method, bridge(), np.array([4]), 4)
    assert found.ids[0].tolist() == ids
    assert found.parents[0].tolist() == parents


def test_the_tree_keeps_its_parents():
    found = rank("mmst-c", bridge(), np.array([4]), 4)
    assert dict(zip(found.ids[0].tolist(), found.parents[0].tolist(), strict=True)) == {
        0: 4, 1: 0, 2: 1, 3: -1,
    }  # fmt: skip
    assert found.chain(0, 2) == [4, 0, 1, 2]
    assert found.chain(0, 0) == [4, 0]
    assert found.chain(0, 3) == []


def test_a_chain_begins_where_the_list_knows_no_more():
    found = rank("egt", bridge(), np.array([4]), 4)
    assert found.chain(0, 2) == [4, 0, 1, 2]
    assert rank("egt", bridge(), np.array([4]), 1).chain(0, 2) == []


def test_images_that_a_method_does_not_reach_follow_by_similarity():
    images = bridge()
    found = rank("inliers", images, np.array([4]), 4)
    cosines = images.descriptors @ images.descriptors[4]
    assert found.scores[0] == pytest.approx([45, cosines[3] - 2, cosines[1] - 2, cosines[2] - 2], abs=1e-6)


def test_egt_on_cosines_turns_the_edges_of_the_index_round_and_those_of_queries_not():
    images = world()
    found = rank("egt-cosine", images, np.array([INDEX]), INDEX)
    cosines = images.descriptors @ images.descriptors.T
    np.fill_diagonal(cosines, 0)
    # With fewer images than neighbours everything leads everywhere, but into the queries.
    cosines[:, INDEX:] = 0
    order, _, parent = explore_exploit(sparse.csr_matrix(cosines), INDEX, INDEX, 0.42)
    assert (found.ids[0, : len(order)] == order).all()
    assert (found.parents[0, : len(order)] == parent).all()


def test_alpha_query_expansion_by_the_formula():
    images = world()
    queries, index = images.descriptors[INDEX:], images.descriptors[:INDEX]
    for top, alpha in ((3, 3.0), (5, 1.0)):
        expected = []
        for query in queries:
            cosines = index @ query
            near = np.argsort(-cosines)[:top]
            moved = query + sum(max(cosines[i], 0) ** alpha * index[i] for i in near)
            expected.append(moved / np.linalg.norm(moved))
        assert alpha_query_expansion(queries, index, top, alpha) == pytest.approx(
            np.array(expected), abs=1e-5
        )
    assert (alpha_query_expansion(queries, index) == average_query_expansion(queries, index, 50, 3.0)).all()


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_database_augmentation_by_the_formula(alpha):
    index = world().descriptors
    expected = []
    for i, own in enumerate(index):
        cosines = index @ own
        near = [j for j in np.argsort(-cosines) if j != i][:4]
        moved = own + sum((max(cosines[j], 0) ** alpha) * index[j] for j in near)
        expected.append(moved / np.linalg.norm(moved))
    assert database_augmentation(index, 4, alpha) == pytest.approx(np.array(expected), abs=1e-5)


def test_database_augmentation_counts_duplicates_as_others():
    index = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    assert database_augmentation(index, 1).tolist() == [[1, 0], [1, 0], [1, 0], [np.float32(0.5) ** 0.5] * 2]


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"unknown method 'best': there are global, .*mmst-c"):
        rank("best", world(), np.array([0]), 5)


@pytest.mark.parametrize(
    ("method", "missing"),
    [
        ("id-qe", "graph"),
        ("mmst-c", "graph"),
        ("egt", "inliers"),
        ("inliers", "inliers"),
    ],
)
def test_a_missing_graph_is_named(method, missing):
    with pytest.raises(ValueError, match=rf"Images\(\.\.\., {missing}=\.\.\.\)"):
        rank(method, Images(world().descriptors, INDEX), np.array([0]), 5)


def test_sizes_must_agree():
    images = world()
    with pytest.raises(ValueError, match="34 descriptors, but the match graph has 31 images"):
        Images(images.descriptors, INDEX, graph=world(queries=1).graph)
    with pytest.raises(ValueError, match="34 descriptors, but the matrix of inliers has 31 images"):
        Images(images.descriptors, INDEX, inliers=world(queries=1).inliers)
    with pytest.raises(ValueError, match="35 index images, but 34 descriptors"):
        Images(images.descriptors, 35)
