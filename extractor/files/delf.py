"""Files of DELF and DELG: `.delf` and `.delg_local` (proto2 `DelfFeatures`), `.delg_global` (`DatumProto`).

message DelfFeatures { repeated DelfFeature feature = 1; }
message DelfFeature {
    DatumProto descriptor = 1;
    float x = 2; float y = 3; float scale = 4; float orientation = 5; float strength = 6;
}
message DatumProto { DatumShape shape = 1; FloatList float_list = 2; }
message DatumShape { repeated int64 dim = 1; }    message FloatList { repeated float value = 1; }

Repeated numbers are read packed or not, unknown fields are passed over, and what occurs twice is joined or
replaced, as Protocol Buffers have it.
"""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from extractor.features import LocalFeatures
from extractor.files.stored_features import Arrays, FeatureFileError, unit_descriptors

_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_FIELDS = ("x", "y", "scale", "orientation", "strength")
_CUT = "it is cut off, or damaged"


def read_local(path: Path) -> Arrays:
    """Read a `.delf` or `.delg_local`; an empty file has no features.

    Returns:
        keypoints float32 [N, 2], scales float32 [N] (1 / the scale of the image in the pyramid), scores
        float32 [N] (attention), descriptors float32 [N, d].

    Raises:
        FeatureFileError: it is cut off or damaged, or descriptors do not have one length.
    """
    fields, values, lengths, products = _decoded(path, _decode_features)
    lengths //= 4
    dimension = int(lengths[0]) if len(lengths) else 0
    wrong = np.flatnonzero((lengths != dimension) | ((products >= 0) & (products != lengths)))
    if len(wrong):
        said = products[wrong[0]] if products[wrong[0]] >= 0 else dimension
        raise FeatureFileError(
            path, f"descriptor {wrong[0]} has {lengths[wrong[0]]} values, and should have {said}"
        )
    descriptors = values.view("<f4").reshape(len(lengths), dimension)
    x, y, scales, _, scores = fields.view("<f4").T
    return {
        "keypoints": np.stack([x, y], axis=1),
        "scales": scales,
        "scores": scores,
        "descriptors": descriptors,
    }


def read_global(path: Path) -> Arrays:
    """Read a `.delg_global`.

    Returns:
        global_descriptor float32 [D].

    Raises:
        FeatureFileError: it is cut off or damaged, or does not hold one vector.
    """
    values, product, longest = _decoded(path, _decode_datum)
    vector = values.view("<f4")
    if product >= 0 and not product == longest == len(vector):
        raise FeatureFileError(path, f"it has {len(vector)} values, and another shape than one vector")
    return {"global_descriptor": vector}


def _decoded(path: Path, decode):  # type: ignore[no-untyped-def]
    try:
        return decode(np.fromfile(path, np.uint8))
    except ValueError as error:
        raise FeatureFileError(path, str(error)) from None


def write_local(path: Path, local: LocalFeatures) -> None:
    """Write a `.delf` or `.delg_local`; orientations are 0, int8 descriptors become unit vectors."""
    values = 4 * local.dimension
    datum = _datum_head(local.dimension)
    descriptor = _tag(1, _BYTES) + _varint_bytes(len(datum) + values) + datum
    length = len(descriptor) + values + 5 * len(_FIELDS)
    head = _tag(1, _BYTES) + _varint_bytes(length) + descriptor
    columns: list[tuple] = [("head", f"V{len(head)}"), ("descriptor", "<f4", (local.dimension,))]
    for name in _FIELDS:
        columns += [(f"tag_{name}", "u1"), (name, "<f4")]
    features = np.zeros(len(local), np.dtype(columns))
    features["head"] = np.void(head)
    features["descriptor"] = unit_descriptors(local)
    for number, name in enumerate(_FIELDS, 2):
        features[f"tag_{name}"] = _tag(number, _FIXED32)[0]
    features["x"], features["y"] = local.keypoints.T
    features["scale"], features["strength"] = local.scales, local.scores
    path.write_bytes(features.tobytes())


def write_global(path: Path, descriptor: NDArray[np.float32]) -> None:
    """Write a `.delg_global` of a descriptor [D]."""
    path.write_bytes(_datum_head(len(descriptor)) + descriptor.astype("<f4").tobytes())


def _datum_head(length: int) -> bytes:
    """What stands before the values of a vector in a `DatumProto`."""
    dimensions = _varint_bytes(length)
    shape = _tag(1, _BYTES) + _varint_bytes(len(dimensions)) + dimensions
    packed = _tag(1, _BYTES) + _varint_bytes(4 * length)
    listed = _tag(2, _BYTES) + _varint_bytes(len(packed) + 4 * length) + packed
    return _tag(1, _BYTES) + _varint_bytes(len(shape)) + shape + listed


def _tag(number: int, wire: int) -> bytes:
    return _varint_bytes(number << 3 | wire)


def _varint_bytes(value: int) -> bytes:
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


@numba.njit(cache=True, nogil=True)
def _varint(data, at, end):  # type: ignore[no-untyped-def]
    """A number, and where it ends."""
    value = np.uint64(0)
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << np.uint64(shift)
        if byte < 0x80:
            return value, at
    raise ValueError(_CUT)


@numba.njit(cache=True, nogil=True)
def _value(data, at, end, wire):  # type: ignore[no-untyped-def]
    """Where the value of a field that is no group begins and ends."""
    stop = at
    if wire == _VARINT:
        _, stop = _varint(data, at, end)
    elif wire == _FIXED64:
        stop = at + 8
    elif wire == _FIXED32:
        stop = at + 4
    elif wire == _BYTES:
        length, at = _varint(data, at, end)
        if length > np.uint64(end - at):
            raise ValueError(_CUT)
        stop = at + np.int64(length)
    else:
        raise ValueError(_CUT)
    if stop > end:
        raise ValueError(_CUT)
    return at, stop


@numba.njit(cache=True, nogil=True)
def _tag_at(data, at, end):  # type: ignore[no-untyped-def]
    """Number and wire type of a field, and where its value begins."""
    tag, at = _varint(data, at, end)
    number, wire = np.int64(tag >> np.uint64(3)), np.int64(tag & np.uint64(7))
    if number == 0 or tag > np.uint64(0xFFFFFFFF):
        raise ValueError(_CUT)
    return number, wire, at


@numba.njit(cache=True, nogil=True)
def _field(data, at, end):  # type: ignore[no-untyped-def]
    """Number and wire type of a field, and where its value begins and ends."""
    number, wire, start = _tag_at(data, at, end)
    if wire != _GROUP:
        start, stop = _value(data, start, end, wire)
        return number, wire, start, stop
    stop = start
    groups = [number]
    while groups:
        inner, kind, stop = _tag_at(data, stop, end)
        if kind == _GROUP:
            groups.append(inner)
        elif kind != _END_GROUP:
            _, stop = _value(data, stop, end, kind)
        elif groups.pop() != inner:
            raise ValueError(_CUT)
    return number, wire, start, stop


@numba.njit(cache=True, nogil=True)
def _datum(data, at, end, values, filled, product, longest):  # type: ignore[no-untyped-def]
    """Append the bytes of a datum's values; where they end, the product of its dimensions and the largest.

    The product is -1 until there is a shape.
    """
    while at < end:
        number, wire, start, stop = _field(data, at, end)
        at = stop
        if wire != _BYTES or number not in (1, 2):
            continue
        if number == 1:
            product = max(product, 1)
        while start < stop:
            inner, kind, first, last = _field(data, start, stop)
            start = last
            if inner != 1:
                continue
            if number == 1 and kind in (_VARINT, _BYTES):
                while first < last:
                    dimension, first = _varint(data, first, last)
                    product *= np.int64(dimension)
                    longest = max(longest, np.int64(dimension))
            elif number == 2 and kind in (_FIXED32, _BYTES):
                if (last - first) % 4:
                    raise ValueError(_CUT)
                values[filled : filled + last - first] = data[first:last]
                filled += last - first
    return filled, product, longest


@numba.njit(cache=True, nogil=True)
def _decode_datum(data):  # type: ignore[no-untyped-def]
    values = np.empty(len(data), np.uint8)
    filled, product, longest = _datum(data, 0, len(data), values, 0, np.int64(-1), np.int64(0))
    return values[:filled], product, longest


@numba.njit(cache=True, nogil=True)
def _decode_features(data):  # type: ignore[no-untyped-def]
    """Bytes of the features' numbers [N, 20] and of all descriptors; how many of each, and their shapes."""
    end = len(data)
    count, at = 0, 0
    while at < end:
        number, wire, _, at = _field(data, at, end)
        count += number == 1 and wire == _BYTES
    fields = np.zeros((count, 20), np.uint8)
    values = np.empty(end, np.uint8)
    lengths = np.empty(count, np.int64)
    products = np.empty(count, np.int64)
    filled, feature, at = 0, 0, 0
    while at < end:
        number, wire, start, stop = _field(data, at, end)
        at = stop
        if number != 1 or wire != _BYTES:
            continue
        before, product, longest = filled, np.int64(-1), np.int64(0)
        while start < stop:
            inner, kind, first, last = _field(data, start, stop)
            start = last
            if inner == 1 and kind == _BYTES:
                filled, product, longest = _datum(data, first, last, values, filled, product, longest)
            elif 2 <= inner <= 6 and kind == _FIXED32:
                fields[feature, 4 * inner - 8 : 4 * inner - 4] = data[first:last]
        lengths[feature], products[feature] = filled - before, product
        feature += 1
    return fields, values[:filled], lengths, products
