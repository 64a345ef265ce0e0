"""Milliseconds to verify a pair of photos, and how well the inliers tell right pairs from wrong ones.

    python benchmarks/verification.py --json OUT [--data DIR] [--quick] [--device cuda]

Peers: OpenCV's brute-force matcher with USAC, the matcher published with DELF, and the bare matrix product of
the descriptors, which is the floor. All see the same photos, on one thread, pair after pair in turn; times
are processor time, as other programs may run. Photos: the index photos and queries of `roxford_mini` in
DIR (or LANDBRIDGE_DATA), else the rendered sample world.

With --device, the same pairs, as often as makes 50,000 of them, are verified on a device of torch as well:
pairs per second of wall time, the features being in its memory, and the share of inliers that are the same
as on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pipeline import machine
from threadpoolctl import threadpool_limits

from extractor.features import ImageFeatures, LocalFeatures
from extractor.registry import create_extractor
from landbridge.datasets import load_dataset
from landbridge.datasets.dataset import Dataset
from landbridge.sample_world import SampleWorld
from ranking.verification import BatchedVerifier, Verification, create_verifier
from ranking.verification.batched.device import DevicePhotos, verify_pairs

OPTIONS: dict[str, dict[str, Any]] = {"batched": {"threads": 1}, "opencv": {}, "reference": {}}
BACKENDS = tuple(OPTIONS)
POSITIVES, NEGATIVES = 12, 20
"""Candidates of a query at most; 2 and 3 with --quick."""
DEVICE_PAIRS = 50_000
CALL = 16
"""Candidates verified per call."""

Pair = tuple[str, str, bool]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    arguments.add_argument("--quick", action="store_true", help="a small sample of the pairs")
    arguments.add_argument("--device", help="of torch: verify many pairs at once there too")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.data:
            photos = Path(given.data) / "roxford_mini"
        else:
            print("no --data and no LANDBRIDGE_DATA: measured on the rendered sample world")
            photos = Path(scratch) / "world"
            SampleWorld(**({"landmarks": 2, "distractors": 8} if given.quick else {})).write(photos)
        figures = run(photos, quick=given.quick, device=given.device)
    result = {"name": "verification", "machine": machine(), "figures": figures, "ratios": ratios(figures)}
    for name, value in (result["figures"] | result["ratios"]).items():
        print(f"{name:<28} {value:10.3f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def run(photos: Path, quick: bool, device: str | None) -> dict[str, float]:
    dataset = load_dataset(photos)
    pairs = labelled_pairs(dataset, *((2, 3) if quick else (POSITIVES, NEGATIVES)))
    features = extract(dataset, pairs)
    verifiers = {name: create_verifier(name, **OPTIONS[name]) for name in BACKENDS}
    milliseconds: dict[str, list[float]] = {name: [] for name in (*BACKENDS, "floor")}
    results: dict[str, list[Verification]] = {name: [] for name in BACKENDS}
    cv2.setNumThreads(1)
    with threadpool_limits(1):
        for warm in (True, False):
            for query, candidates in calls(pairs[:CALL] if warm else pairs):
                ours, theirs = features[query], [features[candidate] for candidate in candidates]
                for name, verifier in verifiers.items():
                    spent, found = timed(verifier.verify, ours, theirs)
                    if not warm:
                        milliseconds[name].append(spent / len(theirs))
                        results[name] += found
                spent, _ = timed(floor(ours, theirs))
                if not warm:
                    milliseconds["floor"].append(spent / len(theirs))
    right = np.array([label for *_, label in pairs])
    figures = {f"ms_per_pair_{name}": statistics.median(times) for name, times in milliseconds.items()}
    for name, found in results.items():
        inliers = np.array([result.inliers for result in found], np.float64)
        significance = np.array([result.significance for result in found])
        figures[f"ap_{name}"] = average_precision(inliers, right)
        figures[f"ap_{name}_by_significance"] = average_precision(significance, right)
    figures |= {
        "bytes_per_image": statistics.mean(bytes_of(f) for f in features.values()),
        "keypoints": statistics.mean(len(f) for f in features.values()),
        "pairs": len(pairs),
        "positive_pairs": int(right.sum()),
    }
    if device:
        wanted = len(pairs) if quick else DEVICE_PAIRS
        figures |= on_device(device, features, pairs, results["batched"], wanted)
    return figures


def on_device(
    device: str,
    features: dict[str, LocalFeatures],
    pairs: Sequence[Pair],
    expected: Sequence[Verification],
    wanted: int,
) -> dict[str, float]:
    verifier = BatchedVerifier()
    number = {name: place for place, name in enumerate(features)}
    photos = DevicePhotos(list(features.values()), device)
    once = np.array([(number[query], number[candidate]) for query, candidate, _ in pairs])
    found = verify_pairs(photos, once, verifier)
    many = np.resize(once, (wanted, 2))
    start = time.perf_counter()
    verify_pairs(photos, many, verifier)
    seconds = time.perf_counter() - start
    both = either = 0
    for place, result in enumerate(expected):
        ours, theirs = ({tuple(match) for match in r.matches.tolist()} for r in (result, found[place]))
        both += len(ours & theirs)
        either += len(ours | theirs)
    return {
        f"pairs_per_second_{device}": wanted / seconds,
        f"inlier_agreement_{device}": both / max(either, 1),
    }


def labelled_pairs(dataset: Dataset, positives: int, negatives: int) -> list[Pair]:
    """Query, index photo and whether they match, by the protocol that knows most matches."""
    random = np.random.default_rng(0)
    truths = max(dataset.protocols.values(), key=lambda p: sum(len(t.positives) for t in p.values()))
    pairs: list[Pair] = []
    for query, truth in truths.items():
        right = [image for image in dataset.index if image in truth.positives]
        judged = set(truth.positives) | set(truth.junk) | ({query} if dataset.leave_one_out else set())
        wrong = [image for image in dataset.index if image not in judged]
        for label, images, limit in ((True, right, positives), (False, wrong, negatives)):
            chosen = random.permutation(len(images))[:limit]
            pairs += [(query, images[i], label) for i in chosen]
    return pairs


def extract(dataset: Dataset, pairs: Sequence[Pair]) -> dict[str, LocalFeatures]:
    """Local features as they are stored, by photo; a query's are those of its whole photo."""
    photos = {query: dataset.queries[query] for query, *_ in pairs}
    photos |= {image: dataset.index[image] for _, image, _ in pairs}
    found = create_extractor().extract_many(photos.items())
    return {image.image_id: image.local.quantised() for image in found if isinstance(image, ImageFeatures)}


def calls(pairs: Sequence[Pair]) -> Iterator[tuple[str, list[str]]]:
    for query, group in groupby(pairs, key=lambda pair: pair[0]):
        images = [image for _, image, _ in group]
        for start in range(0, len(images), CALL):
            yield query, images[start : start + CALL]


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Milliseconds of processor time of a call, and what it returned."""
    start = time.process_time()
    result = function(*arguments)
    return 1e3 * (time.process_time() - start), result


def floor(query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> Callable[[], None]:
    """The matrix products alone: descriptors ready in float32, the result written to memory in use."""
    left = query.descriptors.astype(np.float32)
    right = [candidate.descriptors.astype(np.float32).T for candidate in candidates]
    out = [np.zeros((left.shape[0], matrix.shape[1]), np.float32) for matrix in right]

    def product() -> None:
        for matrix, similarity in zip(right, out, strict=True):
            np.matmul(left, matrix, out=similarity)

    return product


def average_precision(score: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve of the pairs; equal scores share their precision."""
    values, place = np.unique(-score, return_inverse=True)
    hits = np.cumsum(np.bincount(place, right, len(values)))
    shown = np.cumsum(np.bincount(place, minlength=len(values)))
    return float((np.diff(hits, prepend=0) * hits / shown).sum() / right.sum())


def bytes_of(features: LocalFeatures) -> int:
    arrays = (features.keypoints, features.scales, features.scores, features.descriptors)
    return sum(array.nbytes for array in arrays)


def ratios(figures: dict[str, float]) -> dict[str, float]:
    batched = figures["ms_per_pair_batched"]
    return {
        "reference_over_batched": figures["ms_per_pair_reference"] / batched,
        "opencv_over_batched": figures["ms_per_pair_opencv"] / batched,
        "batched_over_floor": batched / figures["ms_per_pair_floor"],
    }


if __name__ == "__main__":
    main()
