"""The rows of local descriptors, on Milvus Lite: what is written, found, replaced, completed and refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector import local_index, search
from connector.client import Client
from connector.collection import Collection, Source
from connector.errors import (
    CollectionMissingError,
    DimensionMismatchError,
    FingerprintMismatchError,
    RefusedError,
    SchemaMismatchError,
)
from connector.local_index import Updated
from connector.rows import Rows
from extractor.features import ImageFeatures

Photo = Callable[..., ImageFeatures]

MOST = 8


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection.create(tmp_path / "photos.db", dimension=16, extractor="xfeat@1") as opened:
        yield opened


def put(collection: Collection, *images: ImageFeatures) -> None:
    sources = [Source(f"{image.image_id}.jpg", 1000, 7) for image in images]
    records = collection.stage(images, sources)
    collection.publish(records, np.stack([image.global_descriptor for image in images]))


def stored(collection: Collection) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Every row: its mark and its descriptor."""
    opened = collection.local._open()
    assert opened is not None
    rows = opened.rows.query('pk >= "0"', ["pk", "mark", "descriptor"])
    return {row["pk"]: (row["mark"], tuple(np.round(row["descriptor"], 6))) for row in rows}


def found(collection: Collection, image: ImageFeatures) -> list[str]:
    """Whose descriptors are nearest to those of an image, each to its own first."""
    answer = collection.local.search(image.local.descriptors[:MOST], 1)
    return [answer.images[owner] for owner in answer.owners[:, 0]]


def test_the_strongest_descriptors_of_every_image_are_found_again(
    collection: Collection, photo: Photo
) -> None:
    images = [photo(f"photo {seed}", seed) for seed in range(3)]
    put(collection, *images)
    assert not collection.local.exists
    steps: list[tuple[int, int]] = []

    built = collection.local.build(descriptors=MOST, progress=lambda done, total: steps.append((done, total)))

    assert built == Updated(added=3)
    assert steps == [(0, 3), (3, 3)]
    assert collection.local.exists
    told = collection.local.info()
    assert (told["rows"], told["descriptors"], told["dimension"], told["index"]) == (
        3 * MOST,
        MOST,
        64,
        "HNSW",
    )
    for image in images:
        assert found(collection, image) == [collection.local.key(image.image_id)] * MOST
    answer = collection.local.search(images[1].local.quantised().descriptors[:MOST], 5)
    assert answer.owners.shape == answer.similarity.shape == (MOST, 5)
    np.testing.assert_allclose(answer.similarity[:, 0], 1, atol=1e-5)  # an int8 vector of any length
    assert (np.diff(answer.similarity, axis=1) <= 0).all()
    weakest = images[1].local.descriptors[MOST:]
    assert (collection.local.search(weakest, 1).similarity < 0.9).all()


def test_fewer_rows_than_asked_for(collection: Collection, photo: Photo) -> None:
    put(collection, photo("two features", 1, keypoints=2), photo("a wall", 2, keypoints=0))
    collection.local.build()

    answer = collection.local.search(photo("query", 3).local.descriptors, 4)

    assert answer.images == [collection.local.key("two features")]
    np.testing.assert_array_equal(answer.owners, np.tile([0, 0, -1, -1], (30, 1)))
    assert collection.local.update() == Updated()  # the wall is not tried again and again
    assert collection.local.search(np.zeros((0, 64), np.float32), 4).images == []


def test_an_update_does_what_is_new_changed_or_gone(collection: Collection, photo: Photo) -> None:
    put(collection, *(photo(name, seed) for seed, name in enumerate(["stays", "changes", "goes"])))
    collection.local.build(descriptors=MOST)
    before = stored(collection)
    with Collection.open(collection._client.uri) as other:
        other._images.delete([other._key("goes")])
    put(collection, photo("changes", 11, keypoints=3), photo("comes", 12))

    assert collection.local.update() == Updated(added=2, removed=1)

    after = stored(collection)
    for image, rows in [("stays", MOST), ("changes", 3), ("goes", 0), ("comes", MOST)]:
        assert sum(pk.endswith(collection.local.key(image)) for pk in after) == rows
    assert {pk: row for pk, row in before.items() if pk.endswith(collection.local.key("stays"))}.items() <= (
        after.items()
    )
    assert found(collection, photo("changes", 11, keypoints=3)) == [collection.local.key("changes")] * 3
    assert (collection.local.search(photo("changes", 1).local.descriptors, 1).similarity < 0.9).all()
    assert collection.local.update() == Updated()


def test_a_deleted_image_takes_its_rows_with_it(collection: Collection, photo: Photo) -> None:
    put(collection, photo("stays", 1), photo("goes", 2))
    collection.local.build(descriptors=MOST)

    collection.delete(["goes", "unknown"])

    assert {pk[3:] for pk in stored(collection)} == {collection.local.key("stays")}
    assert collection.local.update() == Updated()


def test_cut_short_at_any_write_it_is_completed(
    collection: Collection, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of new images, then those of changed ones: seven calls each, of which one fails."""
    editions = [
        [photo("a", 1, keypoints=9), photo("b", 2, keypoints=5)],
        [photo("a", 3, keypoints=2), photo("b", 2, keypoints=5), photo("c", 4)],
    ]
    left = 0

    def dying(operation: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            operation(*arguments)

        return run

    results = []
    for call in (0, 5, 6, 7, 10, 11, 12, 13, 14):
        left, deaths = call, 0
        for edition in editions:
            put(collection, *edition)
            with monkeypatch.context() as patch:
                patch.setattr(Rows, "write", dying(Rows.write))
                patch.setattr(Rows, "delete", dying(Rows.delete))
                try:
                    collection.local.build(descriptors=MOST, index_params={"index_type": "FLAT"})
                except KeyboardInterrupt:
                    deaths += 1  # and what was begun is not completed before it changes
        collection.local.update()
        results.append(stored(collection))
        assert deaths == bool(call)
        assert collection.local.update() == Updated()
        collection.local.drop()
        collection.delete(["a", "b", "c"])
    assert len(results[0]) == 2 + 5 + MOST
    assert all(result == results[0] for result in results)


def test_tenants_do_not_meet(tmp_path: Path, photo: Photo) -> None:
    uri = tmp_path / "shared.db"
    create = {"dimension": 16, "extractor": "xfeat@1"}
    with (
        Collection.create(uri, tenant="ada", **create) as ada,
        Collection.create(uri, tenant="bob", **create) as bob,
    ):
        put(ada, photo("same id", 1))
        put(bob, photo("same id", 2))
        ada.local.build(descriptors=MOST)
        assert not bob.local.exists
        assert bob.local.build() == Updated(added=1)

        assert ada.local.key("same id") != bob.local.key("same id")
        assert found(ada, photo("same id", 1)) == [ada.local.key("same id")] * MOST
        answer = bob.local.search(photo("same id", 1).local.descriptors, 2 * MOST)
        assert answer.images == [bob.local.key("same id")]
        assert (answer.owners[:, MOST:] == -1).all()

        bob.local.drop()
        assert ada.local.exists
        assert not bob.local.exists
        assert ada.local.info()["rows"] == MOST
        ada.local.drop()
        assert not ada._client.call("has_collection", collection_name=ada.local.name)


def test_what_does_not_belong_is_refused(tmp_path: Path, photo: Photo) -> None:
    uri = tmp_path / "photos.db"
    with Collection.create(uri, dimension=16, extractor="xfeat@1") as collection:
        with pytest.raises(CollectionMissingError, match="holds no photos yet: index some first"):
            collection.local.build()
        with pytest.raises(CollectionMissingError, match="has no local index: build it first"):
            collection.local.search(photo("a", 1).local.descriptors, 1)
        put(collection, photo("a", 1))
        with pytest.raises(ValueError, match="1 to 4096 of an image, is 5000"):
            collection.local.build(descriptors=5000)
        with pytest.raises(RefusedError, match="cannot build the index IVF_PQ"):
            collection.local.build(index_params={"index_type": "IVF_PQ"})
        assert not collection.local.exists
        collection.local.build(descriptors=MOST)
        with pytest.raises(SchemaMismatchError, match="holds 8 descriptors of an image under HNSW, not 9"):
            collection.local.build(descriptors=9)
        with pytest.raises(SchemaMismatchError, match="under HNSW, not 8 under IVF_SQ8: drop it first"):
            collection.local.build(index_params={"index_type": "IVF_SQ8"})
        with pytest.raises(DimensionMismatchError, match=r"\[Q, 64\], got \[3, 32\]"):
            collection.local.search(np.ones((3, 32), np.float32), 1)
    with pytest.raises(CollectionMissingError, match="it has landbridge: give"):
        Collection.open(uri, "other")
    with pytest.raises(SchemaMismatchError, match="part of another one"):
        Collection.open(uri, "landbridge_local")
    with Client(uri) as client:
        for part in ("landbridge", "landbridge_features", "landbridge_blobs"):
            client.call("drop_collection", collection_name=part)
    with Collection.create(uri, dimension=16, extractor="xfeat@2") as collection:
        with pytest.raises(FingerprintMismatchError, match="drop it and build it again"):
            collection.local.update()
        collection.local.drop()
        assert not collection.local.exists


def test_a_new_beginning_leaves_no_rows_behind(tmp_path: Path, photo: Photo) -> None:
    create = {"uri": tmp_path / "photos.db", "dimension": 16, "extractor": "xfeat@1"}
    with Collection.create(**create) as collection:
        put(collection, photo("a", 1))
        collection.local.build()
    with Collection.create(**create, drop_old=True) as collection:
        assert not collection.local.exists


def test_a_search_is_cut_to_what_milvus_lite_can_hold(
    collection: Collection, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(collection, photo("a", 1), photo("b", 2))
    collection.local.build(descriptors=MOST)
    whole = collection.local.search(photo("q", 3).local.descriptors, 5)
    calls: list[int] = []
    call = Client.call

    def counted(self: Client, operation: str, **arguments: Any) -> Any:
        if operation == "search":
            calls.append(len(arguments["data"]))
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", counted)
    monkeypatch.setattr(search, "_LITE_BYTES", 4 * 16 * 7)  # seven queries against 16 rows
    cut = collection.local.search(photo("q", 3).local.descriptors, 5)

    assert calls == [7, 7, 7, 7, 2]
    np.testing.assert_array_equal(cut.owners, whole.owners)
    assert local_index.DESCRIPTORS == 100
