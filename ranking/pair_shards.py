"""Verified pairs in files: a journal that grows block by block, and the sealed, sorted shards it turns into.

A block holds what one append adds, with a checksum over all of it, so that a journal is sound up to its
first damaged block, wherever a kill or a power cut left it. A sealed shard is never written again; its pairs
are sorted by their code, and it is mapped, not read.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

DIGEST = np.dtype("S16")
NUMBER = np.dtype("<u4")
CODE = np.dtype("<u8")
POINT = np.dtype(("<u2", (4,)))
RECORD = np.dtype(
    [
        ("first", "<u4"),
        ("second", "<u4"),
        ("putatives", "<u2"),
        ("inliers", "<u2"),
        ("significance", "<f4"),
        ("offset", "<u8"),
    ]
)
"""One pair: the numbers of its images, what verification found, and the byte where its points begin."""

_BLOCK = struct.Struct("<4s5I")
_BLOCK_MAGIC = b"LBmb"
_SHARD = struct.Struct("<8s4QI")
_SHARD_MAGIC = b"LBmatch3"
_SHARD_HEADER = 64


class DamagedShardError(Exception):
    """A sealed shard is not what was written."""


def codes(records: NDArray[np.void]) -> NDArray[np.uint64]:
    """uint64 [P], the numbers of both images in one."""
    return records["first"].astype(np.uint64) << np.uint64(32) | records["second"]


@dataclass
class Block:
    """What one append adds.

    Attributes:
        digests: S16 [I], images seen for the first time; their numbers go on from those before.
        joined: uint32 [J], numbers of images whose candidates are all done.
        records: [P] of `RECORD`; those with points come in their order.
        points: uint16 [Q, 4], x, y in the first and in the second photo.
    """

    digests: NDArray[np.bytes_] = field(default_factory=lambda: np.zeros(0, DIGEST))
    joined: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, NUMBER))
    records: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, RECORD))
    points: NDArray[np.uint16] = field(default_factory=lambda: np.zeros((0, 4), np.uint16))

    def encode(self, position: int) -> bytes:
        """The bytes of a block that begins at a byte of its journal; sets the offsets of the records."""
        before = self.digests.nbytes + self.joined.nbytes + self.records.nbytes
        self.records["offset"] = position + _BLOCK.size + before + _points_before(self.records)
        body = b"".join(part.tobytes() for part in (self.digests, self.joined, self.records, self.points))
        counts = len(self.digests), len(self.joined), len(self.records), len(self.points)
        crc = zlib.crc32(body, zlib.crc32(_BLOCK.pack(_BLOCK_MAGIC, *counts, 0)))
        return _BLOCK.pack(_BLOCK_MAGIC, *counts, crc) + body


def _points_before(records: NDArray[np.void]) -> NDArray[np.int64]:
    """Bytes of points of the records before each."""
    sizes = records["inliers"].astype(np.int64) * POINT.itemsize
    return np.cumsum(sizes) - sizes


def read_journal(path: Path) -> tuple[Block, int]:
    """All sound blocks of a journal as one, without their points, and the byte where they end."""
    blocks: list[Block] = []
    end = 0
    if path.exists():
        data = memoryview(path.read_bytes())
        while block := _decode(data, end):
            blocks.append(block[0])
            end = block[1]
    if not blocks:
        return Block(), end
    names = "digests", "joined", "records"
    return Block(*(np.concatenate([getattr(block, name) for block in blocks]) for name in names)), end


def _decode(data: memoryview, start: int) -> tuple[Block, int] | None:
    if len(data) < start + _BLOCK.size:
        return None
    magic, images, joined, pairs, points, crc = _BLOCK.unpack_from(data, start)
    body = start + _BLOCK.size
    bounds = [body]
    for count, dtype in ((images, DIGEST), (joined, NUMBER), (pairs, RECORD), (points, POINT)):
        bounds.append(bounds[-1] + count * dtype.itemsize)
    if magic != _BLOCK_MAGIC or len(data) < bounds[-1]:
        return None
    header = _BLOCK.pack(magic, images, joined, pairs, points, 0)
    if zlib.crc32(data[body : bounds[-1]], zlib.crc32(header)) != crc:
        return None
    block = Block(
        np.frombuffer(data, DIGEST, images, bounds[0]),
        np.frombuffer(data, NUMBER, joined, bounds[1]),
        np.frombuffer(data, RECORD, pairs, bounds[2]),
    )
    return block, bounds[-1]


class SortedRuns:
    """Distinct keys with a value each, in sorted runs of which each is at least twice as long as the next."""

    def __init__(self, dtype: np.dtype) -> None:
        self._runs: list[tuple[NDArray, NDArray[np.int64]]] = []
        self._dtype = dtype

    def add(self, keys: NDArray, values: NDArray[np.int64]) -> None:
        """Add keys that are not there yet, in any order."""
        if not len(keys):
            return
        run = _sorted(keys.astype(self._dtype), values)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            last = self._runs.pop()
            run = _sorted(np.concatenate([last[0], run[0]]), np.concatenate([last[1], run[1]]))
        self._runs.append(run)

    def find(self, keys: NDArray) -> NDArray[np.int64]:
        """The value of each key, -1 where there is none; quickest for ascending keys."""
        found = np.full(len(keys), -1, np.int64)
        for run, values in self._runs:
            places = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            hit = run[places] == keys
            found[hit] = values[places[hit]]
        return found


def _sorted(keys: NDArray, values: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int64]]:
    order = np.argsort(keys, kind="stable")
    return keys[order], values[order]


class OpenShard:
    """The pairs of the journal, in memory.

    Attributes:
        path: the journal.
        size: its length in bytes.
    """

    def __init__(self, path: Path, records: NDArray[np.void], size: int) -> None:
        self.path = path
        self.size = size
        self._room = records
        self._count = len(records)
        self._rows = SortedRuns(CODE)
        self._rows.add(codes(records), np.arange(len(records)))

    @property
    def records(self) -> NDArray[np.void]:
        """The records [P], in the order of their blocks."""
        return self._room[: self._count]

    @property
    def codes(self) -> NDArray[np.uint64]:
        """uint64 [P], their codes."""
        return codes(self.records)

    def __len__(self) -> int:
        return self._count

    def add(self, records: NDArray[np.void], size: int) -> None:
        """Note what was appended to the journal, which is so long now."""
        count = self._count + len(records)
        if count > len(self._room):
            room = np.empty(max(count, 2 * len(self._room)), RECORD)
            room[: self._count] = self.records
            self._room = room
        self._room[self._count : count] = records
        self._rows.add(codes(records), np.arange(self._count, count))
        self._count, self.size = count, size

    def rows(self, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The place of each code among the records, or -1."""
        return self._rows.find(wanted)


class SealedShard:
    """Pairs on disk, sorted by code and mapped.

    Attributes:
        path: its file.
        codes: uint64 [P], ascending.
        records: [P] of `RECORD`, in their order.
        digests: S16 [I], images first seen in it.
        joined: uint32 [J], images joined in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            header = file.read(_SHARD_HEADER)
            size = os.fstat(file.fileno()).st_size
        if len(header) < _SHARD_HEADER or header[:8] != _SHARD_MAGIC:
            raise DamagedShardError(f"{path} is not a shard of verified pairs")
        _, pairs, images, joined, points, crc = _SHARD.unpack_from(header)
        bounds = [_SHARD_HEADER]
        for count, dtype in ((pairs, CODE), (pairs, RECORD), (images, DIGEST), (joined, NUMBER)):
            bounds.append(bounds[-1] + count * dtype.itemsize)
        if crc != _header_crc(header) or size != bounds[-1] + points * POINT.itemsize:
            raise DamagedShardError(f"{path} is damaged: {size} bytes do not hold what its header says")
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        self.codes = data[bounds[0] : bounds[1]].view(CODE)
        self.records = data[bounds[1] : bounds[2]].view(RECORD)
        self.digests = data[bounds[2] : bounds[3]].view(DIGEST)
        self.joined = data[bounds[3] : bounds[4]].view(NUMBER)

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The place of each code among the records, or -1; quickest for ascending codes."""
        places = np.minimum(np.searchsorted(self.codes, wanted), len(self.codes) - 1)
        return np.where(self.codes[places] == wanted, places, -1)


def _header_crc(header: bytes) -> int:
    return zlib.crc32(header[: _SHARD.size - 4])


def seal(journal: Path, path: Path) -> None:
    """Write the pairs of a journal as a sealed shard: all of it, or nothing."""
    block, _ = read_journal(journal)
    records = block.records.copy()
    points = int(records["inliers"].sum())
    starts = records["offset"].astype(np.int64)
    order = np.argsort(codes(records))
    before = _SHARD_HEADER + len(records) * (CODE.itemsize + RECORD.itemsize)
    before += block.digests.nbytes + block.joined.nbytes
    records["offset"] = before + _points_before(records)
    header = _SHARD.pack(_SHARD_MAGIC, len(records), len(block.digests), len(block.joined), points, 0)
    header = header[:-4] + struct.pack("<I", _header_crc(header))
    part = path.with_suffix(".part")
    with part.open("wb") as file, journal.open("rb") as source:
        file.write(header.ljust(_SHARD_HEADER, b"\0"))
        file.write(codes(records)[order].data)
        file.write(records[order].data)
        file.write(block.digests.data)
        file.write(block.joined.data)
        for start, end in _spans(starts, starts + records["inliers"].astype(np.int64) * POINT.itemsize):
            source.seek(start)
            file.write(source.read(end - start))
        sync(file)
    part.replace(path)
    if os.name == "posix":
        # The journal goes next: the new name must be on disk before.
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _spans(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of bytes, at least one, those that follow one another as one."""
    new = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    firsts = np.concatenate([[0], new])
    lasts = np.concatenate([new, [len(starts)]]) - 1
    return zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True)


def sync(file: BinaryIO) -> None:
    """Have what was written survive a power cut."""
    file.flush()
    os.fsync(file.fileno())
