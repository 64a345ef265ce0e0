"""Models around networks: what the processor prepares of each photo, the device runs for many at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Self, TypeVar, cast

import torch
from torch import nn

from extractor.photo import Photo
from extractor.pyramid import Pyramid

R = TypeVar("R")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types in which networks calculate."""

STACK_PIXELS = 2**24
"""Pixels of the largest level that are stacked in one pass: enough to fill a device, few enough to fit in."""


class NetworkModel(ABC, Generic[R]):
    """A model of one or more networks; `R` is what it makes of a photo.

    Attributes:
        device: where the networks are.
        dtype: in which they calculate.
    """

    device: str = "cpu"
    dtype: str = "float32"

    def to(self, device: str, dtype: str = "float32") -> Self:
        """Move the networks; see `Extractor.to`.

        Float32 is to mean float32: for CUDA, convolutions in TF32 are switched off in this process.

        Raises:
            ValueError: there is no such device or type here, or weights have been rounded to another type.
        """
        check_device(device)
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
        if self.dtype not in (dtype, "float32"):
            raise ValueError(
                f"weights rounded to {self.dtype} cannot go to {dtype}: create the extractor anew"
            )
        if device != "cpu":
            torch.backends.cudnn.allow_tf32 = False
        self.move(device, DTYPES[dtype])
        self.device, self.dtype = device, dtype
        return self

    @abstractmethod
    def move(self, device: str, dtype: torch.dtype) -> None:
        """Bring each network to a device that is there, by `place` or by the backbone's own `to`."""

    @abstractmethod
    def prepare(self, photo: Photo) -> Pyramid:
        """What the network is to be shown; any number of threads may do this at once."""

    def run(self, pyramids: Sequence[Pyramid]) -> list[R]:
        """What each photo gives, in order; those of one shape are stacked.

        Args:
            pyramids: as `prepare` made them.
        """
        stacks: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, pyramid in enumerate(pyramids):
            stacks.setdefault(pyramid.shape, []).append(place)
        found: list[R | None] = [None] * len(pyramids)
        with torch.inference_mode():
            for shape, places in stacks.items():
                most = max(1, STACK_PIXELS // max(columns * rows for *_, columns, rows in shape))
                for start in range(0, len(places), most):
                    stack = places[start : start + most]
                    results = self.run_stack([pyramids[place] for place in stack])
                    for place, result in zip(stack, results, strict=True):
                        found[place] = result
        return cast("list[R]", found)

    @abstractmethod
    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[R]:
        """What each photo of a stack of one shape gives, in order."""


def check_device(name: str) -> None:
    """Make sure that PyTorch has this device.

    Raises:
        ValueError: it is neither `cpu` nor a CUDA device that is here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if name != "cpu" and device.type != "cuda":
        raise ValueError(f"device must be cpu, cuda or cuda:NUMBER, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {name}: PyTorch finds {torch.cuda.device_count()} of CUDA")


def place(network: nn.Module, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Bring a network to a device, in the layout that is fastest there."""
    network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # On one thread PyTorch keeps 1x1 convolutions from oneDNN, which is faster, but not dilated ones; the
    # dilation of a single tap means nothing.
    dilation = (2, 2) if device == "cpu" else (1, 1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = dilation
