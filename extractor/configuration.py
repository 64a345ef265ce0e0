"""What registered names stand for: frozen parameters, which load their models, and PyTorch, on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from extractor.extractor import Extractor, GlobalLocalExtractor, GlobalModel, LocalModel
from extractor.weights import (
    ALIKED,
    EFFICIENTNET_LITE,
    XFEAT,
    HubWeights,
    StoredWeights,
    Weights,
    load_metadata,
)

if TYPE_CHECKING:
    from extractor.backbone import Backbone

DELF_SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
"""The pyramid of DELF and DELG."""


class Configuration(Protocol):
    """What a registered name stands for."""

    def weights(self) -> tuple[Weights, ...]:
        """All weights that `load` reads."""

    def load(self, name: str) -> Extractor:
        """Build the extractor and read its weights."""


class GlobalConfiguration(Protocol):
    """The global half of an extractor."""

    def weights(self) -> tuple[Weights, ...]:
        """All weights that `load` reads."""

    def load(self) -> GlobalModel:
        """Build the model and read its weights."""


class LocalConfiguration(Protocol):
    """The local half of an extractor."""

    def weights(self) -> tuple[Weights, ...]:
        """All weights that `load` reads."""

    def load(self) -> LocalModel:
        """Build the model and read its weights."""


class BackboneConfiguration(Protocol):
    """A backbone and where its weights are."""

    def weights(self) -> tuple[Weights, ...]:
        """All weights that `load` reads."""

    def load(self) -> Backbone:
        """Build the network and read its weights."""


@dataclass(frozen=True)
class LiteBackboneConfiguration:
    """EfficientNet-Lite.

    Attributes:
        variant: 0, 1 or 2.
        state: the file that training left; None for the ImageNet weights.
    """

    variant: int = 0
    state: StoredWeights | None = None

    def weights(self) -> tuple[Weights, ...]:
        """The file, or the package of the variant."""
        return (self.state or EFFICIENTNET_LITE[self.variant],)

    def load(self) -> Backbone:
        """Build the network and read its weights."""
        from extractor.efficientnet_lite import LiteBackbone

        return LiteBackbone(self.variant, self.state)


@dataclass(frozen=True)
class Vgg16BackboneConfiguration:
    """VGG16 from a weights file."""

    state: StoredWeights

    def weights(self) -> tuple[Weights, ...]:
        """The file."""
        return (self.state,)

    def load(self) -> Backbone:
        """Build the network and read its weights."""
        from extractor.vgg import Vgg16Backbone

        return Vgg16Backbone(self.state)


@dataclass(frozen=True)
class ResNetBackboneConfiguration:
    """A ResNet from a weights file: converted, or trained.

    Attributes:
        depth: 50 or 101.
        state: the file.
    """

    depth: int
    state: StoredWeights

    def weights(self) -> tuple[Weights, ...]:
        """The file."""
        return (self.state,)

    def load(self) -> Backbone:
        """Build the network and read its weights."""
        if "backbone" in load_metadata(self.state.path()):
            from extractor.resnet import ResNetBackbone

            return ResNetBackbone(self.state.path(), self.depth)
        from extractor.transformers_backbone import resnet

        return resnet(self.depth, self.state)


@dataclass(frozen=True)
class HubBackboneConfiguration:
    """A ResNet or DINOv2 from the hub, or from a local folder in its layout.

    Attributes:
        model: which one.
    """

    model: HubWeights

    def weights(self) -> tuple[Weights, ...]:
        """The model."""
        return (self.model,)

    def load(self) -> Backbone:
        """Build the network and read its weights, which the hub's client downloads where it must."""
        from extractor.transformers_backbone import from_hub

        return from_hub(self.model).for_inference()


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

    def weights(self) -> tuple[Weights, ...]:
        """The package of the variant."""
        return (EFFICIENTNET_LITE[self.variant],)

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
        _check_sides(self.sides)
        _check_count(self.max_features)
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {self.threshold}")

    def weights(self) -> tuple[Weights, ...]:
        """The package."""
        return (XFEAT,)

    def load(self) -> LocalModel:
        """Build the model and read its weights."""
        from extractor.xfeat import XFeat

        return XFeat(self)


@dataclass(frozen=True)
class DelfConfiguration:
    """DELF local features.

    Attributes:
        backbone: what makes the dense features.
        taps: where they are taken; features of several taps, of one stride, are joined end to end.
        longest_side: pixels along the photo's longest side at scale 1.
        scales: of the pyramid.
        score_threshold: features of this score or less are left out; None: what the weights of the attention
            say, 0 where they say nothing.
        nms_iou: overlap of receptive fields beyond which the weaker feature is left out; 1 keeps both.
        max_features: features kept, the strongest.
        dimension: components left by the projection, which is learnt from the index if it did not come with
            the attention; None keeps all.
        whiten: whether the projection also evens out the spread of the components, and so is always learnt.
        attention: weights of the attention head over the one tap; None scores a feature by its norm, the
            product of the norms at several taps.

    Raises:
        ValueError: a value is out of range, or there is attention and not one tap.
    """

    backbone: BackboneConfiguration = LiteBackboneConfiguration(2)
    taps: tuple[str, ...] = ("stage4", "stage5")
    longest_side: int = 1024
    scales: tuple[float, ...] = DELF_SCALES[:5]
    score_threshold: float | None = 0.0
    nms_iou: float = 1.0
    max_features: int = 1000
    dimension: int | None = 40
    whiten: bool = False
    attention: StoredWeights | None = None

    def __post_init__(self) -> None:
        if not self.taps or (self.attention is not None and len(self.taps) > 1):
            raise ValueError(f"taps must be one or more, and one with attention; got {self.taps}")
        _check_scales(self.scales)
        _check_count(self.max_features)
        _check_side(self.longest_side)
        _check_overlap(self.nms_iou)

    def weights(self) -> tuple[Weights, ...]:
        """Those of the backbone and of the attention."""
        return _each(*self.backbone.weights(), *(() if self.attention is None else (self.attention,)))

    def load(self) -> LocalModel:
        """Build the model and read its weights."""
        from extractor.delf import Delf
        from extractor.reduction import ReducedLocal, published_projection

        model = Delf(self)
        if self.dimension is None:
            return model
        reduced = ReducedLocal(model, self.dimension, self.whiten)
        if self.attention is not None and not self.whiten:
            reduced.projection = published_projection(self.attention.path(), self.dimension)
        return reduced


@dataclass(frozen=True)
class RootSiftConfiguration:
    """RootSIFT local features.

    Attributes:
        longest_side: pixels to which the photo's longest side is reduced.
        max_features: features kept, the strongest.
        contrast_threshold: of SIFT; lower finds more.
        dimension: components left by the projection that is learnt from the index; None keeps all 128.
        whiten: whether the projection also evens out the spread of the components.

    Raises:
        ValueError: a value is out of range.
    """

    longest_side: int = 1024
    max_features: int = 1000
    contrast_threshold: float = 0.04
    dimension: int | None = 40
    whiten: bool = False

    def __post_init__(self) -> None:
        _check_side(self.longest_side)
        _check_count(self.max_features)

    def weights(self) -> tuple[Weights, ...]:
        """None: SIFT is hand-made."""
        return ()

    def load(self) -> LocalModel:
        """Build the model."""
        from extractor.reduction import ReducedLocal
        from extractor.rootsift import RootSift

        model = RootSift(self)
        return model if self.dimension is None else ReducedLocal(model, self.dimension, self.whiten)


@dataclass(frozen=True)
class AlikedConfiguration:
    """ALIKED local features.

    Attributes:
        model: `t16` (64-d), `n16`, `n16rot` (trained for rotations) or `n32` (128-d).
        longest_side: pixels to which the photo's longest side is reduced.
        max_features: features kept, the strongest.
        threshold: least keypoint score, 0 to 1.

    Raises:
        ValueError: there is no such model, or a value is out of range.
    """

    model: str = "n16"
    longest_side: int = 1024
    max_features: int = 1000
    threshold: float = 0.2

    def __post_init__(self) -> None:
        if self.model not in ALIKED:
            raise ValueError(f"model must be one of {', '.join(ALIKED)}; got {self.model!r}")
        _check_side(self.longest_side)
        _check_count(self.max_features)
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {self.threshold}")

    def weights(self) -> tuple[Weights, ...]:
        """The package."""
        return (ALIKED[self.model],)

    def load(self) -> LocalModel:
        """Build the model and read its weights."""
        from extractor.aliked import Aliked

        return Aliked(self)


@dataclass(frozen=True)
class WhitenedGlobalConfiguration:
    """A global descriptor of whitened maxima: DIR's R-MAC, siaMAC's MAC.

    Attributes:
        backbone: what makes the dense features.
        tap: where they are taken.
        sides: longest sides, in pixels, to which the photo is reduced; the descriptors of all are summed.
        levels: of R-MAC's regions; 0 pools over the whole photo alone.
        dimension: components left by the whitening that is learnt from the index; None for all.

    Raises:
        ValueError: a value is out of range.
    """

    backbone: BackboneConfiguration
    tap: str
    sides: tuple[int, ...] = (800,)
    levels: int = 3
    dimension: int | None = None

    def __post_init__(self) -> None:
        _check_sides(self.sides)
        if self.levels < 0:
            raise ValueError(f"levels must be at least 0, got {self.levels}")

    def weights(self) -> tuple[Weights, ...]:
        """Those of the backbone."""
        return self.backbone.weights()

    def load(self) -> GlobalModel:
        """Build the model and read its weights."""
        from extractor.whitened_global import WhitenedGlobal

        return WhitenedGlobal(self)


@dataclass(frozen=True)
class RetrievalNetworkConfiguration:
    """The global descriptor of a network that was trained for retrieval; how it pools its weights say.

    Attributes:
        state: the file.
        sides: longest sides, in pixels, to which the photo is reduced; the descriptors of all are summed.

    Raises:
        ValueError: a side is out of range.
    """

    state: StoredWeights
    sides: tuple[int, ...] = (1024,)

    def __post_init__(self) -> None:
        _check_sides(self.sides)

    def weights(self) -> tuple[Weights, ...]:
        """The file."""
        return (self.state,)

    def load(self) -> GlobalModel:
        """Build the network and read its weights."""
        from extractor.retrieval_network import RetrievalNetwork

        return RetrievalNetwork(self)


@dataclass(frozen=True)
class DelgConfiguration:
    """DELG, global and local.

    Attributes:
        backbone: what makes the dense features.
        heads: weights of attention, autoencoder and whitening.
        local_tap: where local features are taken.
        global_tap: what is pooled to the global descriptor.
        longest_side: pixels along the photo's longest side at scale 1.
        local_scales: of the pyramid for local features.
        global_scales: of the pyramid for the global descriptor.
        power: p of generalised-mean pooling, where the weights do not say it.
        dimension: of the global descriptor.
        local_dimension: of a local descriptor.
        score_threshold: local features of this attention or less are left out; None: what the weights say, 0
            where they say nothing.
        nms_iou: overlap of receptive fields beyond which the weaker feature is left out; 1 keeps both.
        max_features: local features kept, the strongest.

    Raises:
        ValueError: a value is out of range.
    """

    backbone: BackboneConfiguration
    heads: StoredWeights
    local_tap: str = "stage3"
    global_tap: str = "stage4"
    longest_side: int = 1024
    local_scales: tuple[float, ...] = DELF_SCALES
    global_scales: tuple[float, ...] = (0.7071, 1.0, 1.4142)
    power: float = 3.0
    dimension: int = 2048
    local_dimension: int = 128
    score_threshold: float | None = 0.0
    nms_iou: float = 1.0
    max_features: int = 1000

    def __post_init__(self) -> None:
        _check_scales(self.local_scales)
        _check_scales(self.global_scales)
        _check_count(self.max_features)
        _check_side(self.longest_side)
        _check_overlap(self.nms_iou)

    def weights(self) -> tuple[Weights, ...]:
        """Those of the backbone and of the heads."""
        return _each(*self.backbone.weights(), self.heads)

    def load(self, name: str) -> Extractor:
        """Build the network and read its weights."""
        from extractor.delg import Delg

        return Delg(name, self)


@dataclass(frozen=True)
class ExternalConfiguration:
    """Features from files.

    Attributes:
        features: a feature file, a folder of them, or several of these.
        label: part of the fingerprint: features of different labels do not meet.
        global_model: what describes photos whose files have no global descriptor.
    """

    features: str | tuple[str, ...] = ""
    label: str = "features"
    global_model: GlobalConfiguration = LiteGlobalConfiguration()

    def weights(self) -> tuple[Weights, ...]:
        """None of its own."""
        return ()

    def load(self, name: str) -> Extractor:
        """Open the files."""
        from extractor.external import External

        return External(name, self)


@dataclass(frozen=True)
class GlobalLocalConfiguration:
    """An extractor of two independent models.

    Attributes:
        global_model: what gives the global descriptor.
        local_model: what gives the local features.
    """

    global_model: GlobalConfiguration
    local_model: LocalConfiguration

    def weights(self) -> tuple[Weights, ...]:
        """Those of both models."""
        return _each(*self.global_model.weights(), *self.local_model.weights())

    def load(self, name: str) -> Extractor:
        """Build both models and read their weights."""
        return GlobalLocalExtractor(name, self.global_model.load(), self.local_model.load())


def _each(*weights: Weights) -> tuple[Weights, ...]:
    """Each once: backbone and heads may lie in one file."""
    return tuple(dict.fromkeys(weights))


def _check_overlap(iou: float) -> None:
    if not 0 <= iou <= 1:
        raise ValueError(f"nms_iou must lie in 0 to 1, got {iou}")


def _check_count(max_features: int) -> None:
    if max_features < 1:
        raise ValueError(f"max_features must be at least 1, got {max_features}")


def _check_side(longest_side: int) -> None:
    if longest_side < 32:
        raise ValueError(f"longest_side must be at least 32 pixels, got {longest_side}")


def _check_sides(sides: Sequence[int]) -> None:
    if not sides or min(sides) < 32:
        raise ValueError(f"sides must be one or more numbers of at least 32 pixels, got {sides}")


def _check_scales(scales: Sequence[float]) -> None:
    if not scales or not all(0 < scale <= 4 for scale in scales):
        raise ValueError(f"scales must be one or more numbers above 0 and at most 4, got {tuple(scales)}")
