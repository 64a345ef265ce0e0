"""How training goes: what decides its result, and what does not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch

Optimiser = Literal["adamw", "sgd"]
Precision = Literal["float32", "bfloat16", "float16"]

_RESULTLESS = ("device", "threads", "log_every", "validate_every", "checkpoint_every")


@dataclass(frozen=True)
class Settings:
    """Settings of one run of training.

    Attributes:
        epochs: times that every photo is shown, in the stage that trains the backbone.
        attention_epochs: the same for DELF's second stage.
        crop: pixels along the squares that are shown; 224 (DELF) and 512 (DELG) were published.
        attention_crop: the same for DELF's second stage; 720 was published.
        batch: photos that go through the network at once.
        accumulate: batches whose gradients make one step.
        rate: learning rate of what starts from nothing, at its highest.
        backbone_rate: that of the backbone.
        weight_decay: of weights with two axes or more.
        optimiser: `adamw`, or `sgd` with a momentum of 0.9.
        warm_up: share of the steps over which the rate rises, before it falls along half a cosine.
        precision: of the network's passes; weights and losses are float32.
        held_back: landmarks kept for validation; None for a tenth.
        seed: of weights that start from nothing, of order and crops, and of the landmarks held back.
        device: of PyTorch.
        threads: that read photos; None for one per core.
        log_every: steps between rows of the log.
        validate_every: steps between validations; None for ten in a stage.
        checkpoint_every: steps between checkpoints.

    Raises:
        ValueError: a value is out of range, or there is no such device.
    """

    epochs: float = 10
    attention_epochs: float = 5
    crop: int = 224
    attention_crop: int = 720
    batch: int = 32
    accumulate: int = 1
    rate: float = 1e-3
    backbone_rate: float = 1e-4
    weight_decay: float = 1e-4
    optimiser: Optimiser = "adamw"
    warm_up: float = 0.05
    precision: Precision = "float32"
    held_back: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    log_every: int = 20
    validate_every: int | None = None
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "attention_epochs",
            "batch",
            "accumulate",
            "rate",
            "backbone_rate",
            "threads",
            "log_every",
            "validate_every",
            "checkpoint_every",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        if self.weight_decay < 0 or self.seed < 0 or not 0 <= self.warm_up < 1:
            raise ValueError(
                "weight_decay and seed must not be negative, and warm_up at least 0 and below 1; got "
                f"{self.weight_decay}, {self.seed} and {self.warm_up}"
            )
        for name, known in (("optimiser", get_args(Optimiser)), ("precision", get_args(Precision))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"there is no device {self.device!r} here: {reason}") from error

    def deciding(self) -> dict[str, object]:
        """The settings that decide the result, by name."""
        return {name: value for name, value in asdict(self).items() if name not in _RESULTLESS}
