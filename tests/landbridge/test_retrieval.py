"""Rankings over a library whose embeddings and verified pairs are written by hand."""

import dataclasses

import numpy as np
import pytest

from connector.collection import Hit as Neighbour
from extractor.features import LocalFeatures
from landbridge import retrieval as module
from landbridge.retrieval import METHODS, Library, Query, Retrieval
from ranking.match_store import MatchStore
from ranking.verification import BatchedVerifier, Verification

POINTS = 100


def key(number):
    return f"{number:032x}"


def unit(*components):
    vector = np.zeros(6, np.float32)
    vector[: len(components)] = components
    return vector / np.linalg.norm(vector)


def features(number):
    """Features that cover the whole photo and say whose they are."""
    places = np.arange(POINTS)
    keypoints = np.stack([places % 10, places // 10], axis=1).astype(np.float32) * 10
    numbers = np.full(POINTS, number, np.float32)
    return LocalFeatures(keypoints, numbers, numbers, np.zeros((POINTS, 1), np.int8))


class Table:
    """A verifier that knows the inliers of every pair; the significance is twice their number."""

    fingerprint = "table"

    def __init__(self, inliers):
        self.inliers = {frozenset(pair): count for pair, count in inliers.items()}
        self.asked = []

    def verify(self, query, candidates):
        results = []
        for candidate in candidates:
            pair = frozenset((int(query.scales[0]), int(candidate.scales[0])))
            self.asked.append(pair)
            count = self.inliers.get(pair, 0)
            # Every inlier somewhere else in the photo: 37 and 100 have no common factor.
            matches = np.repeat(np.arange(count)[:, None] * 37 % POINTS, 2, axis=1).astype(np.int32)
            results.append(Verification(POINTS, matches, np.eye(3), 2.0 * count))
        return results


class Exact:
    """What the rankers need of a collection."""

    def __init__(self, ids, embeddings):
        self.ids, self.embeddings = ids, embeddings

    def search(self, queries, limit):
        found = []
        for similarity in queries @ self.embeddings.T:
            best = np.argsort(-similarity, kind="stable")[:limit]
            found.append([Neighbour(self.ids[i], float(similarity[i])) for i in best])
        return found


def make_library(folder, embeddings, verifier):
    ids = list(embeddings)
    stacked = np.stack(list(embeddings.values()))
    return Library(
        ids,
        [key(number) for number in range(len(ids))],
        stacked,
        Exact(ids, stacked),
        MatchStore(folder, verifier),
        lambda keys: {digest: features(int(digest, 16)) for digest in keys},
    )


def make_query(name, number, embedding):
    return Query(name, key(number), embedding, features(number))


A, B, D, E = range(4)
Q, P = 10, 11
EMBEDDINGS = {
    "a": unit(0.8, 0.6),
    "b": unit(0, 0.6, 0.8),
    "d": unit(0.7, 0, 0, 0.714),
    "e": unit(0.3, 0, 0, 0, 0.954),
}
"""Seen from the query (1, 0, 0, …): a 0.8, d 0.7, e 0.3, b 0. The photos a and b are 0.36 alike."""
QUERY = unit(1)
PAIRS = {(Q, A): 70, (A, B): 80, (Q, E): 90}
"""The query is verified with a and, by more inliers, with e; b only with a."""


@pytest.fixture
def library(tmp_path):
    with (library := make_library(tmp_path / "pairs", EMBEDDINGS, Table(PAIRS))).matches:
        library.join()
        yield library


def ids(rankings):
    return [list(ranking.image_ids) for ranking in rankings]


class TestOneQuery:
    @pytest.fixture
    def retrieval(self, library):
        return Retrieval(library, [make_query("q", Q, QUERY)])

    def test_global(self, retrieval):
        (ranking,) = retrieval.rank("global")
        assert ranking.query_id == "q"
        assert ranking.image_ids == ("a", "d", "e", "b")
        assert [hit.score for hit in ranking.hits] == pytest.approx([0.8, 0.7, 0.3, 0], abs=1e-3)
        assert {(hit.how, hit.chain) for hit in ranking.hits} == {("similar", ())}

    def test_aqe(self, retrieval):
        # Four photos are fewer than five neighbours: q' ~ q + a + b + d + e = (2.8, 1.2, .8, .714, .954).
        (ranking,) = retrieval.rank("aqe")
        expanded = np.array([2.8, 1.2, 0.8, 0.714, 0.954, 0])
        scores = {name: float(vector @ expanded) for name, vector in EMBEDDINGS.items()}
        assert list(ranking.image_ids) == sorted(scores, key=lambda name: -scores[name])
        assert ranking.hits[0].score == pytest.approx(scores["a"] / np.linalg.norm(expanded), abs=1e-3)

    def test_verify_puts_verified_candidates_first(self, retrieval):
        (ranking,) = retrieval.rank("verify")
        assert ranking.image_ids == ("e", "a", "d", "b")
        e, a, d, b = ranking.hits
        assert [hit.how for hit in (e, a)] == ["verified", "verified"]
        # Evidence: the significance, and a little for their similarity.
        assert [hit.score for hit in (e, a)] == [pytest.approx(180, abs=1), pytest.approx(140, abs=1)]
        assert [(link.source, link.target, link.inliers) for link in e.chain] == [("q", "e", 90)]
        assert [(hit.how, hit.chain) for hit in (d, b)] == [("similar", ())] * 2
        assert d.score == pytest.approx(0.7, abs=1e-3)

    def test_id_qe_pulls_the_bridged_photo_up(self, retrieval):
        (ranking,) = retrieval.rank("id-qe")
        order = ranking.image_ids
        assert set(order) == set(EMBEDDINGS)
        assert order.index("b") < order.index("d")
        assert order.index("a") < order.index("d")
        assert {hit.image_id: hit.how for hit in ranking.hits} == {
            "a": "verified", "e": "verified", "b": "similar", "d": "similar",
        }  # fmt: skip

    def test_mmst_c_tells_the_chain(self, retrieval):
        (ranking,) = retrieval.rank("mmst-c")
        hits = {hit.image_id: hit for hit in ranking.hits}
        assert [(x.source, x.target, x.inliers) for x in hits["b"].chain] == [("q", "a", 70), ("a", "b", 80)]
        assert hits["b"].how == "bridged"
        assert hits["b"].bridges == ("a",)
        assert all(0.95 < link.confidence <= 1 for link in hits["b"].chain)
        assert {name: hits[name].how for name in "ade"} == {"a": "verified", "d": "similar", "e": "verified"}
        assert ranking.image_ids[-1] == "d"
        # The surest pairs keep what ID-QE gave; a bridge gets some, and what is not reached a 21st part.
        before = {hit.image_id: hit.score for hit in retrieval.rank("id-qe")[0].hits}
        kept = {name: hits[name].score / before[name] for name in EMBEDDINGS}
        assert [kept["a"], kept["e"], kept["d"]] == pytest.approx([1, 1, 1 / 21], rel=1e-4)
        assert 0.5 < kept["b"] <= 1

    @pytest.mark.parametrize("method", METHODS)
    def test_limit(self, retrieval, method):
        full = retrieval.rank(method)[0].image_ids
        assert len(full) == 4
        assert retrieval.rank(method, 2)[0].image_ids == full[:2]
        assert retrieval.rank(method, 9)[0].image_ids == full

    def test_unknown_method(self, retrieval):
        with pytest.raises(ValueError, match=r"unknown method 'best': there are global, aqe, .*, mmst-c"):
            retrieval.rank("best")

    def test_correspondences(self, retrieval):
        retrieval.rank("mmst-c")
        points = retrieval.correspondences("q", "a")
        assert points.source_points.shape == (70, 2)
        np.testing.assert_array_equal(points.source_points, points.target_points)
        assert len(retrieval.correspondences("b", "a").source_points) == 80
        with pytest.raises(KeyError, match="q and nobody were not verified"):
            retrieval.correspondences("q", "nobody")


def test_no_queries(library):
    assert Retrieval(library, []).rank("mmst-c") == []


class TestQueriesAsBridges:
    """p looks like q and is verified with it, and with b, which q does not match: a bridge of one query."""

    @pytest.fixture
    def library(self, tmp_path):
        verifier = Table({(Q, P): 75, (P, B): 85})
        with (library := make_library(tmp_path / "pairs", EMBEDDINGS, verifier)).matches:
            library.join()
            yield library

    @pytest.fixture
    def queries(self):
        return [make_query("q", Q, QUERY), make_query("p", P, unit(0.9, 0.1, 0.42))]

    def test_online_another_query_is_never_a_bridge(self, library, queries):
        alone = {method: Retrieval(library, queries[:1]).rank(method)[0] for method in METHODS}
        together = Retrieval(library, queries)
        for method in METHODS:
            ranking = together.rank(method)[0]
            assert ranking == alone[method]
            assert {hit.image_id: hit.how for hit in ranking.hits}["b"] == "similar"

    def test_offline_it_is(self, library, queries):
        retrieval = Retrieval(library, queries, offline=True)
        ranking = retrieval.rank("mmst-c")[0]
        b = next(hit for hit in ranking.hits if hit.image_id == "b")
        assert [(link.source, link.target, link.inliers) for link in b.chain] == [
            ("q", "p", 75),
            ("p", "b", 85),
        ]
        assert ranking.image_ids[0] == "b"
        for method in METHODS:
            for found in ids(retrieval.rank(method)):
                assert sorted(found) == ["a", "b", "d", "e"]

    def test_online_after_offline(self, library, queries):
        # The pair of queries is in the store now, and still no bridge.
        before = [Retrieval(library, queries).rank(method) for method in METHODS]
        Retrieval(library, queries, offline=True).rank("mmst-c")
        assert library.matches.record(key(P), key(Q)) is not None
        assert [Retrieval(library, queries).rank(method) for method in METHODS] == before


class TestIndexImagesAsQueries:
    @pytest.fixture
    def retrieval(self, library):
        members = [Query(name, library.keys[i], library.embeddings[i]) for i, name in enumerate(library.ids)]
        return Retrieval(library, members)

    @pytest.mark.parametrize("method", METHODS)
    def test_none_finds_itself(self, retrieval, method):
        for query, ranking in zip("abde", retrieval.rank(method), strict=True):
            assert ranking.query_id == query
            assert sorted({*ranking.image_ids, query}) == ["a", "b", "d", "e"]
            assert len(ranking.hits) == 3

    def test_a_member_finds_what_it_is_verified_with(self, retrieval):
        first = [found[0] for found in ids(retrieval.rank("mmst-c"))]
        assert first[:2] == ["b", "a"]

    def test_itself_is_none_of_its_candidates(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "CANDIDATES", 2)
        library = make_library(tmp_path / "pairs", EMBEDDINGS, Table(PAIRS))
        Retrieval(library, [Query("a", library.keys[A], library.embeddings[A])]).rank("verify")
        assert set(library.matches.verifier.asked) == {frozenset((A, B)), frozenset((A, D))}


class TestJoin:
    def test_every_pair_of_a_small_library_is_verified_once(self, tmp_path):
        verifier = Table(PAIRS)
        library = make_library(tmp_path / "pairs", EMBEDDINGS, verifier)
        steps = []
        assert library.join(lambda *step: steps.append(step)) == 6
        assert steps[-1] == ("verify index photos", 6, 6)
        assert len(verifier.asked) == len(set(verifier.asked)) == 6
        assert library.join() == 0
        assert len(verifier.asked) == 6
        assert library.matches.joined == set(library.keys)

    def test_the_second_round_looks_where_the_descriptors_moved(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "CANDIDATES", 2)

        def seen(degrees, aside=0.0):
            turn, up = np.radians(degrees), np.radians(aside)
            return unit(np.cos(turn) * np.cos(up), np.sin(turn) * np.cos(up), np.sin(up))

        # c stands between a and b, 30 degrees from either; x and y are 35 degrees beside a and b.
        embeddings = {"a": seen(0), "b": seen(60), "c": seen(30), "x": seen(0, 35), "y": seen(60, 35)}
        neighbours = {(0, 2), (0, 3), (1, 2), (1, 4), (2, 3), (2, 4), (3, 4)}
        for folder, inliers, further in [("none", {}, set()), ("some", {(0, 2): 90, (1, 2): 90}, {(0, 1)})]:
            library = make_library(tmp_path / folder, embeddings, Table(inliers))
            library.join()
            asked = {tuple(sorted(pair)) for pair in library.matches.verifier.asked}
            assert asked - neighbours == further

    def test_stopped_at_any_pair_it_ends_with_the_same_pairs(self, tmp_path, monkeypatch):
        """With few candidates the second round depends on the first, and on nothing that was left behind."""
        monkeypatch.setattr(module, "CANDIDATES", 3)
        random = np.random.default_rng(7)
        images = 24
        embeddings = {
            f"{number:02d}": unit(*random.normal(size=3) + 2 * np.eye(3)[number % 3])
            for number in range(images)
        }
        inliers = {
            (i, j): int(random.integers(5, 60)) for i in range(images) for j in range(i) if i % 3 == j % 3
        }

        class Stopped(Table):
            def __init__(self, after):
                super().__init__(inliers)
                self.after = after

            def verify(self, query, candidates):
                if len(self.asked) >= self.after:
                    raise KeyboardInterrupt
                return super().verify(query, candidates)

        def pairs(library):
            found, records = library.matches.among(library.keys)
            return sorted(
                (*sorted(pair), count)
                for pair, count in zip(found.tolist(), records["inliers"].tolist(), strict=True)
            )

        whole = make_library(tmp_path / "whole", embeddings, Table(inliers))
        total = whole.join()
        steps = []
        stopped_in = set()
        for after in range(3, total, 4):
            folder = tmp_path / f"stopped-{after}"
            library = make_library(folder, embeddings, Stopped(after))
            with library.matches, pytest.raises(KeyboardInterrupt):
                library.join(lambda step, *_: steps.append(step))
            stopped_in |= set(steps[-1:])
            library = make_library(folder, embeddings, Table(inliers))
            with library.matches:
                library.join()
                assert pairs(library) == pairs(whole)
        assert stopped_in == {"verify index photos", "verify index photos, round 2"}


def test_threads_do_not_matter(toy, tmp_path):
    photos = toy.write_photos(tmp_path / "photos")
    toy.write_photo(tmp_path / "query.png", range(1, 5), 7)
    from landbridge import Index

    rankings = []
    for threads in (1, 4):
        with Index(tmp_path / f"{threads}.db") as index:
            index.matches.verifier = dataclasses.replace(BatchedVerifier(), threads=threads)
            index.add(photos)
            queries, _ = index.queries({"query": tmp_path / "query.png"})
            retrieval = index.retrieval(queries)
            rankings.append([retrieval.rank(method) for method in METHODS])
    assert rankings[0] == rankings[1]


class TestGivenCandidates:
    def test_their_order_and_similarities_stand(self, library):
        given = [[(D, 0.2), (A, 0.9), (B, 0.1)]]
        retrieval = Retrieval(library, [make_query("q", Q, QUERY)], candidates=given)
        assert ids(retrieval.rank("global")) == [["d", "a", "b"]]
        assert [hit.score for hit in retrieval.rank("global")[0].hits] == [0.2, 0.9, 0.1]
        library.matches.verifier.asked.clear()
        assert ids(retrieval.rank("verify")) == [["a", "d", "b"]]
        assert set(library.matches.verifier.asked) == {frozenset((Q, i)) for i in (A, B, D)}
        # What the first candidates bring near is verified, too: here, the whole index.
        assert ids(retrieval.rank("mmst-c"))[0][0] == "e"

    def test_however_many_they_are(self, library, monkeypatch):
        monkeypatch.setattr(module, "CANDIDATES", 1)
        given = [[(D, 0.2), (A, 0.9), (B, 0.1)]]
        retrieval = Retrieval(library, [make_query("q", Q, QUERY)], candidates=given)
        assert ids(retrieval.rank("verify")) == [["a", "d", "b"]]

    def test_the_query_is_none_of_them(self, library):
        member = Query("a", library.keys[A], library.embeddings[A])
        retrieval = Retrieval(library, [member], candidates=[[(A, 1.0), (B, 0.36)]])
        assert ids(retrieval.rank("verify")) == [["b"]]


class TestImagesWithoutFeatures:
    @pytest.fixture
    def library(self, tmp_path):
        """The photos a and d have none."""
        whole = make_library(tmp_path / "pairs", EMBEDDINGS, Table(PAIRS))

        def seen(keys):
            assert not {key(A), key(D)} & set(keys)
            return {digest: features(int(digest, 16)) for digest in keys}

        with (library := dataclasses.replace(whole, features=seen, featureless=np.array([A, D]))).matches:
            yield library

    def test_they_are_ranked_and_never_verified(self, library):
        assert library.join() == 1
        assert library.matches.joined == {key(B), key(E)}
        assert library.join() == 0
        retrieval = Retrieval(library, [make_query("q", Q, QUERY)])
        for method in METHODS:
            hits = {hit.image_id: hit.how for hit in retrieval.rank(method)[0].hits}
            assert hits.keys() == {"a", "b", "d", "e"}
            assert hits["a"] == hits["d"] == "similar"
        assert hits["e"] == "verified"
        assert not [pair for pair in library.matches.verifier.asked if pair & {A, D}]

    def test_they_take_no_place_among_candidates(self, library, monkeypatch):
        monkeypatch.setattr(module, "CANDIDATES", 1)
        # The nearest to e are d and a; b comes after them.
        assert library.join() == 1
        assert library.matches.verifier.asked == [frozenset((B, E))]
