import json
import pickle

import numpy as np
import pytest

from landbridge.datasets import DatasetError, Truth, load_dataset
from landbridge.datasets.revisited import read_ground_truth


def truth(**labels):
    return {"easy": [0], "hard": [1, 2], "junk": [3], "bbx": [1.5, 2.0, 30.0, 40.0]} | labels


def content(**changes):
    return {"imlist": ["a", "b", "c", "d", "e"], "qimlist": ["q"], "gnd": [truth()]} | changes


def write(folder, gnd, cropped=True):
    (folder / "gnd.json").write_text(json.dumps(gnd))
    (folder / "jpg").mkdir()
    for name in [*gnd["imlist"], *gnd["qimlist"], "not_listed"]:
        (folder / "jpg" / f"{name}.jpg").touch()
    if cropped:
        (folder / "queries_cropped").mkdir()
        for name in gnd["qimlist"]:
            (folder / "queries_cropped" / f"{name}.jpg").touch()


class TestDataset:
    def test_photos_and_protocols(self, tmp_path):
        write(tmp_path, content())
        dataset = load_dataset(tmp_path)
        assert list(dataset.index) == ["a", "b", "c", "d", "e"]
        assert dataset.index["b"] == tmp_path / "jpg" / "b.jpg"
        assert dataset.queries == {"q": tmp_path / "queries_cropped" / "q.jpg"}
        assert dataset.metric == "trapezoid"
        assert not dataset.leave_one_out
        assert dataset.protocols == {
            "easy": {"q": Truth(frozenset("a"), frozenset("bcd"))},
            "medium": {"q": Truth(frozenset("abc"), frozenset("d"))},
            "hard": {"q": Truth(frozenset("bc"), frozenset("ad"))},
        }

    def test_queries_that_are_not_cropped_carry_their_box(self, tmp_path):
        write(tmp_path, content(), cropped=False)
        dataset = load_dataset(tmp_path)
        assert dataset.queries == {"q": tmp_path / "jpg" / "q.jpg"}
        assert dataset.boxes == {"q": (1.5, 2.0, 30.0, 40.0)}
        assert dataset.boxes["q"].x2 == 30.0

    def test_cropped_queries_carry_none(self, tmp_path):
        write(tmp_path, content())
        assert load_dataset(tmp_path).boxes == {}

    def test_without_a_box_the_whole_photo_is_the_query(self, tmp_path):
        write(tmp_path, content(gnd=[truth(bbx=None)]), cropped=False)
        assert load_dataset(tmp_path).boxes == {}

    def test_an_empty_box_is_refused(self, tmp_path):
        write(tmp_path, content(gnd=[truth(bbx=[5, 5, 5, 9])]), cropped=False)
        with pytest.raises(DatasetError, match=r"gnd.json: the box of q is empty: \[5.*9"):
            load_dataset(tmp_path)

    def test_missing_photos_are_named(self, tmp_path):
        write(tmp_path, content())
        (tmp_path / "jpg" / "b.jpg").unlink()
        (tmp_path / "jpg" / "e.jpg").unlink()
        with pytest.raises(DatasetError, match=r"2 of 5 index photos are not in .*jpg: b, e;"):
            load_dataset(tmp_path)

    def test_a_missing_query_is_named(self, tmp_path):
        write(tmp_path, content())
        (tmp_path / "queries_cropped" / "q.jpg").unlink()
        with pytest.raises(DatasetError, match=r"1 of 1 query photos are not in .*queries_cropped: q;"):
            load_dataset(tmp_path)

    def test_names_with_suffixes_and_folders(self, tmp_path):
        (tmp_path / "jpg" / "defense").mkdir(parents=True)
        for name in ("defense/a.JPG", "b.jpg", "q.jpg"):
            (tmp_path / "jpg" / name).touch()
        gnd = content(imlist=["defense/a.jpg", "b.jpg"], qimlist=["q.jpg"], gnd=[truth(hard=[1], junk=[])])
        (tmp_path / "gnd.json").write_text(json.dumps(gnd))
        dataset = load_dataset(tmp_path)
        assert list(dataset.index) == ["defense/a", "b"]
        assert dataset.protocols["medium"]["q"].positives == {"defense/a", "b"}

    def test_classic_labels_give_one_protocol(self, tmp_path):
        write(tmp_path, content(qimlist=["a"], gnd=[{"ok": [0, 1], "junk": [2], "bbx": [0, 0, 5, 5]}]))
        dataset = load_dataset(tmp_path)
        assert dataset.protocols == {"all": {"a": Truth(frozenset("ab"), frozenset("c"))}}

    def test_a_pickle_reads_like_the_json(self, tmp_path):
        write(tmp_path, content())
        from_json = load_dataset(tmp_path)
        (tmp_path / "gnd.json").unlink()
        arrays = truth(
            easy=np.array([0]),
            hard=np.array([1, 2], np.uint16),
            junk=[np.int64(3)],
            bbx=np.array([1, 2, 3, 4]),
        )
        gnd = content(imlist=np.array(list("abcde")), qimlist=("q",), gnd=np.array([arrays], dtype=object))
        (tmp_path / "gnd_small.pkl").write_bytes(pickle.dumps(gnd, protocol=2))
        assert load_dataset(tmp_path) == from_json

    def test_two_pickles_are_one_too_many(self, tmp_path):
        write(tmp_path, content())
        for name in ("gnd_1.pkl", "gnd_2.pkl"):
            (tmp_path / name).touch()
        assert load_dataset(tmp_path).queries  # gnd.json goes first
        (tmp_path / "gnd.json").unlink()
        with pytest.raises(DatasetError, match=r"several ground truths: .*gnd_1.pkl, .*gnd_2.pkl; keep one"):
            load_dataset(tmp_path)


class TestGroundTruth:
    @pytest.mark.parametrize(
        ("gnd", "message"),
        [
            ([], "as a whole: Input should be a valid dictionary"),
            ({"imlist": [], "gnd": []}, "qimlist: Field required"),
            (content(gnd=[truth(easy=["a"])]), r"gnd\.0\.easy\.0: Input should be a valid integer"),
            (content(gnd=[truth(easy=[True])]), r"gnd\.0\.easy\.0: Input should be a valid integer"),
            (content(gnd=[truth(bbx=[1, 2, 3])]), r"gnd\.0\.bbx: List should have at least 4 items"),
            (content(gnd=[]), "qimlist names 1 queries and gnd has 0"),
            (content(gnd=[truth(junk=[2, 5])]), "q: imlist has no positions 5"),
            (content(gnd=[truth(hard=[-1])]), "q: imlist has no positions -1"),
            (content(imlist=["a", "b", "b.jpg", "d"]), "imlist repeats b"),
            (content(qimlist=["q", "q"], gnd=[truth(), truth()]), "qimlist repeats q"),
            (content(gnd=[{"easy": [0], "junk": []}]), r"gnd\.0: .*needs either easy and hard"),
            (content(gnd=[truth(ok=[0])]), r"gnd\.0: .*needs either easy and hard"),
            (content(qimlist=["q", "r"], gnd=[truth(), {"ok": [0]}]), "others ok"),
        ],
    )
    def test_faults_are_named(self, tmp_path, gnd, message):
        path = tmp_path / "gnd.json"
        path.write_text(json.dumps(gnd))
        with pytest.raises(DatasetError, match=message) as caught:
            read_ground_truth(path)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 100_000], ids=["empty", "cut", "latin", "deep"])
    def test_what_is_not_json_is_refused(self, tmp_path, text):
        path = tmp_path / "gnd.json"
        path.write_text(text, encoding="latin1")
        with pytest.raises(DatasetError, match=r"gnd\.json is not JSON"):
            read_ground_truth(path)

    def test_a_pickle_that_holds_itself_is_refused(self, tmp_path):
        circle = []
        circle.append(circle)
        path = tmp_path / "gnd_circle.pkl"
        path.write_bytes(pickle.dumps(circle))
        with pytest.raises(DatasetError, match="holds something that holds itself"):
            read_ground_truth(path)
