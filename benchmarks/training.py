"""What minutes of training on the sample world give: attention on buildings, retrieval of unseen ones.

    python benchmarks/training.py --json OUT [--quick] [--folder DIR] [--data DIR]

DELF (both stages) and DELG are trained on photos of a rendered world, and measured on a world of another
seed: no building of it was seen. Share of mass: of the scores of all places at all scales, how much falls on
pixels of the building, which the world knows; the share of the 100 strongest places; and the share of all
places, which scores without a preference would have. Photos of too little building are left out. Retrieval:
mean average precision in percent, by centred global descriptors, and by inliers of the 300 strongest local
features. With DIR (or LANDBRIDGE_DATA) the same retrieval in `roxford_mini`: real photos, of which the world
knows nothing. Worlds and trainings in the folder are gone on with, and not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pipeline import machine

from extractor.configuration import (
    DelfConfiguration,
    DelgConfiguration,
    GlobalLocalConfiguration,
    LiteBackboneConfiguration,
    LiteGlobalConfiguration,
)
from extractor.extractor import LEARNING_SAMPLE, Extractor
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import read_photo
from extractor.registry import CARDS, EXTRACTORS
from extractor.threads import in_threads
from extractor.training.run import Trained, train
from extractor.training.settings import Settings
from extractor.whitening import Whitening
from landbridge.datasets import load_dataset
from landbridge.datasets.dataset import Dataset
from landbridge.datasets.labelled_photos import labelled_photos
from landbridge.sample_world import SampleWorld
from ranking.verification import create_verifier

STRONGEST = 100
VERIFIED = 300
SIDE = 512
EVERYTHING = 100_000


_DELG = Settings(epochs=4, crop=192, batch=16, rate=3e-3, backbone_rate=3e-4)
_DELF = replace(_DELG, epochs=2, attention_epochs=8, attention_crop=192)


@dataclass(frozen=True)
class Plan:
    """Sizes of worlds and trainings."""

    landmarks: int = 50
    photos: int = 20
    seen: tuple[int, int] = (256, 192)
    unseen_landmarks: int = 16
    unseen_photos: int = 12
    unseen: tuple[int, int] = (512, 384)
    delf: Settings = _DELF
    delg: Settings = _DELG


QUICK = Plan(
    8,
    6,
    (128, 96),
    3,
    4,
    (160, 120),
    Settings(epochs=1, attention_epochs=1, crop=96, attention_crop=96, batch=8),
    Settings(epochs=1, crop=96, batch=8),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--quick", action="store_true", help="a few buildings, one epoch")
    arguments.add_argument("--folder", type=Path, help="for worlds and trainings")
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    given = arguments.parse_args()
    plan = QUICK if given.quick else Plan()
    figures: dict[str, float] = {}
    with nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory() as folder:
        os.environ["LANDBRIDGE_WEIGHTS"] = str(Path(folder) / "weights")
        seen, unseen = worlds(plan, Path(folder))
        photos = labelled_photos(seen).photos
        for method, settings in (("delf", plan.delf), ("delg", plan.delg)):
            start = time.perf_counter()
            trained = train(method, "lite0", photos, Path(folder) / method, settings, replace=True)
            figures |= course(method, trained, time.perf_counter() - start)
        figures |= attention(unseen)
        figures |= retrieval("unseen", load_dataset(unseen))
        if given.data and not given.quick:
            figures |= retrieval("roxford", load_dataset(given.data / "roxford_mini", min_positives=2))
    ratios = {
        f"{name}_mass_over_norm": figures[f"mass.{name}"] / figures["mass.norm"]
        for name in ("delf_attention", "delg_attention")
    }
    for name, value in ratios.items():
        print(f"{name:<44}{value:8.2f}")
    if given.json:
        result = {"name": "training", "machine": machine(), "figures": figures, "ratios": ratios}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def worlds(plan: Plan, folder: Path) -> tuple[Path, Path]:
    """The world to learn from, a folder per building, and another one with masks."""
    seen, unseen = folder / "seen", folder / "unseen"
    if not (folder / "rendered").exists():
        many = {"photos_per_landmark": plan.photos, "lookalikes": 0, "distractors": 0}
        nothing = {"queries_per_landmark": 0, "queries_without_match": 0}
        SampleWorld(11, plan.landmarks, **many, **nothing, size=plan.seen).write_folders(seen)
        few = {"lookalikes": plan.unseen_landmarks // 2, "distractors": 5 * plan.unseen_landmarks // 2}
        world = SampleWorld(12, plan.unseen_landmarks, plan.unseen_photos, **few, size=plan.unseen)
        world.write(unseen, masks=True)
        (folder / "rendered").touch()
    return seen, unseen


def course(method: str, trained: Trained, seconds: float) -> dict[str, float]:
    """How the training went: mAP of landmarks held back, before and after each stage."""
    found = {f"{method}.seconds": seconds}
    for name, stage in trained.stages.items():
        first, *_, last = stage.validation.values()
        found |= {f"{method}.{name}.map_before": first, f"{method}.{name}.map_after": last}
        if stage.photos_per_second:
            found[f"{method}.{name}.photos_per_second"] = stage.photos_per_second
    return printed(found)


def attention(world: Path) -> dict[str, float]:
    """Share of the score that falls on the building, for scores by norm and by attention."""
    truth = json.loads((world / "truth.json").read_text())
    ids = [name for name, told in truth.items() if told["role"] == "index" and not told["junk"]]
    finders = {
        "norm": local(delf_of("delf-attention-lite0", trained=False)),
        "norm_fine_tuned": local(replace(delf_of("delf-attention-lite0"), attention=None)),
        "delf_attention": local(delf_of("delf-attention-lite0")),
        "delg_attention": delg(EVERYTHING),
    }
    found: dict[str, float] = {}
    for name, finder in finders.items():
        shares = np.array(list(in_threads(partial(on_building, world, finder), ids)))
        mass, strongest, places = 100 * shares.mean(0)
        found |= {f"mass.{name}": mass, f"strongest.{name}": strongest, "places": places}
    return printed(found)


def on_building(
    world: Path, finder: Callable[[Path], LocalFeatures], image_id: str
) -> tuple[float, float, float]:
    """Shares of mass, of the strongest places and of all places that lie on the building."""
    features = finder(world / "jpg" / f"{image_id}.jpg")
    mask = cv2.imread(str(world / "masks" / f"{image_id}.png"), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    x, y = np.rint(features.keypoints).astype(int).T
    inside = mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)] > 127
    return (
        float(features.scores[inside].sum() / features.scores.sum()),
        float(inside[:STRONGEST].mean()),
        float(inside.mean()),
    )


def delf_of(name: str, trained: bool = True) -> DelfConfiguration:
    """The local half of a registered DELF; untrained: ImageNet weights, and scores by norm."""
    whole = EXTRACTORS[name]
    assert isinstance(whole, GlobalLocalConfiguration)
    half = whole.local_model
    assert isinstance(half, DelfConfiguration)
    return half if trained else replace(half, backbone=LiteBackboneConfiguration(0), attention=None)


def local(configuration: DelfConfiguration) -> Callable[[Path], LocalFeatures]:
    """All places of a photo, strongest first."""
    model = replace(configuration, dimension=None, max_features=EVERYTHING).load()
    return lambda path: model.detect(read_photo(path, model.longest_side))


def delg_configuration(max_features: int) -> DelgConfiguration:
    configuration = EXTRACTORS["delg-lite0"]
    assert isinstance(configuration, DelgConfiguration)
    return replace(configuration, max_features=max_features, longest_side=SIDE)


def delg(max_features: int) -> Callable[[Path], LocalFeatures]:
    model = delg_configuration(max_features).load("delg-lite0")
    return lambda path: model.extract(read_photo(path, model.longest_side), "photo").local


def retrieval(name: str, dataset: Dataset) -> dict[str, float]:
    """mAP by global descriptors and by inliers of local features, untrained and trained."""
    untrained = LiteGlobalConfiguration(0, sides=(round(0.7071 * SIDE), SIDE), power=3.0)

    def with_local(half: DelfConfiguration) -> Extractor:
        kept = replace(half, max_features=VERIFIED, longest_side=SIDE)
        return GlobalLocalConfiguration(untrained, kept).load("trial")

    extractors = {
        "untrained": with_local(delf_of("delf-attention-lite0", trained=False)),
        "fine_tuned": with_local(replace(delf_of("delf-attention-lite0"), attention=None)),
        "delf": with_local(delf_of("delf-attention-lite0")),
        "delg": delg_configuration(VERIFIED).load("delg-lite0"),
    }
    found: dict[str, float] = {}
    for model, extractor in extractors.items():
        index, queries = extract(extractor, dataset)
        if model in ("untrained", "delg"):
            found |= scores(f"{name}.global.{model}", dataset, by_descriptor(index, queries))
        found |= scores(f"{name}.local.{model}", dataset, by_inliers(index, queries))
    return printed(found)


def extract(extractor: Extractor, dataset: Dataset) -> tuple[list[ImageFeatures], list[ImageFeatures]]:
    photos = list(dataset.index.values())
    if extractor.learns:
        extractor.learn(photos[:: max(1, len(photos) // LEARNING_SAMPLE)][:LEARNING_SAMPLE])
    found = list(extractor.extract_many([*dataset.index.items(), *dataset.queries.items()]))
    features = [one for one in found if isinstance(one, ImageFeatures)]
    assert len(features) == len(found)
    return features[: len(photos)], features[len(photos) :]


def by_descriptor(index: list[ImageFeatures], queries: list[ImageFeatures]) -> NDArray[np.float32]:
    whitening = Whitening.fit(np.stack([one.global_descriptor for one in index]))
    a, b = (whitening.apply(np.stack([one.global_descriptor for one in part])) for part in (queries, index))
    strength: NDArray[np.float32] = a @ b.T
    return strength


def by_inliers(index: list[ImageFeatures], queries: list[ImageFeatures]) -> NDArray[np.float32]:
    options: dict[str, Any] = {**CARDS["delf-attention-lite0"].verification}
    verifier = create_verifier(**options)
    stored = [one.local.quantised() for one in index]
    return np.array(
        [
            [result.inliers for result in verifier.verify(query.local.quantised(), stored)]
            for query in queries
        ],
        np.float32,
    )


def scores(name: str, dataset: Dataset, strength: NDArray[np.float32]) -> dict[str, float]:
    ids = list(dataset.index)
    rankings = {
        query: [ids[i] for i in np.argsort(-row, kind="stable")]
        for query, row in zip(dataset.queries, strength, strict=True)
    }
    return {
        f"{name}.{protocol.lower()}": means["mAP"] for protocol, means in dataset.evaluate(rankings).items()
    }


def printed(figures: dict[str, float]) -> dict[str, float]:
    for name, value in figures.items():
        print(f"{name:<44}{value:8.1f}", flush=True)
    return {name: float(value) for name, value in figures.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
