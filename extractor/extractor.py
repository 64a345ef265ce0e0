"""What every extractor is: photos in, `ImageFeatures` out, under a fingerprint."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import Photo, PhotoError, read_photo
from extractor.threads import available_cores, one_torch_thread

REVISION = 1
"""Part of every fingerprint: raise it when the same weights and parameters come to give other features."""


class GlobalModel(Protocol):
    """Turns a photo into one vector.

    Attributes:
        dimension: components of the vector.
        longest_side: pixels along the longest side that the model makes use of.
        identity: all that decides the vector (parameters, digests of weights), in values that JSON can hold.
    """

    @property
    def dimension(self) -> int: ...  # noqa: D102

    @property
    def longest_side(self) -> int: ...  # noqa: D102

    @property
    def identity(self) -> Mapping[str, object]: ...  # noqa: D102

    def describe(self, photo: Photo) -> NDArray[np.float32]:
        """Global descriptor, float32 [dimension] of unit norm."""


class LocalModel(Protocol):
    """Finds and describes the local features of a photo; attributes as of `GlobalModel`."""

    @property
    def dimension(self) -> int: ...  # noqa: D102

    @property
    def longest_side(self) -> int: ...  # noqa: D102

    @property
    def identity(self) -> Mapping[str, object]: ...  # noqa: D102

    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features, strongest first, keypoints in pixels of the original."""


class Extractor(ABC):
    """Turns photos into features; the same photo gives the same features, alone or among others.

    `extract` must be safe to call from several threads at once.

    Attributes:
        name: as registered.
        fingerprint: names model, weights and parameters; the same on every machine.
        dimension: components of a global descriptor.
        local_dimension: components of a local descriptor.
        longest_side: pixels to which photos may be reduced before they come here.
    """

    name: str
    fingerprint: str
    dimension: int
    local_dimension: int
    longest_side: int

    @abstractmethod
    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo; local descriptors are float32."""

    def extract_many(self, photos: Iterable[tuple[str, Path]]) -> Iterator[ImageFeatures | PhotoError]:
        """Read and extract many photos, one per core at a time.

        Args:
            photos: pairs of image id and file; only a few are taken ahead of what is yielded.

        Yields:
            For each photo, in order, its features or why it could not be read.
        """
        workers = available_cores()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="extract")
        waiting: deque[Future[ImageFeatures | PhotoError]] = deque()
        try:
            for image_id, path in photos:
                waiting.append(pool.submit(self._read_and_extract, image_id, path))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read_and_extract(self, image_id: str, path: Path) -> ImageFeatures | PhotoError:
        try:
            return self.extract(read_photo(path, self.longest_side), image_id)
        except PhotoError as error:
            return error


class GlobalLocalExtractor(Extractor):
    """An extractor made of two independent models, one global and one local."""

    def __init__(self, name: str, global_model: GlobalModel, local_model: LocalModel) -> None:
        self.name = name
        self.fingerprint = fingerprint(name, {"global": global_model.identity, "local": local_model.identity})
        self.dimension = global_model.dimension
        self.local_dimension = local_model.dimension
        self.longest_side = max(global_model.longest_side, local_model.longest_side)
        self.global_model = global_model
        self.local_model = local_model

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo; local descriptors are float32."""
        with one_torch_thread():
            descriptor = self.global_model.describe(photo)
            local = self.local_model.detect(photo)
        return ImageFeatures(image_id, photo.size, descriptor, local, self.fingerprint)


def fingerprint(name: str, identity: Mapping[str, object]) -> str:
    """Name and digest of everything that decides the features, as in `xfeat-lite2-0123456789ab`.

    Args:
        name: the extractor's name.
        identity: parameters and digests of weights, in values JSON can hold.
    """
    text = json.dumps({"revision": REVISION, **identity}, sort_keys=True, separators=(",", ":"))
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
