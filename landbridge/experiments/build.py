"""From features, or from the match lists of others, to a match graph that can be ranked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from extractor.features import LocalFeatures
from extractor.files import FeatureFileError, StoredFeatures
from landbridge.datasets.dataset import some
from landbridge.datasets.photos import without_suffix
from landbridge.experiments.named_graph import NamedGraph
from ranking.confidence import Confidence
from ranking.id_qe import expand
from ranking.interchange import NeighbourLists
from ranking.match_graph import MatchGraph
from ranking.match_store import KEY_BYTES, MatchStore
from ranking.nearest_neighbours import nearest_neighbours
from ranking.verification import Verifier, create_verifier

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


@dataclass(frozen=True, eq=False)
class Built:
    """What a build did.

    Attributes:
        graph: the graph, saved in its folder too.
        verified: pairs that were verified now; the others were known.
        pairs: pairs that the graph is made from.
        failed: photos that were left out, and why.
    """

    graph: NamedGraph
    verified: int = 0
    pairs: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def build_graph(
    features: Mapping[str, StoredFeatures],
    folder: Path | str,
    *,
    queries: Mapping[str, StoredFeatures] | None = None,
    neighbours: NeighbourLists | None = None,
    exhaustive: bool = False,
    candidates: int = CANDIDATES,
    rounds: int = ROUNDS,
    verifier: Verifier | None = None,
    max_features: int | None = None,
    offline: bool = False,
    progress: Progress = silent,
) -> Built:
    """Verify the candidate pairs of a collection and build its match graph.

    Candidates are the nearest neighbours of the global descriptors and, in a second round, those that
    ID-QE's expanded descriptors bring near. Queries come after the index and do not change its edges.
    Verified pairs stay in `folder`: a build that was stopped goes on where it ended, and one with more
    photos verifies what is new. The graph depends on the features and the arguments alone, not on what was
    built there before.

    Args:
        features: name -> features of the index images, such as `extractor.files.read_features` gives, or a
            dict. They are asked for one by one.
        folder: where the verified pairs and the graph go.
        queries: the same of query images.
        neighbours: candidates of the first round, instead of the nearest neighbours. The names are those of
            the images; lists without names hold the images in the order of `NamedGraph.ids`.
        exhaustive: verify all pairs of the index and of queries with the index, for small collections.
        candidates: nearest neighbours of an image, in each round.
        rounds: 1 leaves the second round out.
        verifier: a backend of `ranking.verification`; the default one if None. A folder belongs to one.
        max_features: use the strongest local features of an image only; all of them if None.
        offline: queries are also candidates of one another.
        progress: told about the long steps.

    Returns:
        The graph and what was done. Photos whose features cannot be used are left out, and named.

    Raises:
        ValueError: no photo has features, the arguments do not go together, or there is nothing to find
            candidates by.
        MatchStoreError: the folder belongs to another verifier, or is in use.
    """
    if neighbours is not None and exhaustive:
        raise ValueError("give neighbour lists or verify all pairs, not both")
    if candidates < 1 or rounds not in (1, 2) or (max_features is not None and max_features < 1):
        raise ValueError(
            f"candidates must be 1 or more, rounds 1 or 2 and max_features 1 or more, "
            f"got {candidates}, {rounds}, {max_features}"
        )
    folder = Path(folder)
    photos = _Photos.of(features, queries or {}, max_features, progress)
    if not photos.dimension:
        graph = NamedGraph(photos.ids, photos.index, photos.descriptors)
        graph.save(folder)
        return Built(graph, failed=photos.failed)
    if photos.descriptors is None and neighbours is None and not exhaustive:
        raise ValueError(
            "the photos have no global descriptors to find candidates by: add a file of them, give neighbour "
            "lists, or verify all pairs"
        )
    with MatchStore(folder / "pairs", verifier or create_verifier()) as store:
        pairing = _Pairing(store, photos, candidates, offline, progress)
        if exhaustive:
            first = _all_pairs(photos.index, len(photos.ids), offline)
        elif neighbours is not None:
            first = _listed(neighbours, photos)
        else:
            assert photos.descriptors is not None
            first = pairing.nearest(photos.descriptors)
        expansion = rounds == 2 and not exhaustive and photos.descriptors is not None
        wanted = pairing.verify_index(first, expansion)
        measured = pairing.measure(wanted)
        if len(photos.ids) > photos.index:
            wanted = pairing.verify_queries(first, wanted, measured, expansion)
        graph = NamedGraph(
            photos.ids,
            photos.index,
            photos.descriptors,
            pairing.graph(wanted, measured),
            pairing.inliers(wanted),
            measured,
        )
        graph.save(folder)
    return Built(graph, pairing.verified, len(wanted), photos.failed)


def import_graph(
    lists: NeighbourLists,
    folder: Path | str,
    *,
    queries: Sequence[str] = (),
    features: Mapping[str, StoredFeatures] | None = None,
) -> NamedGraph:
    """Build a graph from pairs that someone else verified.

    Args:
        lists: entries with `confidence`, `inliers` or, from EGT's text, `weights`, which are taken for
            inliers; see `ranking.interchange`. Of two entries of a pair the larger counts. Confidence that
            is not given is calibrated on the inliers of all pairs of the index.
        folder: where the graph goes.
        queries: names of the images that are queries.
        features: name -> features with the global descriptors of all images; local ones are not looked at.

    Returns:
        The graph, saved in the folder too.

    Raises:
        ValueError: the lists hold neither inliers nor confidence, a query is not in them, or an image has no
            global descriptor.
    """
    names = _names(lists)
    outside = set(map(without_suffix, queries))
    unknown = sorted(outside - set(names))
    if unknown:
        raise ValueError(f"the lists know no queries {some(unknown)}")
    order = sorted(range(len(names)), key=lambda i: (names[i] in outside, names[i]))
    ids = [names[i] for i in order]
    index = len(ids) - len(outside)
    descriptors = None if features is None else _descriptors(ids, features)
    column = next((name for name in ("inliers", "weights") if name in lists.columns), None)
    if column is None and "confidence" not in lists.columns:
        raise ValueError(
            f"the lists hold {', '.join(lists.columns) or 'no values'}, and neither inliers nor confidence; "
            "to verify them, give them as neighbours, with features"
        )
    counts = None
    measured = None
    if column is not None:
        matrix = lists.matrix(column)[order][:, order].tocoo()
        if column == "weights" and matrix.nnz and matrix.data.max() <= 1:
            raise ValueError(
                "no weight is above 1, so they are not inliers; if they are confidences, give them as the "
                "array `confidence` of an .npz file"
            )
        counts = MatchGraph.from_matrix(matrix.tocsr(), minimum=1)
    if "confidence" in lists.columns:
        graph = MatchGraph.from_matrix(lists.matrix("confidence")[order][:, order].tocsr())
    else:
        pairs = np.stack([matrix.row, matrix.col], axis=1)
        similarity = _similarity(descriptors, pairs)
        inner = (pairs < index).all(1) & (pairs[:, 0] != pairs[:, 1])
        measured = Confidence.fit(matrix.data[inner], similarity[inner])
        matrix.data = measured(matrix.data, similarity)
        graph = MatchGraph.from_matrix(matrix.tocsr())
    named = NamedGraph(ids, index, descriptors, graph, counts, measured)
    named.save(folder)
    return named


def _names(lists: NeighbourLists) -> list[str]:
    """The names in lists as feature files have them: without suffixes of photos."""
    names = list(map(without_suffix, lists.ids))
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(f"images of the lists differ in their suffix alone: {some(twice)}; rename them")
    return names


def _descriptors(ids: Sequence[str], features: Mapping[str, StoredFeatures]) -> NDArray[np.float32]:
    missing = [name for name in ids if name not in features]
    if missing:
        raise ValueError(f"{len(missing)} images of the lists are not among the features: {some(missing)}")
    vectors = [features[name].global_descriptor for name in ids]
    without = [name for name, vector in zip(ids, vectors, strict=True) if vector is None]
    if without:
        raise ValueError(f"{len(without)} images have no global descriptor: {some(without)}")
    lengths = Counter(len(vector) for vector in vectors if vector is not None)
    if len(lengths) > 1:
        raise ValueError(f"global descriptors differ in length: {some(sorted(lengths))}")
    return np.stack([vector for vector in vectors if vector is not None])


@dataclass(frozen=True, eq=False)
class _Photos:
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
    ) -> _Photos:
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

    def local(self, number: int) -> LocalFeatures:
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


class _Pairing:
    """Candidates, verification and what follows from it; sets of pairs are sorted codes (see `_codes`)."""

    def __init__(
        self, store: MatchStore, photos: _Photos, candidates: int, offline: bool, progress: Progress
    ) -> None:
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

    def _features(self, keys: Sequence[str]) -> dict[str, LocalFeatures]:
        found = {}
        for key in keys:
            local = self._cache.get(key)
            if local is None:
                local = self.photos.local(self._number[key])
                if local.descriptors.nbytes < _CACHED_BYTES // 8:
                    self._cache[key] = local
            found[key] = local
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
        return _codes(np.concatenate(pairs))

    def verify_index(self, first: NDArray[np.int64], expansion: bool) -> NDArray[np.int64]:
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

    def verify_queries(
        self, first: NDArray[np.int64], wanted: NDArray[np.int64], measured: Confidence, expansion: bool
    ) -> NDArray[np.int64]:
        """Verify the pairs of queries, in two rounds; these and the wanted ones."""
        photos = self.photos
        outside = np.arange(photos.index, len(photos.ids))
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

    def _verify(self, codes: NDArray[np.int64], step: str) -> None:
        pairs = np.stack([codes >> _FIRST, codes & _SECOND], axis=1)
        self.verified += self.store.verify(
            self.photos.keys,
            pairs,
            self._features,
            lambda done, total: self.progress(step, done, total),
        )

    def measure(self, wanted: NDArray[np.int64]) -> Confidence:
        """Calibrate on the wanted pairs of the index."""
        significance, similarity = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        for pairs, records in self.store.batches(self.photos.keys[: self.photos.index]):
            chosen = _among(pairs, wanted)
            significance.append(records["significance"][chosen])
            similarity.append(_similarity(self.photos.descriptors, pairs[chosen]))
        return Confidence.fit(np.concatenate(significance), np.concatenate(similarity))

    def graph(self, wanted: NDArray[np.int64], measured: Confidence) -> MatchGraph:
        """The match graph of the wanted pairs."""

        def confidence(pairs: NDArray[np.int64], records: NDArray[np.void]) -> NDArray:
            chosen = _among(pairs, wanted)
            sure = np.full(len(pairs), -1, np.float32)
            similarity = _similarity(self.photos.descriptors, pairs[chosen])
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


def _codes(pairs: NDArray[np.integer]) -> NDArray[np.int64]:
    """One number for each pair of different images, smaller image first: sorted, each once."""
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)
    return np.unique(pairs.min(1, initial=_SECOND) << _FIRST | pairs.max(1, initial=0))


def _among(pairs: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs are among the wanted ones: bool [P]."""
    codes = pairs.min(1, initial=_SECOND) << _FIRST | pairs.max(1, initial=0)
    if not len(wanted):
        return np.zeros(len(codes), np.bool_)
    place = np.minimum(np.searchsorted(wanted, codes), len(wanted) - 1)
    found: NDArray[np.bool_] = wanted[place] == codes
    return found


def _all_pairs(index: int, images: int, offline: bool) -> NDArray[np.int64]:
    first, second = np.triu_indices(images, 1)
    chosen = np.ones(len(first), np.bool_) if offline else first < index
    return _codes(np.stack([first, second], axis=1)[chosen])


def _listed(lists: NeighbourLists, photos: _Photos) -> NDArray[np.int64]:
    """The pairs of the lists, by the numbers of the photos."""
    names = _names(lists)
    if names == [str(i) for i in range(len(photos.ids))] and names != photos.ids:
        return _codes(lists.pairs())
    if len(set(photos.ids)) < len(photos.ids):
        raise ValueError(
            "queries have the names of index images: give neighbour lists by numbers, without names"
        )
    number = {name: i for i, name in enumerate(photos.ids)}
    unknown = [name for name in names if name not in number and name not in photos.failed]
    if unknown:
        raise ValueError(f"{len(unknown)} images of the neighbour lists have no features: {some(unknown)}")
    place = np.array([number.get(name, -1) for name in names], np.int64)
    pairs = place[lists.pairs()]
    return _codes(pairs[(pairs >= 0).all(1)])


def _similarity(descriptors: NDArray[np.float32] | None, pairs: NDArray[np.integer]) -> NDArray[np.float32]:
    """Global similarity of pairs of images, float32 [P]; 0 where it is not known."""
    result = np.zeros(len(pairs), np.float32)
    if descriptors is not None:
        for start in range(0, len(pairs), _BLOCK):
            block = pairs[start : start + _BLOCK]
            result[start : start + _BLOCK] = np.einsum(
                "pd,pd->p", descriptors[block[:, 0]], descriptors[block[:, 1]]
            )
    return result
