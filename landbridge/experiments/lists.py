"""Lists of pairs that others made: k-NN lists to verify, and match lists to make a graph of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractor.files import StoredFeatures
from landbridge.datasets.dataset import some
from landbridge.datasets.photos import without_suffix
from landbridge.experiments.file_photos import FilePhotos
from landbridge.experiments.named_graph import NamedGraph
from landbridge.experiments.pairing import codes, similarity_of
from ranking.confidence import Confidence
from ranking.interchange import NeighbourLists
from ranking.match_graph import MatchGraph


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
        similarity = similarity_of(descriptors, pairs)
        inner = (pairs < index).all(1) & (pairs[:, 0] != pairs[:, 1])
        measured = Confidence.fit(matrix.data[inner], similarity[inner])
        matrix.data = measured(matrix.data, similarity)
        graph = MatchGraph.from_matrix(matrix.tocsr())
    named = NamedGraph(ids, index, descriptors, graph, counts, measured)
    named.save(folder)
    return named


def listed(lists: NeighbourLists, photos: FilePhotos) -> NDArray[np.int64]:
    """The pairs of the lists, by the numbers of the photos."""
    names = _names(lists)
    if names == [str(i) for i in range(len(photos.ids))] and names != photos.ids:
        return codes(lists.pairs())
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
    return codes(pairs[(pairs >= 0).all(1)])


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
