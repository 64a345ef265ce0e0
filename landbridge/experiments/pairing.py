"""Candidate pairs of images, their verification in two rounds, and the match graph that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from extractor.features import LocalFeatures
from ranking.confidence import Confidence
from ranking.id_qe import expand
from ranking.match_graph import MatchGraph
from ranking.match_store import MatchStore
from ranking.nearest_neighbours import nearest_neighbours

CANDIDATES = 100
ROUNDS = 2

Progress = Callable[[str, int, int], None]
"""Told the name of a step, and how many of how many items it has done."""

_CACHED_BYTES = 1 << 30
_BLOCK = 1 << 14
_FIRST = np.int64(32)
_SECOND = np.int64(0xFFFFFFFF)


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Photos(Protocol):
    """The photos that are verified with one another, those of the index first."""

    @property
    def index(self) -> int:
        """Number of index images."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Digest of each photo and its local features."""
        ...

    @property
    def descriptors(self) -> NDArray[np.float32] | None:
        """Global descriptors, float32 [n, D] of unit norm; None where there are none."""
        ...

    def local(self, numbers: Sequence[int]) -> Sequence[LocalFeatures]:
        """The local features of some photos."""
        ...


class Pairing:
    """Candidates, verification and what follows from it; sets of pairs are sorted codes (see `codes`)."""

    def __init__(
        self,
        store: MatchStore,
        photos: Photos,
        candidates: int = CANDIDATES,
        *,
        offline: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Prepare; nothing is verified yet.

        Args:
            store: where verified pairs are, and go.
            photos: those to join.
            candidates: nearest neighbours of an image, in each round.
            offline: queries are also candidates of one another.
            progress: told about the long steps.
        """
        self.store = store
        self.photos = photos
        self.candidates = candidates
        self.offline = offline
        self.progress = progress
        self.verified = 0
        self._number = {key: i for i, key in enumerate(photos.keys)}
        self._cache: LRUCache[str, LocalFeatures] = LRUCache(
            _CACHED_BYTES, lambda local: local.descriptors.nbytes + 16 * len(local) + 1000
        )

    def verify(
        self, first: NDArray[np.int64] | None = None, rounds: int = ROUNDS
    ) -> tuple[NDArray[np.int64], Confidence]:
        """Verify the candidates of the index, then those of the queries.

        Args:
            first: candidates of the first round; the nearest neighbours when None.
            rounds: 2 verifies also those that ID-QE's expanded descriptors bring near.

        Returns:
            All pairs that were candidates, and the confidence that those of the index calibrate.
        """
        vectors = self.photos.descriptors
        if first is None:
            assert vectors is not None
            first = self.nearest(vectors)
        expansion = rounds == 2 and vectors is not None
        wanted = self._verify_index(first, expansion)
        measured = self.measure(wanted)
        if len(self.photos.keys) > self.photos.index:
            wanted = self._verify_queries(first, wanted, measured, expansion)
        return wanted, measured

    def _features(self, keys: Sequence[str]) -> dict[str, LocalFeatures]:
        unknown = [key for key in keys if key not in self._cache]
        read = self.photos.local([self._number[key] for key in unknown])
        fresh = dict(zip(unknown, read, strict=True))
        found = {key: fresh[key] if key in fresh else self._cache[key] for key in keys}
        for key, local in fresh.items():
            if local.descriptors.nbytes < _CACHED_BYTES // 8:
                self._cache[key] = local
        return found

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Pairs of index images with those nearest to them, and of queries with the nearest of their pool.

        The pool is the index; offline, it is everything.
        """
        index = self.photos.index
        inner, _ = nearest_neighbours(vectors[:index], vectors[:index], self.candidates + 1)
        pool = vectors if self.offline else vectors[:index]
        outer, _ = nearest_neighbours(vectors[index:], pool, self.candidates + 1)
        pairs = [
            np.stack([np.repeat(np.arange(start, start + len(found)), found.shape[1]), found.ravel()], axis=1)
            for start, found in ((0, inner), (index, outer))
        ]
        return codes(np.concatenate(pairs))

    def _verify_index(self, first: NDArray[np.int64], expansion: bool) -> NDArray[np.int64]:
        """Verify the pairs of the index among the candidates, in two rounds; all of these pairs."""
        photos = self.photos
        wanted = first[(first & _SECOND) < photos.index]
        self._verify(wanted, "verify index")
        if not expansion:
            return wanted
        graph = self.graph(wanted, self.measure(wanted))
        assert photos.descriptors is not None
        closer = self.nearest(expand(photos.descriptors, graph))
        closer = closer[(closer & _SECOND) < photos.index]
        self._verify(closer, "verify index, round 2")
        return np.union1d(wanted, closer)

    def _verify_queries(
        self, first: NDArray[np.int64], wanted: NDArray[np.int64], measured: Confidence, expansion: bool
    ) -> NDArray[np.int64]:
        """Verify the pairs of queries, in two rounds; these and the wanted ones."""
        photos = self.photos
        outside = np.arange(photos.index, len(photos.keys))
        of_queries = first[(first & _SECOND) >= photos.index]
        self._verify(of_queries, "verify queries")
        wanted = np.union1d(wanted, of_queries)
        if not expansion:
            return wanted
        graph = self.graph(wanted, measured)
        assert photos.descriptors is not None
        bridged = graph if self.offline else graph.without_bridges(outside)
        closer = self.nearest(expand(photos.descriptors, bridged))
        closer = closer[(closer & _SECOND) >= photos.index]
        self._verify(closer, "verify queries, round 2")
        return np.union1d(wanted, closer)

    def _verify(self, wanted: NDArray[np.int64], step: str) -> None:
        self.verified += self.store.verify(
            self.photos.keys,
            pairs_of(wanted),
            self._features,
            lambda done, total: self.progress(step, done, total),
        )

    def measure(self, wanted: NDArray[np.int64]) -> Confidence:
        """Calibrate on the wanted pairs of the index."""
        significance, similarity = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        for pairs, records in self.store.batches(self.photos.keys[: self.photos.index]):
            chosen = _among(pairs, wanted)
            significance.append(records["significance"][chosen])
            similarity.append(similarity_of(self.photos.descriptors, pairs[chosen]))
        return Confidence.fit(np.concatenate(significance), np.concatenate(similarity))

    def graph(self, wanted: NDArray[np.int64], measured: Confidence) -> MatchGraph:
        """The match graph of the wanted pairs."""

        def confidence(pairs: NDArray[np.int64], records: NDArray[np.void]) -> NDArray:
            chosen = _among(pairs, wanted)
            sure = np.full(len(pairs), -1, np.float32)
            similarity = similarity_of(self.photos.descriptors, pairs[chosen])
            sure[chosen] = measured(records["significance"][chosen], similarity)
            return sure

        return self.store.graph(self.photos.keys, confidence)

    def inliers(self, wanted: NDArray[np.int64]) -> MatchGraph:
        """The wanted pairs by their inliers."""
        return self.store.graph(
            self.photos.keys,
            lambda pairs, records: records["inliers"] * _among(pairs, wanted).astype(np.float32),
            minimum=1,
        )


def codes(pairs: NDArray[np.integer]) -> NDArray[np.int64]:
    """One number for each pair of different images, smaller image first: sorted, each once."""
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)
    return np.unique(pairs.min(1, initial=_SECOND) << _FIRST | pairs.max(1, initial=0))


def pairs_of(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pairs of some codes: int64 [P, 2]."""
    return np.stack([codes >> _FIRST, codes & _SECOND], axis=1)


def _among(pairs: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs are among the wanted ones: bool [P]."""
    codes = pairs.min(1, initial=_SECOND) << _FIRST | pairs.max(1, initial=0)
    if not len(wanted):
        return np.zeros(len(codes), np.bool_)
    place = np.minimum(np.searchsorted(wanted, codes), len(wanted) - 1)
    found: NDArray[np.bool_] = wanted[place] == codes
    return found


def similarity_of(descriptors: NDArray[np.float32] | None, pairs: NDArray[np.integer]) -> NDArray[np.float32]:
    """Global similarity of pairs of images, float32 [P]; 0 where it is not known."""
    result = np.zeros(len(pairs), np.float32)
    if descriptors is not None:
        for start in range(0, len(pairs), _BLOCK):
            block = pairs[start : start + _BLOCK]
            result[start : start + _BLOCK] = np.einsum(
                "pd,pd->p", descriptors[block[:, 0]], descriptors[block[:, 1]]
            )
    return result
