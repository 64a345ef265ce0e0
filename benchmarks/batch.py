"""A batch job over thousands of photos: what it takes in memory, what it costs beside the extraction itself.

    python benchmarks/batch.py --json OUT [--photos 20000] [--quick]

The extractor is a light one, of 1000 local features, so that what is seen is the job and not a network. Peer:
the same extractor over the same photos, with nothing kept.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from pipeline import machine

from extractor import registry
from extractor.batch import extract_photos
from extractor.extractor import Extractor
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import Photo

FEATURES = 1000
SIDES = (160, 120)


class Light(Extractor):
    """Noise that the photo seeds."""

    name, fingerprint = "light", "light-000000000000"
    dimension, local_dimension, longest_side = 1280, 64, 160

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        random = np.random.default_rng(int(photo.pixels[0, 0, 0]))
        whole = random.normal(size=self.dimension).astype(np.float32)
        local = random.normal(size=(FEATURES, self.local_dimension)).astype(np.float32)
        return ImageFeatures(
            image_id,
            photo.size,
            whole / np.linalg.norm(whole),
            LocalFeatures(
                random.uniform(0, 120, (FEATURES, 2)).astype(np.float32),
                np.ones(FEATURES, np.float32),
                np.linspace(1, 0, FEATURES, dtype=np.float32),
                local / np.linalg.norm(local, axis=1, keepdims=True),
            ),
            self.fingerprint,
        )


class Configuration:
    def load(self, name: str) -> Extractor:
        return Light()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--photos", type=int, default=20_000)
    arguments.add_argument("--quick", action="store_true", help="4000 photos")
    given = arguments.parse_args()
    registry.EXTRACTORS = {registry.DEFAULT: Configuration()}  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(Path(scratch), 4000 if given.quick else given.photos)
    result = {
        "name": "batch",
        "machine": machine(),
        "figures": figures,
        "ratios": {
            "rss_end_over_quarter": figures["peak_rss_mb_end"] / figures["peak_rss_mb_quarter"],
            "batch_over_bare": figures["ms_per_photo"] / figures["ms_per_photo_bare"],
        },
    }
    for name, value in (result["figures"] | result["ratios"]).items():
        print(f"{name:<28} {value:10.3f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, count: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    photos = {}
    for number in range(count):
        path = folder / f"photos/{number // 1000}/{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(small, SIDES, interpolation=cv2.INTER_CUBIC))
        photos[f"{number:06d}"] = path
    some = dict(list(photos.items())[: count // 4])
    start = time.perf_counter()
    for _ in Light().extract_many(some.items()):
        pass
    bare = (time.perf_counter() - start) / len(some)
    peaks = {}

    def note(step: str, done: int, total: int) -> None:
        if done in (count // 4, total):
            peaks[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    start = time.perf_counter()
    extract_photos(photos, folder / "features", progress=note)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    extract_photos(photos, folder / "features")
    again = time.perf_counter() - start
    written = sum(path.stat().st_size for path in (folder / "features").rglob("*") if path.is_file())
    return {
        "photos": count,
        "features_mb": written / 2**20,
        "peak_rss_mb_quarter": peaks[count // 4],
        "peak_rss_mb_end": peaks[count],
        "ms_per_photo": 1000 * seconds / count,
        "ms_per_photo_bare": 1000 * bare,
        "seconds_nothing_new": again,
    }


if __name__ == "__main__":
    main()
