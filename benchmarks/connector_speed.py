"""What the connector adds to plain pymilvus: to ingest, search and fetching features; and its memory.

    python benchmarks/connector.py --json OUT [--only memory ingest search fetch] [--backend lite server]
        [--rounds 7] [--rows 200000] [--quick]

The peer is `pymilvus.MilvusClient`, called as its documentation says. Both sides take turns; a ratio is the
median of the ratios of all turns but the first.

1. Ingest. Ours: `Collection.stage` and `publish`, photos of 1000 features with float32 descriptors, 128 at a
   time ("small": 32, as `landbridge index` does). The peer writes the rows that ours gave to pymilvus, made
   ahead, by `upsert`, which like ours makes no second row of a key, and by `insert`, in whichever batches it
   was fastest with. "Mended" is the peer without the check of pymilvus 3.0 that goes over a text character by
   character. `put` is the same for features that are packed already, and of their rows alone.
2. Search. The 100 nearest of one query with their ids, and `MilvusClient.search` of the same arguments, whose
   answer is left as it is, or read into a list.
3. Fetch. Features of 100 photos by id, unpacked, and one `MilvusClient.query` of their payloads.
4. Memory. Small photos from a generator; resident memory of a process that only writes. Milvus Lite runs in
   another process here, as it would otherwise be counted too.

The server is Milvus 2.3.5, as the integration tests start it, where it can be started.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pybase64
from connector_backends import BACKENDS, DIMENSION, EXTRACTOR, Backend, standalone, started
from numpy.typing import NDArray
from pipeline import machine

from connector import payload, schema
from connector.attached import AttachedCollection
from connector.client import MilvusClient
from connector.collection import Collection, Source
from connector.payload_store import Entry
from connector.rows import _quick, batches
from extractor.features import ImageFeatures, LocalFeatures

PARTS = ("memory", "ingest", "search", "fetch")
KEYPOINTS, LOCAL, GLOBAL = 1000, 64, DIMENSION
CHUNKS = 2
"""Rows of the features of such a photo."""
BATCH, SMALL_BATCH = 128, 32
"""Photos of one `stage`."""
PEERS = ("upserted", "inserted", "mended", "packed")
PEER_BYTES = (2**21, 2**22, 2**23, 2**24)
"""Sizes of a batch that the peer may choose from."""
LIMIT = 100
CANDIDATES = 100
TINY_DIMENSION, TINY_KEYPOINTS, TINY_BATCH = 64, 4, 500
WARM = 0.05
"""Part of the rows after which memory is first read."""
SOURCE = Source("folder/photo.jpg", 1_000_000, 1_700_000_000_000_000_000)

Arm = Callable[[], object]


@dataclass(frozen=True)
class Measured:
    figures: dict[str, float]
    ratios: dict[str, float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    arguments.add_argument("--rounds", type=int, help="turns of each side, 7 or 3")
    arguments.add_argument("--rows", type=int, help="of the memory part, 200,000 or 50,000")
    arguments.add_argument("--quick", action="store_true", help="fewer turns, photos and rows")
    given = arguments.parse_args()
    rounds, rows = (
        given.rounds or (3 if given.quick else 7),
        given.rows or (50_000 if given.quick else 200_000),
    )
    images = 64 if given.quick else 128
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for name in given.backend:
        if name == "server" and (reason := standalone().unavailable()):
            print(f"server left out: {reason}", flush=True)
            continue
        measured: list[Measured] = []
        if "memory" in given.only:
            with started(name, alone=True) as backend, get_context("spawn").Pool(1) as process:
                measured.append(shown(name, process.apply(memory, (backend, rows))))
        others = {"ingest": ingest, "search": search, "fetch": fetch}
        chosen = [part for part in given.only if part in others]
        if chosen:
            with started(name) as backend:
                for part in chosen:
                    measured.append(shown(name, others[part](backend, rounds, images)))
                    backend.drop_all()
        # The plain names are the server's, or those of Milvus Lite where there is no server.
        for found in measured:
            for into, values in ((figures, found.figures), (ratios, found.ratios)):
                into |= values | {f"{name}_{title}": value for title, value in values.items()}
    if given.json:
        result = {"name": "connector", "machine": machine(), "figures": figures, "ratios": ratios}
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def shown(backend: str, measured: Measured) -> Measured:
    for title, value in (measured.figures | measured.ratios).items():
        print(f"{backend:<7} {title:<34} {value:12.3f}", flush=True)
    return measured


def in_turn(rounds: Iterable[Mapping[str, Arm]]) -> dict[str, NDArray[np.float64]]:
    """Seconds of each side in all turns but the first; which side begins changes."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for number, arms in enumerate(rounds):
        names = deque(arms)
        names.rotate(number)
        gc.collect()
        for name in names:
            seconds[name].append(timed(arms[name]))
    return {name: np.array(values[1:]) for name, values in seconds.items()}


def timed(arm: Arm) -> float:
    gc.disable()
    start = time.perf_counter()
    arm()
    seconds = time.perf_counter() - start
    gc.enable()
    return seconds


def median(values: NDArray[np.float64]) -> float:
    return float(np.median(values))


# Ingest


def ingest(backend: Backend, rounds: int, images: int) -> Measured:
    made = [photo(f"{number}", seed=number) for number in range(images)]
    arrivals = ([replace(image, image_id=f"{turn}/{image.image_id}") for image in made] for turn in count())
    with (
        backend.bare() as bare,
        backend.create("ours") as ours,
        backend.create("small") as small,
        backend.create("put") as put,
        backend.create("recorded", client=Recorder(bare)) as recorded,
    ):
        for name in PEERS:
            backend.create(name).close()

        def rows_of(photos: list[ImageFeatures]) -> Rows:
            write(recorded, photos)
            return recorded._client._client.taken()

        def peer(operation: str, name: str, rows: Rows, size: int) -> None:
            for part, suffix in zip(rows, ("_features", ""), strict=True):
                for batch in cut(part, size):
                    getattr(bare, operation)(name + suffix, batch, timeout=120)

        sizes = {size: rows_of(next(arrivals)) for size in PEER_BYTES}
        size = min(sizes, key=lambda size: timed(lambda: peer("upsert", "upserted", sizes[size], size)))

        def arms(photos: list[ImageFeatures]) -> dict[str, Arm]:
            rows = rows_of(photos)
            quick: Rows = tuple([_quick(row) for row in part] for part in rows)
            entries = [Entry(schema.image_key(photo.image_id), payload.pack(photo)) for photo in photos]
            return {
                "ours": lambda: write(ours, photos),
                "small": lambda: write(small, photos, SMALL_BATCH),
                "upsert": lambda: peer("upsert", "upserted", rows, size),
                "insert": lambda: peer("insert", "inserted", rows, size),
                "mended": lambda: peer("upsert", "mended", quick, size),
                "put": lambda: [put._features.put(part) for part in batches(entries, BATCH)],
                "packed": lambda: peer("upsert", "packed", (rows[0], []), size),
            }

        seconds = in_turn(arms(photos) for photos in islice(arrivals, rounds + 1))
        assert len(ours) == images * (rounds + 1)
    megabytes = sum(map(len, payload.split(payload.pack(made[0])))) * images / 1e6 + images * 4 * GLOBAL / 1e6
    packing = timed(lambda: [payload.split(payload.pack(photo)) for photo in made])
    copying = timed(lambda: [bytearray(payload.CHUNK_BYTES) for _ in range(2 * images)])
    return Measured(
        {
            **{
                f"images_per_second_{name}": images / median(seconds[name])
                for name in ("ours", "small", "upsert", "insert", "mended")
            },
            "ingest_megabytes_per_second": megabytes / median(seconds["ours"]),
            "peer_batch_megabytes": size / 2**20,
            "part_of_packing": packing / median(seconds["ours"]),
            "part_of_copying": copying / median(seconds["ours"]),
        },
        {
            "ingest_vs_bare": median(seconds["upsert"] / seconds["ours"]),
            "ingest_vs_bare_insert": median(seconds["insert"] / seconds["ours"]),
            "ingest_vs_bare_small": median(seconds["upsert"] / seconds["small"]),
            "ingest_vs_bare_mended": median(seconds["mended"] / seconds["ours"]),
            "put_vs_bare": median(seconds["packed"] / seconds["put"]),
        },
    )


Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Of the features, and of the images."""


class Recorder:
    """A MilvusClient whose writes are kept and not done."""

    def __init__(self, client: MilvusClient) -> None:
        self._client = client
        self._rows: Rows = ([], [])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def upsert(self, collection_name: str, data: list[dict[str, Any]], **_: Any) -> None:
        kept = self._rows[not collection_name.endswith("_features")]
        for row in data:
            kept.append(
                {name: str(value) if isinstance(value, str) else value for name, value in row.items()}
            )

    def taken(self) -> Rows:
        taken, self._rows = self._rows, ([], [])
        return taken


def write(collection: Collection, photos: Sequence[ImageFeatures], batch: int = BATCH) -> None:
    for part in batches(photos, batch):
        records = collection.stage(part, [SOURCE] * len(part))
        collection.publish(records, np.stack([photo.global_descriptor for photo in part]))


def cut(rows: Sequence[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows in batches of about so many bytes."""
    if rows:
        each = sum(len(row["payload"]) if "payload" in row else 4 * GLOBAL for row in rows) / len(rows)
        for batch in batches(rows, max(1, int(size / each))):
            yield list(batch)


# Search


def search(backend: Backend, rounds: int, images: int) -> Measured:
    dimension, queries = 512, 20
    random = np.random.default_rng(0)
    vectors = unit(random.standard_normal((queries + 40 * images, dimension), np.float32))
    with backend.bare() as bare, backend.create("searched", dimension) as ours:
        for start in range(queries, len(vectors), 1000):
            bare.upsert("searched", image_rows(start, vectors[start : start + 1000]), timeout=120)
        bare.flush("searched", timeout=120)
        assert len(ours) == 40 * images

        def peer(query: NDArray[np.float32]) -> Any:
            return bare.search(
                "searched",
                [query],
                anns_field="embedding",
                limit=LIMIT,
                search_params={"metric_type": "COSINE", "params": {}},
                output_fields=["image_id"],
                consistency_level="Session",
                timeout=30,
            )

        def arms(row: int) -> dict[str, Arm]:
            query = vectors[row : row + 1]
            return {
                "ours": lambda: ours.search(query, LIMIT),
                "attached": lambda: attached.search(query, LIMIT, output_fields=["image_id"]),
                "bare": lambda: peer(query[0]),
                "read": lambda: [(hit["entity"]["image_id"], hit["distance"]) for hit in peer(query[0])[0]],
            }

        with AttachedCollection(backend.uri, "searched", token=backend.token) as attached:
            seconds = in_turn(arms(turn % queries) for turn in range(queries * rounds + 1))
    return Measured(
        {f"search_ms_{name}": 1000 * median(values) for name, values in seconds.items()},
        {
            "search_vs_bare": median(seconds["ours"] / seconds["bare"]),
            "search_vs_bare_read": median(seconds["ours"] / seconds["read"]),
            "attached_search_vs_bare": median(seconds["attached"] / seconds["bare"]),
        },
    )


def image_rows(first: int, vectors: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "pk": schema.image_key(f"image {number}"),
            "image_id": f"image {number}",
            "path": SOURCE.path,
            "width": 640,
            "height": 480,
            "keypoints": 0,
            "file_bytes": SOURCE.file_bytes,
            "modified_ns": SOURCE.modified_ns,
            "digest": "",
            "embedding": vector,
        }
        for number, vector in enumerate(vectors, first)
    ]


# Fetch


def fetch(backend: Backend, rounds: int, images: int) -> Measured:
    random = np.random.default_rng(1)
    ids = [str(number) for number in range(4 * images)]
    with backend.bare() as bare, backend.create("fetched") as ours:
        for part in batches(ids, BATCH):
            write(ours, [photo(id_, seed=int(id_)) for id_ in part])

        def peer(candidates: Sequence[str]) -> list[dict[str, Any]]:
            keys = [f"{schema.image_key(id_)}:{chunk}" for id_ in candidates for chunk in range(CHUNKS)]
            expression = f"pk in {json.dumps(keys)}"
            return bare.query(
                "fetched_features", expression, ["payload"], consistency_level="Session", timeout=60
            )

        def arms() -> dict[str, Arm]:
            candidates = [ids[number] for number in random.permutation(len(ids))[:CANDIDATES]]
            return {"ours": lambda: ours.features(candidates), "bare": lambda: peer(candidates)}

        seconds = in_turn(arms() for _ in range(5 * rounds + 1))
        texts = [row["payload"] for row in peer(ids[:CANDIDATES])]
    assert len(texts) == CANDIDATES * CHUNKS
    decoding = timed(lambda: [pybase64.b64decode(text, validate=True) for text in texts])
    megabytes = sum(map(len, texts)) / 1e6
    return Measured(
        {
            "fetch_ms_ours": 1000 * median(seconds["ours"]),
            "fetch_ms_bare": 1000 * median(seconds["bare"]),
            "fetch_megabytes": megabytes,
            "fetch_megabytes_per_second": megabytes / median(seconds["ours"]),
            "fetch_part_of_base64": decoding / median(seconds["ours"]),
        },
        {"fetch_vs_bare": median(seconds["ours"] / seconds["bare"])},
    )


# Memory


def memory(backend: Backend, rows: int) -> Measured:
    images = rows // 2  # a photo is a row of features and a row of its own
    template = photo("0", keypoints=TINY_KEYPOINTS, dimension=TINY_DIMENSION)
    random = np.random.default_rng(2)
    sizes: list[float] = []
    start = time.perf_counter()
    with backend.create("many", TINY_DIMENSION) as ours:
        for first in range(0, images, TINY_BATCH):
            numbers = range(first, min(first + TINY_BATCH, images))
            records = ours.stage(
                [replace(template, image_id=f"photo {number}") for number in numbers], [SOURCE] * len(numbers)
            )
            ours.publish(records, unit(random.standard_normal((len(numbers), TINY_DIMENSION), np.float32)))
            sizes.append(resident_mb())
            if len(sizes) % 50 == 0:
                print(f"{backend.name:<7} {2 * numbers.stop} rows, {sizes[-1]:.1f} MB", flush=True)
        seconds = time.perf_counter() - start
        assert len(ours) == images
    first = sizes[int(WARM * len(sizes))]
    return Measured(
        {
            "rows": 2 * images,
            "rows_per_second": 2 * images / seconds,
            "client_rss_mb_first": first,
            "client_rss_mb_last": sizes[-1],
            "client_rss_mb_max": max(sizes),
        },
        {"client_rss_last_over_first": sizes[-1] / first},
    )


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


# What both work on


def photo(image_id: str, seed: int = 0, keypoints: int = KEYPOINTS, dimension: int = GLOBAL) -> ImageFeatures:
    random = np.random.default_rng(seed)
    return ImageFeatures(
        image_id=image_id,
        size=(640, 480),
        global_descriptor=unit(random.standard_normal((1, dimension), np.float32))[0],
        local=LocalFeatures(
            keypoints=random.random((keypoints, 2), np.float32) * 480,
            scales=1 + random.random(keypoints, np.float32),
            scores=np.sort(random.random(keypoints, np.float32))[::-1],
            descriptors=unit(random.standard_normal((keypoints, LOCAL), np.float32)),
        ),
        extractor=EXTRACTOR,
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
