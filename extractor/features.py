"""The shared currency: what an extractor makes of a photo, in numpy alone.

Every package may import this module; it imports nothing but numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INT8_UNIT = 127.0
"""An int8 component c stands for c / 127: unit vectors keep their dot products to about 0.003."""


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Local features of one photo, strongest first.

    Attributes:
        keypoints: float32 [N, 2], (x, y) in pixels of the original photo, EXIF orientation applied.
        scales: float32 [N], size of the feature relative to the extractor's base scale.
        scores: float32 [N], detection strength; only the order has a meaning across extractors.
        descriptors: float32 [N, d] of unit norm, or int8 [N, d] holding `round(127 * unit vector)`.

    Raises:
        ValueError: shapes or types disagree, or a value is not finite.
    """

    keypoints: NDArray[np.float32]
    scales: NDArray[np.float32]
    scores: NDArray[np.float32]
    descriptors: NDArray[np.float32] | NDArray[np.int8]

    def __post_init__(self) -> None:
        n = len(self.keypoints)
        if self.keypoints.shape != (n, 2):
            raise ValueError(f"keypoints must have shape [N, 2], got {self.keypoints.shape}")
        if self.scales.shape != (n,) or self.scores.shape != (n,):
            raise ValueError(
                f"scales and scores must have shape [{n}], got {self.scales.shape}, {self.scores.shape}"
            )
        if self.descriptors.ndim != 2 or len(self.descriptors) != n:
            raise ValueError(f"descriptors must have shape [{n}, d], got {self.descriptors.shape}")
        if self.descriptors.dtype not in (np.float32, np.int8):
            raise ValueError(f"descriptors must be float32 or int8, got {self.descriptors.dtype}")
        for name in ("keypoints", "scales", "scores", "descriptors"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} hold NaN or infinite values")

    def __len__(self) -> int:
        return len(self.keypoints)

    @property
    def dimension(self) -> int:
        """Components of one descriptor."""
        return int(self.descriptors.shape[1])

    def quantised(self) -> LocalFeatures:
        """The same features with int8 descriptors (unchanged when they are int8 already)."""
        if self.descriptors.dtype == np.int8:
            return self
        steps = np.clip(np.rint(self.descriptors * INT8_UNIT), -INT8_UNIT, INT8_UNIT)
        return LocalFeatures(self.keypoints, self.scales, self.scores, steps.astype(np.int8))

    @classmethod
    def empty(cls, dimension: int) -> LocalFeatures:
        """No features at all: what a blank wall gives."""
        nothing = np.zeros(0, np.float32)
        return cls(np.zeros((0, 2), np.float32), nothing, nothing, np.zeros((0, dimension), np.int8))


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Everything Landbridge keeps of one photo.

    Attributes:
        image_id: the photo's name in its collection; any non-empty text.
        size: (width, height) in pixels of the original photo, EXIF orientation applied.
        global_descriptor: float32 [D] of unit norm.
        local: the local features.
        extractor: fingerprint of model, weights and parameters; features of different ones never meet.

    Raises:
        ValueError: the id is empty, or the descriptor is not a finite unit vector.
    """

    image_id: str
    size: tuple[int, int]
    global_descriptor: NDArray[np.float32]
    local: LocalFeatures
    extractor: str

    def __post_init__(self) -> None:
        if not self.image_id:
            raise ValueError("image_id is empty")
        if self.global_descriptor.ndim != 1 or self.global_descriptor.dtype != np.float32:
            raise ValueError(
                f"{self.image_id}: global_descriptor must be float32 [D], "
                f"got {self.global_descriptor.dtype} {self.global_descriptor.shape}"
            )
        norm = float(np.linalg.norm(self.global_descriptor))
        if not abs(norm - 1.0) < 1e-3:
            raise ValueError(f"{self.image_id}: global_descriptor must have unit norm, has {norm:.4f}")
