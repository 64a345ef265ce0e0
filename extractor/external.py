"""Features that are in files already, taken from there instead of from the pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from extractor.extractor import Extractor, GlobalModel, fingerprint
from extractor.features import ImageFeatures, LocalFeatures
from extractor.files import FeatureFileError, StoredFeatures, read_features
from extractor.files.extraction import Extraction
from extractor.files.stored_features import unit_descriptors
from extractor.photo import Photo, PhotoError, read_photo
from extractor.threads import in_threads, one_torch_thread

if TYPE_CHECKING:
    from extractor.configuration import ExternalConfiguration

NAME = "external"
"""As it is registered."""

_OVERHANG = 0.01
"""Of the longest side: keypoints that lie further outside the photo are not in its pixels."""


class External(Extractor):
    """Looks photos up in feature files by their id.

    Files that `landbridge extract` wrote have the name and the fingerprint of the extractor that made them,
    and what it learnt. Others have a fingerprint of their label and dimensions; where their first photo has
    no global descriptor, all photos get one from the pixels, by the default model.

    Args:
        name: as registered.
        configuration: where the files are, and what they are called in the fingerprint.

    Attributes:
        label: what others' features are called.
        files: what they say of each photo.
        extractions: the folders of `landbridge extract`, if that is what they are.
        global_model: what describes photos, if the files do not.

    Raises:
        ValueError: no files are given, or files of different extractors.
        FeatureFileError: they cannot be read.
    """

    def __init__(self, name: str, configuration: ExternalConfiguration) -> None:
        features = configuration.features
        paths = [Path(path) for path in ((features,) if isinstance(features, str) else features) if path]
        if not paths:
            raise ValueError(
                f"{name} takes features from files: say which, as in "
                f"create_extractor({name!r}, features=FOLDER)"
            )
        self.label = configuration.label
        self.files = read_features(*paths)
        self.global_model: GlobalModel | None = None
        self.extractions = _extractions(paths)
        if self.extractions:
            made_by = self.extractions[0]
            self.name, self.fingerprint = made_by.extractor, made_by.fingerprint
            self.dimension, self.local_dimension = made_by.dimension, made_by.local_dimension
            self.longest_side = 32
            return
        self.name = name
        first, self.local_dimension = self._dimensions()
        if first is None:
            self.global_model = configuration.global_model.load()
            self.dimension = self.global_model.dimension
        else:
            self.dimension = len(first)
        self.longest_side = 32 if self.global_model is None else self.global_model.longest_side
        self.fingerprint = fingerprint(
            name,
            {
                "label": configuration.label,
                "global": self.dimension if self.global_model is None else dict(self.global_model.identity),
                "local": self.local_dimension,
            },
        )

    def _dimensions(self) -> tuple[NDArray[np.float32] | None, int]:
        """Global descriptor of the first photo, if it has one; length of local descriptors, 1 without any."""
        first: StoredFeatures | None = None
        problem: FeatureFileError | None = None
        for image_id in self.files:
            try:
                stored = self.files[image_id]
            except FeatureFileError as error:
                problem = problem or error
                continue
            first = first or stored
            if stored.local is not None and len(stored.local):
                return first.global_descriptor, stored.local.dimension
        if first is None:
            raise problem or ValueError("the feature files hold no photos")
        return first.global_descriptor, 1

    @property
    def learnt(self) -> bytes | None:
        """What the extractor learnt that made the files; see `Extractor.learnt`."""
        return self.extractions[0].learnt if self.extractions else None

    @property
    def contents(self) -> str:
        """What the features are, for people."""
        computed = "" if self.global_model is None else " computed from the photos"
        return (
            f"{self.label!r}: {self.local_dimension}-d local features, {self.dimension}-d global descriptors"
            f"{computed}"
        )

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo, whose id is its name in the files.

        Raises:
            KeyError: no file holds it.
            ValueError: it does not have what the other photos have, or is not of this size.
        """
        features = self._features(self.files[image_id], photo)
        local = features.local
        unit = LocalFeatures(local.keypoints, local.scales, local.scores, unit_descriptors(local))
        return replace(features, local=unit)

    def take(self, image_id: str, path: Path | None = None) -> ImageFeatures | PhotoError:
        """Features of a photo, which is read itself only for what the files lack.

        Args:
            image_id: its name in the files.
            path: its file, or None. A photo of unknown size is taken to end at the outermost keypoints.

        Returns:
            The features, or why there are none.
        """
        if image_id not in self.files:
            return PhotoError(path or Path(image_id), f"the feature files hold no photo {image_id}")
        try:
            stored = self.files[image_id]
            if self.global_model is None and (path is None or stored.size is not None):
                return self._features(stored, None)
            if path is None:
                raise ValueError(
                    "the files have no global descriptors: add a file of them, or give the photos, from "
                    "which they are computed"
                )
            return self._features(stored, read_photo(path, self.longest_side))
        except PhotoError as error:
            return error
        except ValueError as error:
            return PhotoError(path or self.files.origin(image_id), str(error))

    def take_many(self, photos: Iterable[tuple[str, Path | None]]) -> Iterator[ImageFeatures | PhotoError]:
        """What `take` gives for each photo, in order, on all cores."""
        return in_threads(lambda photo: self.take(*photo), photos)

    def extract_many(self, photos: Iterable[tuple[str, Path]]) -> Iterator[ImageFeatures | PhotoError]:
        """What `take` gives for each photo, in order, on all cores."""
        return self.take_many(photos)

    def _features(self, stored: StoredFeatures, photo: Photo | None) -> ImageFeatures:
        image_id, descriptor = stored.image_id, stored.global_descriptor
        if self.global_model is not None:
            if descriptor is not None:
                raise ValueError(f"{image_id}: it has a global descriptor, and other photos have none")
            assert photo is not None, "the callers read it"
            with one_torch_thread():
                descriptor = self.global_model.describe(photo)
        if descriptor is None or len(descriptor) != self.dimension:
            found = "none" if descriptor is None else str(len(descriptor))
            raise ValueError(f"{image_id}: global descriptor of {self.dimension} components, it has {found}")
        local = stored.local
        if local is None or not len(local):
            local = LocalFeatures.empty(self.local_dimension)
        if local.dimension != self.local_dimension:
            raise ValueError(
                f"{image_id}: local descriptors of {self.local_dimension} components, "
                f"they have {local.dimension}"
            )
        return ImageFeatures(image_id, _size(stored, photo), descriptor, local, self.fingerprint)


def _size(stored: StoredFeatures, photo: Photo | None) -> tuple[int, int]:
    """Width and height: as the files have it, of the photo, or such that the keypoints are inside."""
    name, points = stored.image_id, np.zeros((1, 2), np.float32)
    if stored.local is not None and len(stored.local):
        points = stored.local.keypoints
    if stored.size is not None and photo is not None and stored.size != photo.size:
        raise ValueError(
            f"{name}: its features are of {stored.size[0]} x {stored.size[1]} pixels, the photo has "
            f"{photo.size[0]} x {photo.size[1]}"
        )
    size = stored.size or (photo.size if photo is not None else None)
    if size is None:
        width, height = (np.floor(points.max(0)) + 1).clip(1).astype(int).tolist()
        size = width, height
    if points.min() < -_OVERHANG * max(size) or points.max() > (1 + _OVERHANG) * max(size):
        raise ValueError(
            f"{name}: keypoints lie outside the photo of {size[0]} x {size[1]} pixels: they must be in "
            "pixels of the photo as it is on disk"
        )
    return size


def _extractions(paths: Sequence[Path]) -> list[Extraction]:
    """The folders that `landbridge extract` wrote; none where others made the files.

    Raises:
        ValueError: they were made by different extractors.
    """
    made = {path: Extraction.open(path) for path in paths if Extraction.is_at(path)}
    made = {path: one for path, one in made.items() if one.format != "delf"}
    makers = {made[path].fingerprint if path in made else "others" for path in paths}
    if len(makers) > 1:
        raise ValueError(
            f"the features are by {' and '.join(sorted(makers))}, and do not compare: take them one by one, "
            "into collections of their own"
        )
    return list(made.values())
