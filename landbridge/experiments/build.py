"""From features to a match graph that can be ranked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractor.files import StoredFeatures
from landbridge.experiments.file_photos import FilePhotos
from landbridge.experiments.lists import listed
from landbridge.experiments.named_graph import NamedGraph
from landbridge.experiments.pairing import CANDIDATES, ROUNDS, Pairing, Progress, codes, silent
from ranking.interchange import NeighbourLists
from ranking.match_store import MatchStore
from ranking.verification import Verifier, create_verifier


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
    photos = FilePhotos.of(features, queries or {}, max_features, progress)
    if not photos.dimension:
        graph = NamedGraph(photos.ids, photos.index, photos.descriptors)
        graph.save(folder)
        return Built(graph, failed=photos.failed)
    if photos.descriptors is None and neighbours is None and not exhaustive:
        raise ValueError(
            "the photos have no global descriptors to find candidates by: add a file of them, give neighbour "
            "lists, or verify all pairs"
        )
    first: NDArray[np.int64] | None
    if exhaustive:
        first = _all_pairs(photos.index, len(photos.ids), offline)
    else:
        first = None if neighbours is None else listed(neighbours, photos)
    with MatchStore(folder / "pairs", verifier or create_verifier()) as store:
        pairing = Pairing(store, photos, candidates, offline=offline, progress=progress)
        wanted, measured = pairing.verify(first, 1 if exhaustive else rounds)
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


def _all_pairs(index: int, images: int, offline: bool) -> NDArray[np.int64]:
    first, second = np.triu_indices(images, 1)
    chosen = np.ones(len(first), np.bool_) if offline else first < index
    return codes(np.stack([first, second], axis=1)[chosen])
