"""What a conversion leaves: the content of a weights file of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

OUR_EPSILON = 1e-5
"""Of the batch normalisation of our attention."""


@dataclass(frozen=True)
class Converted:
    """Content of a weights file.

    Attributes:
        file: what it is usually called.
        state: tensors by name, the part they belong to before the first point.
        metadata: what the tensors do not say of the network.
    """

    file: str
    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any]


def batch_normalisation(
    name: str, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> dict[str, Tensor]:
    """A batch normalisation as PyTorch names it."""
    values = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": variance}
    return {f"{name}.{part}": value for part, value in values.items()}


def of_our_epsilon(variance: Tensor, epsilon: float) -> Tensor:
    """The variance that, with our epsilon, has the same sum as this one with another."""
    return (variance.double() + (epsilon - OUR_EPSILON)).to(variance.dtype)
