from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from extractor.configuration import ExternalConfiguration, LiteGlobalConfiguration
from extractor.external import External
from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.files import FeatureFileError
from extractor.photo import PhotoError

SMALL = LiteGlobalConfiguration(sides=(64,))


def arrays(seed: int, dimension: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "keypoints": rng.uniform(0, 50, (5, 2)).astype(np.float32),
        "scores": np.array([5, 4, 3, 2, 1], np.float32),
        "descriptors": rng.normal(size=(5, dimension)).astype(np.float32),
        "global_descriptor": rng.normal(size=8).astype(np.float32),
    }


def save(folder: Path, name: str, **values: np.ndarray) -> None:
    """Add a photo to a file in hloc's layout."""
    import h5py

    with h5py.File(folder / "features.h5", "a") as file:
        for key, value in values.items():
            file.create_dataset(f"{name}/{key}", data=value.T if key == "descriptors" else value)


@pytest.fixture
def photos(tmp_path: Path) -> list[tuple[str, Path]]:
    found = []
    for name in ("a", "b", "c"):
        path = tmp_path / f"{name}.png"
        Image.new("RGB", (60, 50), (90, 120, 10)).save(path)
        found.append((name, path))
    return found


def load(folder: Path, **options: object) -> Extractor:
    return ExternalConfiguration(features=str(folder), global_model=SMALL, **options).load("external")


def test_features_come_from_the_files(tmp_path: Path, photos: list[tuple[str, Path]]) -> None:
    (tmp_path / "features").mkdir()
    for seed, name in enumerate(("a", "b")):
        save(tmp_path / "features", name, **arrays(seed))
    extractor = load(tmp_path / "features")
    assert (extractor.dimension, extractor.local_dimension) == (8, 6)
    first, second, third = extractor.extract_many(photos)
    assert isinstance(first, ImageFeatures)
    assert isinstance(second, ImageFeatures)
    assert first.size == (60, 50)
    assert first.extractor == extractor.fingerprint
    given = arrays(0)
    np.testing.assert_allclose(first.local.keypoints, given["keypoints"], atol=1e-6)
    norms = np.linalg.norm(given["descriptors"], axis=1, keepdims=True)
    np.testing.assert_allclose(first.local.descriptors, given["descriptors"] / norms, atol=1e-6)
    expected = given["global_descriptor"] / np.linalg.norm(given["global_descriptor"])
    np.testing.assert_allclose(first.global_descriptor, expected, atol=1e-6)
    assert not np.allclose(second.local.keypoints, first.local.keypoints)
    assert isinstance(third, PhotoError)
    assert str(third) == f"{photos[2][1]}: the feature files hold no photo c"


def test_missing_global_descriptors_come_from_the_pixels(
    tmp_path: Path, photos: list[tuple[str, Path]]
) -> None:
    (tmp_path / "features").mkdir()
    local = arrays(0)
    del local["global_descriptor"]
    save(tmp_path / "features", "a", **local)
    extractor = load(tmp_path / "features")
    (first,) = extractor.extract_many(photos[:1])
    assert isinstance(first, ImageFeatures)
    assert first.global_descriptor.shape == (extractor.dimension,) == (1280,)


def test_what_does_not_fit_is_reported(tmp_path: Path, photos: list[tuple[str, Path]]) -> None:
    (tmp_path / "features").mkdir()
    save(tmp_path / "features", "a", **arrays(0))
    save(tmp_path / "features", "b", **arrays(1, dimension=7))
    third = arrays(2)
    del third["global_descriptor"]
    save(tmp_path / "features", "c", **third)
    first, second, last = load(tmp_path / "features").extract_many(photos)
    assert isinstance(first, ImageFeatures)
    assert isinstance(second, PhotoError)
    assert second.reason == "b: local descriptors of 6 components, they have 7"
    assert isinstance(last, PhotoError)
    assert last.reason == "c: global descriptor of 8 components, it has none"


def test_global_descriptors_of_some_photos_alone(tmp_path: Path, photos: list[tuple[str, Path]]) -> None:
    first = arrays(0)
    del first["global_descriptor"]
    save(tmp_path, "a", **first)
    save(tmp_path, "b", **arrays(1))
    first_found, second = load(tmp_path).extract_many(photos[:2])
    assert isinstance(first_found, ImageFeatures)
    assert isinstance(second, PhotoError)
    assert second.reason == "b: it has a global descriptor, and other photos have none"


def test_without_the_photo_it_ends_at_the_outermost_keypoints(tmp_path: Path) -> None:
    given = arrays(0)
    given["keypoints"][:2] = [[70.2, 3], [5, 90.9]]
    save(tmp_path, "a", **given)
    save(tmp_path, "b", **{**given, "image_size": np.array([80, 95])})
    save(tmp_path, "c", **{**given, "image_size": np.array([80, 60])})
    save(tmp_path, "e", **{**given, "keypoints": given["keypoints"] - 10})
    extractor = load(tmp_path)
    assert isinstance(extractor, External)
    first, second, third = (extractor.take(name) for name in "abc")
    assert isinstance(first, ImageFeatures)
    assert isinstance(second, ImageFeatures)
    assert (first.size, second.size) == ((71, 91), (80, 95))
    assert isinstance(third, PhotoError)
    assert third.path == tmp_path / "features.h5/c"
    assert third.reason.startswith("c: keypoints lie outside the photo of 80 x 60 pixels")
    negative = extractor.take("e")
    assert isinstance(negative, PhotoError)
    assert "outside the photo" in negative.reason
    nobody = extractor.take("d")
    assert isinstance(nobody, PhotoError)
    assert nobody.reason == "the feature files hold no photo d"


def test_a_photo_of_another_size(tmp_path: Path, photos: list[tuple[str, Path]]) -> None:
    first = {**arrays(0), "image_size": np.array([600, 500])}
    del first["global_descriptor"]
    save(tmp_path, "a", **first)
    (found,) = load(tmp_path).extract_many(photos[:1])
    assert isinstance(found, PhotoError)
    assert found.reason == "a: its features are of 600 x 500 pixels, the photo has 60 x 50"


def test_labels_keep_features_apart(tmp_path: Path) -> None:
    save(tmp_path, "a", **arrays(0))
    assert load(tmp_path).fingerprint == load(tmp_path).fingerprint
    assert load(tmp_path).fingerprint != load(tmp_path, label="lift").fingerprint


def test_no_files() -> None:
    with pytest.raises(ValueError, match=r"external takes features from files: say which"):
        ExternalConfiguration().load("external")
    with pytest.raises(FeatureFileError):
        ExternalConfiguration(features="nowhere").load("external")
