"""What feature files say of one photo, checked and brought into the shared currency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractor.features import INT8_UNIT, LocalFeatures

Arrays = Mapping[str, NDArray]
"""What a file holds of one photo, by the names of `LOCAL` and `WHOLE`, as the file has it."""

LOCAL = ("keypoints", "scales", "scores", "descriptors")
WHOLE = ("size", "global_descriptor")

_ROUNDING = 1e-6


class FeatureFileError(ValueError):
    """A file holds no features that can be used; the message names file and photo, and says why."""

    def __init__(self, path: Path, reason: str, image: str = "") -> None:
        super().__init__(f"{path}{f', {image}' * bool(image)}: {reason}")


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Features of one photo, as far as files hold them.

    Attributes:
        image_id: the photo's name.
        local: its local features; None where no file has any.
        global_descriptor: float32 [D] of unit norm, or None.
        size: (width, height) in pixels of the photo, or None.
    """

    image_id: str
    local: LocalFeatures | None = None
    global_descriptor: NDArray[np.float32] | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, image_id: str, arrays: Arrays, path: Path) -> StoredFeatures:
        """Check what a file holds of a photo.

        Descriptors are scaled to unit norm for matching by cosine (all-zero local ones stay zero, and match
        nothing); int8 ones must be `round(127 * unit vector)`, and stay so. Local features are put in
        order, the highest score first. Scales and scores that the file does not have are 1.

        Args:
            image_id: the photo's name.
            arrays: keypoints [N, 2] in pixels, scales [N], scores [N], descriptors [N, d], size [2] (width,
                height), global_descriptor [D], of any numeric type; keypoints and descriptors come together,
                everything else may be missing.
            path: the file, for messages.

        Raises:
            FeatureFileError: shapes disagree, a value is not a finite number, or a global descriptor is zero.
        """
        try:
            return cls(image_id, _local(arrays), _global(arrays), _size(arrays))
        except ValueError as error:
            raise FeatureFileError(path, str(error), image_id) from None


def unit_descriptors(local: LocalFeatures) -> NDArray[np.float32]:
    """The local descriptors as float32 [N, d] of unit norm."""
    return (
        _scaled(local.descriptors)
        if local.descriptors.dtype == np.int8
        else local.descriptors.astype(np.float32)
    )


def _scaled(descriptors: NDArray) -> NDArray[np.float32]:
    """Rows of unit norm: what is so already, to rounding, stays as it is, and so do zero rows."""
    norms = np.sqrt(np.einsum("nd,nd->n", descriptors, descriptors, dtype=np.float64))
    norms[(norms == 0) | (np.abs(norms - 1) < _ROUNDING)] = 1
    return np.asarray(descriptors / norms.astype(np.float32)[:, None], np.float32)


def _local(arrays: Arrays) -> LocalFeatures | None:
    if not any(name in arrays for name in LOCAL):
        return None
    for name in ("keypoints", "descriptors"):
        if name not in arrays:
            raise ValueError(f"it has {', '.join(n for n in LOCAL if n in arrays)}, but no {name}")
    keypoints = np.atleast_1d(_numbers(arrays, "keypoints"))
    if not keypoints.size:
        keypoints = keypoints.reshape(0, 2)
    count = len(keypoints)
    descriptors = arrays["descriptors"]
    if descriptors.dtype != np.int8:
        descriptors = _numbers(arrays, "descriptors")
    if not descriptors.size and not count:
        descriptors = descriptors.reshape(0, descriptors.shape[1] if descriptors.ndim == 2 else 0)
    ones = np.ones(count, np.float32)
    scales = _numbers(arrays, "scales") if "scales" in arrays else ones
    scores = _numbers(arrays, "scores") if "scores" in arrays else ones
    # Shapes are checked here, before anything relies on them.
    features = LocalFeatures(keypoints, scales, scores, descriptors)
    if descriptors.dtype != np.int8:
        descriptors = _scaled(descriptors)
    else:
        norms = np.sqrt(np.einsum("nd,nd->n", descriptors, descriptors, dtype=np.int64))
        rounding = 1 + np.sqrt(descriptors.shape[1]) / 2
        if ((norms > 0) & (np.abs(norms - INT8_UNIT) > rounding)).any():
            raise ValueError("descriptors in int8 must be round(127 * unit vector): give others as float")
    order = np.argsort(-features.scores, kind="stable")
    return LocalFeatures(keypoints[order], scales[order], scores[order], descriptors[order])


def _global(arrays: Arrays) -> NDArray[np.float32] | None:
    if "global_descriptor" not in arrays:
        return None
    vector = _numbers(arrays, "global_descriptor")
    if vector.size != max(vector.shape, default=0):
        raise ValueError(f"global_descriptor must be one vector [D], it has shape {list(vector.shape)}")
    if not np.isfinite(vector).all():
        raise ValueError("global_descriptor holds NaN or infinite values")
    if not vector.any():
        raise ValueError("global_descriptor is empty or all zero")
    return _scaled(vector.reshape(1, -1))[0]


def _size(arrays: Arrays) -> tuple[int, int] | None:
    if "size" not in arrays:
        return None
    size = _numbers(arrays, "size")
    if size.size != 2 or not (size >= 1).all():
        raise ValueError(f"size must be width and height in pixels, it is {size.tolist()}")
    width, height = size.ravel().tolist()
    return int(width), int(height)


def _numbers(arrays: Arrays, name: str) -> NDArray[np.float32]:
    """As float32 that nothing else has."""
    values = np.asarray(arrays[name])
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers, got {values.dtype}")
    with np.errstate(over="ignore"):
        return np.array(values, np.float32)
