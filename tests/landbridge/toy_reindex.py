"""A second toy extractor, which sees the motifs that the first sees by other descriptors."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np

from extractor import registry
from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import Photo

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy_extractor.py"))
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

DIMENSION = 48


class NewToyExtractor(toy.ToyExtractor):
    name = "new-toy"
    fingerprint = "new-toy-1"
    dimension = DIMENSION

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        found = super().extract(photo, image_id)
        mixed = found.global_descriptor @ np.random.default_rng(1).normal(size=(toy.DIMENSION, DIMENSION))
        vector = (mixed / np.linalg.norm(mixed)).astype(np.float32)
        return replace(found, global_descriptor=vector)


class _Configuration:
    def load(self, name: str) -> Extractor:
        return NewToyExtractor()


EXTRACTORS = {**toy.EXTRACTORS, "new-toy": _Configuration()}


def install() -> None:
    registry.EXTRACTORS = EXTRACTORS
