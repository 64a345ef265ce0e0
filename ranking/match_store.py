"""Verified pairs on disk: appended as they are computed, never computed twice, safe against a kill."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from extractor.features import LocalFeatures
from ranking.match_graph import MINIMUM_CONFIDENCE, MatchGraph
from ranking.pair_shards import (
    DIGEST,
    POINT,
    RECORD,
    Block,
    DamagedShardError,
    OpenShard,
    SealedShard,
    SortedRuns,
    read_journal,
    seal,
    sync,
)
from ranking.verification import Verification, Verifier

KEY_BYTES = DIGEST.itemsize
_VERSION = 3
_PAIRS_PER_FLUSH = 2000
_SHARD_PAIRS = 1 << 22
_SHARD_BYTES = 1 << 28
_BATCH = 1 << 20
"""Pairs that are looked up together."""
_HEX = re.compile(r"[0-9a-fA-F]{32}")
_SECOND = np.uint64(0xFFFFFFFF)
_FIRST = np.uint64(32)
_NEVER = np.uint64(0xFFFFFFFFFFFFFFFF)

Features = Callable[[Sequence[str]], Mapping[str, LocalFeatures]]
"""Gives the local features of the images with some digests, by digest."""

PairConfidence = Callable[[NDArray[np.int64], NDArray[np.void]], NDArray]
"""Gives float [P] from the places int64 [P, 2] and the records [P] of some pairs (see `MatchStore.among`)."""


class MatchStoreError(Exception):
    """The folder cannot serve as a match store; the message says why and what to do."""


class MatchStore:
    """Verifications of image pairs in a folder.

    An image is known by a digest of its features, 16 bytes in hex: when its photo or the extractor
    changes, so does the digest, and old pairs are never taken for new ones.

    Everything is appended to a journal, block by block with a checksum, and a journal of some million pairs
    is sealed into a shard that is sorted and mapped (see `ranking.pair_shards`). What a kill or a power cut
    left of the last blocks is cut off at the next start; as all is in one sequence, no image is joined whose
    pairs were lost. Opening reads the journal and the digests, but not the shards. One process at a time.

    Raises:
        MatchStoreError: another process has the folder open, it is of another version or damaged, or it was
            made by a verifier of another fingerprint.
    """

    def __init__(self, folder: Path, verifier: Verifier) -> None:
        """Open or create.

        Args:
            folder: where the pairs are.
            verifier: a backend of `ranking.verification`, or anything with a `fingerprint` and a `verify`.
        """
        self.folder = folder
        self.verifier = verifier
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / "lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise MatchStoreError(
                f"{folder} is in use by another process; wait until it ends, or give another folder"
            ) from None
        except OSError as error:
            raise MatchStoreError(f"{folder} cannot hold verified pairs: {error}") from None
        try:
            self._check_header()
            self._load()
        except BaseException:
            self._lock.release()
            raise

    def _check_header(self) -> None:
        header = {"version": _VERSION, "verifier": self.verifier.fingerprint}
        path = self.folder / "store.json"
        if not path.exists():
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                file.write(json.dumps(header).encode())
                sync(file)
            part.replace(path)
            return
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise MatchStoreError(
                f"{path} is damaged ({error}); delete {self.folder}, it is rebuilt"
            ) from None
        if isinstance(found, dict) and found.get("version") != _VERSION:
            raise MatchStoreError(
                f"{self.folder} is in format {found.get('version')} and this is format {_VERSION}; "
                "delete it or give another folder: its pairs are verified again"
            )
        if found != header:
            raise MatchStoreError(
                f"{self.folder} holds pairs of {found}, not of {header}; delete it or give another folder"
            )

    def _load(self) -> None:
        for part in self.folder.glob("*.part"):
            part.unlink()
        try:
            self._sealed = [SealedShard(path) for path in sorted(self.folder.glob("shard-*"))]
        except DamagedShardError as error:
            raise MatchStoreError(f"{error}; delete {self.folder}, it is rebuilt") from None
        if [shard.path for shard in self._sealed] != [self._shard(i) for i in range(len(self._sealed))]:
            raise MatchStoreError(f"a shard is missing in {self.folder}; delete the folder, it is rebuilt")
        if self._sealed:
            # A kill came between sealing it and its end.
            self._journal(len(self._sealed) - 1).unlink(missing_ok=True)
        journal = self._journal(len(self._sealed))
        block, size = read_journal(journal)
        if journal.exists() and journal.stat().st_size > size:
            with journal.open("r+b") as file:
                file.truncate(size)
        self._open = OpenShard(journal, block.records, size)
        self._digests = [shard.digests for shard in self._sealed] + [block.digests]
        self._count = sum(map(len, self._digests))
        self._images = SortedRuns(DIGEST)
        self._images.add(np.concatenate(self._digests), np.arange(self._count))
        self._joined = np.concatenate([*(shard.joined for shard in self._sealed), block.joined])
        self._joined_keys: set[str] | None = None

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}"

    def _journal(self, number: int) -> Path:
        return self.folder / f"journal-{number:05d}"

    @property
    def _shards(self) -> list[SealedShard | OpenShard]:
        return [*self._sealed, self._open]

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def close(self) -> None:
        """Let other processes have the folder; what was appended survives a power cut from now on."""
        if not self._lock.is_locked:
            return
        try:
            self._sync()
        finally:
            self._lock.release()

    def __enter__(self) -> MatchStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def missing(self, keys: Sequence[str], pairs: NDArray[np.integer]) -> NDArray[np.int64]:
        """The pairs that are not verified yet.

        Args:
            keys: digests of n images, each once.
            pairs: int [P, 2], places among the keys; repetitions, in either order, and pairs of an image
                with itself are passed over.

        Returns:
            int64 [M, 2], each missing pair once, the smaller digest first, in the order of the digests.

        Raises:
            ValueError: a place is out of range, or a key is no digest or stands twice.
        """
        images, pairs = _used(keys, pairs)
        return images.places[self._missing(images, pairs)]

    def _missing(self, images: _Images, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Missing pairs by the ranks of their digests, in that order."""
        pairs = pairs[pairs[:, 0] != pairs[:, 1]].astype(np.uint64)
        wanted = np.sort(pairs.min(1, initial=_SECOND) << _FIRST | pairs.max(1, initial=0))
        wanted = wanted[np.diff(wanted, prepend=_NEVER) != 0]
        ranks = np.stack([wanted >> _FIRST, wanted & _SECOND], axis=1).astype(np.int64)
        numbers = self._images.find(images.digests)[ranks]
        unknown = numbers.min(1, initial=0) < 0
        known = np.flatnonzero(~unknown)
        codes = _codes(numbers[known])
        known = known[np.argsort(codes)]
        codes = np.sort(codes)
        for shard in self._shards:
            left = shard.rows(codes) < 0
            codes, known = codes[left], known[left]
        unknown[known] = True
        return ranks[unknown]

    def verify(
        self,
        keys: Sequence[str],
        pairs: NDArray[np.integer],
        features: Features,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Verify the pairs that are not known yet and append them.

        A pair is verified from the smaller digest to the larger, so that it has one result whichever
        image asks. Interrupted at any moment, a second call goes on where the first ended.

        Args:
            keys: digests of n images, each once.
            pairs: int [P, 2], places among the keys, as for `missing`.
            features: gives the local features of some images.
            progress: told how many of how many missing pairs are done.

        Returns:
            How many pairs were verified.

        Raises:
            ValueError: as for `missing`.
        """
        images, pairs = _used(keys, pairs)
        missing = self._missing(images, pairs)
        done = 0
        for first, seconds in _portions(missing):
            chosen = np.concatenate([[first], seconds])
            names = [keys[place] for place in images.places[chosen].tolist()]
            found = features(names)
            photos = [found[name] for name in names]
            results = self.verifier.verify(photos[0], photos[1:])
            self._write(self._block(images.digests[chosen], photos, results))
            done += len(seconds)
            progress(done, len(missing))
        return done

    def _block(
        self, digests: NDArray[np.bytes_], photos: Sequence[LocalFeatures], results: Sequence[Verification]
    ) -> Block:
        """The results of the first photo against each of the others."""
        numbers, new = self._numbered(digests)
        records = np.zeros(len(results), RECORD)
        records["first"], records["second"] = numbers[0], numbers[1:]
        for name in ("putatives", "inliers"):
            records[name] = np.array([getattr(result, name) for result in results], RECORD[name])
        records["significance"] = [result.significance for result in results]
        ours, theirs = [], []
        for partner, result in zip(photos[1:], results, strict=True):
            ours.append(photos[0].keypoints[result.matches[:, 0]])
            theirs.append(partner.keypoints[result.matches[:, 1]])
        points = np.hstack([np.concatenate(ours), np.concatenate(theirs)])
        return Block(digests=new, records=records, points=np.clip(np.rint(points), 0, 65535).astype("<u2"))

    def _numbered(self, digests: NDArray[np.bytes_]) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
        """The numbers of images, and the digests of those that have none until they are written."""
        numbers = self._images.find(digests)
        new = numbers < 0
        numbers[new] = self._count + np.arange(new.sum())
        return numbers, digests[new]

    def _write(self, block: Block) -> None:
        try:
            data = block.encode(self._open.size)
            _append(self._open.path, data)
            self._images.add(block.digests, self._count + np.arange(len(block.digests)))
            self._digests.append(block.digests)
            self._count += len(block.digests)
            self._open.add(block.records, self._open.size + len(data))
            if len(self._open) >= _SHARD_PAIRS or (len(self._open) and self._open.size >= _SHARD_BYTES):
                seal(self._open.path, self._shard(len(self._sealed)))
                self._load()
        except BaseException:
            self._load()
            raise

    def _sync(self) -> None:
        if self._open.size:
            with self._open.path.open("r+b") as file:
                sync(file)

    @property
    def joined(self) -> set[str]:
        """Digests given to `join`, by this process or an earlier one."""
        if self._joined_keys is None:
            digests = np.concatenate(self._digests)[self._joined].tobytes().hex()
            width = 2 * KEY_BYTES
            self._joined_keys = {digests[i : i + width] for i in range(0, len(digests), width)}
        return self._joined_keys

    def join(self, keys: Iterable[str]) -> None:
        """Note that all candidates of these images are verified: `joined` holds them from now on."""
        new = sorted(set(keys) - self.joined)
        if new:
            numbers, unknown = self._numbered(_packed(new))
            self._write(Block(digests=unknown, joined=numbers.astype(np.uint32)))
            self._sync()
            self.joined.update(new)

    def among(self, keys: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """All verified pairs within a set of images.

        Args:
            keys: digests, each once; their places number the images.

        Returns:
            int64 [P, 2] places of the two images, and their P records, with the fields `putatives`,
            `inliers` and `significance`.

        Raises:
            ValueError: a key is no digest or stands twice.
        """
        parts = list(self.batches(keys))
        pairs = [np.zeros((0, 2), np.int64), *(pairs for pairs, _ in parts)]
        return np.concatenate(pairs), np.concatenate([np.zeros(0, RECORD), *(found for _, found in parts)])

    def batches(self, keys: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
        """The same as `among`, a million pairs at a time: for more pairs than fit into memory."""
        images = _Images.of(keys)
        numbers = self._images.find(images.digests)
        place = np.full(self._count, -1, np.int32)
        place[numbers[numbers >= 0]] = images.places[numbers >= 0]
        for shard in self._shards:
            for start in range(0, len(shard), _BATCH):
                codes = shard.codes[start : start + _BATCH]
                pairs = np.stack([place[codes >> _FIRST], place[codes & _SECOND]], axis=1)
                known = np.flatnonzero((pairs >= 0).all(1))
                if len(known):
                    yield pairs[known].astype(np.int64), shard.records[start + known]

    def graph(
        self, keys: Sequence[str], confidence: PairConfidence, minimum: float = MINIMUM_CONFIDENCE
    ) -> MatchGraph:
        """The match graph of some images, from all pairs of them that are verified.

        Args:
            keys: digests, each once; their places number the images of the graph.
            confidence: gives the probability that pairs are right, a million pairs or fewer at a time.
                `lambda pairs, records: records["inliers"]` with a minimum of 1 makes a graph of inliers.
            minimum: pairs below this confidence are left out, and take no memory.

        Raises:
            ValueError: a key is no digest or stands twice, or a confidence is not a number.
        """
        parts = []
        for pairs, records in self.batches(keys):
            sure = np.asarray(confidence(pairs, records), np.float32)
            if sure.shape != records.shape:
                raise ValueError(f"{len(records)} records, but confidences {list(sure.shape)}")
            kept = np.flatnonzero(~(sure < minimum))
            parts.append((pairs[kept].astype(np.int32), sure[kept]))
        if not parts:
            return MatchGraph.from_pairs(len(keys), np.zeros((0, 2), np.int32), [], minimum=minimum)
        joined, sure = (np.concatenate(column) for column in zip(*parts, strict=True))
        parts.clear()
        return MatchGraph.from_pairs(len(keys), joined, sure, minimum)

    def build(
        self,
        keys: Sequence[str],
        neighbours: NDArray[np.integer],
        features: Features,
        confidence: PairConfidence,
        *,
        images: NDArray[np.integer] | None = None,
        minimum: float = MINIMUM_CONFIDENCE,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> MatchGraph:
        """Verify the pairs of k-NN lists that are not known yet, and build the match graph.

        To add images or queries, append their digests to `keys` and give their lists alone (`images`), or
        all lists again: known pairs are not verified again, so adding 1 % of images costs about 1 % of the
        first build.

        Args:
            keys: digests of n images, each once.
            neighbours: int [m, k], places among the keys; -1 where a list is shorter. An image in its own
                list is passed over.
            features: gives the local features of some images.
            confidence: as for `graph`.
            images: int [m], whose lists they are; by default those of all images in order.
            minimum: as for `graph`.
            progress: told how many of how many lists are done.

        Returns:
            The match graph of the n images, with all pairs of them that the store knows.

        Raises:
            ValueError: the numbers of lists and images differ, or as for `missing` and `graph`.
        """
        owners = np.arange(len(keys)) if images is None else np.asarray(images)
        if neighbours.ndim != 2 or len(neighbours) != len(owners):
            raise ValueError(
                f"{len(owners)} images, but neighbours {list(neighbours.shape)}, not [{len(owners)}, k]"
            )
        rows = max(1, _BATCH // max(1, neighbours.shape[1]))
        for start in range(0, len(owners), rows):
            lists = neighbours[start : start + rows].astype(np.int64)
            pairs = np.stack(
                [np.broadcast_to(owners[start : start + rows, None], lists.shape), lists], axis=-1
            )
            self.verify(keys, pairs[lists != -1], features)
            progress(min(start + rows, len(owners)), len(owners))
        return self.graph(keys, confidence, minimum)

    def record(self, first: str, second: str) -> NDArray[np.void] | None:
        """The record of one pair in either order; None when it was not verified."""
        found = self._find(first, second)
        return None if found is None else found[1]

    def _find(self, first: str, second: str) -> tuple[SealedShard | OpenShard, NDArray[np.void]] | None:
        numbers = self._images.find(_packed(sorted((first, second))))
        if (numbers >= 0).all():
            code = _codes(numbers[None])
            for shard in self._shards:
                if (row := int(shard.rows(code)[0])) >= 0:
                    return shard, shard.records[row : row + 1].copy()
        return None

    def correspondences(self, first: str, second: str) -> NDArray[np.float32]:
        """The inliers of a pair.

        Returns:
            float32 [inliers, 4]: x, y in the first photo and x, y in the second, rounded to pixels of
            the original photos; empty when the pair was not verified.
        """
        found = self._find(first, second)
        if found is None:
            return np.zeros((0, 4), np.float32)
        shard, record = found
        with shard.path.open("rb") as file:
            file.seek(int(record["offset"][0]))
            raw = file.read(int(record["inliers"][0]) * POINT.itemsize)
        points = np.frombuffer(raw, POINT).astype(np.float32)
        return points if first < second else points[:, [2, 3, 0, 1]]


@dataclass(frozen=True, eq=False)
class _Images:
    """Images by ascending digest: the rank of an image is its place in that order.

    Attributes:
        digests: S16 [n], ascending.
        places: int64 [n], where each stood before.
    """

    digests: NDArray[np.bytes_]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, keys: Sequence[str]) -> _Images:
        digests = _packed(keys)
        order = np.argsort(digests, kind="stable")
        digests = digests[order]
        same = np.flatnonzero(digests[1:] == digests[:-1])
        if len(same):
            a, b = order[same[0]], order[same[0] + 1]
            raise ValueError(f"images {a} and {b} have the same digest {keys[a]}: give each image its own")
        return cls(digests, order)


def _used(keys: Sequence[str], pairs: NDArray[np.integer]) -> tuple[_Images, NDArray[np.int64]]:
    """The images that stand in pairs, and the pairs by their ranks."""
    pairs = np.asarray(pairs)
    if pairs.size and pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be places among the keys, got {pairs.dtype}")
    pairs = pairs.reshape(-1, 2).astype(np.int64, copy=False)
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= len(keys)):
        raise ValueError(f"pairs must join images 0 to {len(keys) - 1}, got {pairs.min()} to {pairs.max()}")
    used = np.zeros(len(keys), np.bool_)
    used[pairs] = True
    places = np.flatnonzero(used)
    images = _Images.of([keys[i] for i in places.tolist()])
    rank = np.zeros(len(keys), np.int64)
    rank[places[images.places]] = np.arange(len(places))
    return _Images(images.digests, places[images.places]), rank[pairs]


def _packed(keys: Sequence[str]) -> NDArray[np.bytes_]:
    """Digests in hex as S16 [n]."""
    wrong = [key for key in keys if len(key) != 2 * KEY_BYTES]
    try:
        digests = bytes.fromhex("".join(keys))
    except ValueError:
        digests = b""
    if wrong or len(digests) != len(keys) * KEY_BYTES:
        wrong += [key for key in keys if not _HEX.fullmatch(key)]
        raise ValueError(f"{wrong[0]!r} is no digest: it must have {2 * KEY_BYTES} hexadecimal digits")
    return np.frombuffer(digests, DIGEST)


def _codes(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The numbers of both images [P, 2] in one."""
    return numbers[:, 0].astype(np.uint64) << _FIRST | numbers[:, 1].astype(np.uint64)


def _portions(pairs: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Pairs grouped by their first image, in portions that are small enough to lose."""
    bounds = [*np.flatnonzero(np.diff(pairs[:, 0], prepend=-1)).tolist(), len(pairs)]
    for begin, end in pairwise(bounds):
        for start in range(begin, end, _PAIRS_PER_FLUSH):
            yield int(pairs[start, 0]), pairs[start : min(end, start + _PAIRS_PER_FLUSH), 1]


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
