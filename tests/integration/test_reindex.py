"""Blue/green re-indexing under readers, on both deployments."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.alias import Aliases
from connector.client import Client
from landbridge import Index, reindex
from landbridge.matches_folder import matches_folder
from landbridge.reindexing import drop, roll_back, switch

_place = Path(__file__).parent.parent / "landbridge" / "toy_reindex.py"
_spec = importlib.util.spec_from_file_location("toy_reindex", _place)
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

Photos = dict[str, str]
"""Digests of what is stored of the photos, by their ids."""


class SameSizeToy(toys.NewToyExtractor):
    """Its vectors are as long as the old ones, so that one query vector goes to both collections."""

    dimension = toys.toy.DIMENSION
    fingerprint = "new-toy-same"

    def extract(self, photo: Any, image_id: str) -> Any:
        found = super().extract(photo, image_id)
        vector = found.global_descriptor[: self.dimension]
        return type(found)(**{**vars(found), "global_descriptor": vector / np.linalg.norm(vector)})


@pytest.fixture
def access(deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What opens the deployment; the names that a test makes are gone afterwards."""
    monkeypatch.setattr("extractor.registry.EXTRACTORS", toys.EXTRACTORS)
    monkeypatch.setattr("landbridge.matches_folder.user_cache_path", lambda name: tmp_path / name)
    opening = {"token": deployment.token}
    with Client(deployment.uri, **opening) as client:
        yield opening
        with Aliases(deployment.uri, **opening) as aliases:
            for alias in aliases.list():
                if alias.startswith("tour"):
                    aliases.drop(alias)
        for name in client.call("list_collections"):
            if name.startswith("tour"):
                client.call("drop_collection", collection_name=name)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return toys.toy.write_photos(tmp_path / "photos")


def stored(uri: str, name: str, access: dict[str, str]) -> Photos:
    with Index(uri, name, **access) as index:
        return {record.image_id: record.digest for record in index.collection.published()}


class Readers:
    """Search an alias without a pause, by a plain client and by Landbridge, and keep what each saw."""

    def __init__(self, uri: str, alias: str, access: dict[str, str]) -> None:
        self.seen: list[Photos] = []
        self.failures: list[BaseException] = []
        self._done = threading.Event()
        self._place = (uri, alias, access)
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in (self._plain, self._own)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, read: Any) -> None:
        uri, alias, access = self._place
        try:
            with Client(uri, **access) as client:
                while not self._done.is_set():
                    self.seen.append(read(client, uri, alias, access))
        except BaseException as error:  # to be raised by the test
            self.failures.append(error)

    def _plain(self, client: Client, uri: str, alias: str, access: dict[str, str]) -> Photos:
        hits = client.call(
            "search",
            collection_name=alias,
            data=[np.eye(1, toys.toy.DIMENSION, dtype=np.float32)[0]],
            limit=100,
            output_fields=["image_id", "digest"],
            consistency_level="Strong",
        )[0]
        return {hit["entity"]["image_id"]: hit["entity"]["digest"] for hit in hits}

    def _own(self, client: Client, uri: str, alias: str, access: dict[str, str]) -> Photos:
        with Index(uri, alias, **access) as index:
            hits = index.collection.search(np.eye(1, toys.toy.DIMENSION, dtype=np.float32), 100)[0]
            records = index.collection.records([hit.image_id for hit in hits])
            features = index.collection.features([hit.image_id for hit in hits])
            assert len(features) == len(hits) == len(index)
            return {record.image_id: record.digest for record in records}


def test_readers_see_the_old_or_the_new_whole(deployment, access: dict[str, str], photos: Path) -> None:
    uri = deployment.uri
    with Index(uri, "tour_1", **access) as index:
        assert len(index.add(photos).added) == 8
    switch(uri, "tour", "tour_1", **access)
    old = stored(uri, "tour", access)
    with Readers(uri, "tour", access) as readers:
        done = reindex(uri, "tour", SameSizeToy(), **access)
        while not readers.failures and readers.seen[-1] == old:
            readers._done.wait(0.05)
        changed = len(readers.seen)
        left, now = roll_back(uri, "tour", **access)
    assert readers.failures == []
    assert (done.new, done.switched, done.photos, done.missing) == ("tour_2", True, 8, {})
    assert (left, now) == ("tour_2", "tour_1")
    new = stored(uri, "tour_2", access)
    assert new.keys() == old.keys()
    assert all(new[name] != old[name] for name in old)
    assert all(seen in (old, new) for seen in readers.seen)
    assert old in readers.seen[:changed]
    assert new in readers.seen[:changed]


def test_choices_tenants_and_what_came_meanwhile(
    deployment, access: dict[str, str], photos: Path, tmp_path: Path
) -> None:
    uri, new = deployment.uri, {"index_params": {"index_type": "FLAT", "metric_type": "IP"}}
    for tenant in ('ada "lovelace"', "bob"):
        with Index(uri, "tour_1", tenant=tenant, consistency_level="Strong", **new, **access) as index:
            index.add(photos if tenant == "bob" else photos / "castle")
    switch(uri, "tours", "tour_1", **access)
    looked = reindex(uri, "tours", "new-toy", into="tour_x", switch=False, **access)
    assert (looked.photos, looked.behind) == (12, "tour_1")
    toys.toy.write_photo(photos / "late.png", [60, 61])
    with Index(uri, "tours", tenant="bob", **access) as index:
        index.add(photos)
        index.collection.delete(["tower/0"])
    done = reindex(uri, "tours", "new-toy", **access)
    assert (done.new, done.behind, done.photos, done.added, done.removed) == ("tour_x", "tour_x", 12, 1, 1)
    with Index(uri, "tours", tenant="bob", **access) as index:
        info = index.info()
        told = ("name", "extractor", "metric", "consistency_level", "tenant", "count")
        assert [info[fact] for fact in told] == ["tour_x", "new-toy-1", "IP", "Strong", "bob", 8]
        hits = index.search(photos / "castle/1.png").hits
        assert hits[0].image_id == "castle/1"
        assert {hit.image_id for hit in hits[:4]} == {f"castle/{step}" for step in range(4)}
    folders = [matches_folder(uri, name, "bob") for name in ("tour_1", "tour_x")]
    drop(uri, "tour_1", **access)
    assert [folder.exists() for folder in folders] == [False, True]
    with Client(uri, **access) as client:
        left = {name for name in client.call("list_collections") if name.startswith("tour")}
    assert left == {"tour_x", "tour_x_features", "tour_x_blobs"}


def test_a_plain_collection_gives_its_name_to_the_new_one(
    deployment, access: dict[str, str], photos: Path
) -> None:
    uri = deployment.uri
    with Index(uri, "tourist", **access) as index:
        index.add(photos)
    old = stored(uri, "tourist", access)
    done = reindex(uri, "tourist", "new-toy", rename=True, **access)
    assert (done.old, done.behind, done.switched) == ("tourist_1", "tourist_2", True)
    with Index(uri, "tourist", **access) as index:
        assert (index.collection.extractor, len(index), len(index.matches)) == ("new-toy-1", 8, 28)
    roll_back(uri, "tourist", **access)
    assert stored(uri, "tourist", access) == old
    with Index(uri, "tourist", **access) as index:
        assert (index.collection.name, len(index.matches)) == ("tourist_1", 28)
        assert index.add(photos).unchanged == 8
