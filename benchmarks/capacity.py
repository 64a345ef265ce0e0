"""What a photo takes: bytes of disk and memory in Milvus and in the client, photos and searches per second.

    python benchmarks/capacity.py --json OUT [--photos FOLDER] [--quick]

Real photos are indexed once; rows like theirs, with real packed features, are then written to a Milvus server
in growing numbers. After each size the server is started anew, so that its memory is that of what it has
loaded, and a line is fitted: its slope is the bytes of a photo. Rows of embeddings and packed features are
measured apart. Without FOLDER, or the photos of LANDBRIDGE_DATA, a rendered world stands in.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pipeline import machine

import landbridge
from connector import payload
from connector.client import Client
from connector.collection import Collection, Record, Source
from connector.errors import ConnectorError
from extractor.features import ImageFeatures, LocalFeatures
from landbridge.photos import photos_in
from landbridge.sample_world import SampleWorld

TESTS = Path(__file__).parent.parent / "tests" / "integration"
NAME = "capacity"
EXTRACTOR = "capacity@1"
HNSW = {"index_type": "HNSW"}
IVF_SQ8 = {"index_type": "IVF_SQ8"}
COLLECT_GARBAGE = {f"dataCoord.gc.{name}": 5 for name in ("interval", "missingTolerance", "dropTolerance")}
CANDIDATES = 100
PATIENCE = 600.0
THREADS = (1, 4, 16)


@dataclass(frozen=True)
class Sizes:
    photos: int
    rows: Sequence[int]
    features: Sequence[int]
    lite: Sequence[int]
    seconds: float


FULL = Sizes(48, (10_000, 20_000, 40_000), (1_000, 2_000, 4_000), (500, 1_000, 2_000), 4.0)
QUICK = Sizes(12, (2_000, 4_000, 6_000), (200, 400, 600), (100, 200, 300), 1.0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--photos", type=Path)
    arguments.add_argument("--quick", action="store_true", help="a minute, and rougher slopes")
    given = arguments.parse_args()
    sizes = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        figures, real = index_photos(given.photos or given_photos(folder), sizes.photos, folder)
        figures |= on_lite(real, sizes.lite, folder)
        with server(folder) as standalone:
            figures |= rows_on_server(standalone, real, sizes)
            figures |= features_on_server(standalone, real, sizes.features)
    ratios = {
        "server_memory_over_packed": figures["server_memory_features"] / figures["packed_bytes"],
        "server_disk_over_packed": figures["server_disk_features"] / figures["packed_bytes"],
        "server_memory_over_embedding": figures["server_memory_row"] / figures["embedding_bytes"],
    }
    result = {"name": "capacity", "machine": machine(), "figures": figures, "ratios": ratios}
    for name, value in (figures | ratios).items():
        print(f"{name:<32} {value:14.2f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def given_photos(folder: Path) -> Path:
    if data := os.environ.get("LANDBRIDGE_DATA"):
        return Path(data) / "roxford_mini" / "jpg"
    SampleWorld(seed=1, landmarks=4, lookalikes=0, distractors=20).write(folder / "world")
    return folder / "world" / "jpg"


def index_photos(photos: Path, count: int, folder: Path) -> tuple[dict[str, float], list[ImageFeatures]]:
    """Index some photos on Milvus Lite: their features, and what verified pairs take on disk."""
    named, _ = photos_in(photos)
    some = dict(list(named.items())[:: max(1, len(named) // count)][:count])
    with landbridge.Index(folder / "real.db") as index:
        start = time.perf_counter()
        added = index.add(some)
        seconds = time.perf_counter() - start
        features = index.collection.features(added.added)
        pairs = len(index.matches)
        store = index.matches.folder
    packed = [len(payload.pack(image)) for image in features]
    return {
        "photos": len(features),
        "keypoints": statistics.mean(len(image.local) for image in features),
        "embedding_bytes": 4.0 * len(features[0].global_descriptor),
        "packed_bytes": statistics.mean(packed),
        "packed_bytes_most": max(packed),
        "chunks": statistics.mean(-(-size // payload.CHUNK_BYTES) for size in packed),
        "pairs_per_photo": pairs / len(features),
        "match_store_bytes": disk(store) / len(features),
        "photos_per_second_indexed": len(features) / seconds,
    }, features


def like(real: Sequence[ImageFeatures], numbers: range) -> Iterator[ImageFeatures]:
    """Images whose features are as long as those of real photos, pack as badly, and are no copies of them."""
    for number in numbers:
        random = np.random.default_rng(number)
        model = real[number % len(real)]
        local = model.local.quantised()
        noise = random.integers(-2, 3, local.descriptors.shape, np.int8)
        corner = np.asarray(model.size, np.float32) - 1
        keypoints = (local.keypoints + random.normal(size=local.keypoints.shape)).clip(0, corner)
        yield replace(
            model,
            image_id=f"album-{number // 1000:04d}/photo-{number:09d}",
            global_descriptor=embeddings(model.global_descriptor.size, range(number, number + 1))[0],
            local=LocalFeatures(
                keypoints.astype(np.float32),
                local.scales,
                (local.scores * (1 + 0.01 * random.random(len(local)))).astype(np.float32),
                (local.descriptors.astype(np.int16) + noise).clip(-127, 127).astype(np.int8),
            ),
            extractor=EXTRACTOR,
        )


def embeddings(dimension: int, numbers: range) -> NDArray[np.float32]:
    """Unit vectors around a thousand centres."""
    centres = np.random.default_rng(7).standard_normal((1000, dimension), np.float32)
    noise = np.random.default_rng(numbers.start).standard_normal((len(numbers), dimension), np.float32)
    vectors = centres[np.asarray(numbers) % len(centres)] + 0.7 * noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def source(image_id: str) -> Source:
    return Source(f"/data/photos/{image_id}.jpg", 250_000, 1_700_000_000_000_000_000)


# On a server


@contextmanager
def server(folder: Path) -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("milvus_standalone", TESTS / "milvus_standalone.py")
    standalone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standalone)
    if reason := standalone.Standalone.unavailable():
        sys.exit(reason)
    started = standalone.Standalone(folder / "server", folder / "binaries", **COLLECT_GARBAGE)
    started.token = standalone.TOKEN
    try:
        started.wait(PATIENCE)
        yield started
    finally:
        started.kill()


def rows_on_server(standalone: Any, real: Sequence[ImageFeatures], sizes: Sizes) -> dict[str, float]:
    """Rows of images with their HNSW index: memory and disk a row, searches per second."""
    dimension = real[0].global_descriptor.size
    idle = settled_rss(standalone)
    memory, data, index, client, seconds = [], [], [], [], 0.0
    with create(standalone, f"{NAME}_rows", dimension, index_params=HNSW) as collection:
        for first, last in steps(sizes.rows):
            seconds += publish(standalone, collection, first, last)
            restart(standalone)
            memory.append(settled_rss(standalone))
            data.append(disk(standalone.folder, "insert_log"))
            index.append(disk(standalone.folder, "index_files"))
            client.append(in_child(library_rss, standalone.uri, standalone.token, collection.name))
        rates = {
            f"searches_per_second_{threads}": searches_per_second(collection, threads, sizes.seconds)
            for threads in THREADS
        }
    with create(standalone, f"{NAME}_sq8", dimension, index_params=IVF_SQ8) as collection:
        publish(standalone, collection, 0, max(sizes.rows))
        restart(standalone)
        quantised = settled_rss(standalone) - memory[-1]
    return {
        "server_memory_idle_mb": idle / 1e6,
        "server_memory_row": slope(sizes.rows, memory),
        "server_memory_row_sq8": quantised / max(sizes.rows),
        "server_disk_row": slope(sizes.rows, data) + slope(sizes.rows, index),
        "server_disk_row_index": slope(sizes.rows, index),
        "client_memory_row": slope(sizes.rows, [after for after, _ in client]),
        "client_memory_row_peak": slope(sizes.rows, [peak for _, peak in client]),
        "rows_most": max(sizes.rows),
        "rows_per_second": max(sizes.rows) / seconds,
        **rates,
    }


def publish(standalone: Any, collection: Collection, first: int, last: int) -> float:
    """Write rows, and wait for their index; the seconds of the writing."""
    records = [record(number) for number in range(first, last)]
    vectors = embeddings(collection.dimension, range(first, last))
    start = time.perf_counter()
    for part in range(0, len(records), 1000):
        collection.publish(records[part : part + 1000], vectors[part : part + 1000])
    seconds = time.perf_counter() - start
    sealed(standalone, collection.name, last)
    return seconds


def features_on_server(
    standalone: Any, real: Sequence[ImageFeatures], sizes: Sequence[int]
) -> dict[str, float]:
    """Packed features: memory and disk a photo, photos per second in, and a query's candidates out."""
    memory, data, seconds = [], [], 0.0
    with create(standalone, f"{NAME}_packed", real[0].global_descriptor.size) as collection:
        for first, last in steps(sizes):
            for part in range(first, last, 100):
                images = list(like(real, range(part, min(part + 100, last))))
                sources = [source(image.image_id) for image in images]
                start = time.perf_counter()
                collection.stage(images, sources)
                seconds += time.perf_counter() - start
            sealed(standalone, f"{collection.name}_features", last)
            restart(standalone)
            memory.append(settled_rss(standalone))
            data.append(disk(standalone.folder, "insert_log"))
        ids = [image.image_id for image in like(real, range(CANDIDATES))]
        fetches = [timed(lambda: collection.features(ids)) for _ in range(7)]
        log = disk(standalone.folder, "rocksmq")
        mapped = settled_rss_mapped(standalone, f"{collection.name}_features")
    without_features = memory[-1] - slope(sizes, memory) * max(sizes)
    return {
        "server_memory_features": slope(sizes, memory),
        "server_memory_features_mapped": (mapped - without_features) / max(sizes),
        "server_disk_features": slope(sizes, data),
        "server_log_mb": log / 1e6,
        "photos_per_second_staged": max(sizes) / seconds,
        "ms_to_fetch_100": 1000 * statistics.median(fetches),
    }


def settled_rss_mapped(standalone: Any, name: str) -> float:
    """Bytes of memory of the server when it maps the fields of a collection from files."""
    standalone.settings["queryNode.mmapDirPath"] = str(standalone.folder / "mapped")
    with Client(standalone.uri, token=standalone.token, timeout=PATIENCE) as client:
        client.call("release_collection", collection_name=name)
        client.call("alter_collection_properties", collection_name=name, properties={"mmap.enabled": "true"})
        client.call("load_collection", collection_name=name)
    restart(standalone)
    return settled_rss(standalone)


def create(standalone: Any, name: str, dimension: int, **arguments: Any) -> Collection:
    return Collection.create(
        standalone.uri,
        name,
        dimension=dimension,
        extractor=EXTRACTOR,
        token=standalone.token,
        timeout=PATIENCE,
        **arguments,
    )


def record(number: int) -> Record:
    image_id = f"album-{number // 1000:04d}/photo-{number:09d}"
    where = source(image_id)
    return Record(image_id, where.path, 1024, 768, 900, where.file_bytes, where.modified_ns, f"{number:032x}")


def sealed(standalone: Any, name: str, rows: int) -> None:
    """Write all rows to disk, and wait for the index of all of them."""
    with Client(standalone.uri, token=standalone.token, timeout=PATIENCE) as client:
        client.call("flush", collection_name=name)
        wait_for_index(client, name, rows)


def wait_for_index(client: Client, name: str, rows: int) -> None:
    index = client.call("list_indexes", collection_name=name)[0]

    def built() -> bool:
        said = client.call("describe_index", collection_name=name, index_name=index)
        return said["indexed_rows"] >= rows and not said["pending_index_rows"]

    wait(built, f"the index of {name}")


def restart(standalone: Any) -> None:
    standalone.kill()
    standalone.start()
    standalone.wait(PATIENCE)
    with Client(standalone.uri, token=standalone.token, timeout=PATIENCE) as client:
        for name in client.call("list_collections"):
            wait(lambda name=name: loaded(client, name), f"{name} to be loaded")


def loaded(client: Client, name: str) -> bool:
    """Whether a collection answers, and still does: at first, queries may go to the server that was."""
    try:
        for _ in range(5):
            client.call("query", collection_name=name, filter="", output_fields=["count(*)"])
            time.sleep(0.5)
    except ConnectorError:
        return False
    return True


def searches_per_second(collection: Collection, threads: int, seconds: float) -> float:
    queries = embeddings(collection.dimension, range(10_000_000, 10_000_256))
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def search(thread: int) -> None:
        while time.perf_counter() < end:
            number = (thread * 17 + counts[thread]) % len(queries)
            collection.search(queries[number : number + 1], CANDIDATES)
            counts[thread] += 1

    start = time.perf_counter()
    workers = [threading.Thread(target=search, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


def library_rss(uri: str, token: str, name: str) -> tuple[float, float]:
    """Bytes that a process takes which has read a collection as a search does, and took on the way."""
    with Collection.open(uri, name, token=token, timeout=PATIENCE) as collection:
        ids, vectors = collection.embeddings()
        records = collection.records(ids)
        assert len(vectors) == len(records)
        return status_bytes(os.getpid(), "VmRSS"), status_bytes(os.getpid(), "VmHWM")


# On Milvus Lite


def on_lite(real: Sequence[ImageFeatures], sizes: Sequence[int], folder: Path) -> dict[str, float]:
    path = folder / "lite.db"
    memory, data = [], []
    for first, last in steps(sizes):
        in_child(grow_lite, path, real, first, last)
        memory.append(in_child(lite_rss, path))
        data.append(disk(path))
    return {"lite_memory_photo": slope(sizes, memory), "lite_disk_photo": slope(sizes, data)}


def grow_lite(path: Path, real: Sequence[ImageFeatures], first: int, last: int) -> None:
    dimension = real[0].global_descriptor.size
    with Collection.create(
        path, NAME, dimension=dimension, extractor=EXTRACTOR, timeout=PATIENCE
    ) as collection:
        for part in range(first, last, 100):
            images = list(like(real, range(part, min(part + 100, last))))
            records = collection.stage(images, [source(image.image_id) for image in images])
            collection.publish(records, np.stack([image.global_descriptor for image in images]))


def lite_rss(path: Path) -> float:
    with Collection.open(path, NAME, timeout=PATIENCE) as collection:
        collection.search(embeddings(collection.dimension, range(1)), CANDIDATES)
        return status_bytes(os.getpid(), "VmRSS")


# Measuring


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a process of its own, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def settled_rss(standalone: Any) -> float:
    """Bytes of memory of the server, less those of mapped files, when they no longer change."""
    found: list[float] = []
    while len(found) < 30:
        found.append(status_bytes(server_process(standalone.folder), "RssAnon"))
        if len(found) > 5 and max(found[-5:]) < 1.01 * min(found[-5:]):
            break
        time.sleep(1)
    return found[-1]


def server_process(folder: Path) -> int:
    for entry in Path("/proc").iterdir():
        try:
            is_milvus = entry.name.isdigit() and (entry / "comm").read_text() == "milvus\n"
            if is_milvus and (entry / "cwd").resolve() == folder.resolve():
                return int(entry.name)
        except OSError:
            continue
    raise RuntimeError("the Milvus server is not running")


def status_bytes(process: int, name: str) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def disk(folder: Path, part: str = "") -> float:
    """Bytes of the files in a folder, or in those of its folders that have a name."""
    files = (file for file in folder.rglob("*") if file.is_file() and (not part or part in file.parts))
    return float(sum(file.stat().st_size for file in files))


def steps(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip((0, *sizes[:-1]), sizes, strict=True)


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(sizes, values, 1)[0])


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def wait(done: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
