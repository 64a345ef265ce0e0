"""Networks of deep-image-retrieval, NAVER's PyTorch version of DIR: ResNets with GeM or MAC.

Gordo et al., "End-to-end learning of deep visual representations for image retrieval" (IJCV 2017); Revaud et
al., "Learning with average precision" (ICCV 2019).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from extractor.conversion.converted import Converted
from extractor.conversion.variables import Variables
from extractor.imagenet import DEVIATION, MEAN
from extractor.weights import WeightsError

WHITENING_POWER = 0.25
"""To which variances are raised before components are divided by them: as for the authors' figures."""

_WHITENING = "Landmarks_clean"
_POWERS = {"max": None, "avg": 1.0}


def is_naver_dir(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of deep-image-retrieval."""
    return {"model_options", "state_dict"} <= checkpoint.keys()


def convert_naver_dir(path: Path, checkpoint: Mapping[str, Any]) -> Converted:
    """A network, its fully connected layer, and the PCA-whitening behind it.

    Args:
        path: the checkpoint, for messages.
        checkpoint: what it holds.

    Raises:
        WeightsError: the network is none of those.
    """
    options = checkpoint["model_options"]
    architecture = str(options.get("arch", ""))
    if not re.fullmatch(r"resnet(50|101|152)_rmac", architecture):
        raise WeightsError(f"{path} is of {architecture}; known are resnet50_rmac, _101_ and _152_")
    tensors = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    variables = Variables(path, shapes, tensors.__getitem__, r"(^|\.)num_batches_tracked$")
    pooling = str(options.get("pooling", "gem"))
    if not pooling.startswith("gem") and pooling not in _POWERS:
        raise WeightsError(f"{path} pools by {pooling}; known are gem, {', '.join(_POWERS)}")
    power = float(variables.take("adpool.p")) if pooling.startswith("gem") else _POWERS[pooling]
    state = {}
    for part in ("weight", "bias"):
        layer = variables.take(f"fc.{part}")
        if not options.get("without_fc", False):
            state[f"embedding.{part}"] = layer
    for name in list(variables.left):
        if re.match(r"(conv1|bn1|layer\d)\.", name):
            state[f"backbone.{name}"] = variables.take(name)
    variables.none_left()
    learned = checkpoint.get("pca") or {}
    pca = learned.get(_WHITENING) if isinstance(learned, dict) else learned
    if pca is not None:
        mean, components, variances = (
            np.asarray(getattr(pca, name), np.float64)
            for name in ("mean_", "components_", "explained_variance_")
        )
        scale = variances**WHITENING_POWER if pca.whiten else np.ones_like(variances)
        state["whitening.mean"] = torch.from_numpy(mean.astype(np.float32))
        state["whitening.projection"] = torch.from_numpy((components / scale[:, None]).T.astype(np.float32))
    told = checkpoint.get("preprocess") or {}
    colours = [[float(value) for value in told.get(*pair)] for pair in (("mean", MEAN), ("std", DEVIATION))]
    metadata = {
        "backbone": {"style": "torchvision", "epsilon": 1e-5, "input": [255.0, *colours]},
        "pooling": {"power": power, "levels": 0, "unit": bool(options.get("norm_features", False))},
    }
    return Converted(f"dir-{architecture.removesuffix('_rmac')}.pt", state, metadata)
