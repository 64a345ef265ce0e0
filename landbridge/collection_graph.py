"""From a collection in Milvus to a match graph that can be ranked: k-NN pairs, verified or as they are."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from scipy import sparse

from connector.client import Client
from connector.errors import CollectionChangedError, InvalidInputError, some
from connector.key_column import KeyColumn
from connector.knn_graph import NEIGHBOURS, KnnGraph
from connector.snapshot import Snapshot
from landbridge.collection_source import CollectionSource
from landbridge.experiments.named_graph import NamedGraph
from landbridge.experiments.pairing import ROUNDS, Pairing, Progress, codes, silent, similarity_of
from ranking.match_graph import MatchGraph

_ROWS = 1 << 14


def neighbours_of(
    source: CollectionSource,
    folder: Path | str,
    neighbours: int = NEIGHBOURS,
    *,
    anew: bool = False,
    progress: Progress = silent,
) -> KnnGraph:
    """The k-NN graph of a collection, as `KnnGraph.build` makes it; images have their names for ids."""
    with source.connect() as client:
        return KnnGraph.build(
            client,
            source.collection,
            Path(folder),
            neighbours,
            vector_field=source.vector_field,
            id_field=source.name_field(client),
            filter=source.images,
            anew=anew,
            progress=partial(progress, "nearest neighbours"),
        )


@dataclass(frozen=True, eq=False)
class CollectionGraph:
    """The match graph of a collection.

    Attributes:
        graph: images and edges, saved in the folder too.
        keys: the primary key of each image, in the order of `graph.ids`.
        pairs: pairs that the graph is made from.
        verified: pairs that were verified now; the others were known.
        without: names of the images without local features, which are joined to nothing.
    """

    graph: NamedGraph
    keys: KeyColumn
    pairs: int
    verified: int = 0
    without: list[str] = field(default_factory=list)


def match_collection(
    source: CollectionSource,
    folder: Path | str,
    *,
    neighbours: int = NEIGHBOURS,
    rounds: int = ROUNDS,
    similarity: float | None = None,
    progress: Progress = silent,
) -> CollectionGraph:
    """Verify the k-NN pairs of a collection and build its match graph.

    Candidates are the k nearest neighbours that Milvus finds of each image and, in a second round, those that
    ID-QE's expanded descriptors bring near. Local features are fetched from Milvus for the pairs at hand, and
    at most a gigabyte of them is kept. What searches and `index` have verified is not verified again, and
    what is verified here serves them.

    Run it again after it was stopped, and it goes on; after images came, went or changed, the k-NN graph is
    built anew and what is new is verified. The graph depends on the collection and the arguments alone.

    Args:
        source: the collection.
        folder: for the graph, as `NamedGraph` has it, and what it is made of.
        neighbours: k.
        rounds: 1 leaves the second round out, which compares all descriptors with all.
        similarity: do not verify, but join images that are among each other's neighbours with a cosine of at
            least this, which then stands for the confidence: for collections without local features.
        progress: told about the long steps.

    Raises:
        ImagesMissingError: no image has local features, and no similarity is given.
        CollectionChangedError: images came or went meanwhile.
        InvalidInputError: an argument or a field is not what it must be, two images have one name, or
            another process uses the folder.
        ConnectorError: Milvus failed; see `KnnGraph.build`.
        MatchStoreError: another process uses the verified pairs.
    """
    if rounds not in (1, 2) or not (similarity is None or 0 < similarity <= 1):
        raise InvalidInputError(
            f"rounds must be 1 or 2 and similarity above 0 and at most 1, got {rounds} and {similarity}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0), source.connect() as client:
            job = _Job(client, source, folder, neighbours, progress)
            return job.verified(rounds) if similarity is None else job.alike(similarity)
    except Timeout:
        raise InvalidInputError(f"another process builds the graph in {folder}: wait") from None


class _Job:
    """The building of one graph."""

    def __init__(
        self, client: Client, source: CollectionSource, folder: Path, neighbours: int, progress: Progress
    ) -> None:
        self.client, self.source, self.folder = client, source, folder
        self.neighbours, self.progress = neighbours, progress
        self.landbridge = source.is_landbridge(client)
        if (folder / "current.json").exists() and not (folder / "neighbours" / "made_of").exists():
            raise InvalidInputError(f"{folder} holds a graph that was made of files: give another folder")
        self.snapshot = Snapshot.read(
            client,
            source.collection,
            folder / "snapshot",
            vector_field=source.vector_field,
            id_field=source.name_field(client),
            filter=source.images,
            progress=partial(progress, "read vectors"),
        )
        self.names = self._distinct([str(name) for name in self.snapshot.ids.read(0, len(self.snapshot))])
        self.knn = self._knn()

    def verified(self, rounds: int) -> CollectionGraph:
        """The graph of verified pairs."""
        opened = self.source.photos(self.snapshot, self.names, self.progress, landbridge=self.landbridge)
        with opened as (photos, store):
            pairing = Pairing(store, photos, self.neighbours, progress=self.progress)
            wanted, measured = pairing.verify(_candidates(self.knn.neighbours), rounds)
            graph = NamedGraph(
                self.names,
                len(self.names),
                self.snapshot.vectors,
                pairing.graph(wanted, measured),
                pairing.inliers(wanted),
                measured,
            )
        without = [name for name, digest in zip(self.names, photos.digests, strict=True) if not digest]
        return self._saved(graph, len(wanted), pairing.verified, without)

    def alike(self, similarity: float) -> CollectionGraph:
        """The graph of neighbours that are so similar."""
        listed = self.knn.matrix().astype(np.bool_)
        listed.data[:] = True
        mutual = sparse.triu(listed.multiply(listed.T), format="coo")
        pairs = np.stack([mutual.row, mutual.col], axis=1)
        cosine = similarity_of(self.snapshot.vectors, pairs)
        edges = MatchGraph.from_pairs(len(self.names), pairs, np.minimum(cosine, 1), similarity)
        return self._saved(NamedGraph(self.names, len(self.names), self.snapshot.vectors, edges), len(pairs))

    def _saved(
        self, graph: NamedGraph, pairs: int, verified: int = 0, without: list[str] | None = None
    ) -> CollectionGraph:
        graph.save(self.folder)
        return CollectionGraph(NamedGraph.open(self.folder), self.knn.keys, pairs, verified, without or [])

    def _distinct(self, names: list[str]) -> list[str]:
        known: set[str] = set()
        twice = {name for name in names if name in known or known.add(name)}  # type: ignore[func-returns-value]
        if twice:
            raise InvalidInputError(
                f"{self.source.id_field!r} of collection {self.source.collection!r} gives several images the "
                f"same name: {some(sorted(twice))}; give a field of distinct values, or none"
            )
        return names

    def _knn(self) -> KnnGraph:
        """The k-NN graph of what is there now; that of an earlier run, when nothing changed."""
        place = self.folder / "neighbours"
        label, made_of = place / "made_of", f"{self.snapshot.fingerprint} {self.neighbours}"
        if place.is_dir() and any(place.iterdir()):
            if not label.exists():
                raise InvalidInputError(f"{place} is not what was made here: give another folder")
            if label.read_text() != made_of:
                shutil.rmtree(place)
        place.mkdir(exist_ok=True)
        label.write_text(made_of)
        knn = KnnGraph.build(
            self.client,
            self.source.collection,
            place,
            self.neighbours,
            vector_field=self.source.vector_field,
            filter=self.source.images,
            progress=partial(self.progress, "nearest neighbours"),
        )
        if not _same(knn.keys, self.snapshot.keys):
            shutil.rmtree(place)
            raise CollectionChangedError(
                f"images of collection {self.source.collection!r} came or went while it was read: do it again"
            )
        return knn


def _same(first: KeyColumn, second: KeyColumn) -> bool:
    bounds = [(start, min(start + _ROWS, len(first))) for start in range(0, len(first), _ROWS)]
    return len(first) == len(second) and all(first.read(*part) == second.read(*part) for part in bounds)


def _candidates(neighbours: NDArray[np.int32]) -> NDArray[np.int64]:
    """The pairs of k-NN lists as `codes`, some lists at a time."""
    parts = []
    for start in range(0, len(neighbours), _ROWS):
        lists = neighbours[start : start + _ROWS].astype(np.int64)
        own = np.broadcast_to(np.arange(start, start + len(lists))[:, None], lists.shape)
        parts.append(codes(np.stack([own, lists], axis=-1)[lists >= 0]))
    return np.unique(np.concatenate(parts))
