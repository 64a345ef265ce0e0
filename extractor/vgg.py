"""VGG16 without its classifier.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from extractor.dense_keypoints import Layer
from extractor.imagenet import normalise
from extractor.network_model import place
from extractor.weights import StoredWeights, part_of, weights_digest

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; a pooling between
TAPS = tuple(f"conv{block}_{count}" for block, (_, count) in enumerate(_BLOCKS, start=1))
"""Where features can be taken: after the last rectifier of a block, before its pooling."""


class Vgg16(nn.Module):
    """The convolutional part; `features` counts its layers as the published state dicts do."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.tap_after: dict[str, int] = {}
        inputs = 3
        for tap, (channels, count) in zip(TAPS, _BLOCKS, strict=True):
            if layers:
                layers.append(nn.MaxPool2d(2, 2))
            for _ in range(count):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            self.tap_after[tap] = len(layers)
        self.features = nn.Sequential(*layers)

    def maps(self, x: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """Feature maps of normalised images [B, 3, H, W] at some taps, in one pass."""
        after = {self.tap_after[tap]: tap for tap in taps}
        found = {}
        for number, layer in enumerate(list(self.features)[: max(after)], start=1):
            x = layer(x)
            if number in after:
                found[after[number]] = x
        return [found[tap] for tap in taps]


class Vgg16Backbone:
    """VGG16 as a `Backbone`; taps are `TAPS`.

    Args:
        weights: a state dict whose names begin with `backbone.features.`.

    Raises:
        WeightsError: there are none, or they do not fit.
    """

    def __init__(self, weights: StoredWeights) -> None:
        path = weights.path()
        self.network = Vgg16().eval()
        part_of(path, "backbone", self.network)
        place(self.network)
        self.identity = {"network": "vgg16", "weights": weights_digest(path)}

    def to(self, device: str, dtype: torch.dtype) -> None:
        """Move the network."""
        place(self.network, device, dtype)

    def channels(self, tap: str) -> int:
        """Channels of the feature map at a tap."""
        if tap not in TAPS:
            raise ValueError(f"tap must be one of {', '.join(TAPS)}; got {tap!r}")
        return _BLOCKS[TAPS.index(tap)][0]

    def layers(self, tap: str) -> list[Layer]:
        """Convolutions and poolings from the pixels to a tap."""
        self.channels(tap)
        modules = list(self.network.features)[: self.network.tap_after[tap]]
        windows = [module for module in modules if not isinstance(module, nn.ReLU)]
        return [
            Layer(window.kernel_size[0], window.stride[0], cast("tuple[int, int]", window.padding)[0])
            if isinstance(window, nn.Conv2d)
            else Layer(cast(int, window.kernel_size), cast(int, window.stride))
            for window in cast("list[nn.Conv2d | nn.MaxPool2d]", windows)
        ]

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """Feature maps of pixels [B, H, W, 3], 0 to 255, in one forward pass."""
        for tap in taps:
            self.channels(tap)
        dtype = next(self.network.parameters()).dtype
        return self.network.maps(normalise(pixels.to(torch.float32)).to(dtype), taps)
