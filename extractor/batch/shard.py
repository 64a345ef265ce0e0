"""Extracting one shard: some hundred photos, whose feature files and list are written whole or not at all."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.files import StoredFeatures, write_features
from extractor.files.extraction import Entry, Extraction
from extractor.files.read import read_shard
from extractor.photo import PhotoError
from extractor.registry import create_extractor
from extractor.weights import WeightsError


def load_extractor(extraction: Extraction, device: str, dtype: str) -> Extractor:
    """The extractor of an extraction, ready to be used.

    Raises:
        ValueError: this release, or the weights that are here, give other features; or see `Extractor.to`.
    """
    extractor = create_extractor(extraction.extractor).to(device, dtype)
    if extractor.learns and extraction.learnt is not None:
        extractor.restore(extraction.learnt)
    if extractor.fingerprint != extraction.fingerprint:
        raise ValueError(
            f"{extraction.folder} holds features of {extraction.fingerprint}, this is "
            f"{extractor.fingerprint}: use the release that made them, or give another folder"
        )
    return extractor


def portable(error: Exception) -> Exception:
    """What a worker process reports: expected errors by their message, others with where they happened."""
    if isinstance(error, (ValueError, OSError, WeightsError)):
        return ValueError(str(error))
    return RuntimeError("".join(traceback.format_exception(error)))


def waiting(extraction: Extraction, shard: int, entries: Sequence[Entry]) -> set[str]:
    """Ids of the photos of a shard that have no features, or whose file is there, but not as it was."""

    def is_current(entry: Entry) -> bool:
        if not entry.done or not all(file.exists() for file in extraction.files(shard, entry.image_id)):
            return False
        return _source(entry.path) in ((None, None), (entry.file_bytes, entry.modified_ns))

    return {entry.image_id for entry in entries if not is_current(entry)}


def extract_shard(extraction: Extraction, shard: int, extractor: Extractor, done: Callable[[], None]) -> None:
    """Extract the photos of a shard, but for those that are there unchanged.

    Args:
        extraction: where it belongs.
        shard: its number.
        extractor: what made the rest of the extraction.
        done: called after each photo that was extracted, or could not be.
    """
    before = extraction.entries(shard)
    new = waiting(extraction, shard, before)
    sources = {entry.image_id: _source(entry.path) for entry in before if entry.image_id in new}
    fresh = extractor.extract_many(
        (entry.image_id, Path(entry.path)) for entry in before if entry.image_id in new
    )
    there: Mapping[str, StoredFeatures] = read_shard(extraction, shard)
    after: list[Entry] = []

    def extracted() -> Iterator[StoredFeatures]:
        for entry in before:
            if entry.image_id not in new:
                after.append(entry)
                if extraction.is_sharded:
                    yield there[entry.image_id]
                continue
            file_bytes, modified_ns = sources[entry.image_id]
            result = next(fresh)
            done()
            changed = replace(entry, file_bytes=file_bytes, modified_ns=modified_ns, size=None, failed="")
            if isinstance(result, PhotoError):
                after.append(replace(changed, failed=result.reason))
            else:
                after.append(replace(changed, size=result.size))
                yield _to_store(result, exact=extraction.format == "npz")

    _write(extraction, shard, extracted())
    if not extraction.is_sharded:
        for entry in after:
            if not entry.done:
                for file in extraction.files(shard, entry.image_id):
                    file.unlink(missing_ok=True)
    extraction.write_entries(shard, after)


def _source(path: str) -> tuple[int | None, int | None]:
    """Size and time of a file; (None, None) where it cannot be looked at."""
    try:
        status = Path(path).stat()
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns


def _to_store(features: ImageFeatures, exact: bool) -> StoredFeatures:
    """What is written of a photo: int8 descriptors, as a collection holds them, where the file can."""
    local = features.local.quantised() if exact else features.local
    return StoredFeatures(features.image_id, local, features.global_descriptor, features.size)


def _write(extraction: Extraction, shard: int, features: Iterator[StoredFeatures]) -> None:
    if not extraction.is_sharded:
        write_features(extraction.features, features, extraction.format)
        return
    file = extraction.files(shard, "")[0]
    first = next(features, None)
    if first is None:
        file.unlink(missing_ok=True)
    else:
        write_features(file, chain([first], features))
