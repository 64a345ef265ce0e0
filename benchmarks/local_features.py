"""How well local features find the right photos by verification alone: DELF, RootSIFT, XFeat, ALIKED.

    python benchmarks/local_features.py --data DIR --json OUT [--quick] [--only delf --only xfeat]

DIR (or LANDBRIDGE_DATA) holds `roxford_mini` and `photo_pairs`. Each query of `roxford_mini` with two or more
positives ranks all index photos by the significance of the verification, and by its inliers; figures are mean
average precision in percent. The 23 photos of `photo_pairs` are verified pair by pair: average precision of
same landmark or not. Projections are learnt from the index photos of `roxford_mini`, descriptors are int8.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pipeline import machine
from verification import average_precision

from extractor.configuration import DELF_SCALES, LiteBackboneConfiguration
from extractor.extractor import LEARNING_SAMPLE, Learner, LocalModel, in_threads
from extractor.features import LocalFeatures
from extractor.photo import read_photo
from extractor.registry import CARDS, configured
from extractor.threads import one_torch_thread
from landbridge.datasets import load_dataset
from landbridge.datasets.dataset import Dataset
from ranking.verification import BatchedVerifier, Verification

BY = {"": "sig.", "_by_inliers": "inl."}
PROTOCOLS = ("medium", "hard")
COLUMNS = {
    **{f"{what}{by}": f"{what} {short}" for what in (*PROTOCOLS, "pairs") for by, short in BY.items()},
    "features": "features",
    "ms": "ms/photo",
}
"""Figures and what heads their columns."""


@dataclass(frozen=True)
class Extraction:
    """Features to extract, and the verifiers to try on them.

    Attributes:
        name: of the row with the usual verifier.
        extractor: whose local half is used.
        options: of that half, where not the usual ones.
        verifiers: options of the verifier by what they add to the name.
    """

    name: str
    extractor: str
    options: dict[str, Any] = field(default_factory=dict)
    verifiers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, dict[str, Any]]]:
        """Names, and all options of the verifier."""
        usual = CARDS[self.extractor].verification
        tried = {"": {}, **self.verifiers}
        return [(self.name + added, {**usual, **options}) for added, options in tried.items()]

    def load(self) -> LocalModel:
        """The local model."""
        options = {f"local_{option}": value for option, value in self.options.items()}
        whole = configured(CARDS[self.extractor].configuration, options, self.extractor)
        return whole.local_model.load()


LITE0 = LiteBackboneConfiguration(0)
EXTRACTIONS = (
    Extraction("xfeat", "xfeat-lite2", verifiers={", similarity .65": {"minimum_similarity": 0.65}}),
    Extraction("xfeat, 2000 features", "xfeat-lite2", {"max_features": 2000}),
    Extraction(
        "rootsift 128-d",
        "rootsift-pca40",
        {"dimension": None},
        {", similarity .75": {"minimum_similarity": 0.75}, ", similarity .75, ratio .9": {"ratio": 0.9}},
    ),
    Extraction("rootsift 40-d", "rootsift-pca40", {}, {", similarity .75": {"minimum_similarity": 0.75}}),
    Extraction("aliked 128-d", "aliked", {}, {", similarity .85": {"minimum_similarity": 0.85}}),
    Extraction(
        "delf",
        "delf",
        {},
        {
            ", similarity .55": {"minimum_similarity": 0.55},
            ", similarity .75": {"minimum_similarity": 0.75},
            ", tolerance .0065": {"threshold": 0.0065},
            ", tolerance .015": {"threshold": 0.015},
            ", ratio .97": {"ratio": 0.97},
            ", ratio .9": {"ratio": 0.9},
        },
    ),
    Extraction("delf 128-d", "delf", {"dimension": 128}, {", similarity .6": {"minimum_similarity": 0.6}}),
    Extraction("delf whitened", "delf", {"whiten": True}, {", similarity .5": {"minimum_similarity": 0.5}}),
    Extraction("delf, tap 5", "delf", {"taps": ("stage5",)}),
    Extraction("delf, tap 4", "delf", {"taps": ("stage4",)}),
    Extraction("delf, lite0", "delf", {"backbone": LITE0}),
    Extraction("delf, lite0, tap 5", "delf", {"backbone": LITE0, "taps": ("stage5",)}),
    Extraction("delf, scales .25 to .7071", "delf", {"scales": DELF_SCALES[:4]}),
    Extraction("delf, scales .3536 to 1", "delf", {"scales": DELF_SCALES[1:5]}),
    Extraction("delf, scales .3536 to 1.4142", "delf", {"scales": DELF_SCALES[1:6]}),
    Extraction("delf, 2000 features", "delf", {"max_features": 2000}),
)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    arguments.add_argument(
        "--quick", action="store_true", help="every fifth photo: to see it run, not for its figures"
    )
    arguments.add_argument("--only", action="append", default=[], help="rows whose names begin so")
    given = arguments.parse_args()
    if not given.data:
        arguments.error("there are no photos to measure on: name their folder by --data or LANDBRIDGE_DATA")
    photos = Photos.of(Path(given.data), every=5 if given.quick else 1)
    figures: dict[str, float] = {}
    print(f"{'':<34}" + "".join(f"{head:>13}" for head in COLUMNS.values()))
    for extraction in EXTRACTIONS:
        rows = [row for row in extraction.rows() if row[0].startswith(tuple(given.only) or "")]
        if not rows:
            continue
        features, milliseconds = photos.features(extraction)
        for name, options in rows:
            found = photos.measure(features, BatchedVerifier(**options))
            found |= {"features": np.mean([len(one) for one in features.values()]), "ms": milliseconds}
            print(f"{name:<34}" + "".join(f"{found[column]:13.1f}" for column in COLUMNS), flush=True)
            figures |= {f"{name}.{column}": float(value) for column, value in found.items()}
    result = {"name": "local_features", "machine": machine(), "figures": figures, "ratios": {}}
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


@dataclass(frozen=True)
class Photos:
    """Photos by path, the queries that count with the index photos, and the pairs."""

    dataset: Dataset
    pairs: dict[Path, str]
    """Photo -> landmark."""

    @classmethod
    def of(cls, data: Path, every: int) -> Photos:
        dataset = load_dataset(data / "roxford_mini", min_positives=2)
        index = dict(list(dataset.index.items())[::every])
        wanted = [*(data / "photo_pairs" / "sacre_coeur").rglob("*.jpg")]
        named = dict.fromkeys(wanted, "sacre_coeur")
        others = (data / "photo_pairs" / "phototourism_sample").rglob("*.jpg")
        named |= {path: path.name.rsplit("_", 2)[0] for path in others}
        return cls(replace(dataset, index=index), dict(sorted(named.items())))

    def features(self, extraction: Extraction) -> tuple[dict[Path, LocalFeatures], float]:
        """Features as they are stored, by photo, and the milliseconds of one core that a photo took."""
        model = extraction.load()
        index = list(self.dataset.index.values())
        with one_torch_thread():
            if isinstance(model, Learner):
                sample = index[:: max(1, len(index) // LEARNING_SAMPLE)][:LEARNING_SAMPLE]
                read = (read_photo(path, model.longest_side) for path in sample)
                model.learn(np.concatenate([model.samples(photo) for photo in read]))
        photos = [*index, *self.dataset.queries.values(), *self.pairs]

        def detect(path: Path) -> tuple[LocalFeatures, float]:
            photo = read_photo(path, model.longest_side)
            with one_torch_thread():
                start = time.thread_time()
                found = model.detect(photo)
                return found.quantised(), 1e3 * (time.thread_time() - start)

        found = dict(zip(photos, in_threads(detect, photos), strict=True))
        return {path: one for path, (one, _) in found.items()}, float(
            np.median([ms for _, ms in found.values()])
        )

    def measure(self, features: Mapping[Path, LocalFeatures], verifier: BatchedVerifier) -> dict[str, float]:
        """Mean average precision of the queries' rankings, and average precision of the pairs, in percent."""
        names = list(self.dataset.index)
        index = [features[path] for path in self.dataset.index.values()]
        rankings: dict[str, dict[str, list[str]]] = {suffix: {} for suffix in BY}
        for query, path in self.dataset.queries.items():
            results = verifier.verify(features[path], index)
            for suffix, strength in scores(results).items():
                rankings[suffix][query] = [names[i] for i in np.argsort(-strength, kind="stable")]
        found = {}
        for suffix, ranking in rankings.items():
            means = self.dataset.evaluate(ranking)
            for protocol in PROTOCOLS:
                found[f"{protocol}{suffix}"] = means[protocol]["mAP"]
        pairs = list(combinations(self.pairs, 2))
        right = np.array([self.pairs[a] == self.pairs[b] for a, b in pairs])
        results = [verifier.verify(features[a], [features[b]])[0] for a, b in pairs]
        for suffix, strength in scores(results).items():
            found[f"pairs{suffix}"] = 100 * average_precision(strength, right)
        return found


def scores(results: list[Verification]) -> dict[str, np.ndarray]:
    """What a ranking can go by."""
    return {
        "": np.array([result.significance for result in results]),
        "_by_inliers": np.array([result.inliers for result in results], np.float64),
    }


if __name__ == "__main__":
    main()
