import csv
import json
import shutil
from pathlib import Path

import pytest

from landbridge.datasets import Dataset, DatasetError, Truth, load_dataset

FIGURES = "mAP", "mP@10", "Recall@1", "Recall@5", "Recall@10"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def small(min_positives=1, metric="trapezoid"):
    """Three index photos and two queries; only `q1` has a hard positive."""
    return Dataset(
        name="small",
        index={item: Path(item) for item in "abc"},
        queries={item: Path(item) for item in ("q1", "q2")},
        protocols={
            "easy": {
                "q1": Truth(frozenset("a"), frozenset("b")),
                "q2": Truth(frozenset("bc")),
            },
            "hard": {"q1": Truth(frozenset("b"), frozenset("a")), "q2": Truth(frozenset(), frozenset("bc"))},
        },
        metric=metric,
        min_positives=min_positives,
        unjudged=frozenset({"q9"}),
    )


class TestEvaluate:
    def test_by_hand(self):
        # easy q1: c a (b is junk): (0/1 + 1/2) / 2 = 1/4, P@10 = 1/2.  easy q2: b c a: 1 and 1.
        # hard q1: c b (a is junk): 1/4 and 1/2.  hard q2 has no positive and does not count.
        scores = small().evaluate({"q1": ["c", "b", "a"], "q2": ["b", "c", "a"]})
        assert scores == {
            "easy": pytest.approx(
                {"mAP": 62.5, "mP@10": 75, "Recall@1": 50, "Recall@5": 100, "Recall@10": 100}
            ),
            "hard": pytest.approx({"mAP": 25, "mP@10": 50, "Recall@1": 0, "Recall@5": 100, "Recall@10": 100}),
        }

    def test_a_query_without_a_ranking_has_0(self):
        scores = small().evaluate({"q1": ["a"]})
        assert scores["easy"] == pytest.approx(dict.fromkeys(FIGURES, 50))

    def test_min_positives(self):
        # Only easy q2 has two positives: q1 does not count in easy, and hard has no query left.
        dataset = small(min_positives=2)
        assert dataset.scored("easy") == ["q2"]
        assert dataset.scored("hard") == []
        assert dataset.evaluate({"q1": [], "q2": ["b", "c"]}) == {"easy": dict.fromkeys(FIGURES, 100)}
        assert set(dataset.queries) == {"q1", "q2"}

    def test_no_query_with_enough_positives(self):
        with pytest.raises(DatasetError, match="small: no query has 3 or more positives in any protocol"):
            small(min_positives=3)

    def test_the_metric_of_the_challenge(self):
        # q1: c a: (1/2) / 1, P@10 = 1/10.  q2: nothing.  Means in percent.
        scores = small(metric="challenge").evaluate({"q1": ["c", "a"], "q2": []})
        recalls = {"Recall@1": 0, "Recall@5": 50, "Recall@10": 50}
        assert scores["easy"] == pytest.approx({"mAP": 25, "mP@10": 5} | recalls)

    def test_precision_and_recall_of_all_queries(self):
        # hard: q1 has the positive b and the junk a, q2 has nothing to find and the junk b, c.
        # By score: q2's a (wrong), q1's b (right): precision 1/2 at recall 1.
        rankings = {"q1": ["a", "b"], "q2": ["c", "a"], "q9": ["a"]}
        curves = small().precision_recall(rankings, {"q1": [0.9, 0.5], "q2": [0.8, 0.6]})
        assert curves["hard"].precision.tolist() == [0, 0.5]
        assert curves["hard"].recall.tolist() == [0, 1]
        # easy: a of q1 (right), c of q2 (right), a of q2 (wrong); b of q1 is junk; q2's b is never found.
        assert curves["easy"].thresholds.tolist() == [0.9, 0.8, 0.6]
        assert curves["easy"].recall == pytest.approx([1 / 3, 2 / 3, 2 / 3])
        # Of two positives or more, q2 has the only ones.
        curve = small(min_positives=2).precision_recall(rankings, {"q1": [0.9, 0.5], "q2": [0.8, 0.6]})[
            "easy"
        ]
        assert (curve.thresholds.tolist(), curve.recall.tolist()) == ([0.8, 0.6], [0.5, 0.5])
        with pytest.raises(ValueError, match="small has no such queries: q3"):
            small().precision_recall({"q3": []}, {})

    def test_single_queries(self):
        scores = small().evaluations({"q1": ["c", "a"], "q2": ["b", "c"]}, ks=(1,))["easy"]
        assert scores.queries == ("q1", "q2")
        assert scores.average_precision == pytest.approx([25, 100])
        assert scores.precision_at[1] == pytest.approx([0, 100])

    def test_rankings_of_unjudged_queries_are_accepted(self):
        rankings = {"q1": ["a"], "q2": ["b", "c"]}
        assert small().evaluate(rankings | {"q9": ["anything"]}) == small().evaluate(rankings)

    def test_unknown_queries_and_photos_are_named(self):
        with pytest.raises(ValueError, match=r"small has no such queries: q1\.jpg"):
            small().evaluate({"q1.jpg": []})
        with pytest.raises(
            ValueError, match=r"the ranking of q2 holds ids that are not in the index: a\.jpg"
        ):
            small().evaluate({"q2": ["a.jpg", "b"]})


class TestLoad:
    def test_the_ground_truth_decides_what_a_folder_is(self, tmp_path):
        touch(tmp_path, "tower/1.jpg", "tower/2.jpg")
        assert load_dataset(tmp_path).leave_one_out

        touch(tmp_path, "123400.jpg", "123401.jpg", "123402.jpg", "123403.jpg", "123404.jpg")
        shutil.move(tmp_path / "tower", tmp_path.with_name("tower"))
        assert list(load_dataset(tmp_path).queries) == ["123400"]

        touch(tmp_path, "index/1.jpg", "queries/9.jpg")
        (tmp_path / "coordinates.csv").write_text("id,x,y\n1,0,0\n9,3,4\n")
        assert list(load_dataset(tmp_path).protocols) == ["within 25 m"]

        touch(tmp_path, "index/1.jpg", "test/9.jpg")
        with (tmp_path / "solution.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["id", "images", "Usage"], ["9", "1", "Public"]])
        assert load_dataset(tmp_path).metric == "challenge"

        touch(tmp_path, "jpg/1.jpg", "jpg/2.jpg")
        for kind, text in {"query": "oxc1_1 0 0 9 9", "good": "2", "ok": "", "junk": ""}.items():
            (tmp_path / f"tower_1_{kind}.txt").write_text(text)
        classic = load_dataset(tmp_path)
        assert list(classic.protocols) == ["all"]
        assert classic.boxes

        gnd = {"easy": [0], "hard": [], "junk": [], "bbx": [0, 0, 1, 1]}
        (tmp_path / "gnd.json").write_text(json.dumps({"imlist": ["1"], "qimlist": ["2"], "gnd": [gnd]}))
        assert list(load_dataset(str(tmp_path)).protocols) == ["easy", "medium", "hard"]
        # A radius asks for the coordinates, whatever else there is.
        assert list(load_dataset(tmp_path, radius=5.5).protocols) == ["within 5.5 m"]

    def test_min_positives_is_passed_on(self, tmp_path):
        touch(tmp_path, "tower/1.jpg", "tower/2.jpg", "gate/1.jpg", "gate/2.jpg", "gate/3.jpg")
        dataset = load_dataset(tmp_path, min_positives=2)
        assert dataset.scored("all") == ["gate/1", "gate/2", "gate/3"]
        with pytest.raises(ValueError, match="min_positives must be at least 1, got 0"):
            load_dataset(tmp_path, min_positives=0)

    def test_the_name_is_that_of_the_folder(self, tmp_path, monkeypatch):
        touch(tmp_path / "towers", "tower/1.jpg", "tower/2.jpg")
        monkeypatch.chdir(tmp_path / "towers")
        assert load_dataset(".").name == "towers"

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ([], "has no ground truth, and no subfolder with two photos"),
            (["a.jpg", "b.jpg"], "has no ground truth, and no subfolder with two photos"),
            (["tower/a.jpg", "gate/a.jpg"], "has no ground truth, and no subfolder with two photos"),
            ([".hidden/a.jpg", ".hidden/b.jpg"], "has no ground truth, and no subfolder with two photos"),
            (["jpg/a.jpg", "jpg/b.jpg", "queries_cropped/c.jpg"], "has jpg/ but no ground truth"),
        ],
    )
    def test_other_folders_are_refused_with_the_layouts(self, tmp_path, names, message):
        touch(tmp_path, *names)
        with pytest.raises(DatasetError, match=message) as caught:
            load_dataset(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "index/, test/ and a CSV with the columns id,images,Usage" in str(caught.value)

    def test_what_is_not_a_folder_is_refused(self, tmp_path):
        touch(tmp_path, "photo.jpg")
        for path in (tmp_path / "photo.jpg", tmp_path / "nowhere"):
            with pytest.raises(DatasetError, match=f"{path.name} is not a folder"):
                load_dataset(path)
