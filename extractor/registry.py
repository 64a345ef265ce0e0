"""Extractors by name: each a frozen configuration that is loaded on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
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
    LiteBackboneConfiguration,
    LiteGlobalConfiguration,
    ResNetBackboneConfiguration,
    RetrievalNetworkConfiguration,
    RootSiftConfiguration,
    WhitenedGlobalConfiguration,
    XFeatConfiguration,
)
from extractor.extractor import Extractor
from extractor.weights import HubWeights, StoredWeights

DEFAULT = "xfeat-lite2"
"""The extractor that `default` stands for."""

_LITE = LiteGlobalConfiguration()
_TENSORFLOW = "Apache-2.0, where they are converted"
_DELF = StoredWeights("delf-resnet50.pt", _TENSORFLOW, "delf_v1_20171026.tar.gz", "delf --backbone resnet50")
_DELF_GLD = StoredWeights("delf-gld-resnet50.pt", "Apache-2.0", "delf_gld_20190411.tar.gz")
_DELG = {
    depth: StoredWeights(
        f"delg-resnet{depth}.pt",
        _TENSORFLOW,
        f"r{depth}delg_gldv2clean_20200914.tar.gz",
        f"delg --backbone resnet{depth}",
    )
    for depth in (50, 101)
}
_DIR = {
    depth: StoredWeights(f"dir-resnet{depth}.pt", "that of deep-image-retrieval", f"Resnet{depth}-AP-GeM.pt")
    for depth in (50, 101)
}
_SIAMAC = StoredWeights("siamac-vgg16.pt", "MIT", "MODEL.pth (VGG16 with MAC of cnnimageretrieval-pytorch)")
_GEM = {
    network: StoredWeights(f"gem-{network}.pt", "MIT", f"{published}.pth")
    for network, published in {
        "vgg16": "retrievalSfM120k-vgg16-gem-b4dcdc6",
        "resnet50": "rSfM120k-tl-resnet50-gem-w-97bf910",
        "resnet101": "rSfM120k-tl-resnet101-gem-w-a155e54",
    }.items()
}
_TRAINED = "as the photos it is trained on"
_DELF_101 = StoredWeights("delf-resnet101.pt", _TRAINED, trained="delf --backbone resnet101")
_DELF_LITE = {
    number: StoredWeights(f"delf-lite{number}.pt", _TRAINED, trained=f"delf --backbone lite{number}")
    for number in (0, 2)
}
_DELG_LITE = {
    number: StoredWeights(f"delg-lite{number}.pt", _TRAINED, trained=f"delg --backbone lite{number}")
    for number in (0, 2)
}
_DENSE = {"minimum_similarity": 0.65, "threshold": 0.01}
"""Dense features lie on a coarse grid, and their similarities are lower than those of keypoints."""
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
        verification: options of the verifier that suit its local features, where they are not the usual ones.
    """

    summary: str
    dimension: int | None
    local_dimension: int | None
    configuration: Configuration
    verification: Mapping[str, float] = field(default_factory=dict)


CARDS: MappingProxyType[str, Card] = MappingProxyType(
    {
        "xfeat-lite2": Card(
            "XFeat; GeM over Lite2",
            1280,
            64,
            GlobalLocalConfiguration(_LITE, XFeatConfiguration()),
        ),
        "delf": Card(
            "DELF noFT on Lite2; GeM over Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, DelfConfiguration()),
            _DENSE,
        ),
        "delf-resnet50": Card(
            "DELF noFT on ResNet-50; GeM over Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, DelfConfiguration(_RESNET, ("stage3",), scales=DELF_SCALES)),
            _DENSE,
        ),
        "delf-dinov2": Card(
            "DELF noFT on DINOv2 (small); GeM over Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, DelfConfiguration(_DINO, ("stage9",), scales=(0.5, 0.7071, 1.0))),
            _DENSE,
        ),
        "delf-attention": Card(
            "DELF fine-tuned on ResNet-50, with attention; GeM over Lite2",
            1280,
            40,
            GlobalLocalConfiguration(
                _LITE,
                DelfConfiguration(
                    ResNetBackboneConfiguration(50, _DELF),
                    ("stage3",),
                    scales=DELF_SCALES,
                    score_threshold=None,
                    attention=_DELF,
                ),
            ),
            _DENSE,
        ),
        "delf-gld": Card(
            "DELF as published with Google Landmarks; GeM over Lite2",
            1280,
            128,
            GlobalLocalConfiguration(
                _LITE,
                DelfConfiguration(
                    ResNetBackboneConfiguration(50, _DELF_GLD),
                    ("stage3",),
                    scales=DELF_SCALES,
                    score_threshold=None,
                    dimension=128,
                    attention=_DELF_GLD,
                ),
            ),
            _DENSE,
        ),
        "delf-attention-resnet101": Card(
            "DELF trained on ResNet-101, with attention; GeM over Lite2",
            1280,
            40,
            GlobalLocalConfiguration(
                _LITE,
                DelfConfiguration(
                    ResNetBackboneConfiguration(101, _DELF_101),
                    ("stage3",),
                    scales=DELF_SCALES,
                    attention=_DELF_101,
                ),
            ),
            _DENSE,
        ),
        **{
            f"delf-attention-lite{number}": Card(
                f"DELF trained on Lite{number}, with attention; GeM over Lite2",
                1280,
                40,
                GlobalLocalConfiguration(
                    _LITE,
                    DelfConfiguration(LiteBackboneConfiguration(number, state), ("stage5",), attention=state),
                ),
                _DENSE,
            )
            for number, state in _DELF_LITE.items()
        },
        "delg": Card(
            "DELG on ResNet-50, global and local in one pass",
            2048,
            128,
            DelgConfiguration(ResNetBackboneConfiguration(50, _DELG[50]), _DELG[50], score_threshold=None),
            _DENSE,
        ),
        "delg-resnet101": Card(
            "DELG on ResNet-101, global and local in one pass",
            2048,
            128,
            DelgConfiguration(ResNetBackboneConfiguration(101, _DELG[101]), _DELG[101], score_threshold=None),
            _DENSE,
        ),
        **{
            f"delg-lite{number}": Card(
                f"DELG trained on Lite{number}, global and local in one pass",
                512,
                64,
                DelgConfiguration(
                    LiteBackboneConfiguration(number, state),
                    state,
                    local_tap="stage5",
                    global_tap="head",
                    local_scales=DELF_SCALES[:5],
                    global_scales=DELF_SCALES[3:6],
                    dimension=512,
                    local_dimension=64,
                ),
                _DENSE,
            )
            for number, state in _DELG_LITE.items()
        },
        "dir": Card(
            "DIR: whitened generalised mean over a fine-tuned ResNet-101; XFeat",
            2048,
            64,
            GlobalLocalConfiguration(RetrievalNetworkConfiguration(_DIR[101]), XFeatConfiguration()),
        ),
        "dir-resnet50": Card(
            "DIR: whitened generalised mean over a fine-tuned ResNet-50; XFeat",
            2048,
            64,
            GlobalLocalConfiguration(RetrievalNetworkConfiguration(_DIR[50]), XFeatConfiguration()),
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
            GlobalLocalConfiguration(RetrievalNetworkConfiguration(_SIAMAC), XFeatConfiguration()),
        ),
        **{
            f"gem-{network}": Card(
                f"GeM over a fine-tuned {title}, learned whitening; XFeat",
                dimension,
                64,
                GlobalLocalConfiguration(RetrievalNetworkConfiguration(_GEM[network]), XFeatConfiguration()),
            )
            for network, title, dimension in (
                ("vgg16", "VGG16", 512),
                ("resnet50", "ResNet-50", 2048),
                ("resnet101", "ResNet-101", 2048),
            )
        },
        "rootsift-pca40": Card(
            "RootSIFT, PCA 40; GeM over Lite2",
            1280,
            40,
            GlobalLocalConfiguration(_LITE, RootSiftConfiguration()),
            {"minimum_similarity": 0.6},
        ),
        "aliked": Card(
            "ALIKED n16; GeM over Lite2",
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


def verification(name: str) -> Mapping[str, Any]:
    """Options of the verifier that suit the local features of an extractor; none for one not registered."""
    return CARDS[name].verification if name in CARDS else {}


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
    for part in fields(configuration) if is_dataclass(configuration) else ():
        if part.name in ("global_model", "local_model"):
            half = part.name.removesuffix("_model")
            for inner in fields(getattr(configuration, part.name)):
                found[f"{half}_{inner.name}"] = (part.name, inner.name)
        else:
            found[part.name] = ("", part.name)
    return found
