"""Feature files of hloc (`.h5`): a group for each photo, called as the photo is; slashes nest groups.

A group holds keypoints [N, 2], descriptors [D, N] (a column each), scores [N], scales [N], image_size [2],
or global_descriptor [D]; float16 or float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from extractor.files.stored_features import Arrays, FeatureFileError, StoredFeatures, unit_descriptors

_NAMES = {
    "keypoints": "keypoints",
    "scales": "scales",
    "scores": "scores",
    "descriptors": "descriptors",
    "size": "image_size",
    "global_descriptor": "global_descriptor",
}


class HlocFile:
    """An `.h5` for reading; it is opened at first use and stays open until `close`."""

    many = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _file(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise FeatureFileError(self.path, f"it cannot be read as HDF5 ({error})") from None

    def close(self) -> None:
        """Let go of the file; reading opens it again."""
        file = self.__dict__.pop("_file", None)
        if file is not None:
            file.close()

    def names(self) -> Iterator[str]:
        """The photos' names: groups that hold keypoints or a global descriptor.

        Raises:
            FeatureFileError: it is no HDF5, or damaged.
        """
        waiting: list[tuple[str, h5py.Group]] = [("", self._file)]
        while waiting:
            name, group = waiting.pop()
            try:
                if name and not {"keypoints", "global_descriptor"}.isdisjoint(group):
                    yield name
                for inner, item in group.items():
                    if isinstance(item, h5py.Group):
                        waiting.append((f"{name}/{inner}" if name else inner, item))
            except (OSError, RuntimeError, KeyError) as error:
                raise FeatureFileError(self.path, f"it is damaged ({error})", name) from None

    def read(self, name: str) -> Arrays:
        """What the group of a photo holds, descriptors turned to [N, D].

        Raises:
            FeatureFileError: it is damaged, or descriptors are not [D, N].
        """
        try:
            group = self._file[name]
            arrays = {ours: group[theirs][()] for ours, theirs in _NAMES.items() if theirs in group}
        except (OSError, RuntimeError, KeyError, TypeError) as error:
            raise FeatureFileError(self.path, f"it is damaged ({error})", name) from None
        if "descriptors" in arrays and "keypoints" in arrays:
            shape, count = list(np.shape(arrays["descriptors"])), len(np.atleast_1d(arrays["keypoints"]))
            if len(shape) == 2 and shape[1] != count and shape[0] == count:
                raise FeatureFileError(
                    self.path, f"descriptors are {shape}, but hloc stores [D, N]: transpose them", name
                )
            arrays["descriptors"] = np.transpose(arrays["descriptors"])
        return {name: np.asarray(array) for name, array in arrays.items()}


def write(path: Path, features: Iterable[StoredFeatures]) -> None:
    """Write photos one by one to a new file, in float32."""
    with h5py.File(path, "w") as file:
        for photo in features:
            group = file.create_group(photo.image_id)
            if photo.local is not None:
                local = photo.local
                group["keypoints"], group["scales"] = local.keypoints, local.scales
                group["scores"] = local.scores
                group["descriptors"] = np.ascontiguousarray(unit_descriptors(local).T)
            if photo.global_descriptor is not None:
                group["global_descriptor"] = photo.global_descriptor
            if photo.size is not None:
                group["image_size"] = np.array(photo.size)
