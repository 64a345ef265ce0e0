"""Networks of the toolbox cnnimageretrieval-pytorch: VGG16 and ResNets with MAC, GeM or R-MAC.

Radenović et al., "Fine-tuning CNN image retrieval with no human annotation" (TPAMI 2019).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extractor.conversion.converted import Converted
from extractor.conversion.variables import Variables
from extractor.imagenet import DEVIATION, MEAN
from extractor.weights import WeightsError

_RESNET = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
_WHITENINGS = ("retrieval-SfM-120k", "retrieval-SfM-30k")
_POWERS = {"mac": None, "rmac": None, "spoc": 1.0}
_LEVELS = 3


def is_cnnimageretrieval(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of this toolbox."""
    return {"meta", "state_dict"} <= checkpoint.keys() and "pooling" in checkpoint["meta"]


def convert_cnnimageretrieval(path: Path, checkpoint: Mapping[str, Any]) -> Converted:
    """A network with what belongs to it of whitening: learned behind it, or a layer of it.

    Of whitenings learned behind the network, that for one size of a photo is taken.

    Args:
        path: the checkpoint, for messages.
        checkpoint: what it holds.

    Raises:
        WeightsError: the network is none of those.
    """
    meta, tensors = checkpoint["meta"], checkpoint["state_dict"]
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    variables = Variables(path, shapes, tensors.__getitem__, r"\.num_batches_tracked$")
    state, backbone = _backbone(variables, str(meta["architecture"]), meta)
    pooling = str(meta["pooling"])
    regional = bool(meta.get("regional", False))
    power: float | None
    if pooling == "gem":
        power = _scalar(variables.take("pool.rpool.p" if regional else "pool.p"), path)
    elif pooling in _POWERS:
        power = _POWERS[pooling]
    else:
        raise WeightsError(f"{path} pools by {pooling}; known are gem, {', '.join(_POWERS)}")
    if regional:
        for part in ("weight", "bias"):
            state[f"region.{part}"] = variables.take(f"pool.whiten.{part}")
    if meta.get("whitening", False):
        for part in ("weight", "bias"):
            state[f"embedding.{part}"] = variables.take(f"whiten.{part}")
    learned = meta.get("Lw") or {}
    if learned:
        chosen = next((name for name in _WHITENINGS if name in learned), min(learned))
        mean, projection = (np.asarray(learned[chosen]["ss"][part], np.float32) for part in ("m", "P"))
        state["whitening.mean"] = torch.from_numpy(mean.reshape(-1).copy())
        state["whitening.projection"] = torch.from_numpy(projection.T.copy())
    variables.none_left()
    levels = _LEVELS if regional or pooling == "rmac" else 0
    metadata = {"backbone": backbone, "pooling": {"power": power, "levels": levels, "unit": True}}
    architecture = str(meta["architecture"])
    system = "siamac" if (pooling, architecture) == ("mac", "vgg16") else pooling
    return Converted(f"{system}-{architecture}.pt", state, metadata)


def _backbone(
    variables: Variables, architecture: str, meta: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The part `backbone` and what metadata say of it."""
    mean, deviation = (tuple(float(value) for value in meta[name]) for name in ("mean", "std"))
    state = {}
    if architecture == "vgg16":
        if (mean, deviation) != (MEAN, DEVIATION):
            raise WeightsError(
                f"{variables.source} expects other colours than our VGG16: {mean}, {deviation}"
            )
        for name in [name for name in variables.left if name.startswith("features.")]:
            state[f"backbone.{name}"] = variables.take(name)
        return state, {"style": "vgg16"}
    if not re.fullmatch(r"resnet(50|101|152)", architecture):
        raise WeightsError(
            f"{variables.source} is of {architecture}; known are vgg16, resnet50, resnet101, resnet152"
        )
    for name in list(variables.left):
        if found := re.fullmatch(r"features\.(\d+)\.(.+)", name):
            state[f"backbone.{_RESNET[int(found[1])]}.{found[2]}"] = variables.take(name)
    told = {"style": "torchvision", "epsilon": 1e-5, "input": [255.0, list(mean), list(deviation)]}
    return state, told


def _scalar(value: Tensor, path: Path) -> float:
    """The power of generalised-mean pooling, with the digits that float32 holds of it."""
    if value.numel() != 1:
        raise WeightsError(f"{path} has a power of its own for each of {value.numel()} channels")
    return float(value)
