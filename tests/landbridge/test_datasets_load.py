import csv
import json
from pathlib import Path

import pytest

from landbridge.datasets import Dataset, DatasetError, Truth, load_dataset


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
            "easy": pytest.approx({"mAP": 62.5, "mP@10": 75}),
            "hard": pytest.approx({"mAP": 25, "mP@10": 50}),
        }

    def test_a_query_without_a_ranking_has_0(self):
        scores = small().evaluate({"q1": ["a"]})
        assert scores["easy"] == pytest.approx({"mAP": 50, "mP@10": 50})

    def test_min_positives(self):
        # Only easy q2 has two positives: q1 does not count in easy, and hard has no query left.
        dataset = small(min_positives=2)
        assert dataset.scored("easy") == ["q2"]
        assert dataset.scored("hard") == []
        assert dataset.evaluate({"q1": [], "q2": ["b", "c"]}) == {"easy": {"mAP": 100, "mP@10": 100}}
        assert set(dataset.queries) == {"q1", "q2"}

    def test_no_query_with_enough_positives(self):
        with pytest.raises(DatasetError, match="small: no query has 3 or more positives in any protocol"):
            small(min_positives=3)

    def test_the_metric_of_the_challenge(self):
        # q1: c a: (1/2) / 1, P@10 = 1/10.  q2: nothing.  Means in percent.
        scores = small(metric="challenge").evaluate({"q1": ["c", "a"], "q2": []})
        assert scores["easy"] == pytest.approx({"mAP": 25, "mP@10": 5})

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
