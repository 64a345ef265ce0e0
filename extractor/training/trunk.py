"""The backbone while it is trained: its weights move, its batch statistics stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from extractor import efficientnet_lite
from extractor.transformers_backbone import RESNET_DEPTHS, from_hub
from extractor.weights import HubWeights, WeightsError

Maps = Callable[[Tensor, Sequence[str]], list[Tensor]]


class Trunk(nn.Module):
    """A backbone that learns.

    Batch normalisation keeps the means and variances of ImageNet, and learns its scale and shift only: the
    statistics of small batches of crops would be worse, and no photo's features depend on those beside it.

    Args:
        network: what is trained; its state dict becomes the part `backbone` of a weights file.
        maps: feature maps of pixels [B, H, W, 3] at some taps, by the network.
        channels: of the map at a tap.
        rectified: whether feature maps hold no negative values.
    """

    def __init__(
        self, network: nn.Module, maps: Maps, channels: Callable[[str], int], rectified: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.maps = maps
        self.channels = channels
        self.rectified = rectified

    def train(self, mode: bool = True) -> Trunk:
        """Switch to training or back; batch normalisation stays as it is for inference."""
        super().train(mode)
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def frozen(self) -> Trunk:
        """The same trunk, which learns no more."""
        self.requires_grad_(False)
        return self


def lite_trunk(variant: int) -> Trunk:
    """EfficientNet-Lite from its ImageNet weights.

    Raises:
        ValueError: no such variant.
        WeightsError: the weights are not installed.
    """
    network = efficientnet_lite.trainable(variant).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def maps(pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        found: list[Tensor] = network.maps(efficientnet_lite.normalise(pixels), taps)
        return found

    return Trunk(network, maps, network.channels, rectified=False)


def resnet_trunk(depth: int, start: HubWeights) -> Trunk:
    """A ResNet from the hub or from a folder in its layout.

    Raises:
        WeightsError: `transformers` is not installed, there is no such model, or it is not this ResNet.
    """
    backbone = from_hub(start)
    depths = getattr(backbone.network.config, "depths", None)
    if not backbone.convolutional or tuple(depths or ()) != RESNET_DEPTHS[depth]:
        raise WeightsError(f"{start.source} is not a ResNet-{depth}: its stages have {depths} blocks")
    network = backbone.network.to(memory_format=torch.channels_last)
    return Trunk(network, backbone.maps, backbone.channels, rectified=True)
