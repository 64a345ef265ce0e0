"""Answers of the service on the wire: JSON, or NumPy's `.npz` in the layout of `extractor.files.npz`.

The `.npz` has the arrays of a file of many photos, `extractor` (the fingerprint), and three more for the
photos that failed: `failed` (their ids), `statuses` and `reasons`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractor.features import ImageFeatures, LocalFeatures

NPZ = "application/x-npz"
JSON = "application/json"
HALF = "float16"


@dataclass(frozen=True)
class Failure:
    """A photo that gave no features.

    Attributes:
        image_id: the photo.
        status: of HTTP: 413 too large, 422 cannot be read, 500 the extractor failed.
        reason: why, in one line.
    """

    image_id: str
    status: int
    reason: str


Answer = ImageFeatures | Failure


def to_npz(answers: Sequence[Answer], fingerprint: str, dtype: str = "float32") -> bytes:
    """Answers as `.npz`.

    Args:
        answers: of the photos of one request, ids distinct.
        fingerprint: of the extractor.
        dtype: `float32`, or `float16` for descriptors of half the size.
    """
    found = [answer for answer in answers if isinstance(answer, ImageFeatures)]
    failed = [answer for answer in answers if isinstance(answer, Failure)]
    arrays = {
        "extractor": np.array(fingerprint),
        "images": _text([features.image_id for features in found]),
        "counts": np.array([len(features.local) for features in found], np.int64),
        "failed": _text([failure.image_id for failure in failed]),
        "statuses": np.array([failure.status for failure in failed], np.int64),
        "reasons": _text([failure.reason for failure in failed]),
    }
    if found:
        arrays |= {
            "size": np.array([features.size for features in found], np.int64),
            "global_descriptor": _as(np.stack([features.global_descriptor for features in found]), dtype),
            "descriptors": _as(np.concatenate([features.local.descriptors for features in found]), dtype),
        }
        for name in ("keypoints", "scales", "scores"):
            arrays[name] = np.concatenate([getattr(features.local, name) for features in found])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def from_npz(data: bytes) -> list[Answer]:
    """Read what `to_npz` wrote: the photos with features, then those without; descriptors as float32.

    Raises:
        ValueError: it is no such `.npz`.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
        fingerprint = str(arrays["extractor"])
        failures = [
            Failure(str(image_id), int(status), str(reason))
            for image_id, status, reason in zip(
                arrays["failed"], arrays["statuses"], arrays["reasons"], strict=True
            )
        ]
        bounds = np.append(0, np.cumsum(arrays["counts"]))
        found = [
            ImageFeatures(
                str(image_id),
                (int(arrays["size"][i, 0]), int(arrays["size"][i, 1])),
                np.asarray(arrays["global_descriptor"][i], np.float32),
                _local(arrays, slice(bounds[i], bounds[i + 1])),
                fingerprint,
            )
            for i, image_id in enumerate(arrays["images"])
        ]
    except (OSError, EOFError, KeyError, IndexError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"not an answer of an extractor service: {error}") from error
    return [*found, *failures]


def to_json(answers: Sequence[Answer], fingerprint: str, dtype: str = "float32") -> bytes:
    """Answers as JSON, in the order of the photos; arguments as of `to_npz`."""
    import orjson

    photos = [
        {"id": answer.image_id, "error": {"status": answer.status, "reason": answer.reason}}
        if isinstance(answer, Failure)
        else {
            "id": answer.image_id,
            "size": answer.size,
            "global_descriptor": _as(answer.global_descriptor, dtype),
            "keypoints": np.ascontiguousarray(answer.local.keypoints),
            "scales": np.ascontiguousarray(answer.local.scales),
            "scores": np.ascontiguousarray(answer.local.scores),
            "descriptors": _as(answer.local.descriptors, dtype),
        }
        for answer in answers
    ]
    return orjson.dumps({"extractor": fingerprint, "photos": photos}, option=orjson.OPT_SERIALIZE_NUMPY)


def _as(descriptors: NDArray, dtype: str) -> NDArray:
    """Descriptors as they are asked for; int8 stays."""
    if descriptors.dtype == np.int8:
        return descriptors
    return np.ascontiguousarray(descriptors, np.float16 if dtype == HALF else np.float32)


def _text(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, np.str_) if values else np.empty(0, "U1")


def _local(arrays: dict[str, NDArray], bounds: slice) -> LocalFeatures:
    keypoints, scales, scores = (arrays[name][bounds] for name in ("keypoints", "scales", "scores"))
    descriptors = arrays["descriptors"][bounds]
    if descriptors.dtype == np.float16:
        descriptors = descriptors.astype(np.float32)
    return LocalFeatures(keypoints, scales, scores, descriptors)
