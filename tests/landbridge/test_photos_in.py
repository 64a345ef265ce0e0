import pytest

from landbridge.photos import photos_in


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_an_id_is_the_path_below_the_folder_without_suffix(tmp_path):
    touch(tmp_path, "b.jpg", "paris/eiffel/0.1.JPEG", "paris/a.png", "notes.txt", ".hidden.jpg")
    photos, refused = photos_in(tmp_path)
    assert photos == {
        "b": tmp_path / "b.jpg",
        "paris/a": tmp_path / "paris/a.png",
        "paris/eiffel/0.1": tmp_path / "paris/eiffel/0.1.JPEG",
    }
    assert refused == {}


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("1/9/f/19f4aa.jpg", "19f4aa"),
        ("1/9/0/19f4aa.jpg", "1/9/0/19f4aa"),
        ("1/9/f/19f.jpg", "1/9/f/19f"),
        ("x/1/9/f/19f4aa.jpg", "x/1/9/f/19f4aa"),
    ],
)
def test_the_folders_of_the_challenge_are_left_out(tmp_path, name, image_id):
    touch(tmp_path, name)
    assert photos_in(tmp_path) == ({image_id: tmp_path / name}, {})


def test_two_photos_of_one_id(tmp_path):
    touch(tmp_path, "a/one.jpg", "a/one.png", "a/two.png")
    photos, refused = photos_in(tmp_path)
    assert photos == {"a/one": tmp_path / "a/one.jpg", "a/two": tmp_path / "a/two.png"}
    assert refused == {
        tmp_path / "a/one.png": "goes by the same id as one.jpg (a/one): rename one of them",
    }


def test_one_photo(tmp_path):
    touch(tmp_path, "folder/one.photo.jpg")
    path = tmp_path / "folder/one.photo.jpg"
    assert photos_in(path) == ({"one.photo": path}, {})


def test_a_folder_without_photos(tmp_path):
    touch(tmp_path, "notes.txt")
    assert photos_in(tmp_path) == ({}, {})
