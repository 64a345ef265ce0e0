"""Every ranker by name, behind one contract: images and queries in; ids, scores and parents out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranking import id_qe, mmst_c
from ranking.diffusion import diffuse
from ranking.egt import TAU, explore_exploit, symmetrised
from ranking.k_reciprocal import k_reciprocal_similarity
from ranking.knn_graph import knn_graph
from ranking.match_graph import MatchGraph
from ranking.nearest_neighbours import nearest_neighbours, ranked
from ranking.query_expansion import alpha_query_expansion, average_query_expansion, database_augmentation
from ranking.support import support

T = TypeVar("T")

EGT_NEIGHBOURS = 100
COSINE_TAU = 0.42
"""The tau of EGT on cosines: the published setting, which belongs to the descriptors it was found for."""


@dataclass(frozen=True, eq=False)
class Images:
    """What the rankers know: n images, those of the index first, query photos from outside after them.

    Attributes:
        descriptors: float32 [n, D] of unit norm.
        index: number of index images; they alone are returned.
        graph: match graph of the n images, for `id-qe` and `mmst-c`.
        inliers: symmetric [n, n], inliers of the verified pairs, for `inliers` and `egt`.
    """

    descriptors: NDArray[np.float32]
    index: int
    graph: MatchGraph | None = None
    inliers: sparse.csr_matrix | None = None

    def __post_init__(self) -> None:
        if self.index > len(self.descriptors):
            raise ValueError(f"{self.index} index images, but {len(self.descriptors)} descriptors")
        for what, size in (
            ("match graph", None if self.graph is None else len(self.graph)),
            ("matrix of inliers", None if self.inliers is None else self.inliers.shape[0]),
        ):
            if size not in (None, len(self.descriptors)):
                raise ValueError(f"{len(self.descriptors)} descriptors, but the {what} has {size} images")


@dataclass(frozen=True, eq=False)
class Ranked:
    """Rankings of Q queries, L images long; shorter ones are filled up with -1.

    Attributes:
        ids: int64 [Q, L], images, best first.
        scores: float32 [Q, L], falling; comparable within a ranking. Images that a method has nothing to
            say about follow in the order of their similarity, with that less 2 for a score.
        parents: int64 [Q, L], the image from which each was reached: the query itself, or a bridging image;
            -1 where descriptors alone put it there.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    parents: NDArray[np.int64]

    def chain(self, row: int, image: int) -> list[int]:
        """The bridge to an image of a ranking, from the query to the image.

        It is empty where there is no bridge, and begins with the first bridging image that the list holds no
        parent of: the query, unless a bridge is beyond the end of the list or is another query.
        """
        parent = dict(zip(self.ids[row].tolist(), self.parents[row].tolist(), strict=True))
        chain = [image]
        while parent.get(chain[-1], -1) >= 0:
            chain.append(parent[chain[-1]])
        return chain[::-1] if len(chain) > 1 else []


Row = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Of one query: float32 scores of all images or of the index, and int64 parents of the same."""

Ranker = Callable[[Images, NDArray[np.int64], bool], Iterable[Row]]


def rank(
    method: str, images: Images, queries: NDArray[np.int64], limit: int, *, offline: bool = False
) -> Ranked:
    """Rank the index images for some queries.

    Args:
        method: one of `RANKERS`.
        images: what is known.
        queries: int64 [Q], numbers of images: query photos, or index images, which do not find themselves.
        limit: longest list; at most as many as there are index images.
        offline: query photos are known together and serve one another; if not, each query is ranked as if
            it were alone with the index.

    Raises:
        ValueError: there is no such method, or it needs a graph that is not given.
    """
    if method not in RANKERS:
        raise ValueError(f"unknown method {method!r}: there are {', '.join(RANKERS)}")
    limit = min(limit, images.index)
    result = Ranked(
        np.full((len(queries), limit), -1, np.int64),
        np.full((len(queries), limit), -np.inf, np.float32),
        np.full((len(queries), limit), -1, np.int64),
    )
    rows = RANKERS[method](images, np.asarray(queries, np.int64), offline)
    for place, (query, (scores, parents)) in enumerate(zip(queries, rows, strict=True)):
        scores = scores[: images.index].copy()
        if query < images.index:
            scores[query] = -np.inf
        best = ranked(scores[None], limit)[0]
        best = best[np.isfinite(scores[best])]
        result.ids[place, : len(best)] = best
        result.scores[place, : len(best)] = scores[best]
        result.parents[place, : len(best)] = parents[best]
    return result


def _pool(images: Images, offline: bool) -> NDArray[np.float32]:
    """The descriptors that may help."""
    return images.descriptors if offline else images.descriptors[: images.index]


def _alone(scores: NDArray[np.float32]) -> Row:
    return scores, np.full(len(scores), -1, np.int64)


def _first(images: Images, query: int, scores: NDArray[np.float32], parents: NDArray[np.int64]) -> Row:
    """Positive scores, then the others by similarity."""
    similarity = images.descriptors[: len(scores)] @ images.descriptors[query]
    return np.where(scores > 0, scores, similarity - 2).astype(np.float32), parents


def _global(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    return (_alone(images.descriptors @ images.descriptors[query]) for query in queries)


def _expanding(
    expansion: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]],
) -> Ranker:
    def rows(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
        expanded = expansion(images.descriptors[queries], _pool(images, offline))
        return (_alone(images.descriptors @ query) for query in expanded)

    return rows


def _augmented(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    pool = _pool(images, offline)
    descriptors = np.concatenate([database_augmentation(pool), images.descriptors[len(pool) :]])
    return _global(Images(descriptors, images.index), queries, offline)


def _k_reciprocal(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    if offline:
        yield from map(_alone, k_reciprocal_similarity(images.descriptors, queries))
        return
    index = images.descriptors[: images.index]
    inside = queries[queries < images.index]
    rows = iter(k_reciprocal_similarity(index, inside) if len(inside) else ())
    for query in queries:
        if query < images.index:
            yield _alone(next(rows))
        else:
            joined = np.concatenate([index, images.descriptors[query][None]])
            yield _alone(k_reciprocal_similarity(joined, np.array([images.index]))[0, : images.index])


def _diffusion(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    spread = diffuse(images.descriptors[queries], _pool(images, offline))
    for query, scores in zip(queries, spread, strict=True):
        yield _first(images, query, *_alone(scores))


def _inliers(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    inliers = _required(images.inliers, "inliers")
    for query in queries:
        scores = inliers[query].toarray()[0].astype(np.float32)
        yield _first(images, query, scores, np.where(scores > 0, query, -1))


def _traversal(
    images: Images, queries: NDArray[np.int64], weights: sparse.csr_matrix, tau: float, offline: bool
) -> Iterable[Row]:
    outside = np.arange(images.index, len(images.descriptors))
    for query in queries:
        order, _, before = explore_exploit(weights, query, images.index, tau, outside, offline)
        scores, parents = _alone(np.zeros(images.index, np.float32))
        # The traversal gives an order; the edges it took are not in that order.
        scores[order] = 1 / np.arange(1, len(order) + 1)
        parents[order] = before
        yield _first(images, query, scores, parents)


def _egt(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    return _traversal(images, queries, _required(images.inliers, "inliers"), TAU, offline)


def _egt_cosine(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    pool = _pool(images, offline)
    weights = symmetrised(knn_graph(pool, EGT_NEIGHBOURS))
    # Nothing leads into queries from outside; they lead to their neighbours.
    rest = images.descriptors[len(pool) :]
    found, similarity = nearest_neighbours(rest, pool, EGT_NEIGHBOURS)
    starts = np.arange(len(rest) + 1) * found.shape[1]
    outward = sparse.csr_matrix((similarity.ravel(), found.ravel(), starts), (len(rest), len(pool)))
    weights = sparse.vstack([weights, outward], format="csr")
    weights.resize(len(images.descriptors), len(images.descriptors))
    return _traversal(images, queries, weights, COSINE_TAU, offline)


def _expanded(images: Images, offline: bool) -> tuple[MatchGraph, NDArray[np.float32]]:
    graph = _required(images.graph, "graph")
    if not offline:
        graph = graph.without_bridges(np.arange(images.index, len(graph)))
    return graph, id_qe.expand(images.descriptors, graph)


def _id_qe(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    graph, expanded = _expanded(images, offline)
    for query in queries:
        scores, parents = _alone(expanded @ expanded[query])
        parents[graph.indices[graph.indptr[query] : graph.indptr[query + 1]]] = query
        yield scores, parents


def _mmst_c(images: Images, queries: NDArray[np.int64], offline: bool) -> Iterable[Row]:
    graph, expanded = _expanded(images, offline)
    trees = mmst_c.grow_trees(graph, queries, len(graph))
    supported = support(graph, queries, trees)
    for place, (query, tree) in enumerate(zip(queries, trees, strict=True)):
        scores, parents = _alone(expanded @ expanded[query])
        own = supported[trees.indptr[place] : trees.indptr[place + 1]]
        order, raised = mmst_c.rank(tree, own, scores, len(scores))
        scores[order] = raised
        parents[tree.order] = tree.parent
        yield scores, parents


def _required(value: T | None, name: str) -> T:
    if value is None:
        raise ValueError(f"this method ranks by verified pairs: give Images(..., {name}=...)")
    return value


RANKERS: dict[str, Ranker] = {
    "global": _global,
    "aqe": _expanding(average_query_expansion),
    "alpha-qe": _expanding(alpha_query_expansion),
    "dba": _augmented,
    "k-reciprocal": _k_reciprocal,
    "diffusion": _diffusion,
    "egt-cosine": _egt_cosine,
    "inliers": _inliers,
    "egt": _egt,
    "id-qe": _id_qe,
    "mmst-c": _mmst_c,
}
"""Ranker by name: those on descriptors alone, then those on verified pairs."""
