"""Variables of a checkpoint of others, each of which has to find its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from extractor.weights import WeightsError


class Variables:
    """What is left of a checkpoint while its variables are taken over one by one.

    Args:
        source: the checkpoint's name, for messages.
        shapes: of all variables by name.
        read: gives a variable.
        unused: of variables that only training needs, as a regular expression.
    """

    def __init__(
        self,
        source: object,
        shapes: dict[str, tuple[int, ...]],
        read: Callable[[str], Tensor],
        unused: str,
    ) -> None:
        self.source = source
        self.left = {name: shape for name, shape in shapes.items() if not re.search(unused, name)}
        self._read = read

    def take(self, name: str) -> Tensor:
        """A variable, float32.

        Raises:
            WeightsError: there is none of this name (left), or a value is not finite.
        """
        if name not in self.left:
            raise WeightsError(
                f"{self.source} has no variable {name}: it is another network, or not all of it is there"
            )
        del self.left[name]
        value = self._read(name).to(torch.float32)
        if not value.isfinite().all():
            raise WeightsError(f"{self.source} is damaged: a value of {name} is not finite")
        return value

    def none_left(self) -> None:
        """Make sure that every variable found its place.

        Raises:
            WeightsError: some did not.
        """
        if self.left:
            raise WeightsError(
                f"{self.source} holds {listed(sorted(self.left))}, for which this network has no place: it "
                "is another one"
            )


def listed(names: Iterable[str], most: int = 5) -> str:
    """Some names for a message."""
    found: Sequence[str] = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def kernel(value: Tensor) -> Tensor:
    """A kernel of TensorFlow in the order of PyTorch: [h, w, in, out] or [in, out] becomes [out, in, ...]."""
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
