"""What every stage trains: a network and its losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from extractor.training.trunk import Trunk


class Objective(nn.Module, ABC):
    """A trunk with the heads and the losses that train it.

    Args:
        trunk: the backbone.

    Attributes:
        weights: of each loss in their sum.
    """

    weights: ClassVar[Mapping[str, float]]

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    @abstractmethod
    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses by name, each a mean over the batch.

        Args:
            pixels: uint8 or float [B, H, W, 3], 0 to 255.
            labels: int64 [B], classes.
        """

    @abstractmethod
    def describe(self, pixels: Tensor) -> Tensor:
        """What photos are compared by in validation, float [B, D] of unit norm; pixels as of `losses`."""

    @abstractmethod
    def learnt(self) -> dict[str, nn.Module]:
        """The parts of a weights file."""
