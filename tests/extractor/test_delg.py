from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from extractor.configuration import DelgConfiguration
from extractor.delg import Delg, DelgHeads
from extractor.dense_keypoints import Layer
from extractor.photo import Photo
from extractor.weights import StoredWeights, Weights, WeightsError

Texture = Callable[..., NDArray[np.uint8]]


class TwoStages:
    """A small convolutional backbone, which counts its passes."""

    def __init__(self) -> None:
        self.identity = {"network": "two stages"}
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(3, 6, 8, 8).eval(), nn.Conv2d(6, 10, 2, 2).eval()
        self.passes: list[list[str]] = []

    def channels(self, tap: str) -> int:
        return {"stage3": 6, "stage4": 10}[tap]

    def layers(self, tap: str) -> list[Layer]:
        return [Layer(8, 8), Layer(2, 2)][: 1 + (tap == "stage4")]

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        self.passes.append(list(taps))
        third = torch.relu(self.first(pixels.permute(0, 3, 1, 2) / 255))
        found = {"stage3": third}
        if "stage4" in taps:
            found["stage4"] = torch.relu(self.second(third))
        return [found[tap] for tap in taps]


@dataclass(frozen=True)
class TwoStagesConfiguration:
    def weights(self) -> tuple[Weights, ...]:
        return ()

    def load(self) -> TwoStages:
        return TwoStages()


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DelgConfiguration:
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path))
    torch.manual_seed(5)
    heads = DelgHeads(6, 10, local_dimension=4, dimension=7, power=3.0)
    torch.save(heads.state_dict(), tmp_path / "delg.pt")
    return DelgConfiguration(
        TwoStagesConfiguration(),
        StoredWeights("delg.pt", "none"),
        longest_side=128,
        local_scales=(0.5, 1.0, 2.0),
        global_scales=(0.7071, 1.0),
        dimension=7,
        local_dimension=4,
    )


def as_photo(pixels: NDArray[np.uint8]) -> Photo:
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))


def test_one_pass_per_scale(configuration: DelgConfiguration, texture: Texture) -> None:
    delg = Delg("delg", configuration)
    delg.extract(as_photo(texture(96, 128)), "a")
    assert delg.backbone.passes == [["stage3"], ["stage4"], ["stage3", "stage4"], ["stage3"]]


def test_against_a_plain_forward_pass(
    configuration: DelgConfiguration, texture: Texture, tmp_path: Path
) -> None:
    """GeM, linear layer, L2 of one scale; attention and bottleneck of its cells: by formula, in NumPy."""
    one = replace(configuration, local_scales=(1.0,), global_scales=(1.0,))
    photo = as_photo(texture(96, 128))
    found = Delg("delg", one).extract(photo, "a")
    backbone = TwoStages()
    with torch.inference_mode():
        third, fourth = (
            m[0].double().numpy()
            for m in backbone.maps(torch.from_numpy(photo.pixels)[None].float(), ["stage3", "stage4"])
        )
    state = {k: v.double().numpy() for k, v in torch.load(tmp_path / "delg.pt", weights_only=True).items()}
    pooled = (np.maximum(fourth, 1e-6) ** 3).mean((1, 2)) ** (1 / 3)
    whole = state["whitening.weight"] @ pooled + state["whitening.bias"]
    np.testing.assert_allclose(found.global_descriptor, whole / np.linalg.norm(whole), atol=1e-5)

    cells = third.reshape(6, -1).T
    hidden = cells @ state["attention.conv1.weight"][:, :, 0, 0].T + state["attention.conv1.bias"]
    hidden = np.maximum(hidden / np.sqrt(1 + 1e-5), 0)
    scores = np.log1p(
        np.exp(hidden @ state["attention.conv2.weight"][0, :, 0, 0] + state["attention.conv2.bias"])
    )
    encoded = cells @ state["encoder.weight"][:, :, 0, 0].T + state["encoder.bias"]
    encoded /= np.linalg.norm(encoded, axis=1, keepdims=True)
    order = np.argsort(-scores)
    np.testing.assert_allclose(found.local.scores, scores[order], rtol=1e-4)
    y, x = np.divmod(np.arange(12 * 16), 16)
    places = np.stack([8 * x + 3.5, 8 * y + 3.5], 1)
    at = {tuple(place): row for place, row in zip(places.tolist(), encoded, strict=True)}
    assert len(found.local) == 192
    for keypoint, descriptor in zip(found.local.keypoints.tolist(), found.local.descriptors, strict=True):
        np.testing.assert_allclose(descriptor, at[tuple(keypoint)], atol=1e-4)


def test_global_descriptor_is_the_mean_over_scales(
    configuration: DelgConfiguration, texture: Texture
) -> None:
    photo = as_photo(texture(96, 128))
    both = Delg("delg", configuration).extract(photo, "a").global_descriptor
    parts = [
        Delg("delg", replace(configuration, global_scales=(scale,))).extract(photo, "a").global_descriptor
        for scale in configuration.global_scales
    ]
    mean = np.mean(parts, axis=0)
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean), atol=1e-6)


def test_selection(configuration: DelgConfiguration, texture: Texture) -> None:
    photo = as_photo(texture(96, 128))
    everything = Delg("delg", configuration).extract(photo, "a").local
    assert set(everything.scales.tolist()) == {2.0, 1.0, 0.5}
    middle = float(np.median(everything.scores))
    strict = Delg("delg", replace(configuration, score_threshold=middle)).extract(photo, "a").local
    assert len(strict) == (everything.scores > middle).sum()
    few = Delg("delg", replace(configuration, max_features=9)).extract(photo, "a").local
    np.testing.assert_array_equal(few.keypoints, everything.keypoints[:9])


@pytest.mark.parametrize("shape", [(1, 1), (5, 90), (33, 31)])
def test_photos_of_any_size(
    configuration: DelgConfiguration, texture: Texture, shape: tuple[int, int]
) -> None:
    found = Delg("delg", configuration).extract(as_photo(texture(*shape)), "a")
    assert np.linalg.norm(found.global_descriptor) == pytest.approx(1, abs=1e-5)
    assert (found.local.keypoints <= (shape[1] - 1, shape[0] - 1)).all()


def test_fingerprint_and_weights(configuration: DelgConfiguration, tmp_path: Path) -> None:
    first = Delg("delg", configuration).fingerprint
    assert first == Delg("delg", configuration).fingerprint
    assert first != Delg("delg", replace(configuration, power=2.0)).fingerprint
    state = torch.load(tmp_path / "delg.pt", weights_only=True)
    torch.save({**state, "encoder.bias": state["encoder.bias"] + 1}, tmp_path / "delg.pt")
    assert first != Delg("delg", configuration).fingerprint
    del state["encoder.bias"]
    torch.save(state, tmp_path / "delg.pt")
    with pytest.raises(WeightsError, match="does not hold the encoder of this model"):
        Delg("delg", configuration)
    (tmp_path / "delg.pt").unlink()
    with pytest.raises(WeightsError, match=r"there are no weights .*delg\.pt"):
        Delg("delg", configuration)
