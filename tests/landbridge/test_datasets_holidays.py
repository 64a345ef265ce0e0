import pytest

from landbridge.datasets import DatasetError, Truth, load_dataset

PHOTOS = "100000", "100001", "100002", "100100", "100102", "149900"


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.fixture(params=[".", "jpg"])
def folder(tmp_path, request):
    """Two groups with positives, of two and one, and a query alone."""
    touch(tmp_path / request.param, *(f"{name}.jpg" for name in PHOTOS))
    return tmp_path


def test_groups_queries_and_truth(folder):
    dataset = load_dataset(folder)
    assert tuple(dataset.index) == PHOTOS
    assert list(dataset.queries) == ["100000", "100100", "149900"]
    assert dataset.protocols == {
        "all": {
            "100000": Truth(frozenset({"100001", "100002"}), frozenset({"100000"})),
            "100100": Truth(frozenset({"100102"}), frozenset({"100100"})),
            "149900": Truth(frozenset(), frozenset({"149900"})),
        }
    }
    assert dataset.leave_one_out
    assert dataset.metric == "trapezoid"
    assert dataset.scored("all") == ["100000", "100100"]


def test_map_by_hand(folder):
    """The query is ignored wherever it stands, and the queries of other groups are wrong answers."""
    # 100000: itself, then p n p: (1 + 1)/2 /2 + (1/2 + 2/3)/2 /2 = 1/2 + 7/24 = 19/24.
    # 100100: n, itself, p: (0/1 + 1/2)/2 = 1/4.
    rankings = {
        "100000": ["100000", "100001", "100100", "100002", "149900", "100102"],
        "100100": ["149900", "100100", "100102", "100000", "100001", "100002"],
    }
    found = load_dataset(folder).evaluate(rankings)["all"]
    assert found["mAP"] == pytest.approx(50 * (19 / 24 + 1 / 4), abs=1e-12)
    assert (found["Recall@1"], found["Recall@5"]) == (50, 100)


def test_the_rule_of_the_official_evaluation(folder):
    """AP as the evaluation of the authors states it, written out: trapezoids of width 1 / positives."""
    ranks, positives, expected = [1, 4], 2, 0.0
    for found, rank in enumerate(ranks):
        left = found / rank if rank else 1.0
        expected += (left + (found + 1) / (rank + 1)) / 2 / positives
    ranking = ["100100", "100001", "100102", "149900", "100002"]
    dataset = load_dataset(folder)
    (first, second) = dataset.evaluations({"100000": ranking})["all"].average_precision
    assert (first, second) == (pytest.approx(100 * expected), 0)


def test_groups_without_a_query_are_named(folder):
    place = folder / "jpg" if (folder / "jpg").exists() else folder
    touch(place, "123401.jpg", "123402.jpg")
    with pytest.raises(
        DatasetError, match=r"1 of 4 groups in .* have no query, .*: those of 123401\.jpg; add the queries"
    ):
        load_dataset(folder)


def test_other_names_are_named(folder):
    place = folder / "jpg" if (folder / "jpg").exists() else folder
    touch(place, "beach.jpg", "1000.jpg")
    with pytest.raises(
        DatasetError, match=r"2 of 8 photos in .* are not named by a six-digit number .*beach"
    ):
        load_dataset(folder)


def test_two_photos_of_one_number(folder):
    place = folder / "jpg" if (folder / "jpg").exists() else folder
    touch(place, "100001.png")
    with pytest.raises(DatasetError, match=r"100001\.jpg and .*100001\.png would both be called 100001"):
        load_dataset(folder)


@pytest.mark.parametrize("names", [["1.jpg", "2.jpg"], [f"00{n:04}.jpg" for n in range(9)], ["20200101.jpg"]])
def test_no_such_names(tmp_path, names):
    """Frames numbered from zero and dates are no photos of Holidays."""
    touch(tmp_path, *names)
    with pytest.raises(DatasetError, match="has no ground truth") as caught:
        load_dataset(tmp_path)
    assert "jpg/ with six-digit names, those that end in 00 the queries (Holidays)" in str(caught.value)


def test_subfolders_of_landmarks_go_before(tmp_path):
    touch(tmp_path / "tower", "100001.jpg", "100002.jpg")
    touch(tmp_path, "100000.jpg")
    assert list(load_dataset(tmp_path).index) == ["100000", "tower/100001", "tower/100002"]
