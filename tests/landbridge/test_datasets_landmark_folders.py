import pytest

from landbridge.datasets import DatasetError, Truth, load_dataset


@pytest.fixture
def folder(tmp_path):
    for name in (
        "tower/1.jpg",
        "tower/night/2.png",
        "tower/3.JPEG",
        "gate/1.webp",
        "gate/2.jpg",
        "alone/1.jpg",
        "gate.jpg",
        "tower/notes.txt",
        "gate/.thumbnail.jpg",
        ".cache/1.jpg",
        ".cache/2.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_photos_queries_and_truth(folder):
    dataset = load_dataset(folder)
    photos = ["alone/1", "gate/1", "gate/2", "gate", "tower/1", "tower/3", "tower/night/2"]
    assert list(dataset.index) == photos
    assert dataset.index["tower/night/2"] == folder / "tower/night/2.png"
    assert dataset.leave_one_out
    assert dataset.metric == "trapezoid"
    tower, gate = {"tower/1", "tower/3", "tower/night/2"}, {"gate/1", "gate/2"}
    assert dataset.protocols == {
        "all": {item: Truth(frozenset(gate - {item}), frozenset({item})) for item in gate}
        | {item: Truth(frozenset(tower - {item}), frozenset({item})) for item in tower}
    }
    assert dataset.queries == {item: dataset.index[item] for item in tower | gate}
    assert list(dataset.queries) == sorted(dataset.queries)
    assert dataset.labels == {item: item.split("/")[0] for item in photos if "/" in item}
    assert dataset.landmarks == {item: frozenset({item.split("/")[0]}) for item in tower | gate}


def test_a_query_does_not_find_itself(folder):
    # gate/1 finds itself, something wrong, gate/2: without itself n p, (0/1 + 1/2) / 2 = 1/4. The four other
    # queries find nothing.
    scores = load_dataset(folder).evaluate({"gate/1": ["gate/1", "alone/1", "gate/2"]})
    assert scores["all"]["mAP"] == pytest.approx(25 / 5)


def test_photos_that_differ_in_their_suffix_alone_are_refused(folder):
    (folder / "tower" / "1.png").touch()
    with pytest.raises(DatasetError, match=r"1\.jpg and .*1\.png would both be called tower/1"):
        load_dataset(folder)
