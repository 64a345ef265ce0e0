"""Query photos: from features to what the rankers take."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from connector import payload
from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import Photo, PhotoError, read_photo
from extractor.whitening import Whitening
from landbridge.datasets import Box
from landbridge.retrieval import Query
from ranking.match_store import KEY_BYTES


def match_key(role: str, image_id: str, digest: str) -> str:
    """Names an image among the verified pairs; two copies of one photo are two images.

    Args:
        role: `index` or `query`.
        image_id: the image.
        digest: of its features.
    """
    text = f"{role}\0{image_id}\0{digest}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()


def query_of(features: ImageFeatures, whitening: Whitening) -> Query:
    """The query of a photo, at the precision that the features of index photos are stored with."""
    packed = payload.pack(features)
    stored = payload.unpack(packed, image_id=features.image_id, extractor=features.extractor)
    return Query(
        features.image_id,
        match_key("query", features.image_id, payload.digest(packed)),
        whitening.apply(stored.global_descriptor[None])[0],
        stored.local,
    )


def extract_part(extractor: Extractor, query_id: str, path: Path, box: Box) -> ImageFeatures | PhotoError:
    """Features of the part of a photo that a box holds, or why there are none."""
    try:
        return extractor.extract(_cut(read_photo(path), box), query_id)
    except PhotoError as error:
        return error


def _cut(photo: Photo, box: Box) -> Photo:
    height, width = photo.pixels.shape[:2]
    left, top = max(0, round(box.x1)), max(0, round(box.y1))
    right, bottom = min(width, round(box.x2)), min(height, round(box.y2))
    pixels = np.ascontiguousarray(photo.pixels[top : max(bottom, top + 1), left : max(right, left + 1)])
    return Photo(pixels, (pixels.shape[1], pixels.shape[0]))
