"""Adding to a collection: what is new is told from what is there, staged, whitened and published.

Stopped at any moment, the same again goes on where it ended and comes to the same collection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from connector.collection import Collection, Record, Source
from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import PhotoError
from extractor.sampling import hash_sample
from extractor.whitening import Whitening
from landbridge.photos import photos_in
from landbridge.retrieval import Progress

T = TypeVar("T")

Extract = Callable[[Sequence[str]], Iterator[ImageFeatures | PhotoError]]
"""Gives the features of photos by their ids, in this order, or why there are none."""

LEARNT = "extractor"
"""The blob of a collection that holds what its extractor learnt."""

_WHITENING = "whitening"
_WHITENING_SAMPLE = 2000
_BATCH = 32


@dataclass(frozen=True)
class Added:
    """What was added.

    Attributes:
        added: ids of photos that are new, or were changed since they were added.
        unchanged: how many were there already.
        failed: photos that could not be added, and why.
        verified: how many pairs of photos were verified.
    """

    added: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    verified: int = 0


@dataclass(frozen=True)
class Arrivals:
    """Photos that are to be in a collection.

    Attributes:
        new: the files of those that are not there, or were changed, by id.
        moved: the files of those that are there unchanged, but from another place.
        unchanged: how many are there already, moved ones among them.
        failed: those that cannot be added, and why.
    """

    new: dict[str, Source] = field(default_factory=dict)
    moved: dict[str, Source] = field(default_factory=dict)
    unchanged: int = 0
    failed: dict[Path, str] = field(default_factory=dict)


def photo_sources(
    photos: str | Path | Mapping[str, str | Path],
) -> tuple[dict[str, Source], dict[Path, str]]:
    """The files of a folder of photos, of one photo or of photos by id; and those that are none, and why."""
    failed: dict[Path, str] = {}
    if isinstance(photos, Mapping):
        named = {image_id: Path(path) for image_id, path in photos.items()}
    else:
        named, failed = photos_in(Path(photos))
    sources = {}
    for image_id, path in named.items():
        try:
            status = path.stat()
        except OSError as error:
            failed[path] = f"cannot be read: {error.strerror}"
        else:
            sources[image_id] = Source(str(path.resolve()), status.st_size, status.st_mtime_ns)
    return sources, failed


def arrivals(collection: Collection, sources: Mapping[str, Source], failed: dict[Path, str]) -> Arrivals:
    """Tell what is new from what a collection holds.

    A photo is there already when one of its id was made of a file of this size and time. One whose id belongs
    to another file, which is still there, is refused.
    """
    there = {record.image_id: record for record in collection.published()}
    new, moved, unchanged = {}, {}, 0
    for image_id, source in sources.items():
        record = there.get(image_id)
        if record is None:
            new[image_id] = source
        elif (record.file_bytes, record.modified_ns) == (source.file_bytes, source.modified_ns):
            unchanged += 1
            if record.path != source.path:
                moved[image_id] = source
        elif record.path != source.path and _exists(Path(record.path)):
            failed[Path(source.path)] = (
                f"goes by the same id as {record.path} ({image_id}): rename it, index a folder above both, "
                "or use another collection"
            )
        else:
            new[image_id] = source
    return Arrivals(new, moved, unchanged, failed)


def _exists(path: Path) -> bool:
    """Whether a file is there, or the feature file in which a photo goes by the last parts of the path."""
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    return there.is_file()


def note_moved(collection: Collection, moved: Mapping[str, Source]) -> None:
    """Write the new places of photos that are otherwise unchanged."""
    for part in _parts(list(moved), _BATCH):
        _, embeddings = collection.embeddings(part)
        records = collection.stage(list(_stored(collection, part)), [moved[i] for i in part])
        collection.publish(records, embeddings)


def embedding_dimension(wanted: int | None, full: int, photos: int) -> int:
    """Components of the embeddings of a new collection.

    Args:
        wanted: to which global descriptors are to be whitened; None keeps all.
        full: components of the global descriptors.
        photos: how many there are to fit the whitening to.

    Raises:
        ValueError: so many photos do not give so many components.
    """
    if wanted is None:
        return full
    most = min(full - 1, min(photos, _WHITENING_SAMPLE) - 1)
    if not 1 <= wanted <= most:
        raise ValueError(
            f"cannot whiten {full} components to {wanted} with {photos} photos: give a "
            f"dimension from 1 to {most}, or none to centre them only"
        )
    return wanted


def stored_whitening(collection: Collection) -> Whitening | None:
    """The map from global descriptors to embeddings; None until it was fitted."""
    data = collection.get_blob(_WHITENING)
    return None if data is None else Whitening.from_bytes(data)


def ingest(
    collection: Collection,
    arriving: Arrivals,
    extractor: Extractor,
    extract: Extract,
    progress: Progress,
) -> None:
    """Stage all new photos, fit the whitening when there is none, publish.

    Args:
        collection: where they go.
        arriving: the photos; those that have no features are noted in `failed`.
        extractor: what makes the features.
        extract: gives the features of photos by id, or why there are none.
        progress: told about it.
    """
    new = arriving.new
    if extractor.learnt is not None and collection.get_blob(LEARNT) is None:
        collection.put_blob(LEARNT, extractor.learnt)
    staged = {record.image_id: record for record in collection.staged()}
    staged = {i: record for i, record in staged.items() if new.get(i) == record.source}
    whitening = stored_whitening(collection)
    waiting = [image_id for image_id in new if image_id not in staged]
    done = len(staged)
    progress("extract", done, len(new))
    if whitening is None:
        sample = hash_sample(new, _WHITENING_SAMPLE)
        chosen = set(sample)
        for batch in _staging(collection, arriving, extract, [i for i in waiting if i in chosen]):
            staged |= {record.image_id: record for record, _ in batch}
            done += _BATCH
            progress("extract", min(done, len(new)), len(new))
        fitted = [i for i in sample if i in staged]
        if not fitted:
            return
        whitening = _fit_whitening(collection, fitted, extractor.dimension)
        waiting = [image_id for image_id in waiting if image_id not in chosen]
    for part in _parts(list(staged.values()), _BATCH):
        ids = [record.image_id for record in part]
        descriptors = np.stack([f.global_descriptor for f in _stored(collection, ids)])
        collection.publish(part, whitening.apply(descriptors))
    for batch in _staging(collection, arriving, extract, waiting):
        if batch:
            descriptors = np.stack([features.global_descriptor for _, features in batch])
            collection.publish([record for record, _ in batch], whitening.apply(descriptors))
        done += _BATCH
        progress("extract", min(done, len(new)), len(new))


def _fit_whitening(collection: Collection, image_ids: Sequence[str], dimension: int) -> Whitening:
    """Fit the whitening to staged photos of so many components, and keep it."""
    descriptors = np.stack([f.global_descriptor for f in _stored(collection, image_ids)])
    components = collection.dimension
    whitening = Whitening.fit(descriptors, None if components == dimension else components)
    collection.put_blob(_WHITENING, whitening.to_bytes())
    return whitening


def _staging(
    collection: Collection, arriving: Arrivals, extract: Extract, image_ids: Sequence[str]
) -> Iterator[list[tuple[Record, ImageFeatures]]]:
    """Extract photos and write their features, a batch at a time; what fails is noted."""
    extracted = extract(image_ids)
    for part in _parts(image_ids, _BATCH):
        found = []
        for image_id, result in zip(part, islice(extracted, len(part)), strict=True):
            if isinstance(result, PhotoError):
                arriving.failed[Path(arriving.new[image_id].path)] = result.reason
            else:
                found.append(result)
        records = collection.stage(found, [arriving.new[f.image_id] for f in found]) if found else []
        # What is stored is what is used: descriptors at the precision of the collection.
        yield list(zip(records, (_as_stored(features) for features in found), strict=True))


def _stored(collection: Collection, image_ids: Sequence[str]) -> Iterator[ImageFeatures]:
    for part in _parts(image_ids, _BATCH):
        yield from collection.features(part)


def _as_stored(features: ImageFeatures) -> ImageFeatures:
    half = features.global_descriptor.astype(np.float16).astype(np.float32)
    return replace(features, global_descriptor=half / np.linalg.norm(half))


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
