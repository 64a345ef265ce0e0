"""Extractors by name: each a frozen configuration that is loaded on demand."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from extractor.extractor import Extractor, GlobalLocalExtractor, GlobalModel, LocalModel

DEFAULT = "xfeat-lite2"
"""The extractor that `default` stands for."""


class Configuration(Protocol):
    """What a registered name stands for."""

    def load(self, name: str) -> Extractor:
        """Build the extractor and read its weights."""


class GlobalConfiguration(Protocol):
    """The global half of an extractor."""

    def load(self) -> GlobalModel:
        """Build the model and read its weights."""


class LocalConfiguration(Protocol):
    """The local half of an extractor."""

    def load(self) -> LocalModel:
        """Build the model and read its weights."""


@dataclass(frozen=True)
class LiteGlobalConfiguration:
    """An EfficientNet-Lite global descriptor.

    Attributes:
        variant: EfficientNet-Lite 0, 1 or 2.
        tap: where features are taken: `stage1` to `stage7`, or `head`.
        sides: longest sides, in pixels, to which the photo is reduced; the descriptors of all are summed.
        power: p of generalised-mean pooling, at least 1 (the average).

    Raises:
        ValueError: there is no side, one is not positive, or the power is below 1.
    """

    variant: int = 2
    tap: str = "head"
    sides: tuple[int, ...] = (384, 640)
    power: float = 1.5

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 1:
            raise ValueError(f"sides must be one or more positive numbers of pixels, got {self.sides}")
        if not self.power >= 1:
            raise ValueError(f"power must be at least 1, got {self.power}")

    def load(self) -> GlobalModel:
        """Build the model and read its weights."""
        from extractor.global_descriptor import LiteGlobal

        return LiteGlobal(self)


@dataclass(frozen=True)
class XFeatConfiguration:
    """XFeat local features.

    Attributes:
        sides: longest sides, in pixels, at which the network sees the photo; the strongest features of all
            are kept. The photo is enlarged twice at most.
        max_features: features kept, the strongest.
        threshold: least keypoint probability, 0 to 1.

    Raises:
        ValueError: a value is out of range.
    """

    sides: tuple[int, ...] = (1024, 512, 256)
    max_features: int = 1000
    threshold: float = 0.05

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 32:
            raise ValueError(f"sides must be one or more numbers of at least 32 pixels, got {self.sides}")
        if self.max_features < 1:
            raise ValueError(f"max_features must be at least 1, got {self.max_features}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {self.threshold}")

    def load(self) -> LocalModel:
        """Build the model and read its weights."""
        from extractor.xfeat import XFeat

        return XFeat(self)


@dataclass(frozen=True)
class GlobalLocalConfiguration:
    """An extractor of two independent models.

    Attributes:
        global_model: what gives the global descriptor.
        local_model: what gives the local features.
    """

    global_model: GlobalConfiguration
    local_model: LocalConfiguration

    def load(self, name: str) -> Extractor:
        """Build both models and read their weights."""
        return GlobalLocalExtractor(name, self.global_model.load(), self.local_model.load())


EXTRACTORS: MappingProxyType[str, Configuration] = MappingProxyType(
    {"xfeat-lite2": GlobalLocalConfiguration(LiteGlobalConfiguration(), XFeatConfiguration())}
)
"""The registered configurations by name."""


def create_extractor(name: str = "default") -> Extractor:
    """Load a registered extractor.

    A configuration that is not registered is loaded by its own `load`, under a name of one's choice.

    Args:
        name: a key of `EXTRACTORS`, or `default`.

    Raises:
        ValueError: no extractor has this name.
        WeightsError: its weights are not installed.
    """
    name = DEFAULT if name == "default" else name
    if name not in EXTRACTORS:
        raise ValueError(
            f"unknown extractor {name!r}: there are {', '.join(sorted(EXTRACTORS))} (default: {DEFAULT})"
        )
    return EXTRACTORS[name].load(name)
