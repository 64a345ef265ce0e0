"""What every extractor is: photos in, `ImageFeatures` out, under a fingerprint."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from extractor.features import ImageFeatures, LocalFeatures
from extractor.learnt import pack_learnt, unpack_learnt
from extractor.photo import Photo, PhotoError, read_photo
from extractor.threads import in_threads, one_torch_thread
from extractor.whitening import Whitening

LEARNING_SAMPLE = 100
"""Photos from which it is usual to learn."""

READ_AHEAD = 64
"""Photos that are read and prepared while a device runs those before."""

REVISION = 1
"""Part of every fingerprint: raise it when the same weights and parameters come to give other features."""


class Model(Protocol):
    """Half of an extractor: what the processor prepares of each photo, the device runs for many at once.

    Attributes:
        dimension: components of a descriptor.
        longest_side: pixels along the longest side that the model makes use of.
        identity: all that decides the vector (parameters, digests of weights), in values that JSON can hold.
    """

    @property
    def dimension(self) -> int: ...  # noqa: D102

    @property
    def longest_side(self) -> int: ...  # noqa: D102

    @property
    def identity(self) -> Mapping[str, object]: ...  # noqa: D102

    def to(self, device: str, dtype: str = "float32") -> object:
        """Move the networks, if there are any; see `Extractor.to`."""

    def prepare(self, photo: Photo) -> Any:
        """What `run` needs of a photo; any number of threads may do this at once."""


class GlobalModel(Model, Protocol):
    """Turns a photo into one vector."""

    def run(self, prepared: Sequence[Any]) -> list[NDArray[np.float32]]:
        """For each photo its global descriptor, float32 [dimension] of unit norm."""

    def describe(self, photo: Photo) -> NDArray[np.float32]:
        """The global descriptor of one photo."""


class LocalModel(Model, Protocol):
    """Finds and describes the local features of a photo."""

    def run(self, prepared: Sequence[Any]) -> list[LocalFeatures]:
        """For each photo its local features, strongest first, keypoints in pixels of the original."""

    def detect(self, photo: Photo) -> LocalFeatures:
        """The local features of one photo."""


@runtime_checkable
class Learner(Protocol):
    """A model that needs a projection learnt from photos of the index.

    Attributes:
        projection: None until it is learnt.
    """

    projection: Whitening | None

    def samples(self, photo: Photo) -> NDArray[np.float32]:
        """What a photo gives to learn from, float32 [n, D]."""

    def learn(self, samples: NDArray[np.float32]) -> None:
        """Fit the projection to the samples of many photos, float32 [N, D].

        Raises:
            ValueError: there are too few.
        """


class Extractor(ABC):
    """Turns photos into features; the same photo gives the same features, alone or among others.

    `extract` must be safe to call from several threads at once.

    Attributes:
        name: as registered.
        fingerprint: names model, weights and parameters; the same on every machine.
        dimension: components of a global descriptor.
        local_dimension: components of a local descriptor.
        longest_side: pixels to which photos may be reduced before they come here.
        device: where the networks are.
    """

    device: str = "cpu"
    name: str
    fingerprint: str
    dimension: int
    local_dimension: int
    longest_side: int

    @property
    def learns(self) -> bool:
        """Whether something must be learnt from photos of the index, by `learn` or `restore`, first."""
        return False

    @property
    def learnt(self) -> bytes | None:
        """What was learnt, for `restore`; None when nothing was."""
        return None

    def learn(self, photos: Iterable[Path]) -> None:  # noqa: B027 - most have nothing to learn
        """Learn what must be learnt; the same photos give the same, and the fingerprint follows.

        Args:
            photos: a sample of the index, of which those that cannot be read are left out; more than
                `LEARNING_SAMPLE` add little.

        Raises:
            ValueError: the photos have too few features.
        """

    def restore(self, learnt: bytes) -> None:
        """Take over what an extractor of this configuration learnt.

        Raises:
            ValueError: another kind of extractor learnt it, or none did.
        """
        raise ValueError(f"{self.name} has nothing to learn, so there is nothing to restore")

    @abstractmethod
    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo; local descriptors are float32."""

    def to(self, device: str, dtype: str = "float32") -> Self:
        """Move the networks; the fingerprint does not change.

        Args:
            device: of PyTorch: `cpu`, `cuda`, `cuda:1` and so on.
            dtype: in which they calculate: `float32`, `bfloat16` or `float16`; features are float32 anyway.

        Returns:
            This extractor.

        Raises:
            ValueError: there is no such device or type here, there is no network to move, or its weights have
                been rounded to another type before.
        """
        if (device, dtype) != ("cpu", "float32"):
            raise ValueError(f"{self.name} has no network to move: it runs on cpu in float32 alone")
        return self

    def extract_batch(self, photos: Sequence[tuple[str, Photo]]) -> list[ImageFeatures]:
        """Features of photos already read, in order, each as `extract` gives them.

        Args:
            photos: pairs of image id and photo.
        """
        return list(in_threads(lambda photo: self.extract(photo[1], photo[0]), photos))

    def extract_many(self, photos: Iterable[tuple[str, Path]]) -> Iterator[ImageFeatures | PhotoError]:
        """Read and extract many photos, one per core at a time.

        Args:
            photos: pairs of image id and file; only a few are taken ahead of what is yielded.

        Yields:
            For each photo, in order, its features or why it could not be read.
        """
        return in_threads(lambda photo: self._read_and_extract(*photo), photos)

    def _read_and_extract(self, image_id: str, path: Path) -> ImageFeatures | PhotoError:
        try:
            return self.extract(read_photo(path, self.longest_side), image_id)
        except PhotoError as error:
            return error


class StackingExtractor(Extractor):
    """An extractor that prepares photos one by one on the processor, and runs many at once on a device.

    On the processor it runs them one by one as well, each on a thread of its own, which is faster there.
    """

    @property
    def stacks(self) -> bool:
        """Whether photos are run many at once."""
        return self.device != "cpu"

    @abstractmethod
    def prepare(self, photo: Photo) -> Any:
        """What `run` needs of a photo; any number of threads may do this at once."""

    @abstractmethod
    def run(self, prepared: Sequence[Any]) -> list[tuple[NDArray[np.float32], LocalFeatures]]:
        """Global descriptor and local features of each photo; those of one size are run as one stack."""

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        """Features of one photo; local descriptors are float32."""
        with one_torch_thread():
            return self._run([(image_id, photo.size, self.prepare(photo))])[0]

    def extract_batch(self, photos: Sequence[tuple[str, Photo]]) -> list[ImageFeatures]:
        """Features of photos already read, in order; see `Extractor.extract_batch`."""
        if not self.stacks:
            return super().extract_batch(photos)
        return self._run(list(in_threads(lambda photo: self._prepare(*photo), photos)))

    def extract_many(self, photos: Iterable[tuple[str, Path]]) -> Iterator[ImageFeatures | PhotoError]:
        """Read and extract many photos; a device runs some while the next are read and prepared."""
        if not self.stacks:
            yield from super().extract_many(photos)
            return
        reading = in_threads(lambda photo: self._read_and_prepare(*photo), photos, READ_AHEAD)
        while some := list(islice(reading, READ_AHEAD)):
            features = iter(self._run([one for one in some if not isinstance(one, PhotoError)]))
            yield from (one if isinstance(one, PhotoError) else next(features) for one in some)

    def _prepare(self, image_id: str, photo: Photo) -> tuple[str, tuple[int, int], Any]:
        with one_torch_thread():
            return image_id, photo.size, self.prepare(photo)

    def _read_and_prepare(self, image_id: str, path: Path) -> tuple[str, tuple[int, int], Any] | PhotoError:
        try:
            return self._prepare(image_id, read_photo(path, self.longest_side))
        except PhotoError as error:
            return error

    def _run(self, photos: Sequence[tuple[str, tuple[int, int], Any]]) -> list[ImageFeatures]:
        found = self.run([prepared for *_, prepared in photos])
        return [
            ImageFeatures(image_id, size, descriptor, local, self.fingerprint)
            for (image_id, size, _), (descriptor, local) in zip(photos, found, strict=True)
        ]


class GlobalLocalExtractor(StackingExtractor):
    """An extractor made of two independent models, one global and one local, either of which may learn."""

    def __init__(self, name: str, global_model: GlobalModel, local_model: LocalModel) -> None:
        self.name = name
        self.dimension = global_model.dimension
        self.local_dimension = local_model.dimension
        self.longest_side = max(global_model.longest_side, local_model.longest_side)
        self.global_model = global_model
        self.local_model = local_model
        self._identity = {"global": global_model.identity, "local": local_model.identity}
        self._unlearnt = self.fingerprint = fingerprint(name, self._identity)
        self._learners: dict[str, Learner] = {
            half: model
            for half, model in (("global", global_model), ("local", local_model))
            if isinstance(model, Learner) and model.projection is None
        }

    @property
    def learns(self) -> bool:
        """Whether a half must learn, and has not yet."""
        return any(learner.projection is None for learner in self._learners.values())

    @property
    def learnt(self) -> bytes | None:
        """The projections of both halves and for which configuration they are, as a NumPy `.npz` archive."""
        if not self._learners or self.learns:
            return None
        return pack_learnt(
            self._unlearnt,
            {half: cast(Whitening, learner.projection) for half, learner in self._learners.items()},
        )

    def learn(self, photos: Iterable[Path]) -> None:
        """Learn the projections of the halves that need one; see `Extractor.learn`."""
        learners = list(self._learners.values())
        if not learners:
            return
        samples: list[list[NDArray[np.float32]]] = [[] for _ in learners]
        for found in in_threads(lambda path: self._samples(path, learners), photos):
            for kept, new in zip(samples, found, strict=False):
                kept.append(new)
        for half, learner, kept in zip(self._learners, learners, samples, strict=True):
            if not kept:
                raise ValueError(f"{self.name} must learn from photos, and none of these can be read")
            try:
                learner.learn(np.concatenate(kept))
            except ValueError as error:
                raise ValueError(
                    f"{self.name} cannot learn the projection of its {half} descriptors from {len(kept)} "
                    f"photos, start with more of them: {error}"
                ) from error
        self._name_what_was_learnt()

    def _samples(self, path: Path, learners: Sequence[Learner]) -> list[NDArray[np.float32]]:
        try:
            photo = read_photo(path, self.longest_side)
        except PhotoError:
            return []
        with one_torch_thread():
            return [learner.samples(photo) for learner in learners]

    def restore(self, learnt: bytes) -> None:
        """Take over learnt projections; see `Extractor.restore`."""
        projections = unpack_learnt(learnt, self._unlearnt)
        if projections.keys() != self._learners.keys():
            raise ValueError(
                f"{self.name} learns {', '.join(self._learners) or 'nothing'}; "
                f"what is stored are projections of {', '.join(projections) or 'nothing'}"
            )
        for half, learner in self._learners.items():
            learner.projection = projections[half]
        self._name_what_was_learnt()

    def _name_what_was_learnt(self) -> None:
        learnt = {half: cast(Whitening, one.projection).fingerprint for half, one in self._learners.items()}
        self.fingerprint = fingerprint(self.name, {**self._identity, "learnt": learnt})

    def to(self, device: str, dtype: str = "float32") -> Self:
        """Move the networks of both halves; what has none, such as SIFT, stays. See `Extractor.to`."""
        self.global_model.to(device, dtype)
        self.local_model.to(device, dtype)
        self.device = device
        return self

    def prepare(self, photo: Photo) -> tuple[Any, Any]:
        """What both halves need of a photo."""
        if self.learns:
            raise RuntimeError(
                f"{self.name} has learnt nothing yet: call learn with photos of the index first"
            )
        return self.global_model.prepare(photo), self.local_model.prepare(photo)

    def run(self, prepared: Sequence[tuple[Any, Any]]) -> list[tuple[NDArray[np.float32], LocalFeatures]]:
        """Global descriptor and local features of each photo."""
        descriptors = self.global_model.run([whole for whole, _ in prepared])
        features = self.local_model.run([local for _, local in prepared])
        return list(zip(descriptors, features, strict=True))


def fingerprint(name: str, identity: Mapping[str, object]) -> str:
    """Name and digest of everything that decides the features, as in `xfeat-lite2-0123456789ab`.

    Args:
        name: the extractor's name.
        identity: parameters and digests of weights, in values JSON can hold.
    """
    text = json.dumps({"revision": REVISION, **identity}, sort_keys=True, separators=(",", ":"))
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
