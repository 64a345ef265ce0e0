import pytest

from landbridge.datasets import DatasetError, Truth, load_dataset

FILES = {
    "tower_1_query.txt": "oxc1_tower_000001 136.5 34.1 648.5 955.7",
    "tower_1_good.txt": "tower_000001\ntower_000002\n",
    "tower_1_ok.txt": "gate_000001\n",
    "tower_1_junk.txt": "gate_000002\n",
    "gate_1_query.txt": "gate_000002 0 1 2 3\n",
    "gate_1_good.txt": "",
    "gate_1_ok.txt": "gate_000001",
    "gate_1_junk.txt": "\n",
}
PHOTOS = ("gate_000001", "gate_000002", "tower_000001", "tower_000002", "distractor")


def write(folder, photos="jpg", labels="", **changes):
    for name in PHOTOS:
        path = folder / photos / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / labels).mkdir(exist_ok=True)
    for name, text in (FILES | changes).items():
        (folder / labels / name).write_text(text)


@pytest.mark.parametrize(("photos", "labels"), [("jpg", ""), ("", "gt_files"), ("paris/1", "gt")])
def test_photos_and_labels_in_the_places_they_come_in(tmp_path, photos, labels):
    write(tmp_path, photos, labels)
    dataset = load_dataset(tmp_path)
    assert dataset.index["distractor"] == tmp_path / photos / "distractor.jpg"
    assert sorted(dataset.index) == sorted(PHOTOS)
    assert dataset.queries == {
        "gate_000002": tmp_path / photos / "gate_000002.jpg",
        "tower_000001": tmp_path / photos / "tower_000001.jpg",
    }
    assert dataset.boxes == {"gate_000002": (0, 1, 2, 3), "tower_000001": (136.5, 34.1, 648.5, 955.7)}
    assert dataset.protocols == {
        "all": {
            "gate_000002": Truth(frozenset({"gate_000001"})),
            "tower_000001": Truth(
                frozenset({"tower_000001", "tower_000002", "gate_000001"}), frozenset({"gate_000002"})
            ),
        }
    }
    assert dataset.metric == "trapezoid"
    assert not dataset.leave_one_out


def test_a_query_that_is_good_for_itself_counts(tmp_path):
    # tower_000001 finds itself alone: one of three positives at the first place, (1 + 1) / (2 * 3) = 1/3.
    write(tmp_path)
    scores = load_dataset(tmp_path).evaluations({"tower_000001": ["tower_000001"]})["all"]
    assert scores.average_precision == pytest.approx([0, 100 / 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tower_1_query.txt": "tower_000001 1 2 3"}, r"tower_1_query.txt must read: photo x1 y1 x2 y2"),
        ({"tower_1_query.txt": "tower_000001 1 2 3 x"}, r"it reads: tower_000001 1 2 3 x"),
        ({"tower_1_query.txt": ""}, r"tower_1_query.txt must read"),
        ({"tower_1_query.txt": "tower_000001 5 2 5 9"}, r"tower_1_query.txt: the box is empty: 5 2 5 9"),
        ({"tower_1_query.txt": "gate_000002 1 2 3 4"}, "another query uses the photo gate_000002 already"),
        (
            {"tower_1_junk.txt": "lost_1\nlost_2"},
            "2 of 6 photos of the ground truth are not in .*: lost_1, lost_2",
        ),
        ({"lost_1_query.txt": "lost 1 2 3 4"}, "lost_1_good.txt is missing: every query needs"),
    ],
)
def test_faults_are_named(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path)


def test_labels_in_two_folders_are_refused(tmp_path):
    write(tmp_path, labels="gt_1")
    write(tmp_path, labels="gt_2")
    with pytest.raises(DatasetError, match=r"several ground truths: .*gt_1, .*gt_2; keep one"):
        load_dataset(tmp_path)
