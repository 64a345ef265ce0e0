"""Photos whose features are in files, read one by one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extractor.features import LocalFeatures
from extractor.files import FeatureFileError, StoredFeatures
from landbridge.experiments.pairing import Progress
from ranking.match_store import KEY_BYTES


@dataclass(frozen=True, eq=False)
class FilePhotos:
    """The photos that can be used.

    Attributes:
        ids: names, those of the index first.
        index: number of index images.
        keys: digests of role, name and local features.
        descriptors: float32 [n, D], or None.
        dimension: components of a local descriptor; 0 where there are no local features.
        failed: the photos that cannot be used, and why.
        sources: what gives the features of each.
        max_features: local features of a photo that count.
    """

    ids: list[str]
    index: int
    keys: list[str]
    descriptors: NDArray[np.float32] | None
    dimension: int
    failed: dict[str, str]
    sources: list[Mapping[str, StoredFeatures]]
    max_features: int | None

    @classmethod
    def of(
        cls,
        index: Mapping[str, StoredFeatures],
        queries: Mapping[str, StoredFeatures],
        max_features: int | None,
        progress: Progress,
    ) -> FilePhotos:
        """Read all photos once, without keeping their local features.

        Raises:
            ValueError: no index image has features that can be used.
        """
        total = len(index) + len(queries)
        read: list[_Read] = []
        failed = {}
        for role, source in (("index", index), ("query", queries)):
            for name in sorted(source):
                try:
                    read.append(_Read.of(role, name, source, max_features))
                except FeatureFileError as error:
                    failed[name] = str(error)
                progress("read features", len(read) + len(failed), total)
        lengths = Counter(len(photo.vector) for photo in read if photo.vector is not None)
        dimensions = Counter(photo.dimension for photo in read if photo.dimension > 0)
        length = lengths.most_common(1)[0][0] if lengths else 0
        dimension = dimensions.most_common(1)[0][0] if dimensions else 0
        kept = []
        for photo in read:
            if reason := photo.unlike(length, dimension):
                failed[photo.name] = reason
            else:
                kept.append(photo)
        if not any(photo.role == "index" for photo in kept):
            raise ValueError(
                f"no index image has features that can be used; {len(failed)} failed"
                + "".join(f": {name}: {reason}" for name, reason in list(failed.items())[:1])
            )
        vectors = [photo.vector for photo in kept if photo.vector is not None]
        return cls(
            ids=[photo.name for photo in kept],
            index=sum(photo.role == "index" for photo in kept),
            keys=[photo.key for photo in kept],
            descriptors=np.stack(vectors) if length else None,
            dimension=dimension,
            failed=failed,
            sources=[photo.source for photo in kept],
            max_features=max_features,
        )

    def local(self, numbers: Sequence[int]) -> list[LocalFeatures]:
        """The local features of some photos, read now."""
        return [self._local(number) for number in numbers]

    def _local(self, number: int) -> LocalFeatures:
        features = _strongest(self.sources[number][self.ids[number]].local, self.max_features)
        return features if features is not None and len(features) else LocalFeatures.empty(self.dimension)


@dataclass(frozen=True, eq=False)
class _Read:
    """A photo as it was first read; `dimension` is 0 where it has no local features, -1 where no file has."""

    role: str
    name: str
    source: Mapping[str, StoredFeatures]
    key: str
    vector: NDArray[np.float32] | None
    dimension: int

    @classmethod
    def of(
        cls, role: str, name: str, source: Mapping[str, StoredFeatures], max_features: int | None
    ) -> _Read:
        photo = source[name]
        local = _strongest(photo.local, max_features)
        digest = hashlib.blake2b(f"{role}\0{name}\0".encode(), digest_size=KEY_BYTES)
        dimension = -1
        if local is not None:
            dimension = local.dimension if len(local) else 0
            digest.update(f"{local.descriptors.dtype}{local.descriptors.shape}".encode())
            digest.update(local.keypoints.tobytes())
            digest.update(local.descriptors.tobytes())
        return cls(role, name, source, digest.hexdigest(), photo.global_descriptor, dimension)

    def unlike(self, length: int, dimension: int) -> str:
        """What sets it apart from the other photos; empty if nothing."""
        own = 0 if self.vector is None else len(self.vector)
        if own != length:
            has = f"a global descriptor of {own}" if own else "no global descriptor"
            return f"it has {has}, and other photos have one of {length} components"
        if dimension and self.dimension < 0:
            return "it has no local features, and other photos have"
        if self.dimension > 0 and self.dimension != dimension:
            return f"its local descriptors have {self.dimension} components, those of others {dimension}"
        return ""


def _strongest(local: LocalFeatures | None, most: int | None) -> LocalFeatures | None:
    if local is None or most is None or len(local) <= most:
        return local
    order = np.sort(np.argsort(-local.scores, kind="stable")[:most])
    return LocalFeatures(
        local.keypoints[order], local.scales[order], local.scores[order], local.descriptors[order]
    )
