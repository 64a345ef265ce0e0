"""One image's features as bytes, and bytes as rows of text: the layout that Milvus serves fastest by key.

A payload is a header, then arrays without gaps, all little-endian:

    magic "LBRF" | version u8 | descriptor type u8 | local dimension u16 | global dimension u16 |
    number of local features u32 | width u32 | height u32 | crc32 of all the rest u32
    global descriptor f16 [D] | keypoints u16 [N, 2] | scales f16 [N] | scores f16 [N] | descriptors i8 [N, d]

Keypoints are stored as fractions of the photo's longest side (0 to 65535).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pybase64

from connector.errors import CorruptPayloadError, InvalidInputError
from extractor.features import ImageFeatures, LocalFeatures

CHUNK_BYTES = 49_149
"""Raw bytes of one row: as base64 they fill a VARCHAR(65535)."""

_HEADER = struct.Struct("<4sBBHHIII")
_CHECKSUM = struct.Struct("<I")
_START = _HEADER.size + _CHECKSUM.size
_MAGIC, _VERSION, _INT8 = b"LBRF", 1, 1
_FRACTION = 65_535.0
_FLOAT16_MAX = 65_504.0
_OVERHANG = 0.01


def pack(image: ImageFeatures) -> bytes:
    """The features as one payload; the same features give the same bytes.

    Descriptors are stored as int8; keypoints to 1/65535 of the longest side; scales, scores and the global
    descriptor to half precision, scores above 65504 as 65504. Keypoints that lie outside the photo by less
    than 1 % of its longest side are moved onto its border.

    Raises:
        InvalidInputError: a keypoint lies further outside, or the photo has no size.
    """
    if min(image.size) < 1:
        raise InvalidInputError(
            f"{image.image_id}: a photo of {image.size[0]}x{image.size[1]} pixels holds nothing"
        )
    local = image.local.quantised()
    longest = max(image.size)
    fractions = local.keypoints.astype(np.float64) / longest
    if fractions.size and (fractions.min() < -_OVERHANG or fractions.max() > 1 + _OVERHANG):
        raise InvalidInputError(
            f"{image.image_id}: keypoints lie outside the photo of {image.size[0]}x{image.size[1]} pixels; "
            "the extractor must give them in pixels of the original photo"
        )
    arrays = b"".join(
        (
            image.global_descriptor.astype("<f2").tobytes(),
            np.rint(fractions.clip(0, 1) * _FRACTION).astype("<u2").tobytes(),
            local.scales.clip(-_FLOAT16_MAX, _FLOAT16_MAX).astype("<f2").tobytes(),
            local.scores.clip(-_FLOAT16_MAX, _FLOAT16_MAX).astype("<f2").tobytes(),
            local.descriptors.tobytes(),
        )
    )
    dimensions = (local.dimension, len(image.global_descriptor), len(local))
    header = _HEADER.pack(_MAGIC, _VERSION, _INT8, *dimensions, *image.size)
    return header + _CHECKSUM.pack(zlib.crc32(arrays, zlib.crc32(header))) + arrays


def unpack(payload: bytes | bytearray, *, image_id: str, extractor: str) -> ImageFeatures:
    """The features of a payload. Arrays of descriptors are views of `payload`, writable when it is.

    Raises:
        CorruptPayloadError: the bytes are cut short, altered, or of a layout that this version does not know.
    """
    owner = f"image {image_id!r}"
    if len(payload) < _START:
        raise damaged(owner, f"{len(payload)} bytes hold no header")
    magic, version, kind, d, D, n, width, height = _HEADER.unpack_from(payload)
    if magic != _MAGIC:
        raise damaged(owner, "it does not begin as features do")
    if (version, kind) != (_VERSION, _INT8):
        raise CorruptPayloadError(
            f"what Milvus holds of {owner} has layout {version}.{kind}, this Landbridge reads "
            f"{_VERSION}.{_INT8}: install the version that wrote it, or index it again"
        )
    expected = _START + 2 * D + n * (8 + d)
    if len(payload) != expected:
        raise damaged(owner, f"{len(payload)} bytes instead of {expected}")
    view = memoryview(payload)
    checksum = zlib.crc32(view[_START:], zlib.crc32(view[: _HEADER.size]))
    if _CHECKSUM.unpack_from(payload, _HEADER.size) != (checksum,):
        raise damaged(owner, "the checksum is wrong")

    offset = _START
    half = np.frombuffer(payload, "<f2", D, offset).astype(np.float32)
    offset += 2 * D
    keypoints = np.frombuffer(payload, "<u2", 2 * n, offset).reshape(n, 2) * (max(width, height) / _FRACTION)
    offset += 4 * n
    scales, scores = np.frombuffer(payload, "<f2", 2 * n, offset).reshape(2, n).astype(np.float32)
    offset += 4 * n
    return ImageFeatures(
        image_id=image_id,
        size=(width, height),
        global_descriptor=half / np.linalg.norm(half),
        local=LocalFeatures(
            keypoints=keypoints.astype(np.float32),
            scales=scales,
            scores=scores,
            descriptors=np.frombuffer(payload, np.int8, n * d, offset).reshape(n, d),
        ),
        extractor=extractor,
    )


def digest(payload: bytes) -> str:
    """Hex blake2b-128 of a payload: equal for two photos only when their features are."""
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def split(payload: bytes) -> list[str]:
    """The payload as texts of at most 65,535 characters, in order; at least one."""
    starts = range(0, max(len(payload), 1), CHUNK_BYTES)
    return [pybase64.b64encode(payload[start : start + CHUNK_BYTES]).decode("ascii") for start in starts]


def join(chunks: Sequence[str], *, owner: str) -> bytearray:
    """Inverse of `split`; the bytes are writable. `owner` names whose they are in errors.

    Raises:
        CorruptPayloadError: a chunk is not base64.
    """
    payload = bytearray()
    for chunk in chunks:
        try:
            payload += pybase64.b64decode(chunk, validate=True)
        except ValueError:
            raise damaged(owner, "a chunk is not base64") from None
    return payload


def damaged(owner: str, reason: str) -> CorruptPayloadError:
    """The error that says whose bytes are damaged, how, and what to do."""
    return CorruptPayloadError(f"what Milvus holds of {owner} is damaged ({reason}): index it again")
