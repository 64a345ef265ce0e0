"""ResNet of bottleneck blocks as different libraries build it: they put strides and padding elsewhere.

He et al., "Deep residual learning for image recognition" (CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from extractor.dense_keypoints import Layer
from extractor.network_model import place
from extractor.weights import WeightsError, load_metadata, load_state_dict, weights_digest

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of the four stages by the number of layers."""


@dataclass(frozen=True)
class Style:
    """How a library builds the network.

    Attributes:
        strides: of the four stages.
        strided_block: which block of a stage has the stride: 0 the first, -1 the last.
        strided_convolution: which convolution of that block has it: 1 or 2.
        stem_padding: of the first convolution; None for TensorFlow's SAME.
        pool_padding: of the pooling behind it; None for SAME.
        thinned: every other cell of the third stage is left out.
        bias: convolutions have a bias.
    """

    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    strided_block: int = 0
    strided_convolution: int = 2
    stem_padding: int | None = 3
    pool_padding: int | None = 1
    thinned: bool = False
    bias: bool = False


STYLES = {
    "torchvision": Style(),
    "slim": Style(strides=(2, 2, 2, 1), strided_block=-1, pool_padding=None),
    "keras": Style(strided_convolution=1, stem_padding=None, pool_padding=0, bias=True),
    "keras-thinned": Style(
        (1, 2, 2, 1), strided_convolution=1, stem_padding=None, pool_padding=0, thinned=True, bias=True
    ),
}
"""PyTorch, TF-Slim, and the Keras network of the DELF authors without and with a stride behind stage 3."""


class Bottleneck(nn.Module):
    """A residual block; names as published for PyTorch.

    Args:
        inputs: channels before.
        width: channels within; four times as many behind.
        stride: of the block.
        style: of the network.
    """

    def __init__(self, inputs: int, width: int, stride: int, style: Style) -> None:
        super().__init__()
        outputs = 4 * width
        strides = (stride, 1) if style.strided_convolution == 1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, strides[0], bias=style.bias)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides[1], padding=1, bias=style.bias)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=style.bias)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=style.bias)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features behind the block."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.downsample(x))

    @property
    def layers(self) -> list[Layer]:
        """What the block does to places."""
        return [Layer(1, self.conv1.stride[0]), Layer(3, self.conv2.stride[0], 1), Layer(1)]


class ResNet(nn.Module):
    """The convolutional part of the network, perhaps without its last stages.

    Args:
        blocks: of the stages.
        style: how it is built.
        stem: channels of the first convolution; 64 in all that are published, and so is the width.
        width: channels within the blocks of the first stage, which double from stage to stage.
        epsilon: of batch normalisation.
    """

    def __init__(
        self, blocks: Sequence[int], style: Style, stem: int = 64, width: int = 64, epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        self.style, self.width = style, width
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=style.stem_padding or 0, bias=style.bias)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        for number, (count, stride) in enumerate(zip(blocks, style.strides, strict=False)):
            stage = nn.Sequential()
            for block in range(count):
                strided = block == style.strided_block % count
                stage.append(Bottleneck(inputs, width << number, stride if strided else 1, style))
                inputs = 4 * width << number
            setattr(self, f"layer{number + 1}", stage)
        self.stages: list[nn.Sequential] = [getattr(self, f"layer{n + 1}") for n in range(len(blocks))]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = epsilon

    def fold(self) -> None:
        """Fold batch normalisation into the convolutions, which changes maps by rounding alone."""
        _fold(self, "conv1", "bn1")
        for stage in self.stages:
            for block in stage:
                for number in (1, 2, 3):
                    _fold(block, f"conv{number}", f"bn{number}")
                if isinstance(block.downsample, nn.Sequential):
                    _fold(block.downsample, "0", "1")

    def maps(self, x: Tensor, last: int) -> list[Tensor]:
        """Feature maps of stages 1 to `last` of normalised images [B, 3, H, W]."""
        style = self.style
        if style.stem_padding is None:
            x = _same(x, 7, 2, 0.0)
        x = functional.relu(self.bn1(self.conv1(x)))
        if style.pool_padding is None:
            x = _same(x, 3, 2, -torch.inf)
        x = functional.max_pool2d(x, 3, 2, style.pool_padding or 0)
        found = []
        for number, stage in enumerate(self.stages[:last], start=1):
            x = stage(x)
            if number == 3 and style.thinned:
                x = x[..., ::2, ::2]
            found.append(x)
        return found

    def layers(self, last: int) -> list[Layer]:
        """What the network does to places as far as stage `last`."""
        found = [Layer(7, 2, self.style.stem_padding), Layer(3, 2, self.style.pool_padding)]
        for number, stage in enumerate(self.stages[:last], start=1):
            for block in stage:
                assert isinstance(block, Bottleneck)
                found += block.layers
            if number == 3 and self.style.thinned:
                found.append(Layer(1, 2))
        return found


def _fold(parent: nn.Module, convolution: str, normalisation: str) -> None:
    fused = fuse_conv_bn_eval(getattr(parent, convolution), getattr(parent, normalisation))
    setattr(parent, convolution, fused)
    setattr(parent, normalisation, nn.Identity())


def _same(x: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """Images padded as TensorFlow's SAME does: the odd row and column behind."""
    missing = []
    for length in (x.shape[3], x.shape[2]):
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        missing += [total // 2, total - total // 2]
    return functional.pad(x, missing, value=value)


def stored_resnet(path: Path) -> tuple[ResNet, Mapping[str, Any]]:
    """The ResNet of a weights file that says how it is built, and what it says.

    Args:
        path: a file whose part `backbone` is a ResNet, and whose metadata says in `backbone` its `style`
            (of `STYLES`), its `epsilon`, and as `input` what pixels are divided by, and then mean and
            deviation of each colour.

    Raises:
        WeightsError: the file is damaged, or does not hold such a network.
    """
    told: Mapping[str, Any] = load_metadata(path).get("backbone", {})
    prefix = "backbone."
    state = {
        name.removeprefix(prefix): value
        for name, value in load_state_dict(path).items()
        if name.startswith(prefix)
    }
    try:
        stem, width = len(state["bn1.weight"]), len(state["layer1.0.bn1.weight"])
        network = ResNet(_blocks(state), STYLES[told["style"]], stem, width, float(told["epsilon"])).eval()
        network.load_state_dict(state)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{path} does not hold a ResNet: {error}") from error
    return network, told


class ResNetBackbone:
    """A ResNet as a `Backbone`; taps are `stage1` to `stage4`, as far as it goes.

    Args:
        path: what `stored_resnet` reads.
        depth: which of `DEPTHS` it must be; None for any.

    Raises:
        WeightsError: the file is damaged, or does not hold such a network.
    """

    def __init__(self, path: Path, depth: int | None = None) -> None:
        self.network, told = stored_resnet(path)
        self.blocks = tuple(len(stage) for stage in self.network.stages)
        if depth is not None and self.blocks != DEPTHS[depth][: len(self.blocks)]:
            raise WeightsError(f"{path} holds a ResNet of {self.blocks} blocks, not ResNet-{depth}")
        self.taps = tuple(f"stage{number}" for number in range(1, len(self.blocks) + 1))
        divisor, mean, deviation = told["input"]
        self.input = (divisor, torch.tensor(mean), torch.tensor(deviation))
        self.identity = {"network": f"resnet-{told['style']}", "weights": weights_digest(path)}
        self.network.fold()
        place(self.network)

    def to(self, device: str, dtype: torch.dtype) -> None:
        """Move the network."""
        place(self.network, device, dtype)

    def channels(self, tap: str) -> int:
        """Channels of the feature map at a tap."""
        return self.network.width << (1 + self._stage(tap))

    def layers(self, tap: str) -> list[Layer]:
        """Convolutions and poolings from the pixels to a tap."""
        return self.network.layers(self._stage(tap))

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """Feature maps of pixels [B, H, W, 3], 0 to 255, in one forward pass."""
        stages = [self._stage(tap) for tap in taps]
        divisor, mean, deviation = self.input
        x = (pixels.to(torch.float32) / divisor - mean.to(pixels.device)) / deviation.to(pixels.device)
        found = self.network.maps(x.permute(0, 3, 1, 2).to(self.network.conv1.weight.dtype), max(stages))
        return [found[stage - 1] for stage in stages]

    def _stage(self, tap: str) -> int:
        if tap not in self.taps:
            raise ValueError(f"tap must be one of {', '.join(self.taps)}; got {tap!r}")
        return self.taps.index(tap) + 1


def _blocks(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks of each stage that a state dict holds."""
    blocks: list[int] = []
    while True:
        stage, count = f"layer{len(blocks) + 1}", 0
        while f"{stage}.{count}.conv1.weight" in state:
            count += 1
        if not count:
            return tuple(blocks)
        blocks.append(count)
