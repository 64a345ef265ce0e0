"""What one row per local descriptor adds to the rankings, and what it costs.

    python benchmarks/local_index.py --json OUT [--data DIR] [--work FOLDER] [--photos 1000]
                                     [--server] [--quick]

- `world`: rendered, of `--photos` photos, with queries from outside.
- `roxford_mini`: photos and revisited labels in DIR/roxford_mini; queries with two positives or more.

Each twice: with its global descriptors, and with these whitened to 8 components (`_weak`), as a small or
foreign embedding may be. Three ways to choose what is verified: 100 images by the global descriptor
(`without`), the same and up to 50 by votes of local descriptors (`with`), and 150 by the global descriptor
(`more`), which verifies as many pairs as `with`. Each way verifies the queries anew, as if it had been
the only one; the pairs of index images are always those that the descriptors as they are led to.

`recall` is the share of a query's positives among what is verified, in percent; the other figures are mAP in
percent. With `--server`, votes by IVF_PQ on a Milvus server are compared with those of the exact search.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from capacity import sealed, server
from numpy.typing import NDArray
from pipeline import machine

import landbridge
from connector import payload
from connector.collection import Collection, Hit, Source
from connector.rows import batches
from extractor.whitening import Whitening
from landbridge import retrieval as retrieval_module
from landbridge.datasets import Dataset, load_dataset
from landbridge.retrieval import Library, Query, Retrieval
from landbridge.sample_world import SampleWorld
from ranking.local_votes import NEIGHBOURS
from ranking.match_store import MatchStore
from ranking.nearest_neighbours import nearest_neighbours, normalised

METHODS = ("verify", "id-qe", "mmst-c")
WEAK = 8
PER_LANDMARK = 16
QUERIES = 70
LOCAL_QUERIES = 200


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    arguments.add_argument("--work", type=Path, help="keeps the world and the indexes for the next run")
    arguments.add_argument("--photos", type=int, default=1000, help="of the rendered world")
    arguments.add_argument("--server", action="store_true", help="also on a Milvus server")
    arguments.add_argument("--quick", action="store_true", help="a world of 300 photos alone")
    given = arguments.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        folders = {"world": world(work, 300 if given.quick else given.photos)}
        if given.data and not given.quick:
            folders["roxford_mini"] = Path(given.data) / "roxford_mini"
        for name, folder in folders.items():
            with landbridge.Index(work / f"{name}.db") as index:
                figures |= measure(name, index, load_dataset(folder, min_positives=2), Path(scratch))
                if given.server:
                    with server(Path(scratch) / f"{name}.server") as standalone:
                        figures |= on_server(name, index, standalone)
    ratios = {
        name.replace("seconds_local_search", "local_over_global_search"): seconds
        / figures[name.replace("local", "global")]
        for name, seconds in figures.items()
        if name.endswith("seconds_local_search")
    }
    print(table(figures))
    for name, value in (figures | ratios).items():
        if name.count(".") == 1:
            print(f"{name:<48} {value:14.3f}")
    if given.json:
        result = {"name": "local_index", "machine": machine(), "figures": figures, "ratios": ratios}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def world(work: Path, photos: int) -> Path:
    folder = work / "world"
    if not (folder / "gnd.json").exists():
        landmarks = max(1, photos * 3 // 4 // PER_LANDMARK)
        SampleWorld(
            seed=1,
            landmarks=landmarks,
            lookalikes=0,
            distractors=photos - landmarks * PER_LANDMARK,
            queries_without_match=0,
        ).write(folder)
    return folder


def measure(name: str, index: landbridge.Index, dataset: Dataset, scratch: Path) -> dict[str, float]:
    """Bytes and seconds, and accuracy with the global descriptors as they are and weakened."""
    index.add(dataset.index)
    index.collection.local.drop()
    before = disk(Path(index.uri))
    index.build_local_index()
    photos = len(index)
    told = index.collection.local.info()
    packed = [len(payload.pack(image)) for image in index.collection.features(index.library.ids[:100])]
    figures = {
        f"{name}.photos": photos,
        f"{name}.local_rows_per_photo": told["rows"] / photos,
        f"{name}.bytes_packed_features": statistics.mean(packed),
        f"{name}.bytes_local_vectors": 4 * told["dimension"] * told["rows"] / photos,
        f"{name}.bytes_local_on_lite_disk": (disk(Path(index.uri)) - before) / photos,
    }
    queries, _ = index.queries(dict(list(dataset.queries.items())[:QUERIES]), dataset.boxes)
    figures |= {f"{name}.{what}": value for what, value in seconds(index.library, queries).items()}
    for label, library, asked in (
        (name, index.library, queries),
        (f"{name}_weak", *weakened(index.library, queries)),
    ):
        figures |= accuracy(label, library, asked, dataset, scratch)
    return figures


def seconds(library: Library, queries: Sequence[Query]) -> dict[str, float]:
    """A query's search, by the global descriptor and by the local ones, in turn."""
    taken: dict[str, list[float]] = {"global": [], "local": []}
    for query in queries[:20]:
        assert query.local is not None
        steps: dict[str, Callable[[], Any]] = {
            "global": lambda query=query: library.neighbours(query.embedding[None], 100),
            "local": lambda query=query: library.local_candidates(query.local.descriptors),
        }
        for step, run in steps.items():
            start = time.perf_counter()
            run()
            taken[step].append(time.perf_counter() - start)
    return {f"seconds_{step}_search": statistics.median(each[1:]) for step, each in taken.items()}


def weakened(library: Library, queries: Sequence[Query]) -> tuple[Library, list[Query]]:
    """The same images with fewer components of their global descriptors, searched in memory."""
    whitening = Whitening.fit(library.embeddings, WEAK)
    embeddings = whitening.apply(library.embeddings)
    return (
        replace(library, embeddings=embeddings, collection=Exact(library.ids, embeddings)),
        [replace(query, embedding=whitening.apply(query.embedding[None])[0]) for query in queries],
    )


class Exact:
    """A search among vectors in memory."""

    def __init__(self, ids: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._ids, self._vectors = ids, vectors

    def search(self, queries: NDArray[np.float32], limit: int) -> list[list[Hit]]:
        found = zip(*nearest_neighbours(queries, self._vectors, limit), strict=True)
        return [[Hit(self._ids[i], float(s)) for i, s in zip(*row, strict=True)] for row in found]


def accuracy(
    name: str, library: Library, queries: Sequence[Query], dataset: Dataset, scratch: Path
) -> dict[str, float]:
    """Recall of what is verified, and mAP of the methods, for each way to choose it."""
    figures: dict[str, float] = {}
    for way in ("without", "with", "more"):
        store = Path(shutil.copytree(library.matches.folder, scratch / f"{name}.{way}"))
        local = library.local if way == "with" else None
        with MatchStore(store, library.matches.verifier) as matches:
            retrieval_module.CANDIDATES = 150 if way == "more" else 100
            retrieval = Retrieval(replace(library, matches=matches, local=local), queries)
            verified = {
                query.query_id: {library.ids[i] for i in images}
                for query, images in zip(queries, retrieval._to_verify, strict=True)
            }
            rankings = {method: retrieval.rank(method) for method in METHODS}
            retrieval_module.CANDIDATES = 100
        for protocol, truths in dataset.protocols.items():
            recalls = [
                len(verified[query] & truth.positives) / len(truth.positives)
                for query, truth in truths.items()
                if query in verified and len(truth.positives) >= 2
            ]
            figures[f"{name}.{protocol}.recall.{way}"] = 100 * statistics.mean(recalls)
        for method, ranked in rankings.items():
            found = {ranking.query_id: ranking.image_ids for ranking in ranked}
            for protocol, truths in dataset.protocols.items():
                asked = {query: truths[query] for query in found}
                scores = replace(dataset, protocols={protocol: asked}).evaluate(found)
                figures[f"{name}.{protocol}.{method}.{way}"] = scores[protocol]["mAP"]
    return figures


def on_server(name: str, index: landbridge.Index, standalone: Any) -> dict[str, float]:
    """Neighbours of the descriptors of index photos, by IVF_PQ and exactly, on a server."""
    ids, embeddings = index.collection.embeddings()
    figures = {}
    with Collection.create(
        standalone.uri,
        name,
        dimension=embeddings.shape[1],
        extractor=index.collection.extractor,
        token=standalone.token,
        timeout=120,
    ) as collection:
        for part in batches(range(len(ids)), 32):
            features = index.collection.features([ids[i] for i in part])
            records = collection.stage(features, [Source(image.image_id, 1, 1) for image in features])
            collection.publish(records, embeddings[list(part)])
        asked = index.collection.features(ids[:10])
        vectors = np.concatenate(
            [normalised(image.local.descriptors[:100].astype(np.float32)) for image in index_features(index)]
        )
        for kind in ("IVF_PQ", "FLAT"):
            collection.local.build(index_params={"index_type": kind})
            sealed(standalone, collection.local.name, len(collection.local._built().rows))
            taken, agreed = [], []
            for image in asked:
                descriptors = image.local.descriptors[100 : 100 + LOCAL_QUERIES]  # not in the index
                start = time.perf_counter()
                found = collection.local.search(descriptors, NEIGHBOURS)
                taken.append(time.perf_counter() - start)
                exact, _ = nearest_neighbours(normalised(descriptors.astype(np.float32)), vectors, NEIGHBOURS)
                agreed.append(agreement(found, exact, collection, ids))
            figures[f"{name}.seconds_server_{kind}"] = statistics.median(taken)
            figures[f"{name}.neighbours_server_{kind}"] = 100 * statistics.mean(agreed)
            collection.local.drop()
    return figures


def index_features(index: landbridge.Index) -> list[Any]:
    ids = index.library.ids
    return [image for part in batches(ids, 100) for image in index.collection.features(part)]


def agreement(found: Any, exact: NDArray[np.int64], collection: Collection, ids: Sequence[str]) -> float:
    """Share of the exact neighbours' images among those found."""
    number = {collection.local.key(image_id): i for i, image_id in enumerate(ids)}
    own = np.array([number[key] for key in found.images])[found.owners]
    truth = exact // 100
    return statistics.mean(
        len(set(a.tolist()) & set(b.tolist())) / len(set(b.tolist())) for a, b in zip(own, truth, strict=True)
    )


def disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table(figures: dict[str, float]) -> str:
    lines = ["| collection | protocol | figure | without | with | more |", "|---|---|---|---:|---:|---:|"]
    for figure in figures:
        if figure.endswith(".without"):
            stem = figure.removesuffix(".without")
            values = (f"{figures[f'{stem}.{way}']:.1f}" for way in ("without", "with", "more"))
            lines.append(f"| {' | '.join([*stem.split('.'), *values])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
