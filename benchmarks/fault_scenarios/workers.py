"""The process that is killed: it imports everything once, and forks for every job.

Jobs come in as lines of JSON, and so do answers go out: {"acknowledged": […]} for each batch that was taken,
then {"done": …} or {"failed": message}, and at the end {"killed": signal}, which is 0 when there was none.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import milvus_lite.adapter.grpc.server  # noqa: F401
import numpy as np
from pymilvus.client import grpc_handler

from connector import knn_graph, payload, schema
from connector import rows as rows_module
from connector.alias import Aliases
from connector.client import Client, DataType, MilvusClient, MilvusException
from connector.collection import Collection, Record, Source
from connector.errors import ConnectorError
from connector.knn_graph import KnnGraph
from extractor.features import ImageFeatures, LocalFeatures
from landbridge import Index, reindexing
from landbridge import ingest as ingest_module
from landbridge.matches_folder import matches_folder
from ranking import match_store
from ranking.match_store import MatchStore, MatchStoreError

PHOTOS, BATCH, DIMENSION = 24, 4, 16
CROWD = 300
FINGERPRINT = "xfeat@1"
STEPS = [(Client, "call"), (match_store, "_append"), (MatchStore, "join")]
"""What a kill may follow: every call to Milvus, and everything written of verified pairs."""


def photo(number: int, edition: int = 1) -> tuple[ImageFeatures, Source]:
    """Photo `number`; in the second edition every third one has changed."""
    changed = edition == 2 and number % 3 == 0
    random = np.random.default_rng([number, changed])
    keypoints = int(random.integers(0, 1800))  # to three chunks of payload
    vector = random.normal(size=DIMENSION).astype(np.float32)
    local = LocalFeatures(
        keypoints=(random.random((keypoints, 2)) * 480).astype(np.float32),
        scales=np.ones(keypoints, np.float32),
        scores=np.ones(keypoints, np.float32),
        descriptors=random.integers(-127, 128, (keypoints, 64), np.int8),
    )
    image = ImageFeatures(f"{number}.jpg", (640, 480), vector / np.linalg.norm(vector), local, FINGERPRINT)
    return image, Source(f"{number}.jpg", 1000 + number, 1 + changed)


def ingest(
    place: dict[str, str], numbers: Sequence[int] = range(PHOTOS), edition: int = 1, timeout: float = 30
) -> int:
    """Bring a collection up to date as an indexing program does; how many photos were new or changed."""
    made = {"dimension": DIMENSION, "extractor": FINGERPRINT, "timeout": 90}
    with Collection.create(place["uri"], place["name"], **made, **opening(place)) as collection:
        collection._client.timeout = timeout
        photos = {image.image_id: (image, source) for image, source in (photo(n, edition) for n in numbers)}
        done = {record.image_id: record.source for record in collection.published()}
        staged = {record.image_id: record for record in collection.staged()}
        todo = [name for name in photos if done.get(name) != photos[name][1]]
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            fresh = [name for name in batch if name not in staged or staged[name].source != photos[name][1]]
            records = collection.stage([photos[n][0] for n in fresh], [photos[n][1] for n in fresh])
            records += [staged[name] for name in batch if name not in fresh]
            images = collection.features([record.image_id for record in records])
            collection.publish(records, np.stack([image.global_descriptor for image in images]))
        if collection.get_blob("mean") != bytes(60_000):
            collection.put_blob("mean", bytes(60_000))
        return len(todo)


def ingest_held(place: dict[str, str]) -> int:
    """`ingest`, which has the place open and waits for a byte before."""
    with Client(place["uri"], token=place["token"]):
        tell(acknowledged=[])
        os.read(0, 1)
        return ingest(place)


def ingest_twice(place: dict[str, str]) -> list[int]:
    """Two writers in one process, in a different order."""
    orders = (range(PHOTOS), range(PHOTOS - 1, -1, -1))
    with ThreadPoolExecutor() as writers:
        return list(writers.map(lambda numbers: ingest(place, numbers), orders))


def ingest_deaf(place: dict[str, str], numbers: Sequence[int]) -> int:
    """`ingest`, where every third answer to calls that change something is lost."""
    for name in ("create_collection", "create_index", "load_collection", "upsert", "insert", "delete"):
        setattr(MilvusClient, name, deaf(getattr(MilvusClient, name)))
    ingest(place, numbers)
    return ingest(place, numbers, edition=2)


def deaf(method: Callable[..., Any]) -> Callable[..., Any]:
    calls = count()

    def call(*arguments: Any, **named: Any) -> Any:
        answer = method(*arguments, **named)
        if next(calls) % 3 == 0:
            raise MilvusException(2, "the answer was lost")
        return answer

    return call


def fill(place: dict[str, str], blobs: int, timeout: float = 90) -> None:
    """Keep so many blobs of 4 MiB, those that are not there already."""
    made = {"dimension": DIMENSION, "extractor": FINGERPRINT, "timeout": 90}
    with Collection.create(place["uri"], place["name"], **made, **opening(place)) as collection:
        collection._client.timeout = timeout
        for number in range(blobs):
            data = np.random.default_rng(number).bytes(2**22)
            if collection.get_blob(str(number)) != data:
                collection.put_blob(str(number), data)
            owner = schema.blob_key(str(number), place["tenant"])
            tell(acknowledged=[f"_blobs {owner}:{chunk}" for chunk in range(len(payload.split(data)))])


def opening(place: dict[str, str]) -> dict[str, str]:
    return {"token": place["token"], "tenant": place["tenant"]}


def index(place: dict[str, str], photos: str) -> int:
    """`Index.add` of a folder of toy photos, made when it is not there; how many pairs it verified."""
    toy = tests("toy_extractor")
    toy.install()
    if not Path(photos).exists():
        for number in range(18):
            motifs = range(3 * (number % 6), 3 * (number % 6) + 4)
            toy.write_photo(Path(photos) / f"{number}.png", motifs, number)
    with Index(place["uri"], place["name"], token=place["token"]) as opened:
        return opened.add(photos).verified


def reindex(place: dict[str, str]) -> int:
    """The photos of the collection `faults_old` by another extractor, put behind an alias of it; how many."""
    tests("toy_reindex").install()
    uri, token, alias = place["uri"], place["token"], f"live_{place['name']}"
    with Aliases(uri, token=token) as aliases:
        there = alias in aliases.list()
    if not there:
        reindexing.switch(uri, alias, "faults_old", token=token)
    return reindexing.reindex(uri, alias, "new-toy", into=place["name"], token=token).photos


def crowd(place: dict[str, str]) -> None:
    """The collection `faults_crowd`, of somebody else's, with exact search."""
    with Client(place["uri"], token=place["token"]) as client:
        fields = MilvusClient.create_schema(auto_id=False)
        fields.add_field("name", DataType.VARCHAR, is_primary=True, max_length=50)
        fields.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        client.call("create_collection", collection_name="faults_crowd", schema=fields, index_params=index)
        vectors = np.random.default_rng(4).normal(size=(CROWD, DIMENSION)).astype(np.float32)
        rows = [{"name": f'"{i}\\', "vector": vector} for i, vector in enumerate(vectors)]
        client.call("upsert", collection_name="faults_crowd", data=rows)


def graph(place: dict[str, str]) -> int:
    """The k-NN graph of the crowd; of how many images."""
    with Client(place["uri"], token=place["token"]) as client:
        return len(KnnGraph.build(client, "faults_crowd", Path(place["folder"]) / "graph", 8))


def search(place: dict[str, str], times: int, timeout: float = 30) -> list[str]:
    """Search with every photo, so many times; the answers that were not the first one's."""
    with Collection.open(place["uri"], place["name"], timeout=90, **opening(place)) as collection:
        collection._client.timeout = timeout
        queries = np.stack([photo(number)[0].global_descriptor for number in range(PHOTOS)])
        expected = [collection.search(queries, 10), collection.features(["0.jpg", "9.jpg"])[1].image_id]
        wrong = []
        for number in range(times):
            found = [collection.search(queries, 10), collection.features(["0.jpg", "9.jpg"])[1].image_id]
            if found != expected:
                wrong.append(f"search {number}")
            tell(acknowledged=[number])
        return wrong


def content(place: dict[str, str]) -> dict[str, Any]:
    """Digests of all that a place holds, by name; and how many rows are there twice."""
    folder, found, twice = Path(place["folder"]), {}, 0
    if (folder / "graph").exists():
        found = {f"graph {path.name}": digest(path.read_bytes()) for path in (folder / "graph").glob("*.*")}
        return {"found": found, "twice": 0}
    tests("toy_reindex").install()
    with Collection.open(place["uri"], place["name"], **opening(place)) as collection:
        for part in (collection._images, collection._features.rows, collection._blobs.rows):
            part.settle()
            rows = [dict(row) for bounds in part.ranges() for row in part.query(bounds, ["*"])]
            kind = part.layout.name.removeprefix(place["name"]) or "image"
            found |= {f"{kind} {row['pk']}": digest(sorted(row.items())) for row in rows}
            twice += len(part) - len({row["pk"] for row in rows})
    if matches_folder(place["uri"], place["name"], "", "").exists():
        with Index(place["uri"], place["name"], token=place["token"]) as index:
            keys = index.library.keys
            places, records = index.matches.among(keys)
            for (first, second), record in zip(places.tolist(), records, strict=True):
                points = index.matches.correspondences(keys[first], keys[second]).tobytes()
                fields = [record[name].item() for name in records.dtype.names[2:-1]]
                found[f"pair {keys[first]} {keys[second]}"] = digest((fields, points))
            twice += len(index.matches) - len(records)
    with Aliases(place["uri"], token=place["token"]) as aliases:
        behind = [name for name, alias in aliases.list().items() if place["name"] in (name, alias)]
    found["aliases"] = digest(len(behind))
    return {"found": found, "twice": twice}


def digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def tests(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / f"tests/landbridge/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


JOBS = {
    job.__name__: job
    for job in (
        ingest,
        ingest_held,
        ingest_twice,
        ingest_deaf,
        fill,
        index,
        reindex,
        crowd,
        graph,
        search,
        content,
    )
}


def tell(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def watch(death: tuple[int, float] | None) -> Iterator[int]:
    """Count the steps, and kill this process some seconds after the beginning of one; gives the count."""
    steps = 0

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            if death and steps == death[0]:
                threading.Timer(death[1], os.kill, (os.getpid(), signal.SIGKILL)).start()
            return step(*arguments, **named)

        return call

    for owner, name in STEPS:
        setattr(owner, name, watched(getattr(owner, name)))
    publish = Collection.publish

    def acknowledged(self: Collection, records: list[Record], embeddings: Any) -> None:
        publish(self, records, embeddings)
        tell(acknowledged=[f"image {self._key(record.image_id)}" for record in records])

    Collection.publish = acknowledged
    while True:
        yield steps


def work(job: str, arguments: dict[str, Any], death: tuple[int, float] | None) -> None:
    rows_module._WRITE_BYTES, ingest_module._BATCH = 100_000, BATCH
    knn_graph._NUMBERS_PER_PAGE, knn_graph._QUERIES_PER_SEARCH = 16 * 40, 16
    grpc_handler.time = SimpleNamespace(time=time.time, sleep=brief_sleep)
    counter = watch(death)
    next(counter)
    try:
        done = JOBS[job](**arguments)
    except (ConnectorError, MatchStoreError) as error:
        tell(failed=str(error))
    else:
        tell(done=done, steps=next(counter))


def brief_sleep(seconds: float) -> None:
    """pymilvus waits half a second for each index, which is there much earlier."""
    time.sleep(min(seconds, 0.02))


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            try:
                work(**json.loads(line))
            except BaseException:
                traceback.print_exc()
                tell(failed="see above")
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        tell(killed=os.WTERMSIG(status))


if __name__ == "__main__":
    main()
