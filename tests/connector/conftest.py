from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from extractor.features import ImageFeatures, LocalFeatures


def make_photo(
    image_id: str, seed: int = 0, keypoints: int = 30, size: tuple[int, int] = (640, 480)
) -> ImageFeatures:
    random = np.random.default_rng(seed)
    vector = random.normal(size=16).astype(np.float32)
    descriptors = random.normal(size=(keypoints, 64)).astype(np.float32)
    return ImageFeatures(
        image_id=image_id,
        size=size,
        global_descriptor=vector / np.linalg.norm(vector),
        local=LocalFeatures(
            keypoints=(random.random((keypoints, 2)) * size).astype(np.float32),
            scales=(1 + random.random(keypoints)).astype(np.float32),
            scores=np.sort(random.random(keypoints))[::-1].astype(np.float32),
            descriptors=descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
        ),
        extractor="xfeat@1",
    )


@pytest.fixture(scope="session")
def photo() -> Callable[..., ImageFeatures]:
    return make_photo
