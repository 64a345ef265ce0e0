"""Rows of local descriptors on both deployments: found, completed after a kill, replaced, deleted, shared.

Run as a script, this file is the process that is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.collection import Collection, Source
from connector.local_index import Updated
from connector.rows import Rows
from extractor.features import ImageFeatures, LocalFeatures

PHOTOS = 12
MOST = 20
FAR = 1001
EXACT = {"index_type": "FLAT"}


def photo(number: int, edition: int = 1, of: int | None = None) -> ImageFeatures:
    """Photo `number`; `of` is the photo whose local features it has, moved by some pixels."""
    own = np.random.default_rng([number, 1])
    random = np.random.default_rng([number if of is None else of, edition, 2])
    vector = own.normal(size=16).astype(np.float32)
    descriptors = random.normal(size=(80, 64)).astype(np.float32)
    local = LocalFeatures(
        keypoints=(random.uniform(40, 400, (80, 2)) + (10 if of is not None else 0)).astype(np.float32),
        scales=np.ones(80, np.float32),
        scores=np.linspace(1, 0.1, 80, dtype=np.float32),
        descriptors=descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
    )
    return ImageFeatures(f"{number}.jpg", (640, 480), vector / np.linalg.norm(vector), local, "xfeat@1")


def put(collection: Collection, *images: ImageFeatures) -> None:
    records = collection.stage(images, [Source(image.image_id, 1, 1) for image in images])
    collection.publish(records, np.stack([image.global_descriptor for image in images]))


def rows(collection: Collection) -> dict[str, str]:
    opened = collection.local._built()
    return {row["pk"]: row["mark"] for row in opened.rows.query('pk >= "0"', ["pk", "mark"])}


def owners(collection: Collection, image: ImageFeatures) -> set[str]:
    """Whose descriptors are nearest to those of an image, where there are equal ones."""
    found = collection.local.search(image.local.descriptors[:MOST], 1)
    return {found.images[owner] for owner in found.owners[:, 0][found.similarity[:, 0] > 0.99]}


@pytest.fixture(scope="module")
def indexed(deployment: Any) -> Iterator[Collection]:
    with deployment.create("locally", timeout=120) as collection:
        put(collection, *map(photo, range(PHOTOS)))
        assert collection.local.build(descriptors=MOST) == Updated(added=PHOTOS)
        yield collection


def test_the_index_is_the_one_for_the_deployment(indexed: Collection, deployment: Any) -> None:
    told = indexed.local.info()
    assert (told["index"], told["rows"]) == ("HNSW" if deployment.lite else "IVF_PQ", PHOTOS * MOST)
    assert owners(indexed, photo(5)) == {indexed.local.key("5.jpg")}


def test_a_photo_that_the_global_descriptor_misses_is_verified(
    indexed: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not above: the process that is killed needs no models.
    from landbridge.queries import match_key
    from landbridge.retrieval import Library, Query, Retrieval
    from ranking.match_store import MatchStore
    from ranking.verification import BatchedVerifier

    monkeypatch.setattr("landbridge.retrieval.CANDIDATES", 3)
    monkeypatch.setattr("landbridge.retrieval._LOCAL_CANDIDATES", 1)
    ids, embeddings = indexed.embeddings()
    keys = [match_key("index", record.image_id, record.digest) for record in indexed.records(ids)]
    owner = dict(zip(keys, ids, strict=True))

    def features(wanted: Any) -> dict[str, LocalFeatures]:
        images = indexed.features([owner[key] for key in wanted])
        return {key: image.local for key, image in zip(wanted, images, strict=True)}

    planted = photo(FAR, of=7)
    nearest = [hit.image_id for hit in indexed.search(planted.global_descriptor[None], 3)[0]]
    assert "7.jpg" not in nearest
    query = Query("query", match_key("query", "query", ""), planted.global_descriptor, planted.local)
    found = {}
    for local in (None, indexed.local):
        with MatchStore(tmp_path / str(local is None), BatchedVerifier()) as matches:
            library = Library(ids, keys, embeddings, indexed, matches, features, local=local)
            ranking = Retrieval(library, [query]).rank("verify")[0]
            found[local is not None] = [hit.image_id for hit in ranking.hits if hit.how == "verified"]
    assert found == {False: [], True: ["7.jpg"]}


def test_replaced_and_deleted(deployment: Any) -> None:
    with deployment.create("locally_changed") as collection:
        put(collection, *map(photo, range(3)))
        collection.local.build(descriptors=MOST, index_params=EXACT)
        put(collection, photo(1, edition=2))
        assert collection.local.update() == Updated(added=1)
        assert owners(collection, photo(1)) == set()
        assert owners(collection, photo(1, edition=2)) == {collection.local.key("1.jpg")}
        collection.delete(["2.jpg"])
        assert owners(collection, photo(2)) == set()
        assert len(rows(collection)) == 2 * MOST
        assert collection.local.update() == Updated()
    with deployment.open("locally_changed") as collection:
        assert collection.local.info()["descriptors"] == MOST
        assert collection.local.update() == Updated()
        collection.local.drop()
        assert not collection.local.exists


def test_two_tenants(deployment: Any) -> None:
    with (
        deployment.create("locally_shared", tenant="ada") as ada,
        deployment.create("locally_shared", tenant="bob") as bob,
    ):
        put(ada, photo(1), photo(2))
        put(bob, photo(1, edition=2))
        for collection in (ada, bob):
            collection.local.build(descriptors=MOST, index_params=EXACT)
        assert owners(ada, photo(1)) == {ada.local.key("1.jpg")}
        assert owners(bob, photo(1)) == set()
        assert owners(bob, photo(1, edition=2)) == {bob.local.key("1.jpg")}
        put(ada, photo(1, edition=3))
        assert ada.local.update() == Updated(added=1)
        ada.delete(["2.jpg"])
        assert set(ada.local.search(photo(2).local.descriptors, MOST).images) == {ada.local.key("1.jpg")}
        bob.local.drop()
        assert len(rows(ada)) == MOST
        assert not bob.local.exists


def test_killed_in_the_middle_and_resumed(deployment: Any, tmp_path: Path) -> None:
    """A process is killed at one write after the other; what it leaves in the end is what one run leaves."""
    # One process at a time may open a Milvus Lite path, and other tests hold theirs.
    place = replace(deployment, uri=str(tmp_path / "killed.db")) if deployment.lite else deployment
    with place.create("locally_killed") as collection:
        put(collection, *map(photo, range(PHOTOS)))
        collection.local.build(descriptors=MOST, index_params=EXACT)
        collection.local.delete([collection.local.key("0.jpg")])
        put(collection, *(photo(number, edition=2) for number in range(3)))
    codes = []
    for write in (4, 7, 0):
        environment = {**os.environ, "MILVUS_TOKEN": place.token}
        command = [sys.executable, __file__, place.uri, str(write)]
        codes.append(subprocess.run(command, env=environment, timeout=120).returncode)
    assert codes == [-signal.SIGKILL] * 2 + [0]
    with place.open("locally_killed") as collection:
        assert collection.local.update() == Updated()
        resumed = rows(collection)
        assert owners(collection, photo(1)) == set()
        assert owners(collection, photo(1, edition=2)) == {collection.local.key("1.jpg")}
        collection.local.drop()
        collection.local.build(descriptors=MOST, index_params=EXACT)
        assert resumed == rows(collection)


def killed_at(operation: Callable[..., None], left: list[int]) -> Callable[..., None]:
    def run(*arguments: Any) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        operation(*arguments)

    return run


if __name__ == "__main__":
    counted = [int(sys.argv[2])]
    Rows.write = killed_at(Rows.write, counted)  # type: ignore[method-assign]
    Rows.delete = killed_at(Rows.delete, counted)  # type: ignore[method-assign]
    with Collection.open(sys.argv[1], "locally_killed", token=os.environ["MILVUS_TOKEN"]) as opened:
        opened.local.update()
