"""A search of one photo against an index of 1000 photos: seconds per step, model loading apart.

    python benchmarks/search.py --json OUT [--photos 1000] [--work FOLDER] [--quick]

The index is made of a rendered world and kept in the work folder, so that a second run is quick. Peer:
the bare search of Milvus for the same vector.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from pipeline import machine

import landbridge
from landbridge.photos import photos_in
from landbridge.sample_world import SampleWorld

PER_LANDMARK = 16


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--photos", type=int, default=1000)
    arguments.add_argument("--work", type=Path)
    arguments.add_argument("--quick", action="store_true", help="100 photos")
    given = arguments.parse_args()
    count = 100 if given.quick else given.photos
    with tempfile.TemporaryDirectory() as scratch:
        work = given.work or Path(scratch)
        world = work / f"world-{count}"
        landmarks = max(1, count * 3 // 4 // PER_LANDMARK)
        if not (world / "gnd.json").exists():
            distractors = count - landmarks * PER_LANDMARK
            SampleWorld(
                seed=1, landmarks=landmarks, lookalikes=0, distractors=distractors, queries_without_match=0
            ).write(world)
        queries, _ = photos_in(world / "queries_cropped")
        place = work / f"world-{count}.db"
        with landbridge.Index(place) as index:
            index.add(world / "jpg")
            figures = measure(index, list(queries.values())[:12])
        figures["seconds_first_search"] = first_search(place, list(queries.values())[:3])
    result = {
        "name": "search",
        "machine": machine(),
        "figures": figures,
        "ratios": {"search_over_bare_milvus": figures["seconds_search"] / figures["seconds_bare_milvus"]},
    }
    for name, value in (result["figures"] | result["ratios"]).items():
        print(f"{name:<28} {value:10.3f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(index: landbridge.Index, queries: list[Path]) -> dict[str, float]:
    index.search(queries[0])
    whole, bare = [], []
    for path in queries[1:]:
        start = time.perf_counter()
        index.search(path)
        whole.append(time.perf_counter() - start)
        found, _ = index.queries({path.stem: path})
        start = time.perf_counter()
        index.collection.search(found[0].embedding[None], 100)
        bare.append(time.perf_counter() - start)
    return {
        "photos": len(index),
        "seconds_search": statistics.median(whole),
        "seconds_bare_milvus": statistics.median(bare),
    }


def first_search(place: Path, queries: list[Path]) -> float:
    """As the command line does it: an index just opened, which reads all embeddings; the model is loaded."""
    seconds = []
    for path in queries:
        with landbridge.Index(place) as index:
            assert index.extractor
            start = time.perf_counter()
            index.search(path)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
