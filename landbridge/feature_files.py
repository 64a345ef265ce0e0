"""Photos whose features are in files: what each was made of, and its features."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from connector.collection import Collection, Source
from extractor.configuration import ExternalConfiguration
from extractor.external import NAME as EXTERNAL
from extractor.external import External
from extractor.features import ImageFeatures
from extractor.photo import PhotoError
from landbridge.photos import photos_in

_LABEL = "label"


class StoredPhotos:
    """Photos whose features are in files.

    Attributes:
        external: what takes the features from the files.
    """

    def __init__(
        self,
        features: str | Path | Sequence[str | Path],
        photos: str | Path | Mapping[str, Path] | None,
        label: str,
    ) -> None:
        """Find the photos in the files.

        Args:
            features: feature files, folders of them, or folders that `landbridge extract` wrote.
            photos: the photos, by the names that they have in the files, or their folder.
            label: what others' features are called.

        Raises:
            FeatureFileError: there are no such files, or they cannot be read.
            ValueError: the files have no global descriptors, and no photos are given to compute them.
        """
        paths = [features] if isinstance(features, str | Path) else features
        self.external = External(EXTERNAL, ExternalConfiguration(tuple(map(str, paths)), label))
        self._refused: dict[Path, str] = {}
        if photos is not None and not isinstance(photos, Mapping):
            photos, self._refused = photos_in(Path(photos))
        self._photos = photos
        if self.external.global_model is not None and photos is None:
            raise ValueError(
                f"{', '.join(map(str, paths))}: there are no global descriptors: add a file of them, or give "
                "the photos too, from which they are computed"
            )

    @property
    def names(self) -> list[str]:
        """The photos: those given, or all that are in the files."""
        return list(self.external.files if self._photos is None else self._photos)

    def take(self, image_ids: Iterable[str]) -> Iterator[ImageFeatures | PhotoError]:
        """Features of photos, in this order, or why there are none."""
        photos = self._photos or {}
        return self.external.take_many((image_id, photos.get(image_id)) for image_id in image_ids)

    def sources(self) -> tuple[dict[str, Source], dict[Path, str]]:
        """What the photos were made of, for `landbridge.ingest.arrivals`.

        A photo that `landbridge extract` did was made of its own file, as that was then; another of the files
        that hold its features and, if its global descriptor is computed, of the photo. Its place is that of
        the photo, or of the features where the photo is not known.

        Returns:
            The source of each photo; what has no counterpart or cannot be read, and why.
        """
        external, photos = self.external, self._photos
        status = lru_cache(1 << 10)(os.stat)
        done = {entry.image_id: entry for made in external.extractions for _, entry in made if entry.done}
        sources: dict[str, Source] = {}
        failed = dict(self._refused)
        for image_id in external.files:
            origin = external.files.origin(image_id)
            photo = (photos or {}).get(image_id)
            if photos is not None and photo is None:
                failed[origin] = f"there is no photo {image_id}: give the folder that the names start from"
                continue
            if entry := done.get(image_id):
                place = photo or Path(entry.path)
                sources[image_id] = Source(str(place.resolve()), *entry.file)
                continue
            made_of = external.files.paths(image_id)
            if photo is not None and external.global_model is not None:
                made_of = [*made_of, photo]
            place = photo or origin
            try:
                found = [status(path) for path in made_of]
            except OSError as error:
                failed[place] = f"{error.filename} cannot be read: {error.strerror}"
                continue
            sources[image_id] = Source(
                str(place.resolve()), sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)
            )
        for image_id, path in (photos or {}).items():
            if image_id not in external.files:
                failed[path] = f"the feature files hold no photo {image_id}"
        return sources, failed


def stored_label(collection: Collection | None) -> str | None:
    """What the features of a collection are called, if others made them."""
    blob = None if collection is None else collection.get_blob(_LABEL)
    return None if blob is None else blob.decode()


def store_label(collection: Collection, external: External) -> None:
    """Keep what the features of a new collection are called, if others made them."""
    if not external.extractions and stored_label(collection) is None:
        collection.put_blob(_LABEL, external.label.encode())
