from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractor.attention import Attention
from extractor.configuration import DelfConfiguration, LiteBackboneConfiguration
from extractor.delf import Delf
from extractor.efficientnet_lite import normalise, pretrained
from extractor.features import LocalFeatures
from extractor.photo import Photo
from extractor.threads import one_torch_thread
from extractor.weights import StoredWeights, WeightsError

Texture = Callable[..., NDArray[np.uint8]]
ONE_SCALE = DelfConfiguration(
    LiteBackboneConfiguration(2), ("stage4",), longest_side=512, scales=(1.0,), dimension=None
)
TAPS = ("stage4", "stage5")


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


@pytest.fixture(scope="module")
def model() -> Delf:
    return Delf(ONE_SCALE)


def same(a: LocalFeatures, b: LocalFeatures) -> bool:
    names = ("keypoints", "scales", "scores", "descriptors")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_features_are_the_cells_of_the_map(model: Delf, texture: Texture) -> None:
    photo = as_photo(texture(160, 240))
    found = model.detect(photo)
    with torch.inference_mode():
        features = pretrained(2).features(normalise(torch.from_numpy(photo.pixels)[None]), "stage4")[0]
    flat = features.flatten(1).T.numpy()
    norms = np.linalg.norm(flat, axis=1)
    order = np.argsort(-norms)
    assert len(found) == 10 * 15
    assert found.dimension == model.dimension == flat.shape[1]
    np.testing.assert_allclose(found.scores, norms[order], rtol=1e-4)
    np.testing.assert_allclose(found.descriptors, flat[order] / norms[order, None], atol=1e-4)
    columns = np.unique(found.keypoints[:, 0])
    assert (np.diff(columns)[:-1] == 16).all()


def test_features_of_two_taps_are_joined_and_their_norms_multiplied(texture: Texture) -> None:
    found = Delf(replace(ONE_SCALE, taps=("stage4", "stage5"))).detect(as_photo(texture(160, 240)))
    alone = [Delf(replace(ONE_SCALE, taps=(tap,))).detect(as_photo(texture(160, 240))) for tap in TAPS]

    def by_place(features: LocalFeatures, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values[np.lexsort(features.keypoints.T)]

    scores = [by_place(features, features.scores) for features in alone]
    joined = [by_place(features, features.descriptors) for features in alone]
    np.testing.assert_allclose(by_place(found, found.scores), scores[0] * scores[1], rtol=1e-4)
    expected = np.concatenate(joined, axis=1) / np.sqrt(2)
    np.testing.assert_allclose(by_place(found, found.descriptors), expected, atol=1e-4)


def test_taps_of_different_strides_and_attention_over_two_are_refused() -> None:
    with pytest.raises(ValueError, match=r"stage3, stage4 differ in stride: \[8, 16\]"):
        Delf(replace(ONE_SCALE, taps=("stage3", "stage4")))
    with pytest.raises(ValueError, match="one with attention"):
        replace(ONE_SCALE, taps=("stage4", "stage5"), attention=StoredWeights("delf.pt", "MIT"))
    with pytest.raises(ValueError, match="one or more"):
        replace(ONE_SCALE, taps=())


@pytest.mark.parametrize("shift", [(16, 32), (48, 0)])
def test_keypoints_move_with_the_pattern(model: Delf, texture: Texture, shift: tuple[int, int]) -> None:
    """A patch on plain ground is found at its place again, to the pixel, when it moves by whole cells."""
    dx, dy = shift
    patch = texture(96, 96)
    photos = []
    for x, y in ((144, 144), (144 + dx, 144 + dy)):
        canvas = np.full((400, 432, 3), 127, np.uint8)
        canvas[y : y + 96, x : x + 96] = patch
        photos.append(model.detect(as_photo(canvas)))
    before, after = photos
    inside = np.flatnonzero((np.abs(before.keypoints - 191.5) < 40).all(1))
    assert len(inside) >= 16
    nearest = (before.descriptors[inside] @ after.descriptors.T).argmax(1)
    moved = after.keypoints[nearest] - before.keypoints[inside]
    assert (moved == np.array(shift)).all(1).mean() > 0.8


def test_the_response_is_where_the_pattern_is() -> None:
    """What a small spot changes has its centre of mass at the spot, for photos of even and of odd sides.

    The learned kernels lean to one side, so they are made symmetric first.
    """
    model = Delf(replace(ONE_SCALE, taps=("stage2",), max_features=10**6))
    for module in model.backbone.network.modules():
        if isinstance(module, torch.nn.Conv2d):
            weight = module.weight.data
            module.weight.data = (weight + weight.flip(2) + weight.flip(3) + weight.flip(2, 3)) / 4
    for width, height in ((320, 240), (331, 247)):
        plain = np.full((height, width, 3), 127, np.uint8)
        before = model.detect(as_photo(plain))
        errors = []
        for x, y in ((100, 120), (141, 83), (203, 150), (66, 61)):
            spot = plain.copy()
            spot[y - 2 : y + 3, x - 2 : x + 3] = 255
            after = model.detect(as_photo(spot))
            a, b = (
                dict(zip(map(tuple, f.keypoints.tolist()), f.descriptors * f.scores[:, None], strict=True))
                for f in (before, after)
            )
            assert a.keys() == b.keys()
            change = np.array([np.linalg.norm(b[place] - a[place]) for place in a])
            errors.append((np.array(list(a)) * change[:, None]).sum(0) / change.sum() - (x, y))
        assert np.abs(errors).max() < 0.4


def test_photos_of_any_size(texture: Texture) -> None:
    model = Delf(replace(ONE_SCALE, scales=(0.25, 1.0, 2.0)))
    for height, width in ((1, 1), (7, 200), (33, 31), (700, 90)):
        found = model.detect(as_photo(texture(height, width)))
        assert len(found) >= (min(height, width) > 30)  # the centre of a cell must lie inside
        assert (found.keypoints >= 0).all()
        assert (found.keypoints <= (width - 1, height - 1)).all()
        assert (np.diff(found.scores) <= 0).all()
        np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)


def test_keypoints_and_scales_are_of_the_original(texture: Texture) -> None:
    model = Delf(replace(ONE_SCALE, longest_side=128, scales=(0.5, 1.0)))
    found = model.detect(as_photo(texture(384, 512)))
    assert set(found.scales.tolist()) == {4.0, 8.0}
    assert found.keypoints[:, 0].max() > 440


def test_configuration_is_obeyed(model: Delf, texture: Texture) -> None:
    photo = as_photo(texture(200, 240))
    everything = model.detect(photo)
    few = Delf(replace(ONE_SCALE, max_features=30)).detect(photo)
    assert len(few) == 30
    np.testing.assert_array_equal(few.keypoints, everything.keypoints[:30])
    middle = float(np.median(everything.scores))
    strict = Delf(replace(ONE_SCALE, score_threshold=middle)).detect(photo)
    assert len(strict) == (everything.scores > middle).sum()
    apart = Delf(replace(ONE_SCALE, nms_iou=0.5)).detect(photo)
    assert 0 < len(apart) < len(everything)
    assert apart.keypoints[0].tolist() == everything.keypoints[0].tolist()


def test_it_is_the_same_on_any_number_of_threads(model: Delf, texture: Texture) -> None:
    photo = as_photo(texture(300, 400))
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with one_torch_thread():
            runs.append(model.detect(photo))
    assert same(*runs)


def test_attention_weights_score(texture: Texture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path))
    stored = StoredWeights("attention.pt", "mine")
    with pytest.raises(WeightsError, match=r"there are no weights .*attention\.pt"):
        Delf(replace(ONE_SCALE, attention=stored))
    torch.manual_seed(0)
    head = Attention(Delf(ONE_SCALE).dimension).eval()
    torch.save(
        {f"attention.{name}": value for name, value in head.state_dict().items()}, tmp_path / stored.file
    )
    photo = as_photo(texture(160, 240))
    model = Delf(replace(ONE_SCALE, attention=stored))
    found, plain = model.detect(photo), Delf(ONE_SCALE).detect(photo)
    with torch.inference_mode():
        dense = torch.from_numpy(plain.descriptors * plain.scores[:, None])
        expected = head(dense.T[None, :, :, None])[0, :, 0].numpy()
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1], rtol=1e-4)
    assert found.keypoints.tolist() != plain.keypoints.tolist()
    assert model.identity != Delf(ONE_SCALE).identity
    torch.save({"attention.conv1.weight": torch.zeros(1)}, tmp_path / stored.file)
    with pytest.raises(WeightsError, match="does not hold the attention"):
        Delf(replace(ONE_SCALE, attention=stored))


def test_wrong_configurations() -> None:
    for wrong in (
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": (5.0,)},
        {"max_features": 0},
        {"longest_side": 31},
        {"nms_iou": 1.1},
        {"nms_iou": -0.1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DelfConfiguration(**wrong)
    with pytest.raises(ValueError, match="tap must be one of stage1"):
        Delf(replace(ONE_SCALE, taps=("block3",)))
