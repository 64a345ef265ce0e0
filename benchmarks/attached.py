"""What verified ranking adds to a collection of vectors that another model made.

    python benchmarks/attached.py --data DIR --json OUT

DIR holds `roxford_mini`, and `oxford5k_descriptors` with `gnd/gnd_oxford5k.pkl`: 128-d descriptors of another
system for the same photos. They go into a plain collection on Milvus Lite, as anybody would make it; then
Landbridge is attached. `rerank` orders the first hundred that their search finds, `search` all photos.
Peers: their search, its first hundred and its whole order.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pipeline import machine

import landbridge

CANDIDATES = 100
PROTOCOLS = ("easy", "medium", "hard")
MAKE = """
import sys
import numpy as np
from pymilvus import DataType, MilvusClient

client = MilvusClient("theirs.db")
schema = MilvusClient.create_schema(enable_dynamic_field=True)
schema.add_field("pk", DataType.INT64, is_primary=True)
schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=128)
index = MilvusClient.prepare_index_params()
index.add_index("embedding", index_type="FLAT", metric_type="L2")
client.create_collection("photos", schema=schema, index_params=index)
rows = zip(sys.stdin.read().split(), np.load("vectors.npy"))
client.insert("photos", [{"pk": n, "embedding": vector, "name": name, "path": f"{name}.jpg"}
                         for n, (name, vector) in enumerate(rows)])
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    photos = given.data / "roxford_mini"
    dataset = landbridge.load_dataset(photos, min_positives=2)
    vectors = descriptors(given.data)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), {name: vectors[name] for name in dataset.index})
        with landbridge.attach(
            Path(scratch) / "theirs.db", "photos", photo_field="path", roots=[photos / "jpg"]
        ) as theirs:
            start = time.perf_counter()
            theirs.add()
            figures["seconds_add"] = time.perf_counter() - start
            for name, how in {
                "top_100": {"method": "global"},
                "rerank_verify": {"method": "verify"},
                "rerank_mmst-c": {"method": "mmst-c"},
                "rerank_mmst-c_without_vector": {"method": "mmst-c", "vector": None},
                "search_global": {"method": "global"},
                "search_id-qe": {"method": "id-qe"},
                "search_mmst-c": {"method": "mmst-c"},
            }.items():
                start = time.perf_counter()
                ranked = {}
                for query, path in dataset.queries.items():
                    vector = vectors[query]
                    if name.startswith("search"):
                        found = theirs.search(path, vector, len(dataset.index), output_fields=["name"], **how)
                    else:
                        ids = theirs.collection.search(vector[None], CANDIDATES).ids[0]
                        found = theirs.rerank(path, ids, output_fields=["name"], **{"vector": vector} | how)
                    ranked[query] = [hit.fields["name"] for hit in found.hits]
                seconds = (time.perf_counter() - start) / len(ranked)
                scores = dataset.evaluate(ranked)
                figures |= {f"{name}.{protocol}": scores[protocol]["mAP"] for protocol in PROTOCOLS}
                figures[f"{name}.seconds"] = seconds
                row = " / ".join(f"{scores[protocol]['mAP']:5.1f}" for protocol in PROTOCOLS)
                print(f"{name:<30} {row}   {seconds:6.2f} s a query", flush=True)
    ratios = {"medium_over_theirs": figures["search_mmst-c.medium"] / figures["search_global.medium"]}
    print(f"{'Medium over their search':<30} {ratios['medium_over_theirs']:.2f}")
    if given.json:
        result = {"name": "attached", "machine": machine(), "figures": figures, "ratios": ratios}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def descriptors(data: Path) -> dict[str, NDArray[np.float32]]:
    """The other system's descriptor of each photo of Oxford, float32 [128], by its name."""
    raw = np.fromfile(data / "oxford5k_descriptors" / "oxford_features.fvecs", np.float32)
    with (data / "gnd" / "gnd_oxford5k.pkl").open("rb") as file:
        names = sorted(pickle.load(file)["imlist"])
    return dict(zip(names, raw.reshape(len(names), 129)[:, 1:], strict=True))


def make(folder: Path, vectors: dict[str, NDArray[np.float32]]) -> None:
    """Their collection, made by a process of their own."""
    np.save(folder / "vectors.npy", np.stack(list(vectors.values())))
    subprocess.run(
        [sys.executable, "-c", MAKE], cwd=folder, input="\n".join(vectors), text=True, check=True, timeout=120
    )


if __name__ == "__main__":
    main()
