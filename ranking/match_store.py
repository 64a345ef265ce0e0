"""Verified pairs on disk: appended as they are computed, never computed twice, safe against a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from extractor.features import LocalFeatures
from ranking.region import covered_region
from ranking.verification import Verification, Verifier

KEY_BYTES = 16
_VERSION = 1
_PAIRS_PER_FLUSH = 2000
_RECORD = np.dtype(
    [
        ("first", "<u4"),
        ("second", "<u4"),
        ("putatives", "<u2"),
        ("inliers", "<u2"),
        ("significance", "<f4"),
        ("region_first", "<u8"),
        ("region_second", "<u8"),
        ("offset", "<u8"),
    ]
)
_POINTS = np.dtype(("<u2", (4,)))


class MatchStoreError(Exception):
    """The folder cannot serve as a match store; the message says why and what to do."""


class MatchStore:
    """Verifications of image pairs in a folder.

    An image is known by a digest of its features, 16 bytes in hex: when its photo or the extractor
    changes, so does the digest, and old pairs are never taken for new ones. The files grow by appending:
    digests (`images.bin`), inlier correspondences (`points.bin`), then the pairs (`pairs.bin`), and the
    digests of images whose candidates are all done (`joined.bin`); what a kill left half-written is cut
    off at the next start. One process at a time.

    Attributes:
        joined: digests given to `join`, by this process or an earlier one.

    Raises:
        MatchStoreError: another process has the folder open, it is of another version, or it was made
            by a verifier of another fingerprint.
    """

    def __init__(self, folder: Path, verifier: Verifier) -> None:
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
            part.write_text(json.dumps(header))
            part.replace(path)
            return
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise MatchStoreError(
                f"{path} is damaged ({error}); delete {self.folder}, it is rebuilt"
            ) from None
        if found != header:
            raise MatchStoreError(
                f"{self.folder} holds pairs of {found}, not of {header}; delete it or give another folder"
            )

    def _load(self) -> None:
        keys = _whole(self.folder / "images.bin", KEY_BYTES)
        points = _whole(self.folder / "points.bin", _POINTS.itemsize)
        records = np.frombuffer(_whole(self.folder / "pairs.bin", _RECORD.itemsize), _RECORD)
        self._keys = [keys[i : i + KEY_BYTES].hex() for i in range(0, len(keys), KEY_BYTES)]
        self._number = {key: i for i, key in enumerate(self._keys)}
        sound = (np.maximum(records["first"], records["second"]) < len(self._keys)) & (
            records["offset"] + records["inliers"] <= len(points) // _POINTS.itemsize
        )
        length = len(records) if sound.all() else int(np.argmin(sound))
        if length < len(records):
            with (self.folder / "pairs.bin").open("r+b") as file:
                file.truncate(length * _RECORD.itemsize)
        self._chunks = [records[:length].copy()]
        self._row = {pair: row for row, pair in enumerate(_codes(self._chunks[0]).tolist())}
        self._points = len(points) // _POINTS.itemsize
        joined = _whole(self.folder / "joined.bin", KEY_BYTES)
        self.joined = {joined[i : i + KEY_BYTES].hex() for i in range(0, len(joined), KEY_BYTES)}

    def __len__(self) -> int:
        return len(self._row)

    @property
    def _records(self) -> NDArray[np.void]:
        if len(self._chunks) > 1:
            self._chunks = [np.concatenate(self._chunks)]
        return self._chunks[0]

    def close(self) -> None:
        """Let other processes have the folder."""
        self._lock.release()

    def __enter__(self) -> MatchStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def missing(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The pairs of digests not verified yet, each once, smaller digest first, sorted."""
        wanted = {(a, b) if a < b else (b, a) for a, b in pairs if a != b}
        return sorted(pair for pair in wanted if self._code(*pair) not in self._row)

    def verify(
        self,
        pairs: Iterable[tuple[str, str]],
        features: Callable[[Sequence[str]], Mapping[str, LocalFeatures]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Verify the pairs that are not known yet and append them.

        A pair is verified from the smaller digest to the larger, so that it has one result whichever
        image asks. Interrupted at any moment, a second call goes on where the first ended.

        Args:
            pairs: digests of two images each.
            features: gives the local features of the images with some digests.
            progress: told how many of how many missing pairs are done.

        Returns:
            How many pairs were verified.
        """
        missing = self.missing(pairs)
        done = 0
        for first, seconds in _portions(missing):
            found = features([first, *seconds])
            results = self.verifier.verify(found[first], [found[second] for second in seconds])
            try:
                self._append(first, found[first], seconds, [found[second] for second in seconds], results)
            except BaseException:
                self._load()
                raise
            done += len(seconds)
            progress(done, len(missing))
        return done

    def _append(
        self,
        first: str,
        features: LocalFeatures,
        seconds: Sequence[str],
        partners: Sequence[LocalFeatures],
        results: Sequence[Verification],
    ) -> None:
        records = np.zeros(len(results), _RECORD)
        points = []
        numbers = self._numbers([first, *seconds])
        for record, number, partner, result in zip(records, numbers[1:], partners, results, strict=True):
            ours, theirs = result.matches[:, 0], result.matches[:, 1]
            record["first"], record["second"] = numbers[0], number
            record["putatives"], record["inliers"] = result.putatives, result.inliers
            record["significance"] = result.significance
            record["region_first"] = covered_region(features, ours)
            record["region_second"] = covered_region(partner, theirs)
            record["offset"] = self._points
            self._points += result.inliers
            points.append(np.hstack([features.keypoints[ours], partner.keypoints[theirs]]))
        rounded = np.clip(np.rint(np.concatenate(points)), 0, 65535).astype("<u2")
        _append(self.folder / "points.bin", rounded.tobytes())
        _append(self.folder / "pairs.bin", records.tobytes())
        for row, code in enumerate(_codes(records).tolist(), len(self._row)):
            self._row[code] = row
        self._chunks.append(records)

    def _numbers(self, keys: Sequence[str]) -> list[int]:
        new = [key for key in dict.fromkeys(keys) if key not in self._number]
        if new:
            _append(self.folder / "images.bin", b"".join(bytes.fromhex(key) for key in new))
            for key in new:
                self._number[key] = len(self._keys)
                self._keys.append(key)
        return [self._number[key] for key in keys]

    def _code(self, first: str, second: str) -> int:
        if first not in self._number or second not in self._number:
            return -1
        return self._number[first] << 32 | self._number[second]

    def join(self, keys: Iterable[str]) -> None:
        """Note that all candidates of these images are verified: `joined` holds them from now on."""
        new = sorted(set(keys) - self.joined)
        _append(self.folder / "joined.bin", b"".join(bytes.fromhex(key) for key in new))
        self.joined.update(new)

    def among(self, keys: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """All verified pairs within a set of images.

        Args:
            keys: digests, each once; their places number the images.

        Returns:
            int64 [P, 2] places of the two images, and their P records, with the fields `putatives`,
            `inliers`, `significance`, `region_first` and `region_second`.
        """
        place = np.full(len(self._keys) + 1, -1, np.int64)
        for i, key in enumerate(keys):
            if key in self._number:
                place[self._number[key]] = i
        pairs = np.stack([place[self._records["first"]], place[self._records["second"]]], axis=1)
        known = (pairs >= 0).all(1)
        return pairs[known], self._records[known]

    def record(self, first: str, second: str) -> NDArray[np.void] | None:
        """The record of one pair in either order, its regions as stored; None when it was not verified."""
        row = self._row.get(self._code(*sorted((first, second))))
        return None if row is None else self._records[row : row + 1]

    def correspondences(self, first: str, second: str) -> NDArray[np.float32]:
        """The inliers of a pair.

        Returns:
            float32 [inliers, 4]: x, y in the first photo and x, y in the second, rounded to pixels of
            the original photos; empty when the pair was not verified.
        """
        record = self.record(first, second)
        if record is None:
            return np.zeros((0, 4), np.float32)
        with (self.folder / "points.bin").open("rb") as file:
            file.seek(int(record["offset"][0]) * _POINTS.itemsize)
            raw = file.read(int(record["inliers"][0]) * _POINTS.itemsize)
        points = np.frombuffer(raw, "<u2").reshape(-1, 4).astype(np.float32)
        return points if first < second else points[:, [2, 3, 0, 1]]


def _codes(records: NDArray[np.void]) -> NDArray[np.int64]:
    return records["first"].astype(np.int64) << 32 | records["second"].astype(np.int64)


def _portions(pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Pairs grouped by their first digest, in portions that are small enough to lose."""
    for first, group in groupby(pairs, key=lambda pair: pair[0]):
        seconds = [second for _, second in group]
        for start in range(0, len(seconds), _PAIRS_PER_FLUSH):
            yield first, seconds[start : start + _PAIRS_PER_FLUSH]


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _whole(path: Path, size: int) -> bytes:
    """The content of a file of records; a torn last record is cut off on disk."""
    if not path.exists():
        path.touch()
    data = path.read_bytes()
    torn = len(data) % size
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(data) - torn)
        data = data[:-torn]
    return data
