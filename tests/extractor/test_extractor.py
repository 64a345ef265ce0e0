from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from extractor.extractor import Extractor, fingerprint
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import Photo, PhotoError, read_photo
from extractor.threads import available_cores

Texture = Callable[..., NDArray[np.uint8]]


class Brightness(Extractor):
    """A tiny extractor: the global descriptor points where the photo's brightness says."""

    name = "brightness"
    fingerprint = "brightness-0"
    dimension = 2
    local_dimension = 4
    longest_side = 8

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        assert max(photo.pixels.shape[:2]) <= self.longest_side
        level = float(photo.pixels.mean()) / 255
        if level > 0.99:
            raise ArithmeticError("too bright")
        descriptor = np.array([level, (1 - level**2) ** 0.5], np.float32)
        return ImageFeatures(image_id, photo.size, descriptor, LocalFeatures.empty(4), self.fingerprint)


def grey_photos(folder: Path, levels: list[int]) -> list[tuple[str, Path]]:
    photos = []
    for level in levels:
        path = folder / f"{level}.png"
        Image.new("L", (20, 10), level).save(path)
        photos.append((f"id-{level}", path))
    return photos


def test_answers_come_in_order_with_errors_in_their_place(tmp_path: Path) -> None:
    photos = grey_photos(tmp_path, list(range(0, 100, 3)))
    photos[7] = ("id-bad", tmp_path / "missing.jpg")
    photos[20] = ("id-folder", tmp_path)
    answers = list(Brightness().extract_many(photos))
    assert len(answers) == len(photos)
    for place, ((image_id, path), answer) in enumerate(zip(photos, answers, strict=True)):
        if place in (7, 20):
            assert isinstance(answer, PhotoError)
            assert answer.path == path
        else:
            assert isinstance(answer, ImageFeatures)
            assert answer.image_id == image_id
            assert answer.size == (20, 10)
            assert answer.global_descriptor[0] == pytest.approx(int(path.stem) / 255, abs=1e-6)


def test_nothing_is_extracted_far_ahead(tmp_path: Path) -> None:
    photos = grey_photos(tmp_path, [1])
    taken = 0

    def endless() -> Iterator[tuple[str, Path]]:
        nonlocal taken
        while True:
            taken += 1
            yield photos[0]

    answers = Brightness().extract_many(endless())
    assert taken == 0
    for count in range(1, 30):
        next(answers)
        assert taken < count + 2 * available_cores()
    answers.close()
    assert list(Brightness().extract_many([])) == []


def test_a_fault_of_the_extractor_is_not_taken_for_a_bad_photo(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="too bright"):
        list(Brightness().extract_many(grey_photos(tmp_path, [1, 255, 2])))


def test_fingerprint() -> None:
    ours = fingerprint("model", {"a": 1, "b": [2, 3]})
    assert ours == fingerprint("model", {"b": [2, 3], "a": 1})
    assert ours.startswith("model-")
    assert len(ours) == len("model-") + 12
    assert ours != fingerprint("model", {"a": 1, "b": [3, 2]})


def equal(a: ImageFeatures, b: ImageFeatures) -> bool:
    return np.array_equal(a.global_descriptor, b.global_descriptor) and all(
        np.array_equal(getattr(a.local, name), getattr(b.local, name))
        for name in ("keypoints", "scales", "scores", "descriptors")
    )


def test_the_default_extractor_is_exact_whatever_runs_beside(
    default_extractor: Extractor, texture: Texture, tmp_path: Path
) -> None:
    photos = []
    for number, (height, width) in enumerate([(200, 300), (333, 250), (1300, 900), (200, 300)]):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(texture(height, width, seed=number)).save(path, quality=90)
        photos.append((f"photo {number}", path))
    together = list(default_extractor.extract_many(photos))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for (image_id, path), among_others in zip(photos, together, strict=True):
            alone = default_extractor.extract(read_photo(path, default_extractor.longest_side), image_id)
            assert isinstance(among_others, ImageFeatures)
            assert equal(alone, among_others)
        assert torch.get_num_threads() == threads
    first = together[0]
    assert isinstance(first, ImageFeatures)
    assert first.image_id == "photo 0"
    assert first.extractor == default_extractor.fingerprint
    assert first.global_descriptor.shape == (default_extractor.dimension,)
    assert first.local.dimension == default_extractor.local_dimension
    assert first.local.descriptors.dtype == np.float32
    large = together[2]
    assert isinstance(large, ImageFeatures)
    assert large.size == (900, 1300)
    assert large.local.keypoints[:, 1].max() > 1100
    assert large.local.scales.min() == pytest.approx(1300 / 1024, rel=0.02)
