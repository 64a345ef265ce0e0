"""A process that indexes photos is killed with SIGKILL at seeded moments, until one gets through.

The collection must then hold, row by row, what one undisturbed run writes. Run as a script, this file is the
process that is killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector import rows as rows_module
from connector.client import Client
from connector.collection import Collection, Source
from extractor.features import ImageFeatures, LocalFeatures

PHOTOS = 24
BATCH = 4


def photo(number: int, edition: int) -> tuple[ImageFeatures, Source]:
    """Photo `number` as the folder holds it; in the second edition every third one has changed."""
    changed = edition == 2 and number % 3 == 0
    generator = np.random.default_rng([number, changed])
    keypoints = int(generator.integers(0, 1800))
    vector = generator.normal(size=16).astype(np.float32)
    local = LocalFeatures(
        keypoints=(generator.random((keypoints, 2)) * 480).astype(np.float32),
        scales=np.ones(keypoints, np.float32),
        scores=np.ones(keypoints, np.float32),
        descriptors=generator.integers(-127, 128, (keypoints, 64), np.int8),
    )
    image = ImageFeatures(f"{number}.jpg", (640, 480), vector / np.linalg.norm(vector), local, "xfeat@1")
    return image, Source(f"{number}.jpg", 1000 + number, 1 + changed)


def index(uri: str, token: str, edition: int) -> int:
    """Bring the collection up to date as an indexing program does; how many photos were new or changed."""
    with Collection.create(uri, "killed", dimension=16, extractor="xfeat@1", token=token) as collection:
        folder = {
            image.image_id: (image, source) for image, source in (photo(n, edition) for n in range(PHOTOS))
        }
        done = {record.image_id: record.source for record in collection.published()}
        staged = {record.image_id: record for record in collection.staged()}
        todo = [name for name, (_, source) in folder.items() if done.get(name) != source]
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            fresh = [name for name in batch if name not in staged or staged[name].source != folder[name][1]]
            records = collection.stage([folder[n][0] for n in fresh], [folder[n][1] for n in fresh])
            records += [staged[name] for name in batch if name not in fresh]
            images = collection.features([record.image_id for record in records])
            collection.publish(records, np.stack([image.global_descriptor for image in images]))
        if collection.get_blob("mean") != bytes(60_000):
            collection.put_blob("mean", bytes(60_000))
        return len(todo)


def run(uri: str, token: str, edition: int, *death: object) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, __file__, uri, token, str(edition), *map(str, death)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120)


def rows(collection: Collection) -> list[dict[str, Any]]:
    found = []
    for part in (collection._images, collection._features.rows, collection._blobs.rows):
        for bounds in part.ranges():
            found += (dict(row) for row in part.query(bounds, ["*"]))
    return sorted(found, key=lambda row: row["pk"])


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """The rows that one run for each edition leaves, on Milvus Lite."""
    uri = str(tmp_path_factory.mktemp("undisturbed") / "photos.db")
    left = {}
    for edition in (1, 2):
        index(uri, "", edition)
        with Collection.open(uri, "killed") as collection:
            left[edition] = rows(collection)
    return left


def test_killed_at_any_moment(
    deployment, tmp_path: Path, undisturbed: dict[int, list[dict[str, Any]]]
) -> None:
    if deployment.lite:  # this process holds the other path
        deployment = dataclasses.replace(deployment, uri=str(tmp_path / "photos.db"))
    moments = random.Random(2018)
    kills = 0
    for edition in (1, 2):
        # Creation and survey take some ten calls, each of some milliseconds.
        for _ in range(2):
            process = run(
                deployment.uri, deployment.token, edition, moments.randrange(5, 60), moments.random() / 100
            )
            assert process.returncode in (0, -signal.SIGKILL), process.stderr
            kills += process.returncode == -signal.SIGKILL
        final = run(deployment.uri, deployment.token, edition)
        assert (final.returncode, final.stderr) == (0, "")
        with deployment.open("killed") as collection:
            assert rows(collection) == undisturbed[edition]
    assert kills >= 3
    again = run(deployment.uri, deployment.token, 2)
    assert json.loads(again.stdout) == 0, "a second run did work that was done"


def _die(calls: int, delay: float) -> None:
    """Kill this process `delay` seconds after call number `calls` to Milvus begins."""
    call, left = Client.call, [calls]

    def counted(self: Client, operation: str, **arguments: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return call(self, operation, **arguments)

    Client.call = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    rows_module._WRITE_BYTES = 100_000  # an image's chunks and a batch's rows go in several calls
    if len(sys.argv) > 4:
        _die(int(sys.argv[4]), float(sys.argv[5]))
    print(index(sys.argv[1], sys.argv[2], int(sys.argv[3])))
