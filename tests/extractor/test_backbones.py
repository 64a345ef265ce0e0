"""VGG16, ResNet and DINOv2 as backbones, and the ImageNet input that they share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractor.configuration import HubBackboneConfiguration, ResNetBackboneConfiguration
from extractor.dense_keypoints import Layer, ReceptiveField
from extractor.imagenet import normalise
from extractor.transformers_backbone import RESNET_DEPTHS
from extractor.vgg import Vgg16, Vgg16Backbone
from extractor.weights import HubWeights, StoredWeights, WeightsError

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'landbridge[backbones]'",
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path))


def test_normalisation() -> None:
    pixels = torch.tensor([[[[255.0, 0.0, 127.5]]]])
    np.testing.assert_allclose(
        normalise(pixels)[0, :, 0, 0].numpy(),
        [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.5 - 0.406) / 0.225],
        rtol=1e-5,
    )


def vgg(tmp_path: Path) -> Vgg16Backbone:
    torch.manual_seed(0)
    state = {f"backbone.{name}": value for name, value in Vgg16().state_dict().items()}
    torch.save(state, tmp_path / "vgg.pt")
    return Vgg16Backbone(StoredWeights("vgg.pt", "none"))


def test_vgg16_is_the_published_network(tmp_path: Path) -> None:
    """Thirteen convolutions under the published numbers, and the maps of a plain forward pass."""
    network = Vgg16()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    assert shapes == {
        f"features.{number}.{part}": shape
        for number, inputs, outputs in zip(numbers, widths, widths[1:], strict=False)
        for part, shape in (("weight", (outputs, inputs, 3, 3)), ("bias", (outputs,)))
    }
    backbone = vgg(tmp_path)
    pixels = torch.rand(1, 40, 56, 3) * 255
    with torch.inference_mode():
        last, first = backbone.maps(pixels, ["conv5_3", "conv2_2"])
        x = normalise(pixels)
        state = backbone.network.state_dict()
        for number in numbers:
            if number in (5, 10, 17, 24):
                x = torch.nn.functional.max_pool2d(x, 2)
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
            if number == 7:
                torch.testing.assert_close(first, x)
    torch.testing.assert_close(last, x)
    assert last.shape == (1, 512, 2, 3)
    assert (backbone.channels("conv5_3"), backbone.channels("conv2_2")) == (512, 128)


def test_geometry_of_vgg16(tmp_path: Path) -> None:
    # Field 196 and stride 16 are published for conv5_3; poolings of 2 put centres between pixels.
    layers = vgg(tmp_path).layers("conv5_3")
    assert ReceptiveField.of(layers, 224) == ReceptiveField(7.5, 16, 196, 14)
    assert layers[:3] == [Layer(3, 1, 1), Layer(3, 1, 1), Layer(2, 2)]


def test_missing_and_wrong_weights(tmp_path: Path) -> None:
    stored = StoredWeights("vgg.pt", "none")
    with pytest.raises(WeightsError, match=r"no weights .*vgg\.pt.*LANDBRIDGE_WEIGHTS names another"):
        Vgg16Backbone(stored)
    torch.save({"backbone.features.0.weight": torch.zeros(3)}, tmp_path / "vgg.pt")
    with pytest.raises(WeightsError, match="does not hold the backbone of this model"):
        Vgg16Backbone(stored)
    with pytest.raises(ValueError, match="tap must be one of conv1_2"):
        vgg(tmp_path).channels("conv6")


def save_resnet(folder: Path) -> Any:
    from transformers import ResNetBackbone, ResNetConfig

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 2, 1], out_features=["stage4"]
    )
    network = ResNetBackbone(config).eval()
    network.save_pretrained(folder)
    return network


def save_dinov2(folder: Path) -> Any:
    from transformers import Dinov2Backbone, Dinov2Config

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=70, out_features=["stage3"]
    )
    network = Dinov2Backbone(config).eval()
    network.save_pretrained(folder)
    return network


@needs_transformers
def test_a_resnet_from_a_folder(tmp_path: Path) -> None:
    from transformers import ResNetModel

    save_resnet(tmp_path / "resnet")
    backbone = HubBackboneConfiguration(HubWeights(str(tmp_path / "resnet"), "none")).load()
    pixels = torch.randint(0, 256, (1, 70, 101, 3)).float()
    with torch.inference_mode():
        fourth, second = backbone.maps(pixels, ["stage4", "stage2"])
        whole = ResNetModel.from_pretrained(tmp_path / "resnet").eval()
        expected = whole(normalise(pixels), output_hidden_states=True).hidden_states
    torch.testing.assert_close(fourth, expected[4])
    torch.testing.assert_close(second, expected[2])
    assert [backbone.channels(f"stage{number}") for number in (1, 2, 3, 4)] == [16, 24, 32, 40]
    for tap, found in (("stage4", fourth), ("stage2", second)):
        fields = [ReceptiveField.of(backbone.layers(tap), side) for side in (70, 101)]
        assert found.shape[2:] == tuple(field.cells for field in fields)
    with pytest.raises(ValueError, match="tap must be one of stage1, stage2, stage3, stage4; got 'block3'"):
        backbone.maps(pixels, ["block3"])


@needs_transformers
@pytest.mark.parametrize("tap", ["stage1", "stage3"])
def test_impulse_response_of_resnet(tmp_path: Path, tap: str) -> None:
    """The pixels that a cell depends on are the receptive field, centred where the geometry says."""
    save_resnet(tmp_path / "resnet")
    backbone: Any = HubBackboneConfiguration(HubWeights(str(tmp_path / "resnet"), "none")).load()
    network = backbone.network.double()
    for parameter in network.parameters():
        parameter.data.abs_()
    sides = (161, 180)
    image = torch.rand(1, 3, *sides, dtype=torch.float64, requires_grad=True)
    x = network.embedder(image)
    for stage in network.encoder.stages[: int(tap[-1])]:
        x = stage(x)
    fields = [ReceptiveField.of(backbone.layers(tap), side) for side in sides]
    row, column = (field.cells // 2 for field in fields)
    (gradient,) = torch.autograd.grad(x[0, :, row, column].sum(), image)
    seen = gradient[0].abs().sum(0)
    for axis, field, cell, side in zip((1, 0), fields, (row, column), sides, strict=True):
        touched = seen.sum(axis).nonzero()[:, 0]
        centre, reach = float(field.centres[cell]), (field.size - 1) // 2
        assert touched.min() == max(0, centre - reach)
        assert touched.max() == min(side - 1, centre + reach)


@needs_transformers
def test_dinov2_from_a_folder(tmp_path: Path) -> None:
    from transformers import Dinov2Model

    save_dinov2(tmp_path / "dino")
    backbone = HubBackboneConfiguration(HubWeights(str(tmp_path / "dino"), "none")).load()
    assert backbone.channels("stage2") == 16
    pixels = torch.rand(1, 45, 60, 3) * 255
    with torch.inference_mode():
        third, first = backbone.maps(pixels, ["stage3", "stage1"])
        whole = Dinov2Model.from_pretrained(tmp_path / "dino").eval()
        hidden = whole(normalise(pixels), output_hidden_states=True).hidden_states
        # Row by row, without the class token, normalised as the authors do.
        expected = whole.layernorm(hidden[1])[0, 1:].view(3, 4, 16)
    assert third.shape == first.shape == (1, 16, 3, 4)
    torch.testing.assert_close(first[0].permute(1, 2, 0), expected)
    # The 45th row and the columns from 57 on are in no patch.
    assert ReceptiveField.of(backbone.layers("stage3"), 45) == ReceptiveField(6.5, 14, 14, 3)


@needs_transformers
def test_a_resnet_from_our_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESNET_DEPTHS, 50, (1, 1, 1, 1))
    from transformers import ResNetBackbone, ResNetConfig

    torch.manual_seed(0)
    network = ResNetBackbone(ResNetConfig(depths=[1, 1, 1, 1], out_features=["stage4"])).eval()
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save({**state, "attention.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pt")
    backbone = ResNetBackboneConfiguration(50, StoredWeights("resnet.pt", "none")).load()
    pixels = torch.rand(1, 33, 33, 3) * 255
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone.maps(pixels, ["stage4"])[0], network(normalise(pixels)).feature_maps[0]
        )
    with pytest.raises(ValueError, match="depth must be one of 50, 101; got 34"):
        ResNetBackboneConfiguration(34, StoredWeights("resnet.pt", "none")).load()


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractor.transformers_backbone.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="need the package transformers: pip install transformers"):
        HubBackboneConfiguration(HubWeights("microsoft/resnet-50", "Apache-2.0")).load()


@needs_transformers
def test_a_folder_without_a_backbone(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(WeightsError, match=r"there is no backbone .*nothing"):
        HubBackboneConfiguration(HubWeights(str(tmp_path / "nothing"), "none")).load()
