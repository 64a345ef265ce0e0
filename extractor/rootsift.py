"""RootSIFT: SIFT descriptors compared by the Hellinger kernel.

Lowe, "Distinctive image features from scale-invariant keypoints" (IJCV 2004); Arandjelović and Zisserman,
"Three things everyone should know to improve object retrieval" (CVPR 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from extractor.features import LocalFeatures

if TYPE_CHECKING:
    from extractor.configuration import RootSiftConfiguration
    from extractor.photo import Photo

DIMENSION = 128


class RootSift:
    """Detects and describes the local features of a photo with OpenCV's SIFT.

    Args:
        configuration: size of the photo, number of features, contrast.
    """

    dimension = DIMENSION

    def __init__(self, configuration: RootSiftConfiguration) -> None:
        self.configuration = configuration
        self.longest_side = configuration.longest_side
        parameters = asdict(configuration)
        for decided_elsewhere in ("dimension", "whiten"):
            del parameters[decided_elsewhere]
        self.identity: dict[str, object] = {"detector": "opencv-sift", **parameters}

    def to(self, device: str, dtype: str = "float32") -> Self:
        """Nothing: there is no network, and SIFT runs on the processor."""
        return self

    def prepare(self, photo: Photo) -> LocalFeatures:
        """The local features themselves: the processor makes them."""
        return self.detect(photo)

    def run(self, prepared: Sequence[LocalFeatures]) -> list[LocalFeatures]:
        """The local features that were prepared."""
        return list(prepared)

    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features of a photo, strongest first, keypoints in pixels of the original.

        The scale is the standard deviation of the blob in pixels of the original. A keypoint of two
        orientations is two features.
        """
        c = self.configuration
        photo = photo.reduced(c.longest_side)
        grey = cv2.cvtColor(photo.pixels, cv2.COLOR_RGB2GRAY)
        sift = cv2.SIFT.create(  # of its own, as it is not safe to share among threads
            nfeatures=c.max_features, contrastThreshold=c.contrast_threshold, enable_precise_upscale=True
        )
        found, descriptors = sift.detectAndCompute(grey, None)
        if not found:
            return LocalFeatures.empty(DIMENSION)
        keypoints = np.array([point.pt for point in found], np.float32)
        sizes = np.array([point.size for point in found], np.float32)
        angles = np.array([point.angle for point in found], np.float32)
        scores = np.array([point.response for point in found], np.float32)
        best = np.lexsort((angles, sizes, keypoints[:, 0], keypoints[:, 1], -scores))[: c.max_features]
        per_pixel = np.array(photo.scale, np.float32)
        located = (keypoints[best] + np.float32(0.5)) * per_pixel - np.float32(0.5)
        return LocalFeatures(
            np.clip(located, 0, np.array(photo.size, np.float32) - 1),
            sizes[best] / 2 * np.sqrt(per_pixel.prod()),
            scores[best],
            _root(descriptors[best].astype(np.float32)),
        )


def _root(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square roots of descriptors [N, 128] scaled to sum 1: their norm is 1."""
    sums = descriptors.sum(1, keepdims=True)
    return np.sqrt(descriptors / np.maximum(sums, np.finfo(np.float32).tiny)).astype(np.float32)
