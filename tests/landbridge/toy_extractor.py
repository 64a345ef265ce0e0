"""A world whose photos cost nothing: a photo lists the motifs that it shows, and its features follow.

Photos that share a motif verify with each other; their global descriptors are the more similar the more
motifs they share. `install` makes the toy the default extractor of this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from extractor import registry
from extractor.extractor import Extractor
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import Photo

SIZE = (320, 240)
DIMENSION = 32
FEATURES = 60


def write_photo(path: Path, motifs: Sequence[int], variant: int = 0, left: int = 0) -> Path:
    """Write a PNG of some motifs, listed in its first row from pixel `left` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    if path.exists():
        with Image.open(path) as picture:
            pixels = np.array(picture)
    pixels[0, left : left + len(motifs), 0] = np.asarray(motifs) + 1
    pixels[1, left, 0] = variant
    Image.fromarray(pixels).save(path)
    return path


def write_photos(folder: Path) -> Path:
    """Two landmarks of four photos each, walked around: neighbours share two motifs, the rest nothing."""
    for landmark, first in (("castle", 0), ("tower", 20)):
        for step in range(4):
            start = first + 2 * step
            write_photo(folder / landmark / f"{step}.png", range(start, start + 4), step)
    return folder


class ToyExtractor(Extractor):
    name = "toy"
    fingerprint = "toy-1"
    dimension = DIMENSION
    local_dimension = 64
    longest_side = max(SIZE)
    extracted: list[str]

    def __init__(self) -> None:
        self.extracted = []

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        self.extracted.append(image_id)
        motifs = [int(value) - 1 for value in photo.pixels[0, :, 0] if value]
        variant = int(photo.pixels[1].max(initial=0))
        noise = np.random.default_rng([variant, *motifs]).normal(size=DIMENSION)
        vector, keypoints, descriptors = 0.05 * noise, [np.zeros((0, 2))], [np.zeros((0, 64))]
        for motif in motifs:
            random = np.random.default_rng(motif)
            vector = vector + random.normal(size=DIMENSION)
            keypoints.append(random.uniform(10, np.array(SIZE) - 30, (FEATURES, 2)) + 2 * variant)
            descriptors.append(random.normal(size=(FEATURES, 64)))
        found = np.concatenate(descriptors).astype(np.float32)
        count = len(found)
        return ImageFeatures(
            image_id,
            photo.size,
            (vector / np.linalg.norm(vector)).astype(np.float32),
            LocalFeatures(
                np.concatenate(keypoints).astype(np.float32) % np.array(photo.size, np.float32),
                np.ones(count, np.float32),
                np.ones(count, np.float32),
                found / np.linalg.norm(found, axis=1, keepdims=True),
            ),
            self.fingerprint,
        )


class _Configuration:
    def load(self, name: str) -> Extractor:
        return ToyExtractor()


EXTRACTORS = {registry.DEFAULT: _Configuration()}


def install() -> None:
    registry.EXTRACTORS = EXTRACTORS
