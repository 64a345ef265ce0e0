"""Match graphs from features in files: built, resumed, ranked and measured, without Milvus."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from extractor.features import LocalFeatures
from extractor.files import FeatureFileError, StoredFeatures, read_features, write_features
from landbridge.experiments import NamedGraph, build_graph, import_graph
from landbridge.experiments import named_graph as named_graph_module
from ranking.confidence import Confidence
from ranking.interchange import NeighbourLists, read_egt, read_npz
from ranking.match_graph import MatchGraph
from ranking.match_store import MatchStore, MatchStoreError
from ranking.verification import create_verifier

LANDMARKS = ("castle", "mill", "tower")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def photo(landmark, number, parts=("local", "global_descriptor")):
    """A photo of a plane of 80 points, moved and scaled; photos of a landmark share most points."""
    motif = np.random.default_rng([7, LANDMARKS.index(landmark)])
    points, features = motif.uniform(0, 600, (80, 2)), unit(motif.normal(size=(80, 16)))
    centre = motif.normal(size=8)
    own = np.random.default_rng([8, LANDMARKS.index(landmark), number])
    seen = own.permutation(80)[:60]
    turn = own.uniform(-0.2, 0.2)
    rotation = own.uniform(0.7, 1.3) * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    local = LocalFeatures(
        (points[seen] @ rotation.T + own.uniform(50, 100, 2)).astype(np.float32),
        np.ones(60, np.float32),
        np.linspace(1, 0.5, 60, dtype=np.float32),
        unit(features[seen] + 0.02 * own.normal(size=(60, 16))),
    )
    made = {"local": local, "global_descriptor": unit(centre + 1.0 * own.normal(size=8))}
    return {name: made[name] for name in parts}


def photos(numbers, parts=("local", "global_descriptor"), landmarks=LANDMARKS):
    return {
        f"{landmark}/{number:02}": StoredFeatures(f"{landmark}/{number:02}", **photo(landmark, number, parts))
        for landmark in landmarks
        for number in numbers
    }


INDEX = photos(range(6))
QUERIES = photos((90,))


def edges(graph, named):
    pairs = zip(np.repeat(np.arange(len(graph)), np.diff(graph.indptr)), graph.indices, strict=True)
    return {frozenset((named.ids[a], named.ids[b])) for a, b in pairs}


def assert_same(first, second):
    assert first.ids == second.ids
    assert first.index == second.index
    assert first.measured == second.measured
    np.testing.assert_array_equal(first.descriptors, second.descriptors)
    for a, b in ((first.graph, second.graph), (first.inliers, second.inliers)):
        np.testing.assert_array_equal(a.indptr, b.indptr)
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.confidence, b.confidence)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_graph(INDEX, tmp_path_factory.mktemp("built") / "graph", queries=QUERIES, candidates=6)


def ground_truth(tmp_path):
    names = list(INDEX)
    content = {
        "imlist": names,
        "qimlist": list(QUERIES),
        "gnd": [
            {
                "easy": [i for i, name in enumerate(names) if name.startswith(landmark)],
                "hard": [],
                "junk": [],
            }
            for landmark in LANDMARKS
        ],
    }
    path = tmp_path / "gnd.json"
    path.write_text(json.dumps(content))
    return path


class TestBuild:
    def test_names_and_edges(self, built):
        graph = built.graph
        assert graph.ids == [*sorted(INDEX), *sorted(QUERIES)]
        assert (graph.index, len(graph)) == (18, 21)
        assert built.failed == {}
        joined = edges(graph.graph, graph)
        assert joined
        assert {tuple(sorted(name.partition("/")[0] for name in pair)) for pair in joined} == {
            (landmark, landmark) for landmark in LANDMARKS
        }
        assert built.pairs == built.verified >= len(joined)
        # Every photo of a landmark has 40 points and more in common with every other.
        assert (graph.inliers.confidence[np.isin(graph.inliers.indices, graph.graph.indices)] >= 4).all()
        assert all((np.diff(graph.graph.indptr)) >= 1)

    def test_every_step_is_told(self, tmp_path):
        told = []
        build_graph(
            INDEX,
            tmp_path / "g",
            queries=QUERIES,
            candidates=3,
            progress=lambda *step: told.append(step),
        )
        steps = list(dict.fromkeys(step for step, _, _ in told))
        assert steps[:2] == ["read features", "verify index"]
        assert "verify queries" in steps
        assert set(steps) <= {
            "read features",
            "verify index",
            "verify index, round 2",
            "verify queries",
            "verify queries, round 2",
        }
        for step in steps:
            last = [(done, total) for name, done, total in told if name == step][-1]
            assert last[0] == last[1], step

    def test_the_same_again_verifies_nothing_and_gives_the_same(self, built, tmp_path):
        first = build_graph(INDEX, tmp_path / "g", queries=QUERIES, candidates=6)
        again = build_graph(INDEX, tmp_path / "g", queries=QUERIES, candidates=6)
        assert (first.verified, again.verified) == (first.pairs, 0)
        assert again.pairs == first.pairs
        for made in (first, again):
            assert_same(made.graph, built.graph)
        assert_same(NamedGraph.open(tmp_path / "g"), built.graph)
        assert [path.name for path in tmp_path.glob("g/built-*")] == ["built-2"]

    def test_more_images_verify_what_is_new_and_give_what_a_fresh_build_gives(self, tmp_path):
        more = INDEX | photos((6,), landmarks=("castle",))
        build_graph(INDEX, tmp_path / "grown", candidates=6)
        keys_before = pairs_of(tmp_path / "grown")
        grown = build_graph(more, tmp_path / "grown", candidates=6)
        fresh = build_graph(more, tmp_path / "fresh", candidates=6)
        assert_same(grown.graph, fresh.graph)
        assert grown.verified == len(pairs_of(tmp_path / "grown")) - len(keys_before)
        assert grown.verified < fresh.verified / 2
        assert grown.pairs == fresh.pairs == fresh.verified

    def test_fewer_images_leave_nothing_of_the_others(self, tmp_path):
        build_graph(INDEX, tmp_path / "g", candidates=6)
        fewer = {name: INDEX[name] for name in INDEX if not name.startswith("mill")}
        again = build_graph(fewer, tmp_path / "g", candidates=6)
        fresh = build_graph(fewer, tmp_path / "fresh", candidates=6)
        assert_same(again.graph, fresh.graph)

    def test_queries_do_not_change_the_index(self, built, tmp_path):
        alone = build_graph(INDEX, tmp_path / "g", candidates=6).graph
        whole = built.graph
        inner = whole.graph.matrix()[:18, :18]
        assert (inner != alone.graph.matrix()).nnz == 0
        assert whole.measured == alone.measured

    def test_queries_do_not_change_one_another_unless_offline(self, tmp_path):
        queries = photos(range(90, 96))
        arguments = {"candidates": 2, "verifier": create_verifier("batched")}

        def neighbours(**options):
            """Of each query, alone with the index and among others."""
            together = build_graph(INDEX, tmp_path / "g", queries=queries, **arguments, **options).graph
            for name in queries:
                alone = build_graph(
                    INDEX, tmp_path / "g", queries={name: queries[name]}, **arguments, **options
                ).graph
                pairs = [{pair for pair in edges(g.graph, g) if name in pair} for g in (alone, together)]
                yield pairs[0] == pairs[1]

        assert all(neighbours())
        assert not all(neighbours(offline=True))

    def test_confidence_is_measured_on_the_index_after_each_round(self, tmp_path, monkeypatch):
        measured = []
        fit = Confidence.fit
        monkeypatch.setattr(
            Confidence, "fit", lambda worth, similarity: measured.append(len(worth)) or fit(worth, similarity)
        )
        pairs = [build_graph(INDEX, tmp_path / "g", candidates=2, rounds=rounds).pairs for rounds in (1, 2)]
        measured.clear()
        build_graph(INDEX, tmp_path / "g", queries=QUERIES, candidates=2)
        assert pairs[0] < pairs[1]
        assert measured == pairs

    def test_the_second_round_finds_what_descriptors_alone_do_not(self, tmp_path):
        one = build_graph(INDEX, tmp_path / "g", candidates=2, rounds=1)
        two = build_graph(INDEX, tmp_path / "g", candidates=2)
        assert edges(one.graph.graph, one.graph) < edges(two.graph.graph, two.graph)
        assert two.verified == two.pairs - one.pairs

    def test_killed_and_started_again(self, built, tmp_path):
        write_features(tmp_path / "index.npz", INDEX.values())
        write_features(tmp_path / "queries.npz", QUERIES.values())
        code = (
            "import os, sys\n"
            "from extractor.files import read_features\n"
            "from landbridge.experiments import build_graph\n"
            "def progress(step, done, total):\n"
            "    if step == 'verify index' and done >= total // 2:\n"
            "        os.kill(os.getpid(), 9)\n"
            "index, queries = read_features('index.npz'), read_features('queries.npz')\n"
            "build_graph(index, 'g', queries=queries, candidates=6, progress=progress)\n"
        )
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
        assert killed.returncode == -signal.SIGKILL
        with pytest.raises(FileNotFoundError, match="holds no graph"):
            NamedGraph.open(tmp_path / "g")
        resumed = build_graph(
            read_features(tmp_path / "index.npz"),
            tmp_path / "g",
            queries=read_features(tmp_path / "queries.npz"),
            candidates=6,
        )
        assert 0 < resumed.verified < resumed.pairs
        assert_same(resumed.graph, built.graph)

    def test_all_pairs(self, tmp_path):
        made = build_graph(INDEX, tmp_path / "g", queries=QUERIES, exhaustive=True)
        assert made.pairs == made.verified == 18 * 17 // 2 + 3 * 18
        offline = build_graph(INDEX, tmp_path / "g", queries=QUERIES, exhaustive=True, offline=True)
        assert (offline.pairs, offline.verified) == (21 * 20 // 2, 3)

    def test_offline_queries_are_candidates_of_one_another(self, tmp_path):
        queries = photos((90, 91))
        online = build_graph(INDEX, tmp_path / "g", queries=queries, candidates=2)
        offline = build_graph(INDEX, tmp_path / "g", queries=queries, candidates=2, offline=True)

        def among_queries(made):
            inner = made.graph.graph.matrix()[18:, 18:]
            return inner.nnz

        assert among_queries(online) == 0
        assert among_queries(offline) > 0

    def test_neighbour_lists_by_name_and_by_number(self, tmp_path):
        ids = ["castle/00.jpg", "castle/01", "mill/00", "castle/90"]
        lists = NeighbourLists(ids, np.array([0, 2, 2, 2, 3]), np.array([1, 2, 0], np.int32), {})
        made = build_graph(INDEX, tmp_path / "g", queries=QUERIES, neighbours=lists, rounds=1)
        assert made.pairs == made.verified == 3
        assert edges(made.graph.graph, made.graph) == {
            frozenset(("castle/00", "castle/01")),
            frozenset(("castle/00", "castle/90")),
        }
        # The same by numbers: castle/00 and castle/01 are 0 and 1, mill/00 is 6, castle/90 is 18.
        numbers = [str(i) for i in range(21)]
        starts = np.repeat([0, 2, 3], [1, 18, 3])
        lists = NeighbourLists(numbers, starts, np.array([1, 6, 0], np.int32), {})
        again = build_graph(INDEX, tmp_path / "g", queries=QUERIES, neighbours=lists, rounds=1)
        assert again.verified == 0
        assert edges(again.graph.graph, again.graph) == edges(made.graph.graph, made.graph)
        alike = {"castle/00": QUERIES["castle/90"]}
        with pytest.raises(ValueError, match="queries have the names of index images"):
            build_graph(
                INDEX,
                tmp_path / "g",
                queries=alike,
                neighbours=NeighbourLists(ids[:1], np.array([0, 0]), np.zeros(0, np.int32), {}),
            )
        stranger = NeighbourLists(["castle/00", "nobody"], np.array([0, 1, 1]), np.array([1], np.int32), {})
        with pytest.raises(ValueError, match="1 images of the neighbour lists have no features: nobody"):
            build_graph(INDEX, tmp_path / "g", neighbours=stranger)

    def test_strongest_features_alone(self, tmp_path):
        def cut(local):
            return LocalFeatures(
                local.keypoints[:20], local.scales[:20], local.scores[:20], local.descriptors[:20]
            )

        by_hand = {
            name: StoredFeatures(name, cut(photo.local), photo.global_descriptor)
            for name, photo in INDEX.items()
        }
        build_graph(INDEX, tmp_path / "g", candidates=6)
        few = build_graph(INDEX, tmp_path / "g", candidates=6, max_features=20)
        again = build_graph(by_hand, tmp_path / "g", candidates=6)
        assert (few.verified, again.verified) == (few.pairs, 0)
        assert_same(few.graph, again.graph)

    def test_a_photo_whose_keypoints_changed_is_verified_again(self, tmp_path):
        build_graph(INDEX, tmp_path / "g", exhaustive=True)
        local = INDEX["mill/00"].local
        moved = LocalFeatures(local.keypoints + 1, local.scales, local.scores, local.descriptors)
        changed = INDEX | {"mill/00": StoredFeatures("mill/00", moved, INDEX["mill/00"].global_descriptor)}
        assert build_graph(changed, tmp_path / "g", exhaustive=True).verified == 17

    def test_photos_that_cannot_be_used_are_named(self, built, tmp_path):
        class Broken(dict):
            def __getitem__(self, name):
                if name == "castle/cut":
                    raise FeatureFileError(tmp_path / "cut.delf", "it is cut off")
                return super().__getitem__(name)

        local = INDEX["castle/00"].local
        other = LocalFeatures(local.keypoints, local.scales, local.scores, np.eye(60, 5, dtype=np.float32))
        vector = INDEX["castle/00"].global_descriptor
        odd = {
            "castle/cut": None,
            "castle/global": StoredFeatures("castle/global", None, vector),
            "castle/local": StoredFeatures("castle/local", local, None),
            "castle/long": StoredFeatures("castle/long", local, np.ones(3, np.float32)),
            "castle/other": StoredFeatures("castle/other", other, vector),
        }
        made = build_graph(Broken(INDEX | odd), tmp_path / "g", queries=QUERIES, candidates=6)
        assert made.failed == {
            "castle/cut": f"{tmp_path / 'cut.delf'}: it is cut off",
            "castle/global": "it has no local features, and other photos have",
            "castle/local": "it has no global descriptor, and other photos have one of 8 components",
            "castle/long": "it has a global descriptor of 3, and other photos have one of 8 components",
            "castle/other": "its local descriptors have 5 components, those of others 16",
        }
        assert_same(made.graph, built.graph)

    def test_photos_without_any_features_and_copies_stay(self, tmp_path):
        blank = StoredFeatures("blank", LocalFeatures.empty(0), unit(np.ones(8)))
        copy = StoredFeatures("copy", INDEX["mill/00"].local, INDEX["mill/00"].global_descriptor)
        made = build_graph(INDEX | {"blank": blank, "copy": copy}, tmp_path / "g", candidates=6)
        assert made.failed == {}
        graph = made.graph
        assert np.diff(graph.graph.indptr)[graph.ids.index("blank")] == 0
        assert frozenset(("copy", "mill/00")) in edges(graph.graph, graph)

    def test_wrong_use(self, tmp_path):
        with pytest.raises(ValueError, match="no index image has features"):
            build_graph({}, tmp_path)
        with pytest.raises(ValueError, match="candidates must be 1 or more"):
            build_graph(INDEX, tmp_path, candidates=0)
        lists = NeighbourLists(["a"], np.array([0, 0]), np.zeros(0, np.int32), {})
        with pytest.raises(ValueError, match="not both"):
            build_graph(INDEX, tmp_path, neighbours=lists, exhaustive=True)
        with pytest.raises(ValueError, match="no global descriptors to find candidates by"):
            build_graph(photos((0, 1), ("local",)), tmp_path)
        build_graph(INDEX, tmp_path / "g", candidates=1, rounds=1)
        with pytest.raises(MatchStoreError, match="holds pairs of"):
            build_graph(INDEX, tmp_path / "g", verifier=create_verifier("batched", ratio=0.8))


def pairs_of(folder):
    with MatchStore(folder / "pairs", create_verifier()) as store:
        return list(range(len(store)))


class TestRank:
    def test_methods_and_lists(self, built):
        graph = built.graph
        assert graph.methods[0] == "global"
        assert graph.methods[-2:] == ("id-qe", "mmst-c")
        for method in graph.methods:
            found = graph.rank(method)
            assert list(found) == sorted(QUERIES), method
            for ranking in found.values():
                assert sorted(ranking) == sorted(INDEX), method
        for query, ranking in graph.rank("mmst-c", limit=6).items():
            landmark = query.partition("/")[0]
            assert {name.partition("/")[0] for name in ranking} == {landmark}

    def test_index_images_as_queries_do_not_find_themselves(self, built):
        found = built.graph.rank("id-qe", ["mill/03.jpg", "castle/90"], limit=18)
        assert list(found) == ["mill/03", "castle/90"]
        assert "mill/03" not in found["mill/03"]
        assert len(found["mill/03"]) == 17
        with pytest.raises(ValueError, match="knows no image nobody"):
            built.graph.rank("id-qe", ["nobody"])
        with pytest.raises(ValueError, match="unknown method 'best'"):
            built.graph.rank("best")

    def test_without_queries_the_index_is_asked(self, tmp_path):
        graph = build_graph(INDEX, tmp_path / "g", candidates=6).graph
        assert list(graph.rank("mmst-c", limit=3)) == sorted(INDEX)

    def test_without_global_descriptors(self, tmp_path, monkeypatch):
        graph = build_graph(
            photos(range(4), ("local",)), tmp_path / "g", queries=photos((90,), ("local",)), exhaustive=True
        ).graph
        assert graph.methods == ("inliers", "egt", "id-qe", "mmst-c")
        for method in graph.methods:
            for query, ranking in graph.rank(method, limit=4).items():
                assert {name.partition("/")[0] for name in ranking} == {query.partition("/")[0]}, method
        with pytest.raises(ValueError, match=r"aqe needs global descriptors.*inliers, egt, id-qe, mmst-c"):
            graph.rank("aqe")
        monkeypatch.setattr(named_graph_module, "MOST_WITHOUT_DESCRIPTORS", 5)
        with pytest.raises(ValueError, match="15 images without global descriptors are more than 5"):
            NamedGraph.open(tmp_path / "g").rank("id-qe")

    def test_global_descriptors_alone(self, tmp_path):
        made = build_graph(photos(range(4), ("global_descriptor",)), tmp_path / "g")
        assert made.pairs == 0
        graph = NamedGraph.open(tmp_path / "g")
        assert "aqe" in graph.methods
        assert "mmst-c" not in graph.methods
        assert len(graph.rank("aqe", limit=2)["castle/00"]) == 2
        with pytest.raises(ValueError, match="mmst-c needs verified pairs"):
            graph.rank("mmst-c")
        with pytest.raises(ValueError, match="nothing was verified"):
            graph.clusters()
        assert "edges" not in graph.stats()


def by_hand():
    """Index images a to e in a plane, and the query q in the direction of a."""
    angles = np.radians([0, 20, 40, 60, 80, 0])
    return NamedGraph(
        ["dir/a", "dir/b", "dir/c", "dir/d", "dir/e", "q"],
        5,
        np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
    )


class TestEvaluate:
    def test_by_hand(self, tmp_path):
        """The global order is a b c d e. With a and c easy, d hard, b junk:

        easy: a at 0 and c at 1, once b and d are gone: AP 1. Medium: b gone: a c d: 1. Hard: a, c, b gone: d
        first: 1. With b not junk, medium is a at 0, c at 2, d at 3 of three:
        (1 + (1/2 + 2/3) / 2 + (2/3 + 3/4) / 2) / 3 = 0.76388.
        """
        truth = {
            "imlist": ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"],
            "qimlist": ["q"],
            "gnd": [{"easy": [0, 2], "hard": [3], "junk": [1]}],
        }
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        table = by_hand().evaluate(tmp_path, ["global"])
        assert {protocol: scores["mAP"] for protocol, scores in table["global"].items()} == {
            "easy": 100,
            "medium": 100,
            "hard": 100,
        }
        truth["gnd"][0]["junk"] = []
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        table = by_hand().evaluate(tmp_path / "gnd.json", ["global"])
        assert table["global"]["medium"]["mAP"] == pytest.approx(100 * 0.763888, abs=1e-3)
        # Hard has one positive alone.
        assert list(by_hand().evaluate(tmp_path, ["global"], min_positives=2)["global"]) == ["easy", "medium"]
        with pytest.raises(ValueError, match="no query has 4 or more positives"):
            by_hand().evaluate(tmp_path, min_positives=4)

    def test_queries_with_few_positives_are_left_out_of_the_means(self, tmp_path):
        """a finds b and c first (100 %); e, with d alone left, has one positive: a, its last."""
        graph = NamedGraph(by_hand().ids[:5], 5, by_hand().descriptors[:5])
        truths = [{"ok": [1, 2], "junk": []}, {"ok": [0], "junk": []}]
        truth = {"imlist": list("abcde"), "qimlist": ["a", "e"], "gnd": truths}
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        scores = graph.evaluate(tmp_path, ["global"], min_positives=2)["global"]["all"]
        assert scores["mAP"] == 100
        # Of e the only positive is the fourth: AP (0 + 1/4) / 2.
        scores = graph.evaluate(tmp_path, ["global"])["global"]["all"]
        assert scores["mAP"] == pytest.approx((100 + 12.5) / 2)

    def test_a_query_of_the_index_is_not_looked_for(self, tmp_path):
        graph = NamedGraph(by_hand().ids[:5], 5, by_hand().descriptors[:5])
        truth = {"imlist": list("abcde"), "qimlist": ["a"], "gnd": [{"ok": [0, 1], "junk": []}]}
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        scores = graph.evaluate(tmp_path, ["global"])["global"]["all"]
        assert scores["mAP"] == 100

    def test_images_that_are_not_there_are_named(self, tmp_path):
        truth = {"imlist": ["a", "x"], "qimlist": ["q"], "gnd": [{"ok": [0], "junk": []}]}
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        with pytest.raises(
            ValueError, match=r"1 of 2 index images of the ground truth are not in the graph.*: x"
        ):
            by_hand().evaluate(tmp_path)
        truth |= {"imlist": ["a"], "qimlist": ["r"]}
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        with pytest.raises(ValueError, match=r"1 of 1 queries of the ground truth.*: r"):
            by_hand().evaluate(tmp_path)
        truth |= {"imlist": ["a", "other/a"], "qimlist": ["q"]}
        (tmp_path / "gnd.json").write_text(json.dumps(truth))
        with pytest.raises(
            ValueError, match=r"several index images .* are one image of the graph: a, other/a"
        ):
            by_hand().evaluate(tmp_path)
        with pytest.raises(ValueError, match="holds no gnd"):
            by_hand().evaluate(tmp_path / "..")

    def test_all_methods_on_a_built_graph(self, built, tmp_path):
        table = built.graph.evaluate(ground_truth(tmp_path))
        assert list(table) == list(built.graph.methods)
        assert table["mmst-c"]["easy"]["mAP"] == 100
        assert table["global"]["easy"]["mAP"] < 100


def chain(confidences):
    """Images a, b, c, … in a chain, and a query x at its end."""
    count = len(confidences) + 1
    pairs = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    return NamedGraph(
        [*"abcdefg"[: count - 1], "x"],
        count - 1,
        None,
        MatchGraph.from_pairs(count, pairs, np.array(confidences, np.float32)),
        MatchGraph.from_pairs(count, pairs, np.arange(10, 9 + count, dtype=np.float32), minimum=1),
    )


class TestClustersStatsExport:
    def test_clusters_are_of_the_index(self):
        graph = chain([0.9, 0.6, 0.8, 0.9])
        assert graph.clusters() == {"a": 0, "b": 0, "c": 0, "d": 0}
        assert graph.clusters(0.7) == {"a": 0, "b": 0, "c": 1, "d": 1}
        # A query is no bridge within the index.
        bridged = NamedGraph(
            ["a", "b", "x"], 2, None, MatchGraph.from_pairs(3, np.array([[0, 2], [1, 2]]), [0.9, 0.9])
        )
        assert bridged.clusters() == {"a": 0, "b": 1}

    def test_stats_by_hand(self):
        facts = chain([0.9, 0.65, 0.85, 0.9]).stats()
        assert facts["images"] == 4
        assert facts["queries"] == 1
        assert facts["edges"] == 3
        assert (facts["components"], facts["largest"], facts["alone"]) == (1, 4, 0)
        assert facts["degree"] == {"mean": 1.5, "median": 1.5, "max": 2}
        assert facts["cluster_sizes"] == {"3-5": 1}
        assert facts["confidence"] == {"0.6": 1, "0.8": 1, "0.9": 1}
        cut = chain([0.9, 0.65, 0.85, 0.9]).stats(0.7)
        assert (cut["edges"], cut["components"], cut["largest"], cut["alone"]) == (2, 2, 2, 0)
        assert cut["cluster_sizes"] == {"2": 2}
        json.dumps(facts, allow_nan=False)

    def test_exports_are_read_by_others(self, tmp_path):
        graph = chain([0.9, 0.75])
        for name in ("g.graphml", "g.npz", "g.egt"):
            graph.export(tmp_path / name, name.rpartition(".")[2])
        read = nx.read_graphml(tmp_path / "g.graphml")
        assert list(read) == list(graph.to_networkx()) == ["a", "b", "x"]
        assert dict(read.edges) == dict(graph.to_networkx().edges)
        assert read.edges["b", "x"] == {"confidence": 0.75, "inliers": 11}
        lists = read_npz(tmp_path / "g.npz")
        assert (lists.ids, lists.columns["inliers"].tolist()) == (["a", "b", "x"], [10, 11])
        assert (tmp_path / "g.egt").read_text() == "a,b 10\nb,a 10 x 11\nx,b 11\n"
        with pytest.raises(ValueError, match="no format 'svg'; there are graphml, egt, npz"):
            graph.export(tmp_path / "g.svg", "svg")

    def test_a_query_with_the_name_of_an_index_image(self, tmp_path):
        graph = NamedGraph(["a", "a"], 1, None, MatchGraph.from_pairs(2, np.array([[0, 1]]), [0.9]))
        graph.export(tmp_path / "g.egt", "egt")
        assert (tmp_path / "g.egt").read_text() == "a,query:a 0.899999976\nquery:a,a 0.899999976\n"


class TestImport:
    def test_egt_text_back_and_forth(self, built, tmp_path):
        built.graph.export(tmp_path / "g.egt", "egt")
        found = import_graph(
            read_egt(tmp_path / "g.egt"), tmp_path / "g", queries=sorted(QUERIES), features=INDEX | QUERIES
        )
        assert found.ids == built.graph.ids
        assert found.index == built.graph.index
        np.testing.assert_array_equal(found.inliers.indices, built.graph.inliers.indices)
        np.testing.assert_array_equal(found.inliers.confidence, built.graph.inliers.confidence)
        np.testing.assert_array_equal(found.descriptors, built.graph.descriptors)
        assert found.rank("inliers") == built.graph.rank("inliers")
        table = NamedGraph.open(tmp_path / "g").evaluate(ground_truth(tmp_path), ["mmst-c"])
        assert table["mmst-c"]["easy"]["mAP"] > 90

    def test_confidence_is_taken_as_it_is(self, tmp_path):
        ids = ["x", "b.jpg", "a"]
        columns = {"confidence": np.array([0.9, 0.4, 0.8], np.float32)}
        lists = NeighbourLists(ids, np.array([0, 2, 3, 3]), np.array([1, 2, 2], np.int32), columns)
        graph = import_graph(lists, tmp_path / "g", queries=["x"])
        assert graph.ids == ["a", "b", "x"]
        assert graph.inliers is None
        assert graph.methods == ("id-qe", "mmst-c")
        matrix = graph.graph.matrix().toarray()
        np.testing.assert_allclose(matrix, [[0, 0.8, 0], [0.8, 0, 0.9], [0, 0.9, 0]], atol=1e-6)

    def test_inliers_are_calibrated(self, tmp_path):
        """Thirty images in a chain of 200 inliers, 5 between all others, and 999 of each with itself."""
        count = 30
        pairs = np.array([(i, j) for i in range(count) for j in range(i + 1)])
        apart = pairs[:, 0] - pairs[:, 1]
        values = np.select([apart == 0, apart == 1], [999, 200], 5).astype(np.float32)
        starts = np.append(0, np.cumsum(np.arange(1, count + 1)))
        lists = NeighbourLists(
            [f"{i:02}" for i in range(count)], starts, pairs[:, 1].astype(np.int32), {"inliers": values}
        )
        graph = import_graph(lists, tmp_path / "g")
        assert graph.graph.edges == count - 1
        assert graph.inliers.edges == count * (count - 1) // 2
        assert graph.measured == Confidence.fit(values[apart > 0], np.zeros((apart > 0).sum(), np.float32))

    def test_what_cannot_be_imported_is_said(self, tmp_path):
        def lists(**columns):
            return NeighbourLists(
                ["a", "b"],
                np.array([0, 1, 1]),
                np.array([1], np.int32),
                {name: np.array([value], np.float32) for name, value in columns.items()},
            )

        with pytest.raises(ValueError, match="the lists hold similarity, and neither inliers nor confidence"):
            import_graph(lists(similarity=0.5), tmp_path)
        with pytest.raises(ValueError, match="no weight is above 1"):
            import_graph(lists(weights=0.5), tmp_path)
        with pytest.raises(ValueError, match="know no queries c"):
            import_graph(lists(inliers=5), tmp_path, queries=["c"])
        with pytest.raises(ValueError, match="1 images of the lists are not among the features: b"):
            import_graph(
                lists(inliers=5), tmp_path, features={"a": StoredFeatures("a", None, np.ones(1, np.float32))}
            )
        with pytest.raises(ValueError, match="2 images have no global descriptor: a, b"):
            import_graph(lists(inliers=5), tmp_path, features={name: StoredFeatures(name) for name in "ab"})


class TestFolder:
    def test_saved_and_opened(self, built, tmp_path):
        built.graph.save(tmp_path / "g")
        opened = NamedGraph.open(tmp_path / "g")
        assert_same(opened, built.graph)
        assert isinstance(opened.descriptors.base, np.memmap)
        chain([0.9, 0.8]).save(tmp_path / "g")
        replaced = NamedGraph.open(tmp_path / "g")
        assert (replaced.ids, replaced.descriptors, replaced.measured) == (["a", "b", "x"], None, None)
        # What was opened before stays what it was.
        assert_same(opened, built.graph)
        with next((tmp_path / "g").glob("built-*/images.csv")).open() as file:
            assert list(csv.reader(file)) == [["id", "role"], ["a", "index"], ["b", "index"], ["x", "query"]]

    def test_odd_names(self, tmp_path):
        names = ['a,"b"', "line\nbreak", "ä ö"]
        NamedGraph(names, 2, np.eye(3, dtype=np.float32)).save(tmp_path / "g")
        assert NamedGraph.open(tmp_path / "g").ids == names

    def test_a_save_that_fails_leaves_what_was_there(self, tmp_path, monkeypatch):
        chain([0.9, 0.8]).save(tmp_path / "g")

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(MatchGraph, "save", full)
        with pytest.raises(OSError, match="No space"):
            chain([0.9, 0.8, 0.7]).save(tmp_path / "g")
        monkeypatch.undo()
        assert len(NamedGraph.open(tmp_path / "g")) == 3
        chain([0.9, 0.8, 0.7]).save(tmp_path / "g")
        assert len(NamedGraph.open(tmp_path / "g")) == 4
        assert len(list((tmp_path / "g").glob("built-*"))) == 1

    def test_damaged_folders_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="holds no graph: make one"):
            NamedGraph.open(tmp_path / "nowhere")
        for damage in ("images.csv", "graph/graph.json"):
            chain([0.9, 0.8]).save(tmp_path / "g")
            next((tmp_path / "g").glob(f"built-*/{damage}")).write_text("id,role\n")
            with pytest.raises(ValueError, match=r"the graph in .*g cannot be read .*build it again"):
                NamedGraph.open(tmp_path / "g")
        (tmp_path / "g" / "current.json").write_text('{"format": 9}')
        with pytest.raises(ValueError, match="format is 9, not 1"):
            NamedGraph.open(tmp_path / "g")


def test_neither_milvus_nor_torch_is_loaded():
    code = (
        "import sys, landbridge.experiments, landbridge.cli.graph; "
        "print([m for m in ('torch', 'pymilvus', 'milvus_lite', 'cv2') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
