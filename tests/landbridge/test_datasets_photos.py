import pytest

from landbridge.datasets import DatasetError
from landbridge.datasets.photos import locate_photos, photos_by_path, photos_by_stem, without_suffix


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "deep/er/a.webp", "deep/c.png", "z.jpeg", "st.peter.1890.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in (".cache/d.jpg", "deep/._c.png", "deep/.git/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    for name in ("elsewhere/tower/1.jpg", "elsewhere/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "tower").symlink_to(tmp_path / "elsewhere" / "tower")
    (folder / "2.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
    (tmp_path / "elsewhere" / "tower" / "back").symlink_to(folder)
    assert list(photos_by_path(folder)) == ["2", "tower/1"]


def test_only_the_suffixes_of_photos_are_cut_off():
    assert without_suffix("deep/a.JPEG") == "deep/a"
    assert without_suffix("st.peter.1890") == "st.peter.1890"
    assert without_suffix("st.peter.1890.jpg") == "st.peter.1890"


def test_ids(folder):
    assert list(photos_by_path(folder)) == ["b", "deep/c", "deep/er/a", "st.peter.1890", "z"]
    assert list(photos_by_stem(folder)) == ["b", "c", "a", "st.peter.1890", "z"]
    assert photos_by_stem(folder)["a"] == folder / "deep/er/a.webp"


def test_photos_of_one_name_are_refused(folder):
    (folder / "deep" / "b.jpg").touch()
    assert "deep/b" in photos_by_path(folder)
    with pytest.raises(DatasetError, match=r"b\.JPG and .*b\.jpg would both be called b; rename one"):
        photos_by_stem(folder)
    (folder / "deep" / "b.png").touch()
    with pytest.raises(DatasetError, match=r"b\.jpg and .*b\.png would both be called deep/b"):
        photos_by_path(folder)


class TestLocate:
    def test_by_path_or_by_bare_name_in_the_order_asked_for(self, folder):
        located = locate_photos(["deep/c", "a", "b"], folder, "index photos")
        assert list(located.items()) == [
            ("deep/c", folder / "deep/c.png"),
            ("a", folder / "deep/er/a.webp"),
            ("b", folder / "b.JPG"),
        ]

    def test_the_path_goes_before_the_bare_name(self, folder):
        (folder / "deep" / "b.jpg").touch()
        assert locate_photos(["b"], folder, "index photos") == {"b": folder / "b.JPG"}

    def test_a_name_that_fits_several_is_refused(self, folder):
        (folder / "deep" / "a.jpg").touch()
        with pytest.raises(DatasetError, match=r"a fits several photos: .*deep/a\.jpg, .*er/a\.webp"):
            locate_photos(["a"], folder, "index photos")

    def test_missing_photos_are_counted_and_some_are_named(self, folder):
        wanted = ["b", "m1", "m2", "z", "m3", "m4", "m5"]
        with pytest.raises(DatasetError) as caught:
            locate_photos(wanted, folder, "index photos")
        assert f"5 of 7 index photos are not in {folder}: m1, m2, m3, … (5 in all); add" in str(caught.value)

    def test_a_folder_that_is_not_there_misses_them_all(self, tmp_path):
        with pytest.raises(DatasetError, match=r"1 of 1 query photos are not in .*nowhere: q;"):
            locate_photos(["q"], tmp_path / "nowhere", "query photos")
