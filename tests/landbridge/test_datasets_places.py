import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landbridge.datasets import DatasetError, load_dataset
from landbridge.datasets.places import EARTH_RADIUS, within

PLANE = """id,x,y
a,500000,4000000
b,500003,4000004
c,500025,4000000
d,500025.5,4000000
q,500000,4000000
r,600000,4000000
"""


def write(folder, text=PLANE, index="index", queries="queries", name="places.csv"):
    for part, items in ((index, "abcd"), (queries, "qr")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for item in items:
            (folder / part / f"{item}.jpg").touch()
    if text is not None:
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("index", ["index", "database"])
@pytest.mark.parametrize("queries", ["queries", "test"])
def test_positives_on_a_plane(tmp_path, index, queries):
    # From q: a 0, b 5 (3-4-5), c 25, d 25.5 metres; r is far from all.
    dataset = load_dataset(write(tmp_path, index=index, queries=queries))
    (name, truths) = next(iter(dataset.protocols.items()))
    assert name == "within 25 m"
    assert truths["q"].positives == {"a", "b", "c"}
    assert truths["r"].positives == set()
    assert dataset.scored(name) == ["q"]
    assert not dataset.leave_one_out
    assert load_dataset(tmp_path, radius=5).protocols["within 5 m"]["q"].positives == {"a", "b"}
    assert load_dataset(tmp_path, radius=25.5).protocols["within 25.5 m"]["q"].positives == set("abcd")


def test_recall_by_hand(tmp_path):
    # q is located at the second place, r has nothing to find and is left out.
    scores = load_dataset(write(tmp_path)).evaluate({"q": ["d", "b", "c", "a"], "r": ["a"]})["within 25 m"]
    assert (scores["Recall@1"], scores["Recall@5"], scores["Recall@10"]) == (0, 100, 100)


def test_positives_on_the_globe(tmp_path):
    # One degree along a meridian is pi R / 180 = 111,195.08 m; 0.0002 degrees are 22.24 m. At latitude 60 a
    # degree of longitude is half of that: 0.0004 degrees are 22.24 m again.
    text = "id,lon,lat\na,24.0,60.0\nb,24.0,60.0002\nc,24.0004,60.0\n"
    text += "d,24.0,60.0003\nq,24.0,60.0\nr,-156.0,-60.0\n"
    dataset = load_dataset(write(tmp_path, text))
    assert dataset.protocols["within 25 m"]["q"].positives == {"a", "b", "c"}
    assert math.radians(1) * EARTH_RADIUS == pytest.approx(111_195.08, abs=0.01)


latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)


@given(
    st.lists(st.tuples(latitudes, longitudes), min_size=1, max_size=5),
    st.tuples(latitudes, longitudes),
    st.floats(1, 2e7),
)
def test_great_circles_are_those_of_the_haversine_formula(places, query, radius):
    index, one = np.array(places), np.array([query])
    first, second = np.radians(index), np.radians(one)
    h = np.sin((first[:, 0] - second[:, 0]) / 2) ** 2
    h += np.cos(first[:, 0]) * np.cos(second[:, 0]) * np.sin((first[:, 1] - second[:, 1]) / 2) ** 2
    distance = 2 * EARTH_RADIUS * np.arcsin(np.sqrt(np.minimum(h, 1)))
    found = set(within(index, one, radius, spherical=True)[0])
    assert set(np.flatnonzero(distance < radius - 0.5)) <= found
    assert found <= set(np.flatnonzero(distance <= radius + 0.5))


def test_the_whole_globe():
    everywhere = np.array([[90.0, 0], [-90, 0], [0, 180]])
    assert within(everywhere, np.array([[90.0, 0]]), 3e7, spherical=True) == [[0, 1, 2]]


def test_x_and_y_go_before_lat_and_lon(tmp_path):
    text = "id,lat,lon,x,y\n" + "".join(f"{item},10,10,{100 * n},0\n" for n, item in enumerate("abcdqr"))
    with pytest.raises(
        DatasetError, match=r"no query has 1 or more positives in any protocol \(within 25 m\)"
    ):
        load_dataset(write(tmp_path, text))
    assert load_dataset(tmp_path, radius=100).scored("within 100 m") == ["q"]


def test_ids_with_suffix_or_folder(tmp_path):
    write(tmp_path, PLANE.replace("\na,", "\nindex/a.jpg,").replace("\nq,", "\nqueries/q,"))
    assert load_dataset(tmp_path).protocols["within 25 m"]["q"].positives == {"a", "b", "c"}


def test_one_id_for_two_photos(tmp_path):
    write(tmp_path)
    (tmp_path / "queries/a.jpg").touch()
    with pytest.raises(DatasetError, match=r"a may be an index photo or a query; write index/a"):
        load_dataset(tmp_path)
    (tmp_path / "places.csv").write_text(PLANE.replace("\na,", "\nindex/a,") + "queries/a,600000,4000000\n")
    truths = load_dataset(tmp_path).protocols["within 25 m"]
    assert truths["q"].positives == {"a", "b", "c"}
    assert truths["a"].positives == set()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            PLANE.replace("b,500003,4000004\n", ""),
            r"1 of 4 photos in .*index have no coordinates in .*: b; add",
        ),
        (PLANE.replace("500003", "nan"), r"the x of b is 'nan': it must be a finite number"),
        (PLANE.replace("500003", "inf"), r"the x of b is 'inf': it must be a finite number"),
        (PLANE.replace("500003", ""), r"the x of b is '': it must be a finite number"),
        (PLANE.replace("500003", "5e5 m"), r"the x of b is '5e5 m'"),
        (PLANE.replace("b,", "a,"), "line 3: the id a is there already"),
        (PLANE.replace("x,y", "lat,lon"), "the lat of a is '500000': it must be a number from -90 to 90"),
        ("id,lat,lon\na,1,181\n", "the lon of a is '181': it must be a number from -180 to 180"),
        (PLANE.replace("x,y", "easting,northing"), r"it has none \(places\.csv has id,easting,northing\)"),
        (PLANE.replace("x,y", "x,lat"), r"coordinates, a CSV with id,x,y or id,lat,lon: it has none"),
        (None, r"it has none \(there is no CSV\)"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        load_dataset(write(tmp_path, text))


def test_two_files_with_coordinates(tmp_path):
    write(write(tmp_path), name="other.csv")
    with pytest.raises(DatasetError, match=r"several CSV files with coordinates: .*other\.csv, .*; keep one"):
        load_dataset(tmp_path)


def test_without_queries(tmp_path):
    write(tmp_path, queries="elsewhere")
    with pytest.raises(
        DatasetError, match="has coordinates but no folder queries or test: put the photos there"
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_a_radius_that_is_none(tmp_path, radius):
    with pytest.raises(ValueError, match="the radius must be a positive number of metres"):
        load_dataset(write(tmp_path), radius=radius)


def test_a_radius_without_coordinates(tmp_path):
    write(tmp_path, None)
    with pytest.raises(ValueError, match="has no CSV with the columns id and x, y or lat, lon: leave out"):
        load_dataset(tmp_path, radius=10)
