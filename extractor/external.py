"""Features that others extracted, taken from their files instead of from the pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extractor.extractor import Extractor, GlobalModel, fingerprint
from extractor.features import ImageFeatures, LocalFeatures
from extractor.files import read_features
from extractor.files.stored_features import unit_descriptors
from extractor.photo import Photo, PhotoError
from extractor.threads import one_torch_thread

if TYPE_CHECKING:
    from extractor.configuration import ExternalConfiguration


class External(Extractor):
    """Looks photos up in feature files by their id.

    A file without global descriptors gets them from the pixels, by the default model; one without local
    features gives none.

    Args:
        name: as registered.
        configuration: where the files are, and what they are called in the fingerprint.

    Raises:
        ValueError: no files are given.
        FeatureFileError: they cannot be read.
    """

    def __init__(self, name: str, configuration: ExternalConfiguration) -> None:
        if not configuration.features:
            raise ValueError(
                f"{name} takes features from files: say which, as in "
                f"create_extractor({name!r}, features=FOLDER)"
            )
        self.name = name
        self.files = read_features(configuration.features)
        first = next(iter(self.files.values()))
        self.global_model: GlobalModel | None = None
        if first.global_descriptor is None:
            self.global_model = configuration.global_model.load()
            self.dimension = self.global_model.dimension
        else:
            self.dimension = len(first.global_descriptor)
        found = (stored.local for stored in self.files.values())
        self.local_dimension = next(
            (local.dimension for local in found if local is not None and len(local)), 1
        )
        self.longest_side = 32 if self.global_model is None else self.global_model.longest_side
        self.fingerprint = fingerprint(
            name,
            {
                "label": configuration.label,
                "global": self.dimension if self.global_model is None else dict(self.global_model.identity),
                "local": self.local_dimension,
            },
        )

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo, whose id is its name in the files.

        Raises:
            KeyError: no file holds it.
            ValueError: it has no global descriptor while the first photo has, or lengths differ.
        """
        stored = self.files[image_id]
        descriptor = stored.global_descriptor
        if self.global_model is not None:
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
        local = LocalFeatures(local.keypoints, local.scales, local.scores, unit_descriptors(local))
        return ImageFeatures(image_id, photo.size, descriptor, local, self.fingerprint)

    def _read_and_extract(self, image_id: str, path: Path) -> ImageFeatures | PhotoError:
        if image_id not in self.files:
            return PhotoError(path, f"the feature files hold no photo {image_id}")
        try:
            return super()._read_and_extract(image_id, path)
        except ValueError as error:
            return PhotoError(path, str(error))
