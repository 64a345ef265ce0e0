from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from extractor.training.photos import Batches, LabelledPhoto, in_order, split
from extractor.training.views import CentreCrop, DistortedCrop, Pressed


def listed(landmarks: int, photos: int) -> list[LabelledPhoto]:
    return [
        (Path(f"{landmark}/{photo}.jpg"), f"l{landmark}")
        for landmark in range(landmarks)
        for photo in range(photos)
    ]


@pytest.fixture
def photos(tmp_path: Path) -> list[LabelledPhoto]:
    """Ten photos of five landmarks, each of one colour."""
    made = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (60, 40), (25 * number, 0, 0)).save(path)
        made.append((path, f"l{number % 5}"))
    return made


def test_split_holds_back_whole_landmarks() -> None:
    parts = split(listed(30, 3), seed=4)
    held = {label for _, label in parts.validation}
    assert len(held) == 3
    assert len(parts.validation) == 9
    assert len(parts.training) == 81
    assert held.isdisjoint(parts.landmarks)
    assert parts.landmarks == tuple(sorted({label for _, label in parts.training}))


def test_split_does_not_depend_on_the_order_but_on_the_seed() -> None:
    given_photos = listed(40, 2)
    parts = split(given_photos, seed=1)
    assert split(given_photos[::-1], seed=1) == parts
    assert split(given_photos[::-1], seed=1).digest == parts.digest
    assert split(given_photos, seed=2) != parts
    assert split(given_photos, seed=2).digest != parts.digest


def test_single_photos_are_for_training_only() -> None:
    many = [*listed(3, 2), *((Path(f"one{i}.jpg"), f"one{i}") for i in range(50))]
    parts = split(many, seed=0, held_back=3)
    assert {label for _, label in parts.validation} == {"l0", "l1", "l2"}


@pytest.mark.parametrize(
    ("photos", "held_back", "message"),
    [
        (listed(1, 5), None, "at least 2 landmarks, these are 5 photos of 1"),
        ([], None, "0 photos of 0"),
        (listed(5, 1), None, "each of the 5 landmarks has one photo"),
        (listed(5, 2), 4, "cannot hold back 4 of 5 landmarks"),
        (listed(5, 2), 1, "2 validation landmarks or more, or 0 for none; got 1"),
    ],
)
def test_what_cannot_be_split(photos: list[LabelledPhoto], held_back: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(photos, 0, held_back)


def test_few_landmarks_are_all_learned_from() -> None:
    assert split(listed(3, 4), 0).validation == ()
    assert len({label for _, label in split(listed(4, 4), 0).validation}) == 2


@given(size=st.integers(1, 7), seed=st.integers(0, 100))
def test_every_photo_once_before_any_again(size: int, seed: int) -> None:
    shown = listed(4, 3)
    batches = Batches(shown, {f"l{i}": i for i in range(4)}, Pressed(32), size, seed)
    drawn = [place for number in range(36) for place in batches.drawn(number)][:36]
    for turn in range(3):
        assert Counter(drawn[12 * turn : 12 * turn + 12]) == Counter((turn, photo) for photo in range(12))
    assert drawn[:12] != [(0, photo) for photo in range(12)]


def test_batches_go_on_where_they_stopped(photos: list[LabelledPhoto]) -> None:
    classes = {f"l{i}": i for i in range(5)}

    def pixels(start: int, threads: int, count: int) -> list[np.ndarray]:
        batches = Batches(photos, classes, DistortedCrop(32), 3, 5, threads)
        found = batches.starting(start)
        made = [batch.pixels.numpy() for batch in islice(found, count)]
        found.close()
        return made

    whole = pixels(0, 1, 8)
    later = pixels(5, 4, 3)
    for one, other in zip(whole[5:], later, strict=True):
        assert np.array_equal(one, other)


def test_labels_belong_to_their_pixels(photos: list[LabelledPhoto]) -> None:
    classes = {f"l{i}": i for i in range(5)}
    found = Batches(photos, classes, CentreCrop(36, 32), 4, 0).starting(0)
    for batch in islice(found, 5):
        numbers = np.rint(batch.pixels[:, 16, 16, 0].numpy() / 25).astype(int)
        assert (numbers % 5 == batch.labels.numpy()).all()
        assert batch.pixels.shape == (4, 32, 32, 3)
    found.close()


def test_bad_photos_are_named_and_left_out(photos: list[LabelledPhoto]) -> None:
    bad = photos[3][0]
    bad.write_bytes(b"not a photo")
    classes = {f"l{i}": i for i in range(5)}
    found = Batches(photos, classes, CentreCrop(36, 32), 5, 0).starting(0)
    first, second = islice(found, 2)
    found.close()
    assert len(first.labels) + len(second.labels) == 9
    assert set(first.failed | second.failed) == {bad}
    whole = list(in_order(photos, classes, 32, 4))
    assert [len(batch.labels) for batch in whole] == [3, 4, 2]
    assert "not a photo" in whole[0].failed[bad]


def gradient(width: int, height: int, path: Path) -> Path:
    """A photo whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width)
    pixels[..., 1] = np.arange(height)[:, None]
    Image.fromarray(pixels).save(path)
    return path


def test_centre_crop_stays_in_the_central_square(tmp_path: Path) -> None:
    path = gradient(200, 100, tmp_path / "a.png")
    corners = []
    for seed in range(60):
        view = CentreCrop(100, 80).take(path, np.random.default_rng(seed))
        assert view.shape == (80, 80, 3)
        assert view[..., 0].min() >= 49
        assert view[..., 0].max() <= 150
        # 80 of 100 pixels, and nothing is stretched
        assert int(view[0, -1, 0]) - int(view[0, 0, 0]) == pytest.approx(79, abs=1)
        assert int(view[-1, 0, 1]) - int(view[0, 0, 1]) == pytest.approx(79, abs=1)
        corners.append((int(view[0, 0, 0]), int(view[0, 0, 1])))
    assert min(x for x, _ in corners) <= 53
    assert max(x for x, _ in corners) >= 66
    assert min(y for _, y in corners) <= 4
    assert max(y for _, y in corners) >= 16


def test_distorted_crop_has_area_and_aspect_in_range(tmp_path: Path) -> None:
    path = gradient(250, 200, tmp_path / "a.png")
    areas, aspects = [], []
    for seed in range(80):
        view = DistortedCrop(100, 0.3, 4 / 3).take(path, np.random.default_rng(seed)).astype(int)
        wide = (view[50, -1, 0] - view[50, 0, 0]) * 100 / 99
        tall = (view[-1, 50, 1] - view[0, 50, 1]) * 100 / 99
        areas.append(wide * tall / (250 * 200))
        aspects.append(wide / tall / 1.25)
    assert 0.28 < min(areas) < 0.4
    assert 0.8 < max(areas) <= 1.02
    assert 0.72 < min(aspects) < 0.85
    assert 1.2 < max(aspects) < 1.37


def test_pressed_shows_the_whole_photo(tmp_path: Path) -> None:
    view = Pressed(50).take(gradient(200, 100, tmp_path / "a.png"), np.random.default_rng(0))
    assert view.shape == (50, 50, 3)
    assert view[0, 0, 0] < 5
    assert view[0, -1, 0] > 194
    assert view[-1, 0, 1] > 96


@pytest.mark.parametrize("make", [lambda: CentreCrop(100, 101), lambda: CentreCrop(30, 20)])
def test_crops_that_do_not_fit(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="must be at least 32 and at most"):
        make()


@pytest.mark.parametrize("area", [0.0, 1.1])
def test_areas_that_do_not_fit(area: float) -> None:
    with pytest.raises(ValueError, match="an area above 0 and at most 1"):
        DistortedCrop(64, area)
