"""ResNet as different libraries build it: geometry, folding, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractor.configuration import ResNetBackboneConfiguration
from extractor.dense_keypoints import ReceptiveField
from extractor.resnet import STYLES, ResNet, ResNetBackbone
from extractor.weights import StoredWeights, WeightsError, packed_weights

BLOCKS = (2, 2, 2, 1)
SIDES = ((161, 180), (166, 163))


def network(style: str, blocks: tuple[int, ...] = BLOCKS) -> ResNet:
    torch.manual_seed(0)
    made = ResNet(blocks, STYLES[style], 4, 2, 1e-3)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.2, 1.8)
            module.bias.data.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.2, 1.8)  # type: ignore[union-attr]
    return made.eval()


def write(path: Path, built: str, **changes: Any) -> Path:
    told = {"style": built, "epsilon": 1e-3, "input": [1.0, [128.0] * 3, [64.0] * 3], **changes}
    state = {f"backbone.{name}": value for name, value in network(built).state_dict().items()}
    path.write_bytes(packed_weights(state, {"backbone": told}))
    return path


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("last", [1, 3])
def test_impulse_response(style: str, sides: tuple[int, int], last: int) -> None:
    """The pixels that a cell depends on are the receptive field, centred where the geometry says."""
    made = network(style).double()
    for parameter in made.parameters():
        parameter.data.abs_()
    image = torch.rand(1, 3, *sides, dtype=torch.float64, requires_grad=True)
    features = made.maps(image, last)[-1]
    fields = [ReceptiveField.of(made.layers(last), side) for side in sides]
    assert features.shape[2:] == tuple(field.cells for field in fields)
    row, column = (field.cells // 2 for field in fields)
    (gradient,) = torch.autograd.grad(features[0, :, row, column].sum(), image)
    seen = gradient[0].abs().sum(0)
    for axis, field, cell, side in zip((1, 0), fields, (row, column), sides, strict=True):
        touched = seen.sum(axis).nonzero()[:, 0]
        centre, reach = float(field.centres[cell]), (field.size - 1) / 2
        # The pooling takes the largest of its window, so it need not pass on all that it sees.
        assert centre - reach <= touched.min() <= centre - reach + 4 or touched.min() == 0
        assert centre + reach - 4 <= touched.max() <= centre + reach or touched.max() == side - 1


def test_geometry_of_what_is_published() -> None:
    """DELF states a field of 291 pixels and a stride of 32 for its third block, unstrided 16."""
    for style, step, size in (
        ("slim", 32, 291),
        ("keras", 16, 291),
        ("keras-thinned", 32, 291),
        ("torchvision", 16, 267),
    ):
        field = ReceptiveField.of(ResNet((3, 4, 6, 3), STYLES[style], 4, 2).layers(3), 1025)
        assert (field.step, field.size) == (step, size)
    # Of an odd side SAME pads alike on both sides: the first cell looks at the first pixel, as stated.
    assert ReceptiveField.of(ResNet((3, 4, 6), STYLES["slim"], 4, 2).layers(3), 1025).start == 0


@pytest.mark.parametrize("style", STYLES)
def test_folding_changes_rounding_alone(style: str) -> None:
    made, image = network(style), torch.rand(1, 3, 97, 70)
    with torch.inference_mode():
        before = made.maps(image, 4)
        made.fold()
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in made.modules())
        for found, expected in zip(made.maps(image, 4), before, strict=True):
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_as_a_backbone(tmp_path: Path) -> None:
    backbone = ResNetBackbone(write(tmp_path / "net.pt", "slim"))
    assert backbone.taps == ("stage1", "stage2", "stage3", "stage4")
    assert [backbone.channels(tap) for tap in backbone.taps] == [8, 16, 32, 64]
    assert backbone.identity["network"] == "resnet-slim"
    pixels = torch.randint(0, 256, (2, 97, 70, 3), dtype=torch.uint8)
    with torch.inference_mode():
        third, first = backbone.maps(pixels, ["stage3", "stage1"])
        x = ((pixels.double() - 128) / 64).permute(0, 3, 1, 2)
        expected = network("slim").double().maps(x, 3)
        torch.testing.assert_close(third.double(), expected[2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(first.double(), expected[0], rtol=1e-4, atol=1e-5)
        backbone.to("cpu", torch.bfloat16)
        assert backbone.maps(pixels, ["stage1"])[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="tap must be one of stage1, stage2, stage3, stage4; got 'block3'"):
        backbone.layers("block3")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"style": "caffe"}, "does not hold a ResNet: 'caffe'"),
        ({"style": "keras"}, r"(?s)does not hold a ResNet: .*conv1\.bias"),
        ({"epsilon": "small"}, "does not hold a ResNet"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WeightsError, match=complaint):
        ResNetBackbone(write(tmp_path / "net.pt", "slim", **changes))


def test_a_bare_state_dict_is_none_of_these(tmp_path: Path) -> None:
    state = {f"backbone.{name}": value for name, value in network("slim").state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="does not hold a ResNet: 'style'"):
        ResNetBackbone(tmp_path / "net.pt")


def test_the_depth_is_checked(tmp_path: Path) -> None:
    stored = StoredWeights(str(write(tmp_path / "net.pt", "torchvision")), "none")
    with pytest.raises(WeightsError, match=r"holds a ResNet of \(2, 2, 2, 1\) blocks, not ResNet-50"):
        ResNetBackboneConfiguration(50, stored).load()
    assert np.prod([layer.stride for layer in ResNetBackbone(stored.path()).layers("stage4")]) == 32
