"""The accuracy of every ranker at one set of defaults: mAP in percent on up to three collections.

    python benchmarks/rankers.py --json OUT [--data DIR] [--work FOLDER] [--quick]

- `sample_world`: rendered, with queries from outside; always.
- `roxford_mini`: photos and revisited labels in DIR/roxford_mini; queries with two positives or more.
- `oxford5k`: labels and descriptors of the whole collection in DIR, classic protocol; no photos, so only the
  rankers on descriptors alone. A query is its photo's descriptor, and its photo counts, as in the protocol.

Queries are online, each alone with the index; the methods on verified pairs are ranked offline too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pipeline import machine
from scipy import sparse

import landbridge
from landbridge.datasets import Truth, load_dataset
from landbridge.datasets.restricted_pickle import load_restricted_pickle
from landbridge.sample_world import SampleWorld
from ranking.match_graph import MatchGraph
from ranking.metrics import evaluate
from ranking.nearest_neighbours import normalised
from ranking.rankers import RANKERS, Images, rank

VERIFIED = ("inliers", "egt", "id-qe", "mmst-c")
QUICK = {"landmarks": 2, "distractors": 8}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    arguments.add_argument("--work", type=Path, help="keeps worlds and indexes for the next run")
    arguments.add_argument("--quick", action="store_true", help="a small sample world alone")
    given = arguments.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        world = work / ("sample_world_quick" if given.quick else "sample_world")
        if not (world / "gnd.json").exists():
            SampleWorld(**(QUICK if given.quick else {})).write(world)
        figures |= on_photos("sample_world", world, work)
        if given.data and not given.quick:
            figures |= on_photos("roxford_mini", Path(given.data) / "roxford_mini", work)
            figures |= on_descriptors("oxford5k", Path(given.data))
    print(table(figures))
    if given.json:
        result = {"name": "rankers", "machine": machine(), "figures": figures, "ratios": {}}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def on_photos(name: str, folder: Path, work: Path) -> dict[str, float]:
    """Figures on a collection of photos, from an index made by the default extractor."""
    dataset = load_dataset(folder, min_positives=2)
    with landbridge.Index(work / f"{folder.name}.db") as index:
        index.add(dataset.index)
        queries, _ = index.queries(dataset.queries, dataset.boxes)
        ids = index.library.ids
        keys = index.library.keys + [query.key for query in queries]
        descriptors = np.concatenate([index.library.embeddings, *(q.embedding[None] for q in queries)])
        figures: dict[str, float] = {}
        for offline in (False, True):
            # Verifies the pairs that the methods need, and is itself checked below.
            retrieval = index.retrieval(queries, offline=offline)
            expected = retrieval.rank("mmst-c")
            images = Images(descriptors, len(ids), *verified(index, keys, descriptors))
            numbers = np.arange(len(ids), len(keys))
            for method in VERIFIED if offline else RANKERS:
                found = rank(method, images, numbers, len(ids), offline=offline)
                rankings = {
                    q.query_id: [ids[i] for i in row if i >= 0]
                    for q, row in zip(queries, found.ids, strict=True)
                }
                if method == "mmst-c":
                    assert all(rankings[e.query_id] == list(e.image_ids) for e in expected)
                for protocol, means in dataset.evaluate(rankings).items():
                    figures[f"{name}.{protocol}.{method}{'-offline' * offline}"] = means["mAP"]
    return figures


def verified(
    index: landbridge.Index, keys: list[str], descriptors: NDArray[np.float32]
) -> tuple[MatchGraph, sparse.csr_matrix]:
    """The match graph and the inliers of all pairs that were verified."""
    pairs, records = index.matches.among(keys)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    inliers = np.tile(records["inliers"].astype(np.float32), 2)
    matrix = sparse.csr_matrix((inliers, (both[:, 0], both[:, 1])), shape=(len(keys), len(keys)))
    return index.library.graph(keys, descriptors), matrix


def on_descriptors(name: str, data: Path) -> dict[str, float]:
    """Figures on the classic Oxford buildings, from global descriptors of all 5063 photos."""
    truth = load_restricted_pickle(data / "gnd" / "gnd_oxford5k.pkl")
    raw = np.fromfile(data / "oxford5k_descriptors" / "oxford_features.fvecs", np.float32)
    index = normalised(raw.reshape(len(truth["imlist"]), -1)[:, 1:])
    photos = sorted(truth["imlist"])
    own = [photos.index(photo) for photo in truth["qimlist"]]
    images = Images(np.concatenate([index, index[own]]), len(index))
    truths = {
        query: Truth(*(frozenset(truth["imlist"][i] for i in judged[kind]) for kind in ("ok", "junk")))
        for query, judged in zip(truth["qimlist"], truth["gnd"], strict=True)
    }
    figures = {}
    for method in RANKERS:
        if method not in VERIFIED:
            found = rank(method, images, np.arange(len(index), len(images.descriptors)), len(index))
            rankings = {q: [photos[i] for i in row] for q, row in zip(truths, found.ids, strict=True)}
            figures[f"{name}.classic.{method}"] = evaluate(rankings, truths).means()["mAP"]
    return figures


def table(figures: dict[str, float]) -> str:
    """Rankers down, collections and protocols across."""
    columns = list(dict.fromkeys(figure.rsplit(".", 1)[0] for figure in figures))
    rankers = list(dict.fromkeys(figure.rsplit(".", 1)[1] for figure in figures))
    lines = [["ranker", *columns], ["---"] + ["---:"] * len(columns)]
    for ranker in rankers:
        values = (figures.get(f"{column}.{ranker}") for column in columns)
        lines.append([ranker, *("" if value is None else f"{value:.1f}" for value in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
