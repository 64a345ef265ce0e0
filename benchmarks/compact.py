"""What smaller local features cost: bytes per photo, pair classification and mAP through the whole ranking.

    python benchmarks/compact.py --json OUT [--data DIR] [--quick]

The same features as float32, as int8, and coded by `ranking.compact_features` with 24, 32 and 48 components.
Every pair of photos is verified anew for every form, so nothing depends on the choice of candidates. One edge
of the match graph can be worth several points with few queries; so beside the mAP of the queries stand its
mean over thresholds of confidence from 0.8 to 1.2 times the calibrated one, and the same for every
photo of a landmark as a query for the others (leave-one-out). Photos: `roxford_mini` in DIR (or
LANDBRIDGE_DATA), else the rendered sample world.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pipeline import machine
from scipy import sparse
from verification import average_precision, bytes_of

from extractor.features import ImageFeatures, LocalFeatures
from extractor.registry import create_extractor
from extractor.whitening import Whitening
from landbridge.datasets import load_dataset
from landbridge.datasets.dataset import Dataset
from landbridge.sample_world import SampleWorld
from ranking.compact_features import CompactCodec
from ranking.confidence import Confidence
from ranking.match_graph import MatchGraph
from ranking.metrics import Truth, evaluate
from ranking.rankers import Images, rank
from ranking.verification import create_verifier

COMPONENTS = (24, 32, 48)
SAMPLE = 100
"""Descriptors of each index photo that the codecs are learned from."""
METHODS = ("inliers", "id-qe", "mmst-c")
THRESHOLDS = (0.8, 0.9, 1.0, 1.1, 1.2)
PROTOCOLS = ("medium", "hard")


@dataclass(frozen=True, eq=False)
class Photos:
    """Index photos first, then queries: ids, global descriptors [n, D] and float32 local features."""

    dataset: Dataset
    ids: list[str]
    index: int
    descriptors: NDArray[np.float32]
    features: list[LocalFeatures]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    arguments.add_argument("--quick", action="store_true", help="a small sample world")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "world"
        if given.data and not given.quick:
            folder = Path(given.data) / "roxford_mini"
        else:
            SampleWorld(**({"landmarks": 2, "distractors": 8} if given.quick else {})).write(folder)
        photos = extract(load_dataset(folder, min_positives=2))
    figures: dict[str, float] = {}
    for form, features in forms(photos).items():
        found, size = features()
        figures[f"bytes_per_image.{form}"] = size
        figures |= {f"{name}.{form}": value for name, value in measure(photos, found).items()}
        print(row(form, figures), flush=True)
    if given.json:
        result = {"name": "compact", "machine": machine(), "figures": figures, "ratios": {}}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def extract(dataset: Dataset) -> Photos:
    photos = list(dataset.index.items()) + [(f"query {q}", photo) for q, photo in dataset.queries.items()]
    found = {
        image.image_id: image
        for image in create_extractor().extract_many(photos)
        if isinstance(image, ImageFeatures)
    }
    ids = [name for name, _ in photos if name in found]
    index = sum(name in dataset.index for name in ids)
    described = np.stack([found[name].global_descriptor for name in ids])
    descriptors = Whitening.fit(described[:index]).apply(described)
    return Photos(dataset, ids, index, descriptors, [found[name].local for name in ids])


def forms(photos: Photos) -> dict[str, Callable[[], tuple[list[LocalFeatures], float]]]:
    """Name -> a function that gives the features in that form, and the mean bytes of a photo."""
    random = np.random.default_rng(0)
    sample = np.concatenate(
        [
            features.descriptors[random.permutation(len(features))[:SAMPLE]]
            for features in photos.features[: photos.index]
        ]
    )

    def stored(features: list[LocalFeatures]) -> tuple[list[LocalFeatures], float]:
        return features, float(np.mean([bytes_of(one) for one in features]))

    def coded(components: int) -> tuple[list[LocalFeatures], float]:
        codec = CompactCodec.fit(sample, components)
        payloads = [codec.encode(features) for features in photos.features]
        return [codec.decode(payload) for payload in payloads], float(np.mean([len(p) for p in payloads]))

    return {
        "float32": lambda: stored(photos.features),
        "int8": lambda: stored([features.quantised() for features in photos.features]),
    } | {f"compact-{components}": lambda k=components: coded(k) for components in COMPONENTS}


def measure(photos: Photos, features: Sequence[LocalFeatures]) -> dict[str, float]:
    pairs, significance, inliers = verify_all(features, photos.index)
    joined = np.einsum("pd,pd->p", photos.descriptors[pairs[:, 0]], photos.descriptors[pairs[:, 1]])
    inside = (pairs < photos.index).all(1)
    calibrated = Confidence.fit(significance[inside], joined[inside])
    n = len(features)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    counts = sparse.csr_matrix((np.tile(inliers, 2), (both[:, 0], both[:, 1])), shape=(n, n))
    labelled = {f"query {query}": truth for query, truth in most_positives(photos.dataset).items()}
    figures = {"pair_ap": pair_ap(photos, labelled, pairs, significance)}
    totals: dict[str, list[float]] = defaultdict(list)
    for factor in THRESHOLDS:
        confidence = replace(calibrated, midpoint=factor * calibrated.midpoint)
        graph = MatchGraph.from_pairs(n, pairs, confidence(significance, joined))
        images = Images(photos.descriptors, photos.index, graph, counts)
        for method in METHODS:
            for name, value in means(photos, images, method).items():
                totals[f"{name}.{method}"].append(value)
                if factor == 1:
                    figures[f"{name}.{method}"] = value
    return figures | {f"mean.{name}": float(np.mean(values)) for name, values in totals.items()}


def verify_all(
    features: Sequence[LocalFeatures], index: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Every pair that has an index photo: pairs [P, 2], significance, inliers."""
    verifier = create_verifier()
    pairs, significance, inliers = [], [], []
    for first in range(index):
        seconds = range(first + 1, len(features))
        results = verifier.verify(features[first], [features[second] for second in seconds])
        for second, result in zip(seconds, results, strict=True):
            pairs.append((first, second))
            significance.append(result.significance)
            inliers.append(result.inliers)
    return (
        np.array(pairs, np.int64),
        np.array(significance, np.float32),
        np.array(inliers, np.float32),
    )


def means(photos: Photos, images: Images, method: str) -> dict[str, float]:
    """mAP of the queries by protocol, and of the photos of landmarks as queries."""

    def rankings(queries: Sequence[int]) -> dict[str, list[str]]:
        found = rank(method, images, np.array(queries, np.int64), photos.index)
        return {
            photos.ids[query]: [photos.ids[i] for i in row if i >= 0]
            for query, row in zip(queries, found.ids, strict=True)
        }

    outside = rankings(range(photos.index, len(photos.ids)))
    scores = photos.dataset.evaluate({name.removeprefix("query "): row for name, row in outside.items()})
    known = landmark_truths(photos.dataset)
    own = evaluate(rankings([i for i, name in enumerate(photos.ids) if name in known]), known)
    return {protocol: scores[protocol]["mAP"] for protocol in PROTOCOLS} | {"photos": own.means()["mAP"]}


def most_positives(dataset: Dataset) -> Mapping[str, Truth[str]]:
    """The protocol that knows most matches."""
    return max(dataset.protocols.values(), key=lambda p: sum(len(t.positives) for t in p.values()))


def landmark_truths(dataset: Dataset) -> dict[str, Truth[str]]:
    """Index photo -> the others of its landmark, which is the name of a query less its last number."""
    positives, junk = defaultdict(set), defaultdict(set)
    for photo, label in dataset.labels.items():
        positives[label].add(photo)
    if not dataset.labels:
        for query, truth in most_positives(dataset).items():
            positives[query.rsplit("_", 1)[0]] |= truth.positives
            junk[query.rsplit("_", 1)[0]] |= truth.junk
    return {
        photo: Truth(frozenset(photos - {photo}), frozenset((junk[label] - photos) | {photo}))
        for label, photos in positives.items()
        for photo in sorted(photos)
        if len(photos) > 2
    }


def pair_ap(
    photos: Photos,
    truths: Mapping[str, Truth[str]],
    pairs: NDArray[np.int64],
    significance: NDArray[np.float32],
) -> float:
    """Average precision of the significance of pairs of a query and an index photo, in percent."""
    label = np.full(len(pairs), -1)
    for place, (first, second) in enumerate(pairs.tolist()):
        if second >= photos.index and photos.ids[second] in truths:
            truth = truths[photos.ids[second]]
            if photos.ids[first] not in truth.junk:
                label[place] = photos.ids[first] in truth.positives
    judged = label >= 0
    return 100 * average_precision(significance[judged].astype(np.float64), label[judged] > 0)


def row(form: str, figures: dict[str, float]) -> str:
    """One line of the table in the docs."""

    def several(prefix: str, method: str, names: Sequence[str]) -> str:
        return " / ".join(f"{figures[f'{prefix}{name}.{method}.{form}']:.1f}" for name in names)

    cells: list[Any] = [
        form,
        f"{figures[f'bytes_per_image.{form}']:,.0f}",
        f"{figures[f'pair_ap.{form}']:.1f}",
    ]
    for method in METHODS:
        cells.append(several("", method, PROTOCOLS))
    cells.append(several("mean.", "mmst-c", PROTOCOLS))
    cells.append(several("", "mmst-c", ["photos"]))
    cells.append(several("mean.", "mmst-c", ["photos"]))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
