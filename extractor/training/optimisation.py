"""The optimiser of a stage and how its learning rates rise and fall."""

from __future__ import annotations

import math

import torch
from torch import nn

from extractor.training.objective import Objective
from extractor.training.settings import Settings

_MOMENTUM = 0.9


def create_optimiser(objective: Objective, settings: Settings) -> torch.optim.Optimizer:
    """Optimiser of everything that learns: backbone and the rest at rates of their own.

    What has a single axis (biases, batch normalisation, ArcFace's scale) does not decay.
    """
    of_trunk = {id(parameter) for parameter in objective.trunk.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in objective.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in of_trunk, parameter.ndim > 1), []).append(parameter)
    options = [
        {
            "params": parameters,
            "peak": settings.backbone_rate if backbone else settings.rate,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (backbone, decays), parameters in groups.items()
    ]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(options, lr=settings.rate, momentum=_MOMENTUM)
    return torch.optim.AdamW(options, lr=settings.rate)


def scheduled(step: int, steps: int, warm_up: float) -> float:
    """Share of the highest rate at a step: a straight rise, then half a cosine down towards 0.

    Args:
        step: from 0.
        steps: how many there are.
        warm_up: share of them over which the rate rises.
    """
    rising = math.ceil(warm_up * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def set_rates(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set each group's rate to a share of its highest."""
    for group in optimiser.param_groups:
        group["lr"] = share * group["peak"]
