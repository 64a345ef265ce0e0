"""What a Landbridge collection promises, on Milvus Lite and on a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from connector import payload_store, rows, schema, search
from connector.client import Client
from connector.collection import Collection, Record, Source
from connector.errors import (
    CollectionMissingError,
    DimensionMismatchError,
    FingerprintMismatchError,
    ImagesMissingError,
    RefusedError,
)
from extractor.features import ImageFeatures

Photo = Callable[..., ImageFeatures]

HOSTILE = ['quote".jpg', "apo'strophe", "back\\slash", 'x" or pk != "', "line\nbreak", "Köln 大教堂 🏛"]


def sources(count: int) -> list[Source]:
    return [Source(f"photos/{i}.jpg", 1000 + i, 10**18 + i) for i in range(count)]


def put(collection: Collection, *images: ImageFeatures) -> list[Record]:
    records = collection.stage(images, sources(len(images)))
    collection.publish(records, np.stack([image.global_descriptor for image in images]))
    return records


def ids(records: Any) -> set[str]:
    return {record.image_id for record in records}


def test_what_was_written_is_read_back_in_order(collection: Collection, photo: Photo) -> None:
    images = [
        photo(image_id, seed=i, keypoints=[0, 5, 700, 1700][i % 4]) for i, image_id in enumerate(HOSTILE)
    ]
    before = len(collection)
    records = put(collection, *images)
    wanted = [HOSTILE[4], HOSTILE[0], HOSTILE[3], HOSTILE[4]]

    assert len(collection) == before + len(HOSTILE)
    assert collection.records(wanted) == [records[4], records[0], records[3], records[4]]
    assert records[2].source == Source("photos/2.jpg", 1002, 10**18 + 2)
    assert (records[2].width, records[2].height, records[2].keypoints) == (640, 480, 700)
    read = collection.features(HOSTILE[::-1])
    for image, back in zip(images[::-1], read, strict=True):
        assert (back.image_id, back.size, back.extractor) == (image.image_id, image.size, "xfeat@1")
        np.testing.assert_array_equal(back.local.descriptors, image.local.descriptors)
        np.testing.assert_allclose(back.local.keypoints, image.local.keypoints, atol=0.006)
        np.testing.assert_allclose(back.global_descriptor, image.global_descriptor, atol=1e-3)
    names, vectors = collection.embeddings(wanted)
    assert names == wanted
    np.testing.assert_array_equal(vectors[1], images[0].global_descriptor)
    assert vectors.dtype == np.float32


def test_two_steps(collection: Collection, photo: Photo) -> None:
    image = photo("two steps", seed=50)
    query = image.global_descriptor[None]
    records = collection.stage([image], sources(1))

    assert "two steps" in ids(collection.staged())
    assert "two steps" not in ids(collection.published())
    assert "two steps" not in {hit.image_id for hit in collection.search(query, 50)[0]}
    assert len(collection.features(["two steps"])[0].local) == 30
    with pytest.raises(ImagesMissingError):
        collection.records(["two steps"])

    collection.publish(records, query)
    assert "two steps" not in ids(collection.staged())
    assert records[0] in list(collection.published())
    best = collection.search(query, 1)[0][0]
    assert best.image_id == "two steps"
    assert best.similarity == pytest.approx(1, abs=1e-5)


def test_a_changed_photo_replaces_the_old_one_at_once(collection: Collection, photo: Photo) -> None:
    old, new = photo("changed", seed=60, keypoints=1700), photo("changed", seed=61, keypoints=40)
    put(collection, old)
    count, chunks = len(collection), _chunks(collection, "changed")
    assert chunks == [0, 1, 2]

    records = collection.stage([new], [Source("photos/changed.jpg", 5, 6)])
    np.testing.assert_array_equal(
        collection.features(["changed"])[0].local.descriptors, new.local.descriptors
    )
    assert _chunks(collection, "changed") == [0]
    assert "changed" in ids(collection.staged())
    assert "changed" not in ids(collection.published())  # until its row agrees with its features

    collection.publish(records, new.global_descriptor[None])
    assert collection.records(["changed"]) == records
    assert records[0] in list(collection.published())
    assert len(collection) == count
    hits = [hit.image_id for hit in collection.search(new.global_descriptor[None], 50)[0]]
    assert hits[0] == "changed"
    assert hits.count("changed") == 1


def _chunks(collection: Collection, image_id: str) -> list[int]:
    found = collection._features.rows.query(f'owner == "{schema.image_key(image_id)}"', ["chunk", "chunks"])
    assert all(row["chunks"] == len(found) for row in found)
    return sorted(row["chunk"] for row in found)


def test_a_file_that_was_only_touched_needs_no_new_features(collection: Collection, photo: Photo) -> None:
    put(collection, photo("touched", seed=70))
    records = collection.stage([photo("touched", seed=70)], [Source("photos/0.jpg", 1000, 7)])
    assert records[0] in list(collection.staged())
    collection.publish(records, photo("touched", seed=70).global_descriptor[None])
    assert records[0] in list(collection.published())


@pytest.mark.parametrize("dies_before", range(3))
def test_a_replacement_cut_short_is_seen_and_done_again(
    collection: Collection, photo: Photo, monkeypatch: pytest.MonkeyPatch, dies_before: int
) -> None:
    name = f"torn {dies_before}"
    put(collection, photo(name, seed=80, keypoints=1000))
    new = photo(name, seed=81, keypoints=1000)
    left, call = [dies_before], Client.call

    def dying(self: Client, operation: str, **arguments: Any) -> Any:
        if operation == "upsert":
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return call(self, operation, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(rows, "_WRITE_BYTES", 1)  # so that every row is a call
        patched.setattr(Client, "call", dying)
        with pytest.raises(KeyboardInterrupt):
            put(collection, new)
    whole = {0: "old", 1: "neither", 2: "new"}[dies_before]
    assert (name in ids(collection.published())) == (whole == "old")
    assert (name in ids(collection.staged())) == (whole == "new")

    records = put(collection, new)
    assert records[0] in list(collection.published())
    np.testing.assert_array_equal(collection.features([name])[0].local.descriptors, new.local.descriptors)


def test_many_photos_are_listed_whatever_the_size_of_a_page(
    collection: Collection, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_ROWS_PER_SCAN", 5)
    monkeypatch.setattr(rows, "KEYS_PER_READ", 7)
    monkeypatch.setattr(payload_store, "_IMAGES_PER_READ", 3)
    images = [photo(f"page {i}", seed=100 + i) for i in range(60)]
    records = put(collection, *images[:40])
    staged = collection.stage(images[40:], sources(20))
    collection.put_blob("page", b"not an image")

    published = [record for record in collection.published() if record.image_id.startswith("page")]
    assert sorted(published, key=lambda r: int(r.image_id[5:])) == records
    waiting = [record for record in collection.staged() if record.image_id.startswith("page")]
    assert sorted(waiting, key=lambda r: int(r.image_id[5:])) == staged
    names, vectors = collection.embeddings()
    assert len(names) == len(set(names)) == len(collection) == len(vectors)
    assert names == collection.embeddings()[0] == sorted(names, key=schema.image_key)
    for image in images[:40]:
        np.testing.assert_array_equal(vectors[names.index(image.image_id)], image.global_descriptor)
    wanted = [image.image_id for image in images[::-1]]
    assert [image.image_id for image in collection.features(wanted)] == wanted


def test_search_ranks_filters_and_pages_queries(
    collection: Collection, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_QUERIES_PER_SEARCH", 2)
    images = [photo(f"search {i}", seed=200 + i, keypoints=i) for i in range(10)]
    twin = ImageFeatures(**{**vars(images[3]), "image_id": "search 3 twin"})
    put(collection, *images, twin)
    names, vectors = collection.embeddings()
    queries = np.stack([image.global_descriptor for image in images[:5]])

    found = collection.search(queries, 8)
    cosines = queries @ vectors.T
    for hits, row in zip(found, cosines, strict=True):
        assert [hit.similarity for hit in hits] == pytest.approx(sorted(row, reverse=True)[:8], abs=1e-5)
        expected = [row[names.index(hit.image_id)] for hit in hits]
        assert [hit.similarity for hit in hits] == pytest.approx(expected, abs=1e-5)
    assert [hit.image_id for hit in found[3][:2]] == ["search 3", "search 3 twin"]

    few = collection.search(queries[:1], 100, filter='image_id like "search%" and keypoints >= 7')[0]
    assert ids(few) == {"search 7", "search 8", "search 9"}
    assert len(collection.search(queries[:1], 16_384)[0]) == len(collection)


def test_a_filter_that_milvus_refuses(collection: Collection) -> None:
    with pytest.raises(RefusedError, match=r"refused search landbridge: .*colour"):
        collection.search(np.eye(1, 16, dtype=np.float32), 3, filter="colour > 1")


def test_unknown_images_are_named(collection: Collection, photo: Photo) -> None:
    put(collection, photo("known"))
    for read in (collection.features, collection.records, collection.embeddings):
        with pytest.raises(
            ImagesMissingError, match=r"does not hold 6 of 7 images: 'no 0', .*'no 4', …: index"
        ):
            read(["known", *(f"no {i}" for i in range(6))])
        with pytest.raises(KeyError):
            read(["no"])


@pytest.mark.parametrize("size", [0, 5, 49_149, 49_150, 300_000])
def test_blobs(collection: Collection, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert collection.get_blob(f"never {size}") is None
    collection.put_blob("whitening", data)
    assert collection.get_blob("whitening") == data
    collection.put_blob("whitening", b"short")
    assert collection.get_blob("whitening") == b"short"


def test_delete(collection: Collection, photo: Photo) -> None:
    put(collection, photo("gone", keypoints=1700), photo("stays"))
    collection.stage([photo("gone too")], sources(1))
    count = len(collection)
    collection.delete(["gone", "gone too", "was never there"])
    assert len(collection) == count - 1
    assert not {"gone", "gone too"} & (ids(collection.published()) | ids(collection.staged()))
    assert _chunks(collection, "gone") == []
    hits = collection.search(photo("gone").global_descriptor[None], 16_384)[0]
    assert "gone" not in ids(hits)
    assert [image.image_id for image in collection.features(["stays"])] == ["stays"]


def test_another_connection_sees_all_of_it(deployment, collection: Collection, photo: Photo) -> None:
    put(collection, *(photo(f"shared {i}", seed=i) for i in range(20)))
    with deployment.open(extractor="xfeat@1") as other:
        assert len(other) == len(collection)
        assert set(other.published()) == set(collection.published())
        assert (other.name, other.dimension, other.extractor) == ("landbridge", 16, "xfeat@1")


def test_creating_again_opens(deployment, collection: Collection, photo: Photo) -> None:
    put(collection, photo("kept"))
    with deployment.create() as again:
        assert [record.image_id for record in again.records(["kept"])] == ["kept"]


def test_what_does_not_fit_is_named(deployment, collection: Collection) -> None:
    for attempt in (deployment.create, deployment.open):
        with pytest.raises(FingerprintMismatchError, match=r"'landbridge' holds .*'xfeat@1'.*'delf@7'"):
            attempt(extractor="delf@7")
    with pytest.raises(DimensionMismatchError, match="holds 16-d embeddings, not 99-d"):
        deployment.create(dimension=99)
    with pytest.raises(
        CollectionMissingError, match=r"has no collection 'oxford'; it has .*landbridge.*: give one"
    ):
        deployment.open("oxford")


def test_info(deployment, collection: Collection) -> None:
    info = collection.info()
    assert info | {"server_version": "", "count": 0} == {
        "name": "landbridge",
        "uri": deployment.uri,
        "backend": "milvus-lite" if deployment.lite else "milvus",
        "server_version": "",
        "schema_version": schema.VERSION,
        "extractor": "xfeat@1",
        "dimension": 16,
        "index": "FLAT",
        "metric": "COSINE",
        "count": 0,
    }
    assert info["count"] == len(collection)
    assert info["server_version"]


def test_other_index_and_a_fresh_start(deployment, photo: Photo) -> None:
    index = {"index_type": "HNSW", "metric_type": "IP", "params": {"M": 8, "efConstruction": 64}}
    with deployment.create("fresh", index_params=index) as first:
        put(first, photo("a"), photo("b", seed=1))
        first.put_blob("whitening", b"old")
        hits = first.search(photo("a").global_descriptor[None], 2, search_params={"ef": 32})[0]
        assert [hit.image_id for hit in hits] == ["a", "b"]
        assert (first.info()["index"], first.info()["metric"]) == ("HNSW", "IP")
    with deployment.create("fresh", extractor="delf@7", dimension=8, drop_old=True) as second:
        assert (len(second), second.extractor, second.dimension) == (0, "delf@7", 8)
        assert second.get_blob("whitening") is None
        assert list(second.staged()) == []
