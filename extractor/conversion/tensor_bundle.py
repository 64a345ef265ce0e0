"""TensorFlow checkpoints in the format TensorBundle, read without TensorFlow.

A checkpoint is a LevelDB table `*.index`, which says of each variable its type, shape, place and checksum,
and files `*.data-00000-of-00001`, which hold the values one behind the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractor.conversion.crc32c import masked_crc32c
from extractor.conversion.protocol_buffers import Message, WireError, varint
from extractor.weights import WeightsError

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5  # behind each block: how it is compressed, and its checksum
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 10: "|b1"}
_STRING = 7
_AGAIN = "download it again"

# Fields of a BundleHeaderProto, and of a BundleEntryProto.
_SHARDS, _ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CHECKSUM, _SLICES = range(1, 8)


class TensorBundle:
    """The variables of a checkpoint.

    Args:
        index: its file `*.index`.

    Raises:
        WeightsError: the file is missing, cut off, damaged or no such index.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        try:
            data = index.read_bytes()
        except OSError as error:
            raise WeightsError(f"cannot read {index}: {error.strerror}") from error
        try:
            entries = {key.decode(): Message(value) for key, value in _table(data)}
        except (WireError, UnicodeDecodeError, struct.error) as error:
            message = f"{index} is no index of a TensorFlow checkpoint: {error}; {_AGAIN}"
            raise WeightsError(message) from error
        header = entries.pop("", Message(b""))
        if header.number(_ENDIANNESS):
            raise WeightsError(f"{index} is of a big-endian machine, which cannot be read")
        self._shards = header.number(_SHARDS)
        self._entries = entries

    @property
    def names(self) -> list[str]:
        """Names of all variables, sorted."""
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable."""
        return _shape(self._entries[name])

    def array(self, name: str) -> NDArray[np.generic]:
        """Values of a variable.

        Raises:
            WeightsError: the data is missing, cut off or damaged, or of a type that no weights have.
        """
        entry = self._entries[name]
        dtype = _DTYPES.get(entry.number(_DTYPE))
        if dtype is None:
            number = entry.number(_DTYPE)
            raise WeightsError(f"{name} of {self.index} is of the type {number}, which no weights are of")
        data = self._bytes(name)
        self._check(name, data)
        values = np.frombuffer(data, dtype)
        if len(values) != prod(_shape(entry)):
            raise WeightsError(
                f"{self.index} gives {name} the shape {_shape(entry)} and {len(values)} values"
            )
        return values.reshape(_shape(entry)).copy()

    def text(self, name: str) -> bytes:
        """A variable that is one byte string.

        Raises:
            WeightsError: it is missing, cut off or damaged, or something else.
        """
        entry = self._entries[name]
        if entry.number(_DTYPE) != _STRING or _shape(entry):
            raise WeightsError(f"{name} of {self.index} is not one string")
        data = self._bytes(name)
        try:
            length, at = varint(data, 0)
        except WireError:
            length, at = len(data), 0
        # The checksum is of the length as a number of four bytes, of the length's own checksum, and the text.
        self._check(name, struct.pack("<Q", length)[:4] + data[at:])
        return data[at + 4 :]

    def _check(self, name: str, data: bytes) -> None:
        entry = self._entries[name]
        if struct.pack("<I", masked_crc32c(data)) != entry.data(_CHECKSUM):
            raise WeightsError(f"{self._shard(entry)} is damaged: the checksum of {name} is wrong; {_AGAIN}")

    def _shard(self, entry: Message) -> Path:
        return self.index.with_suffix(f".data-{entry.number(_SHARD):05d}-of-{self._shards:05d}")

    def _bytes(self, name: str) -> bytes:
        entry = self._entries[name]
        if entry.all_data(_SLICES):
            raise WeightsError(f"{name} of {self.index} is stored in slices, which cannot be read")
        path, size = self._shard(entry), entry.number(_SIZE)
        try:
            with path.open("rb") as file:
                file.seek(entry.number(_OFFSET))
                data = file.read(size)
        except OSError as error:
            raise WeightsError(f"cannot read {path}: {error.strerror}") from error
        if len(data) != size:
            raise WeightsError(
                f"{path} is cut off: {name} should end at byte {entry.number(_OFFSET) + size}, and the file "
                f"ends at {path.stat().st_size}; {_AGAIN}"
            )
        return data


def _shape(entry: Message) -> tuple[int, ...]:
    return tuple(dimension.number(1) for dimension in Message(entry.data(_SHAPE)).messages(2))


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise WireError("its end is missing")
    footer = data[-_FOOTER:]
    *_, at = _handle(footer, 0)  # of the meta index, which is empty
    start, size, _ = _handle(footer, at)
    for _, handle in _block(data, start, size):
        start, size, _ = _handle(handle, 0)
        yield from _block(data, start, size)


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Where a block starts, how long it is, and the place behind the handle."""
    start, at = varint(data, at)
    size, at = varint(data, at)
    return start, size, at


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; keys leave out what they share with the key before."""
    end = start + size
    if end + _TRAILER > len(data):
        raise WireError("it is cut off")
    if struct.pack("<I", masked_crc32c(data[start : end + 1])) != data[end + 1 : end + _TRAILER]:
        raise WireError(f"the checksum of the block at byte {start} is wrong")
    if data[end]:
        raise WireError("it is compressed, which TensorFlow has not done since version 1.2")
    block = data[start:end]
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    key, at = b"", 0
    while at < size - 4 * (restarts + 1):
        shared, at = varint(block, at)
        own, at = varint(block, at)
        length, at = varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own + length
        yield key, block[at - length : at]
