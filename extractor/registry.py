"""Extractors by name: each a frozen configuration that is loaded on demand."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any

from extractor.configuration import (
    DELF_SCALES,
    AlikedConfiguration,
    Configuration,
    DelfConfiguration,
    DelgConfiguration,
    ExternalConfiguration,
    GlobalLocalConfiguration,
    HubBackboneConfiguration,
    LiteGlobalConfiguration,
    ResNetBackboneConfiguration,
    RootSiftConfiguration,
    Vgg16BackboneConfiguration,
    WhitenedGlobalConfiguration,
    XFeatConfiguration,
)
from extractor.extractor import Extractor
from extractor.weights import HubWeights, StoredWeights

DEFAULT = "xfeat-lite2"
"""The extractor that `default` stands for."""

_LITE = LiteGlobalConfiguration()
_DELF = StoredWeights("delf-resnet50.pt", "as published")
_DELG = {depth: StoredWeights(f"delg-resnet{depth}.pt", "as published") for depth in (50, 101)}
_DIR = StoredWeights("dir-resnet101.pt", "as published")
_SIAMAC = StoredWeights("siamac-vgg16.pt", "as published")
_RESNET = HubBackboneConfiguration(HubWeights("microsoft/resnet-50", "Apache-2.0"))
_DINO = HubBackboneConfiguration(HubWeights("facebook/dinov2-small", "Apache-2.0"))


@dataclass(frozen=True)
class Card:
    """What there is to know of a registered extractor without loading it.

    Attributes:
        summary: what it is.
        dimension: of the global descriptor; None where that depends on the files.
        local_dimension: of a local descriptor; None likewise.
        configuration: what its name stands for.
    """

    summary: str
    dimension: int | None
    local_dimension: int | None
    configuration: Configuration


CARDS: MappingProxyType[str, Card] = MappingProxyType(
    {
        "xfeat-lite2": Card(
            "XFeat; GeM over EfficientNet-Lite2",
            1280,
            64,
            GlobalLocalConfiguration(_LITE, XFeatConfiguration()),
        ),
        "delf": Card(
            "DELF without fine-tuning on EfficientNet-Lite0; GeM over EfficientNet-Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, DelfConfiguration()),
        ),
        "delf-resnet50": Card(
            "DELF without fine-tuning on ResNet-50; GeM over EfficientNet-Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, DelfConfiguration(_RESNET, "stage3", scales=DELF_SCALES)),
        ),
        "delf-dinov2": Card(
            "DELF without fine-tuning on DINOv2 (small); GeM over EfficientNet-Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, DelfConfiguration(_DINO, "stage9", scales=(0.5, 0.7071, 1.0))),
        ),
        "delf-attention": Card(
            "DELF fine-tuned on ResNet-50, with attention; GeM over EfficientNet-Lite2",
            1280,
            40,
            GlobalLocalConfiguration(
                _LITE,
                DelfConfiguration(
                    ResNetBackboneConfiguration(50, _DELF), "stage3", scales=DELF_SCALES, attention=_DELF
                ),
            ),
        ),
        "delg": Card(
            "DELG on ResNet-50, global and local in one pass",
            2048,
            128,
            DelgConfiguration(ResNetBackboneConfiguration(50, _DELG[50]), _DELG[50]),
        ),
        "delg-resnet101": Card(
            "DELG on ResNet-101, global and local in one pass",
            2048,
            128,
            DelgConfiguration(ResNetBackboneConfiguration(101, _DELG[101]), _DELG[101]),
        ),
        "dir": Card(
            "DIR: whitened R-MAC over a fine-tuned ResNet-101; XFeat",
            2048,
            64,
            GlobalLocalConfiguration(
                WhitenedGlobalConfiguration(
                    ResNetBackboneConfiguration(101, _DIR), "stage4", dimension=2048, whitening=_DIR
                ),
                XFeatConfiguration(),
            ),
        ),
        "dir-imagenet": Card(
            "DIR without fine-tuning: R-MAC over ResNet-50, whitening learnt from the index; XFeat",
            256,
            64,
            GlobalLocalConfiguration(
                WhitenedGlobalConfiguration(_RESNET, "stage4", dimension=256), XFeatConfiguration()
            ),
        ),
        "siamac": Card(
            "siaMAC: MAC over a fine-tuned VGG16, learned whitening; XFeat",
            512,
            64,
            GlobalLocalConfiguration(
                WhitenedGlobalConfiguration(
                    Vgg16BackboneConfiguration(_SIAMAC),
                    "conv5_3",
                    sides=(1024,),
                    levels=0,
                    dimension=512,
                    whitening=_SIAMAC,
                ),
                XFeatConfiguration(),
            ),
        ),
        "rootsift-pca40": Card(
            "RootSIFT reduced to 40 components; GeM over EfficientNet-Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, RootSiftConfiguration()),
        ),
        "aliked": Card(
            "ALIKED n16; GeM over EfficientNet-Lite2",
            1280,
            128,
            GlobalLocalConfiguration(_LITE, AlikedConfiguration()),
        ),
        "external": Card("features of others, from their files", None, None, ExternalConfiguration()),
    }
)
"""The registered extractors by name."""

EXTRACTORS: MappingProxyType[str, Configuration] = MappingProxyType(
    {name: card.configuration for name, card in CARDS.items()}
)
"""The registered configurations by name."""


def registered(name: str) -> str:
    """The name under which an extractor is registered: `default` stands for another.

    Raises:
        ValueError: no extractor has this name.
    """
    name = DEFAULT if name == "default" else name
    if name not in EXTRACTORS:
        raise ValueError(
            f"unknown extractor {name!r}: there are {', '.join(sorted(EXTRACTORS))} (default: {DEFAULT})"
        )
    return name


def maker(fingerprint: str) -> str:
    """The registered name that made features of this fingerprint; the default one where it is unknown."""
    name = fingerprint.rpartition("-")[0]
    return name if name in EXTRACTORS else DEFAULT


def create_extractor(name: str = "default", **options: Any) -> Extractor:
    """Load a registered extractor.

    Args:
        name: a key of `EXTRACTORS`, or `default`.
        options: fields of its configuration to change, those of a half as `local_max_features=500` or
            `global_sides=(512,)`. Each choice has a fingerprint of its own.

    Raises:
        ValueError: no extractor has this name, or no such option; the message lists those that there are.
        WeightsError: its weights are not here.
    """
    name = registered(name)
    configuration = EXTRACTORS[name]
    return (configured(configuration, options, name) if options else configuration).load(name)


def configured(configuration: Any, options: dict[str, Any], name: str) -> Any:
    """A configuration with some of its options changed; see `create_extractor`."""
    known = _options(configuration)
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ValueError(f"extractor {name!r} has no option {unknown[0]!r}: there are {', '.join(known)}")
    changes: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        part, field = known[option]
        changes.setdefault(part, {})[field] = value
    whole = changes.pop("", {})
    halves = {part: replace(getattr(configuration, part), **chosen) for part, chosen in changes.items()}
    return replace(configuration, **whole, **halves)


def _options(configuration: Any) -> dict[str, tuple[str, str]]:
    """Part ('' for the configuration itself) and field behind the name of each option."""
    found = {}
    for field in fields(configuration) if is_dataclass(configuration) else ():
        if field.name in ("global_model", "local_model"):
            half = field.name.removesuffix("_model")
            for inner in fields(getattr(configuration, field.name)):
                found[f"{half}_{inner.name}"] = (field.name, inner.name)
        else:
            found[field.name] = ("", field.name)
    return found
