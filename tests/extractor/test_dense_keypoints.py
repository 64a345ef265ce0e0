from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from extractor.dense_keypoints import Layer, ReceptiveField, cell_centres
from extractor.efficientnet_lite import EfficientNetLite, SameConv2d


def test_by_hand() -> None:
    # A 3x3 convolution padded by 1 keeps places; one of stride 2 looks at pixels 0, 2, 4 ...
    assert ReceptiveField.of([Layer(3, 1, 1)], 10) == ReceptiveField(0, 1, 3, 10)
    assert ReceptiveField.of([Layer(3, 2, 1)], 10) == ReceptiveField(0, 2, 3, 5)
    # Patches of 14: pixels 0 to 13, their centre is 6.5; the last 2 of 30 pixels are seen by none.
    assert ReceptiveField.of([Layer(14, 14)], 30) == ReceptiveField(6.5, 14, 14, 2)
    # SAME on an even side puts the odd pixel behind: 0 to 2, 2 to 4; on an odd side one ahead too.
    assert ReceptiveField.of([Layer(3, 2, None)], 10) == ReceptiveField(1, 2, 3, 5)
    assert ReceptiveField.of([Layer(3, 2, None)], 9) == ReceptiveField(0, 2, 3, 5)
    # The stem of ResNet: 7x7 of stride 2, then 3x3 of stride 2.
    assert ReceptiveField.of([Layer(7, 2, 3), Layer(3, 2, 1)], 64) == ReceptiveField(0, 4, 11, 16)


def test_the_published_geometry_of_delf() -> None:
    """DELF's block3 of ResNet-50: field 291, padding 145, stride 32 or, with its own stride off, 16."""

    def resnet(strides: tuple[int, ...]) -> list[Layer]:
        layers = [Layer(7, 2, 3), Layer(3, 2, 1)]
        for blocks, stride in zip((3, 4, 6), strides, strict=True):
            # Slim's ResNet v1 strides in the last block of a stage.
            layers += [Layer(3, stride if block == blocks - 1 else 1, 1) for block in range(blocks)]
        return layers

    assert ReceptiveField.of(resnet((2, 2, 2)), 1024) == ReceptiveField(0, 32, 291, 32)
    assert ReceptiveField.of(resnet((2, 2, 1)), 1024) == ReceptiveField(0, 16, 291, 64)


def test_too_small_an_input_is_refused() -> None:
    with pytest.raises(ValueError, match="13 pixels are too few for layers that see 14"):
        ReceptiveField.of([Layer(14, 14)], 13)


@settings(max_examples=60, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.sampled_from((1, 2, 3, 5, 7)), st.integers(1, 3), st.sampled_from((None, 0, 1, 2))),
        min_size=1,
        max_size=4,
    ),
    length=st.integers(20, 60),
    data=st.data(),
)
def test_against_the_response_of_convolutions(
    layers: list[tuple[int, int, int | None]], length: int, data: st.DataObject
) -> None:
    """What a cell of real convolutions with positive weights depends on, asked of autograd."""
    geometry = [Layer(*layer) for layer in layers]
    try:
        field = ReceptiveField.of(geometry, length)
    except ValueError:
        return
    image = torch.ones(1, 1, length, length, dtype=torch.float64, requires_grad=True)
    x = image
    for layer in geometry:
        if layer.padding is None:
            convolution: nn.Conv2d = SameConv2d(1, 1, layer.kernel, layer.stride)
            if layer.kernel % 2 == 0 and layer.stride == 1:
                return
        else:
            convolution = nn.Conv2d(1, 1, layer.kernel, layer.stride, layer.padding, bias=False)
        nn.init.ones_(convolution.weight)
        x = convolution.double()(x)
    assert x.shape[2:] == (field.cells, field.cells)
    cell = data.draw(st.integers(0, field.cells - 1))
    (gradient,) = torch.autograd.grad(x[0, 0, cell, cell], image)
    seen = gradient[0, 0].sum(0).nonzero()[:, 0]
    centre, reach = float(field.centres[cell]), (field.size - 1) / 2
    first, last = max(centre - reach, 0), min(centre + reach, length - 1)
    # Strides beyond the kernel leave holes; padding may be all that the rim of the field sees, or all of it.
    if len(seen):
        if all(kernel >= stride for kernel, stride, _ in layers) and centre - reach >= 0:
            assert seen.min() == first
        assert seen.min() >= first
        assert seen.max() <= last


@pytest.mark.parametrize("tap", ["stage3", "stage5"])
@pytest.mark.parametrize("sides", [(208, 209), (223, 240)])
def test_impulse_response_of_a_real_network(tap: str, sides: tuple[int, int]) -> None:
    """The pixels that a cell depends on are the receptive field, centred where the geometry says."""
    torch.manual_seed(0)
    network = EfficientNetLite(0).double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()
    # Faint enough to stay below the ceiling of ReLU6, where gradients end.
    image = torch.full((1, 3, *sides), 1e-100, dtype=torch.float64, requires_grad=True)
    features = network.features(image, tap)
    layers = network.layers(tap)
    fields = [ReceptiveField.of(layers, side) for side in sides]
    assert features.shape[2:] == tuple(field.cells for field in fields)
    row, column = fields[0].cells // 2, fields[1].cells // 2
    (gradient,) = torch.autograd.grad(features[0, :, row, column].sum(), image)
    seen = gradient[0].abs().sum(0)
    for axis, field, cell, side in zip((1, 0), fields, (row, column), sides, strict=True):
        touched = seen.sum(axis).nonzero()[:, 0]
        centre, reach = float(field.centres[cell]), (field.size - 1) // 2
        assert touched.min() == max(0, centre - reach)
        assert touched.max() == min(side - 1, centre + reach)


def test_centres_go_row_by_row() -> None:
    centres = cell_centres([Layer(3, 2, 1)], 4, 6)
    assert centres.dtype == np.float32
    assert centres.tolist() == [[0, 0], [2, 0], [4, 0], [0, 2], [2, 2], [4, 2]]


def test_same_padding_is_that_of_the_network() -> None:
    """A single bright pixel answers at the cell whose centre it is."""
    convolution = SameConv2d(1, 1, 3, 2)
    nn.init.zeros_(convolution.weight)
    convolution.weight.data[0, 0, 1, 1] = 1
    for side in (9, 10, 11, 12):
        field = ReceptiveField.of([Layer(3, 2, None)], side)
        for cell, centre in enumerate(field.centres.astype(int)):
            image = functional.one_hot(torch.tensor(centre), side).float()
            plane = (image[:, None] * image[None])[None, None]
            assert convolution(plane)[0, 0].nonzero().tolist() == [[cell, cell]]
