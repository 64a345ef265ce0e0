"""From query descriptors to rankings: global search, verification, ID-QE, MMST-C, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from connector.collection import MAX_LIMIT
from connector.collection import Hit as Neighbour
from connector.local_index import LocalIndex
from extractor.features import LocalFeatures
from landbridge.results import Correspondences, Hit, How, Link, Ranking, hit_confidence
from ranking.confidence import Confidence
from ranking.id_qe import expand
from ranking.local_votes import NEIGHBOURS, local_votes
from ranking.match_graph import MatchGraph
from ranking.match_store import MatchStore
from ranking.mmst_c import SpanningTree, grow_trees, rank
from ranking.nearest_neighbours import nearest_neighbours, ranked
from ranking.query_expansion import average_query_expansion
from ranking.support import support

METHODS = ("global", "aqe", "verify", "id-qe", "mmst-c")
CANDIDATES = 100
_LOCAL_CANDIDATES = 50
_LOCAL_QUERIES = 200
"""Local descriptors of a query that vote, the strongest."""
_BLOCK = 1024
"""Pairs whose embeddings are gathered at a time, to stay in the processor's cache."""

Progress = Callable[[str, int, int], None]
"""Told the name of a step, and how many of how many items it has done."""


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Searched(Protocol):
    """What finds the nearest index images."""

    def search(self, queries: NDArray[np.float32], limit: int) -> list[list[Neighbour]]:
        """For each query, float32 [Q, D] of unit norm, the images with their similarities, best first."""


@dataclass(frozen=True, eq=False)
class Library:
    """The index images as the rankers see them.

    Attributes:
        ids: image ids; their order numbers the images.
        keys: digest of each image's features.
        embeddings: float32 [N, D] of unit norm.
        collection: where they are searched.
        matches: the pairs verified so far.
        features: local features of images by digest.
        featureless: int64, numbers of images that have none and are never verified.
        local: their local descriptors, searched for candidates that embeddings miss; None without any.
    """

    ids: list[str]
    keys: list[str]
    embeddings: NDArray[np.float32]
    collection: Searched
    matches: MatchStore
    features: Callable[[Sequence[str]], Mapping[str, LocalFeatures]]
    featureless: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    local: LocalIndex | None = None

    @cached_property
    def number(self) -> dict[str, int]:
        """Image id -> number."""
        return {image_id: i for i, image_id in enumerate(self.ids)}

    def neighbours(self, embeddings: NDArray[np.float32], limit: int) -> list[list[tuple[int, float]]]:
        """Numbers and similarities of the nearest index images of each vector, by a search in Milvus."""
        hits = self.collection.search(embeddings, min(limit, len(self.ids), MAX_LIMIT))
        return [[(self.number[hit.image_id], hit.similarity) for hit in found] for found in hits]

    def local_candidates(self, descriptors: NDArray[np.float32] | NDArray[np.int8]) -> list[int]:
        """Numbers of the images that a query's local descriptors [Q, d] vote for, most votes first.

        There must be local descriptors to search.
        """
        assert self.local is not None, "there is something to search"
        found = self.local.search(descriptors[:_LOCAL_QUERIES], NEIGHBOURS)
        votes = local_votes(found.owners, found.similarity, len(found.images))
        numbers = [self._local_number.get(key) for key in found.images]
        voted = [(-vote, i) for vote, i in zip(votes, numbers, strict=True) if i is not None and vote > 0]
        return [i for _, i in sorted(voted)]

    @cached_property
    def _local_number(self) -> dict[str, int]:
        assert self.local is not None, "it has rows"
        return {self.local.key(image_id): i for i, image_id in enumerate(self.ids)}

    @property
    def within_reach(self) -> int:
        """Neighbours among which are the candidates of an image, and itself."""
        return CANDIDATES + 1 + len(self.featureless)

    @cached_property
    def confidence(self) -> Confidence:
        """Measured on the verified pairs of index images, so it is the same for every query."""
        return self._measured(*self.matches.among(self.keys))

    def _measured(self, pairs: NDArray[np.int64], records: NDArray[np.void]) -> Confidence:
        return Confidence.fit(records["significance"], _similarity(self.embeddings, pairs))

    def graph(self, keys: Sequence[str], embeddings: NDArray[np.float32]) -> MatchGraph:
        """The match graph of images given by their digests and their global descriptors, float32 [n, D]."""
        return _graph(embeddings, *self.matches.among(keys), self.confidence)

    def join(self, progress: Progress = silent) -> int:
        """Verify every image that is new with its candidates; return how many pairs were verified.

        Candidates are the nearest neighbours in Milvus and, in a second round, those that the expanded
        descriptors bring near. Pairs of images that were joined before are not looked at again.
        """
        without = set(self.featureless.tolist())
        new = [i for i, key in enumerate(self.keys) if key not in self.matches.joined and i not in without]
        if not new:
            return 0
        found = self.neighbours(self.embeddings[new], self.within_reach)
        pairs = [(i, j) for i, hits in zip(new, found, strict=True) for j, _ in hits]
        verified = self.verify(self.keys, pairs, progress, "verify index photos")
        known, records = self.matches.among(self.keys)
        # What a run that was stopped in its second round left behind must not change the second round.
        before = ~np.isin(known, new).any(1) | np.isin(_codes(known), _codes(np.array(pairs)))
        known, records = known[before], records[before]
        graph = _graph(self.embeddings, known, records, self._measured(known, records))
        expanded = expand(self.embeddings, graph)
        closer, _ = nearest_neighbours(expanded[new], expanded, self.within_reach)
        pairs = [(i, int(j)) for i, row in zip(new, closer, strict=True) for j in row]
        verified += self.verify(self.keys, pairs, progress, "verify index photos, round 2")
        self.matches.join(self.keys[i] for i in new)
        return verified

    def verify(
        self,
        keys: Sequence[str],
        pairs: Sequence[tuple[int, int]],
        progress: Progress,
        step: str,
        own: Mapping[str, LocalFeatures] | None = None,
    ) -> int:
        """Verify pairs of numbered digests; `own` holds the features of photos outside the collection."""
        own = own or {}

        def features(wanted: Sequence[str]) -> Mapping[str, LocalFeatures]:
            stored = self.features([key for key in wanted if key not in own])
            return {key: own[key] if key in own else stored[key] for key in wanted}

        wanted = np.array(pairs, np.int64).reshape(-1, 2)
        return self.matches.verify(
            keys,
            wanted[~np.isin(wanted, self.featureless).any(1)],
            features,
            lambda done, total: progress(step, done, total),
        )


@dataclass(frozen=True, eq=False)
class Query:
    """A photo to search with.

    Attributes:
        query_id: its name in results.
        key: digest of its features.
        embedding: float32 [D] of unit norm.
        local: its local features; None for an image of the index.
    """

    query_id: str
    key: str
    embedding: NDArray[np.float32]
    local: LocalFeatures | None = None


class Retrieval:
    """Rankings of some queries by every method; steps that methods share are done once, when first needed."""

    def __init__(
        self,
        library: Library,
        queries: Sequence[Query],
        *,
        offline: bool = False,
        candidates: Sequence[Sequence[tuple[int, float]]] | None = None,
        progress: Progress = silent,
    ) -> None:
        """Prepare; nothing is computed yet.

        Args:
            library: the index.
            queries: photos from outside, or images of the index, which do not find themselves.
            offline: queries known together serve one another, and the index, as bridging images.
            candidates: each query's first ranking, which is verified: numbers of index images with their
                similarities, best first. By default they are searched.
            progress: told about the long steps.
        """
        self._given = candidates
        self.library = library
        self.queries = queries
        self.offline = offline
        self.progress = progress
        self._outside = [query for query in queries if query.local is not None]
        self._keys = library.keys + [query.key for query in self._outside]
        self._embeddings = np.concatenate(
            [library.embeddings, *(query.embedding[None] for query in self._outside)]
        )
        outside = iter(range(len(library.ids), len(self._keys)))
        self._node = [
            next(outside) if query.local is not None else library.number[query.query_id] for query in queries
        ]

    @property
    def _query_embeddings(self) -> NDArray[np.float32]:
        return np.stack([query.embedding for query in self.queries])

    @cached_property
    def _candidates(self) -> list[list[tuple[int, float]]]:
        """Those given, or the global search: each query's nearest index images; itself left out."""
        given = self._given
        found = self.library.neighbours(self._query_embeddings, CANDIDATES + 1) if given is None else given
        return [
            [(i, similarity) for i, similarity in hits if i != node][: CANDIDATES if given is None else None]
            for node, hits in zip(self._node, found, strict=True)
        ]

    @cached_property
    def _voted(self) -> list[list[int]]:
        """Index images that each query's local descriptors vote for and that are not yet candidates."""
        if self.library.local is None:
            return [[] for _ in self.queries]
        found = []
        for query, node, hits in zip(self.queries, self._node, self._candidates, strict=True):
            known = {node, *(i for i, _ in hits)}
            voted = self.library.local_candidates(self._local(query).descriptors)
            found.append([i for i in voted if i not in known][:_LOCAL_CANDIDATES])
            self.progress("search local descriptors", len(found), len(self.queries))
        return found

    def _local(self, query: Query) -> LocalFeatures:
        return self.library.features([query.key])[query.key] if query.local is None else query.local

    @property
    def _to_verify(self) -> list[list[int]]:
        """Candidates of the global search, and behind them those of the local descriptors."""
        return [
            [i for i, _ in hits] + voted for hits, voted in zip(self._candidates, self._voted, strict=True)
        ]

    @cached_property
    def _first_graph(self) -> MatchGraph:
        """Index images, queries and the verified pairs among the first candidates."""
        pairs = [(node, i) for node, images in zip(self._node, self._to_verify, strict=True) for i in images]
        return self._verified(pairs, "verify queries")

    def _verified(self, pairs: Sequence[tuple[int, int]], step: str) -> MatchGraph:
        own = {query.key: query.local for query in self._outside if query.local is not None}
        self.library.verify(self._keys, pairs, self.progress, step, own)
        return self.library.graph(self._keys, self._embeddings)

    @cached_property
    def _expanded(self) -> tuple[MatchGraph, NDArray[np.float32]]:
        """The match graph after a second round of candidates, and the descriptors that ID-QE moved."""
        index = len(self.library.ids)
        nearby = expand(self._embeddings, self._bridged(self._first_graph))
        pool = nearby if self.offline else nearby[:index]
        closer, _ = nearest_neighbours(nearby[self._node], pool, self.library.within_reach)
        pairs = [(node, int(i)) for node, row in zip(self._node, closer, strict=True) for i in row]
        graph = self._bridged(self._verified(pairs, "verify queries, round 2"))
        return graph, expand(self._embeddings, graph)

    def _bridged(self, graph: MatchGraph) -> MatchGraph:
        """Without offline mode, queries from outside are no bridges."""
        return graph if self.offline else graph.without_bridges(np.arange(len(self.library.ids), len(graph)))

    def rank(self, method: str, limit: int | None = None) -> list[Ranking]:
        """Rank the index images for every query.

        Args:
            method: one of `METHODS`.
            limit: longest list; None ranks the whole index.

        Raises:
            ValueError: there is no such method.
        """
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}: there are {', '.join(METHODS)}")
        if not self.queries or not self.library.ids:
            return [Ranking(query.query_id, ()) for query in self.queries]
        limit = len(self.library.ids) if limit is None else limit
        return {
            "global": self._rank_global,
            "aqe": self._rank_aqe,
            "verify": self._rank_verified,
            "id-qe": self._rank_expanded,
            "mmst-c": self._rank_tree,
        }[method](limit)

    def _similar(self, place: int, found: Sequence[tuple[int, float]], limit: int) -> Ranking:
        hits = [self._hit(place, i, s, [], s) for i, s in found if i != self._node[place]]
        return Ranking(self.queries[place].query_id, tuple(hits[:limit]))

    def _rank_global(self, limit: int) -> list[Ranking]:
        candidates = self._candidates
        if limit > CANDIDATES and self._given is None:
            candidates = self.library.neighbours(self._query_embeddings, limit + 1)
        return [self._similar(place, hits, limit) for place, hits in enumerate(candidates)]

    def _rank_aqe(self, limit: int) -> list[Ranking]:
        # An index image as a query is its own first neighbour and adds nothing to itself.
        expanded = average_query_expansion(self._query_embeddings, self.library.embeddings)
        found = self.library.neighbours(expanded, limit + 1)
        return [self._similar(place, hits, limit) for place, hits in enumerate(found)]

    def _rank_verified(self, limit: int) -> list[Ranking]:
        graph = self._first_graph
        rankings = []
        for place, (ranking, candidates) in enumerate(
            zip(self._rank_global(limit), self._to_verify, strict=True)
        ):
            direct = self._direct(graph, place)
            sure = sorted(
                ((direct[i].evidence, i) for i in candidates if i in direct),
                key=lambda entry: -entry[0],
            )
            verified = [self._hit(place, i, score, [direct[i].link], 0.0) for score, i in sure]
            seen = {hit.image_id for hit in verified}
            rest = [hit for hit in ranking.hits if hit.image_id not in seen]
            rankings.append(Ranking(ranking.query_id, tuple((verified + rest)[:limit])))
        return rankings

    def _similarity(self, place: int, expanded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Expanded similarity of every image to a query; -inf for what may not be returned."""
        similarity = expanded @ expanded[self._node[place]]
        similarity[len(self.library.ids) :] = -np.inf
        similarity[self._node[place]] = -np.inf
        return similarity

    def _rank_expanded(self, limit: int) -> list[Ranking]:
        graph, expanded = self._expanded
        rankings = []
        for place, query in enumerate(self.queries):
            similarity = self._similarity(place, expanded)
            direct = self._direct(graph, place)
            order = ranked(similarity[None], limit)[0]
            hits = [
                self._hit(
                    place,
                    int(i),
                    float(similarity[i]),
                    [direct[int(i)].link] if int(i) in direct else [],
                    float(similarity[i]),
                )
                for i in order
                if np.isfinite(similarity[i])
            ]
            rankings.append(Ranking(query.query_id, tuple(hits)))
        return rankings

    def _rank_tree(self, limit: int) -> list[Ranking]:
        graph, expanded = self._expanded
        roots = np.array(self._node)
        trees = grow_trees(graph, roots, len(graph))
        supported = support(graph, roots, trees)
        rankings = []
        for place, (query, tree) in enumerate(zip(self.queries, trees, strict=True)):
            own = supported[trees.indptr[place] : trees.indptr[place + 1]]
            similarity = self._similarity(place, expanded)
            order, scores = rank(tree, own, similarity, limit)
            direct = self._direct(graph, place)
            hits = [
                self._hit(
                    place,
                    int(i),
                    float(score),
                    [direct[int(i)].link] if int(i) in direct else self._chain(tree, int(i)),
                    float(similarity[i]),
                )
                for i, score in zip(order, scores, strict=True)
            ]
            rankings.append(Ranking(query.query_id, tuple(hits)))
        return rankings

    def _hit(self, place: int, number: int, score: float, chain: Sequence[Link], similarity: float) -> Hit:
        how: How = "similar" if not chain else "verified" if len(chain) == 1 else "bridged"
        return Hit(self.library.ids[number], score, how, tuple(chain), hit_confidence(chain, similarity))

    def _direct(self, graph: MatchGraph, place: int) -> dict[int, _Direct]:
        """The images verified with a query itself."""
        node = self._node[place]
        return {
            int(i): self._link(node, int(i))
            for i in graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
        }

    def _chain(self, tree: SpanningTree, image: int) -> list[Link]:
        chain = tree.chain(image)
        return [self._link(a, b).link for a, b in pairwise(chain)]

    def _link(self, source: int, target: int) -> _Direct:
        record = self.library.matches.record(self._keys[source], self._keys[target])
        assert record is not None, "edges are made of verified pairs"
        measured = record["significance"], _similarity(self._embeddings, np.array([[source, target]]))
        confidence = self.library.confidence
        link = Link(
            self._name(source),
            self._name(target),
            int(record["inliers"][0]),
            float(confidence(*measured)[0]),
        )
        return _Direct(link, float(confidence.evidence(*measured)[0]))

    def correspondences(self, source: str, target: str) -> Correspondences:
        """The inliers of a verified pair, by the names that the links of rankings have."""
        own = {query.query_id: query.key for query in self._outside}
        index = self.library.number
        for first in [own.get(source), self.library.keys[index[source]] if source in index else None]:
            for second in [self.library.keys[index[target]] if target in index else None, own.get(target)]:
                if first and second and self.library.matches.record(first, second) is not None:
                    points = self.library.matches.correspondences(first, second)
                    return Correspondences(points[:, :2], points[:, 2:])
        raise KeyError(f"{source} and {target} were not verified with each other")

    def _name(self, node: int) -> str:
        index = len(self.library.ids)
        return self.library.ids[node] if node < index else self._outside[node - index].query_id


@dataclass(frozen=True)
class _Direct:
    link: Link
    evidence: float


def _graph(
    embeddings: NDArray[np.float32],
    pairs: NDArray[np.int64],
    records: NDArray[np.void],
    confidence: Confidence,
) -> MatchGraph:
    certain = confidence(records["significance"], _similarity(embeddings, pairs))
    return MatchGraph.from_pairs(len(embeddings), pairs, certain)


def _similarity(embeddings: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Global similarity of pairs of images: float32 [P]."""
    similarity = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        first, second = pairs[start : start + _BLOCK].T
        similarity[start : start + _BLOCK] = np.einsum("pd,pd->p", embeddings[first], embeddings[second])
    return similarity


def _codes(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for each pair of numbers, in either order."""
    return pairs.min(1) << 32 | pairs.max(1)
