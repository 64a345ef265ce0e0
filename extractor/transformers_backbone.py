"""ResNet and DINOv2 through the package `transformers`: from the hub, a folder or one of our checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from extractor.dense_keypoints import Layer
from extractor.imagenet import normalise
from extractor.network_model import place
from extractor.weights import (
    HubWeights,
    StoredWeights,
    WeightsError,
    network_digest,
    part_of,
)

RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks of the four stages by the number of layers."""


class TransformersBackbone:
    """A `Backbone` of the package `transformers`; taps are `stage1`, `stage2` and so on.

    Args:
        network: a ResNet or DINOv2 backbone in inference mode.

    Raises:
        ValueError: it is another network.
    """

    def __init__(self, network: Any) -> None:
        kind = network.config.model_type
        if kind not in ("resnet", "dinov2"):
            raise ValueError(f"a backbone must be of type resnet or dinov2, this is {kind}")
        self.network = network
        self.convolutional = kind == "resnet"
        self.taps = tuple(name for name in network.stage_names if name != "stem")
        self.identity = {"network": kind, "weights": network_digest(network)}

    def for_inference(self) -> Self:
        """Fold batch normalisation into the convolutions before it, and lay the weights out for speed."""
        for module in self.network.modules():
            if isinstance(getattr(module, "normalization", None), nn.BatchNorm2d):
                module.convolution = fuse_conv_bn_eval(module.convolution, module.normalization)
                module.normalization = nn.Identity()
        place(self.network)
        return self

    def to(self, device: str, dtype: torch.dtype) -> None:
        """Move the network."""
        place(self.network, device, dtype)

    def channels(self, tap: str) -> int:
        """Channels of the feature map at a tap."""
        if tap not in self.taps:
            raise ValueError(f"tap must be one of {', '.join(self.taps)}; got {tap!r}")
        if self.convolutional:
            return int(self.network.config.hidden_sizes[self.taps.index(tap)])
        return int(self.network.config.hidden_size)

    def layers(self, tap: str) -> list[Layer]:
        """Convolutions and poolings from the pixels to a tap; a transformer's patches."""
        self.channels(tap)
        if not self.convolutional:
            return [_layer(self.network.embeddings.patch_embeddings.projection)]
        embedder = self.network.embedder
        found = [_layer(embedder.embedder.convolution), _layer(embedder.pooler)]
        for stage in self.network.encoder.stages[: self.taps.index(tap) + 1]:
            found += [_layer(part.convolution) for block in stage.layers for part in block.layer]
        return found

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """Feature maps of pixels [B, H, W, 3], 0 to 255, in one forward pass."""
        for tap in taps:
            self.channels(tap)
        x = normalise(pixels.to(torch.float32)).to(self.network.dtype)
        found: dict[str, Tensor] = {}
        if self.convolutional:
            x = self.network.embedder(x)
            last = max(self.taps.index(tap) for tap in taps)
            for name, stage in zip(self.taps[: last + 1], self.network.encoder.stages, strict=False):
                found[name] = x = stage(x)
        else:
            maps = self.network(x).feature_maps
            found = dict(zip(self.network.out_features, maps, strict=True))
        return [found[tap] for tap in taps]


def from_hub(weights: HubWeights) -> TransformersBackbone:
    """A pretrained backbone from the hub, or from a local folder in its layout.

    Raises:
        WeightsError: `transformers` is not installed, or there is no such model.
    """
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(weights.source)
        stages = [name for name in config.stage_names if name != "stem"]
        config.out_features = stages
        # `AutoBackbone` finds the class; its own `from_pretrained` takes a folder for a name on the hub.
        kind = type(transformers.AutoBackbone.from_config(config))
        network = kind.from_pretrained(weights.source, config=config)
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"there is no backbone {weights.source}: {reason}") from error
    return TransformersBackbone(network.eval())


def resnet(depth: int, weights: StoredWeights) -> TransformersBackbone:
    """A ResNet from one of our checkpoints, whose names begin with `backbone.`.

    Raises:
        ValueError: there is no ResNet of this depth.
        WeightsError: `transformers` is not installed, or the weights are missing or do not fit.
    """
    if depth not in RESNET_DEPTHS:
        raise ValueError(f"depth must be one of {', '.join(map(str, RESNET_DEPTHS))}; got {depth}")
    transformers = _transformers()
    path = weights.path()
    config = transformers.ResNetConfig(depths=list(RESNET_DEPTHS[depth]), out_features=["stage4"])
    network = transformers.AutoBackbone.from_config(config).eval()
    part_of(path, "backbone", network)
    return TransformersBackbone(network).for_inference()


def _layer(module: Any) -> Layer:
    def one(value: int | tuple[int, ...]) -> int:
        return value if isinstance(value, int) else value[0]

    window = cast("nn.Conv2d | nn.MaxPool2d", module)
    return Layer(one(window.kernel_size), one(window.stride), one(cast(int, window.padding)))


def _transformers() -> Any:
    if find_spec("transformers") is None:
        raise WeightsError(
            "ResNet and DINOv2 backbones need the package transformers: pip install transformers"
        )
    import transformers

    return transformers
