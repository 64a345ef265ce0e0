import json

import pytest

from landbridge import METHODS
from landbridge.demo import run_demo


def test_photos_without_labels(toy, tmp_path):
    """A flat folder: every photo searches for the others."""
    for step in range(4):
        toy.write_photo(tmp_path / f"mine/castle{step}.png", range(2 * step, 2 * step + 4), step)
    (tmp_path / "mine/bad.jpg").touch()
    steps = []
    demo = run_demo(tmp_path / "mine", tmp_path / "out/demo", progress=lambda step, *_: steps.append(step))
    # On a walk of four photos, three pairs are two or more steps apart, seen from either end.
    assert (demo.photos, demo.bridged, demo.evaluation) == (4, 6, None)
    assert demo.failed == {tmp_path / "mine/bad.jpg": "the file is empty"}
    assert demo.report == tmp_path / "out/demo/report.html"
    page = demo.report.read_text()
    assert "Landbridge on mine" in page
    assert all(f"castle{step}" in page for step in range(4))
    assert {"extract", "verify index photos"} <= set(steps)
    assert demo.as_dict() == {
        "report": str(demo.report),
        "photos": 4,
        "bridged": 6,
        "failed": {str(tmp_path / "mine/bad.jpg"): "the file is empty"},
        "subfolders": "",
    }


def test_photos_with_labels(toy_photos, tmp_path):
    demo = run_demo(toy_photos, tmp_path / "demo")
    assert demo.photos == 8
    assert list(demo.evaluation.protocols["all"]) == list(METHODS)
    assert demo.evaluation.protocols["all"]["mmst-c"]["mAP"] == pytest.approx(100)
    page = demo.report.read_text()
    assert "photos, ranked by mmst-c" in page
    assert all(method in page for method in METHODS)
    assert json.loads(json.dumps(demo.as_dict())) == demo.as_dict()
    assert demo.subfolders == "Subfolders taken for one landmark each: castle, tower."


@pytest.mark.parametrize("dates", [("2019", "2020"), ("2019-05-01", "2019-05-02"), ("20190501", "2019_06")])
def test_dates_are_no_landmarks(toy_photos, tmp_path, dates):
    for landmark, date in zip(("castle", "tower"), dates, strict=True):
        (toy_photos / landmark).rename(toy_photos / date)
    demo = run_demo(toy_photos, tmp_path / "demo")
    assert demo.evaluation is None
    assert demo.photos == 8
    assert demo.subfolders == f"Subfolders are dates, and not taken for landmarks: {dates[0]}, {dates[1]}."


def test_one_folder_that_is_no_date(toy_photos, tmp_path):
    (toy_photos / "castle").rename(toy_photos / "1066")
    (toy_photos / "tower").rename(toy_photos / "2019")
    assert run_demo(toy_photos, tmp_path / "demo").evaluation is not None


def test_two_folders_of_one_name(toy, tmp_path):
    toy.write_photo(tmp_path / "a/photos/1.png", [1, 2])
    toy.write_photo(tmp_path / "b/photos/2.png", [1, 2])
    toy.write_photo(tmp_path / "b/photos/3.png", [1, 2])
    assert run_demo(tmp_path / "a/photos", tmp_path / "demo").photos == 1
    assert run_demo(tmp_path / "b/photos", tmp_path / "demo").photos == 2
    assert run_demo(tmp_path / "a/photos", tmp_path / "demo").photos == 1


def test_no_photos(toy, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"mine holds no photos that can be read"):
        run_demo(tmp_path / "mine", tmp_path / "demo")


def test_a_world_of_its_own(tmp_path):
    """Rendered, indexed by the real extractor, evaluated, reported; the second run renders nothing."""
    world = {
        "landmarks": 1,
        "photos_per_landmark": 5,
        "lookalikes": 0,
        "distractors": 1,
        "queries_per_landmark": 1,
        "queries_without_match": 0,
        "size": [160, 120],
    }
    steps = []
    demo = run_demo(None, tmp_path, 5, lambda step, done, total: steps.append((step, done, total)), **world)
    assert ("render", 7, 7) in steps
    assert demo.photos == 6
    assert demo.report == tmp_path / "report.html"
    page = demo.report.read_text()
    assert "Landbridge on the sample world" in page
    assert all(method in page for method in METHODS)
    assert (tmp_path / "world-5/gnd.json").exists()
    steps.clear()
    again = run_demo(None, tmp_path, 5, lambda step, *_: steps.append(step), **world)
    assert not {"render", "extract", "verify index photos"} & set(steps)
    assert again.evaluation.protocols == demo.evaluation.protocols
