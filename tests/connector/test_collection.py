"""What can be told without a server; the contract on both backends is in tests/integration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector import rows as rows_module
from connector import schema
from connector import search as nearest
from connector.client import Client
from connector.collection import Collection, Record, Source
from connector.errors import (
    CorruptPayloadError,
    DimensionMismatchError,
    FingerprintMismatchError,
    InvalidInputError,
    SchemaMismatchError,
)
from extractor.features import ImageFeatures

Photo = Callable[..., ImageFeatures]
SOURCE = Source("p.jpg", 10, 20)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lite") / "photos.db"


@pytest.fixture(scope="module")
def shared(lite: Path) -> Iterator[Collection]:
    with Collection.create(lite, dimension=16, extractor="xfeat@1") as opened:
        yield opened


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Every call to Milvus, with its arguments."""
    made: list[tuple[str, dict[str, Any]]] = []
    call = Client.call

    def recorded(self: Client, operation: str, **arguments: Any) -> Any:
        made.append((operation, arguments))
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", recorded)
    return made


def put(collection: Collection, *images: ImageFeatures) -> None:
    records = collection.stage(images, [SOURCE] * len(images))
    collection.publish(records, np.stack([image.global_descriptor for image in images]))


def rows_of(collection: Collection, image_id: str) -> list[dict[str, Any]]:
    owner = schema.image_key(image_id)
    rows = collection._features.rows.query(f'owner == "{owner}"', ["*"])
    return sorted(rows, key=lambda row: row["chunk"])


def rewrite(collection: Collection, *rows: dict[str, Any]) -> None:
    collection._client.call("upsert", collection_name=collection._features.rows.layout.name, data=list(rows))


def test_a_hundred_photos_are_read_in_one_call(shared: Collection, photo: Photo, calls: list) -> None:
    images = [photo(f"hundred {i}", seed=i) for i in range(100)]
    put(shared, *images)
    calls.clear()
    shared.features([image.image_id for image in images])
    assert [operation for operation, _ in calls] == ["query"]


def test_writes_stay_below_the_limit_of_one_message(
    shared: Collection, photo: Photo, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_WRITE_BYTES", 200_000)
    images = [photo(f"large {i}", seed=i, keypoints=1500) for i in range(8)]
    calls.clear()
    shared.stage(images, [SOURCE] * 8)
    batches = [arguments["data"] for operation, arguments in calls if operation == "upsert"]
    sizes = [sum(len(row["payload"]) for row in batch) for batch in batches]
    assert len(sizes) > 4
    assert max(sizes) <= 200_000
    keys = [row["pk"] for batch in batches for row in batch]
    assert len(keys) == len(set(keys)) == sum(len(rows_of(shared, image.image_id)) for image in images)
    assert [len(image.local) for image in shared.features([image.image_id for image in images])] == [1500] * 8


def test_every_read_names_its_consistency_and_fields(shared: Collection, photo: Photo, calls: list) -> None:
    put(shared, photo("named"))
    shared.features(["named"])
    shared.records(["named"])
    shared.embeddings()
    list(shared.published())
    shared.search(np.eye(1, 16, dtype=np.float32), 3)
    shared.delete(["named"])
    reads = [arguments for operation, arguments in calls if operation in ("query", "search")]
    assert len(reads) > 8
    assert all(read["output_fields"] and read["consistency_level"] for read in reads)
    assert all(operation != "insert" for operation, _ in calls)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"payload": "AAAA"}, "bytes instead of"),
        ({"payload": "?"}, "not base64"),
        ({"digest": "0" * 32}, "written at different times"),
        ({"chunks": 3}, "chunk 3 of 3 is missing|written at different times"),
    ],
)
def test_damage_is_found_and_named(shared: Collection, photo: Photo, damage: dict, complaint: str) -> None:
    put(shared, photo("fine"), photo("sick.jpg", seed=1, keypoints=1000))
    rewrite(shared, rows_of(shared, "sick.jpg")[1] | damage)
    with pytest.raises(CorruptPayloadError, match=rf"'sick\.jpg' is damaged \(.*({complaint})"):
        shared.features(["fine", "sick.jpg"])
    assert [image.image_id for image in shared.features(["fine"])] == ["fine"]
    put(shared, photo("sick.jpg", seed=1, keypoints=1000))
    assert len(shared.features(["sick.jpg"])[0].local) == 1000


@pytest.mark.parametrize("lost", [0, 1])
def test_a_missing_chunk_makes_an_image_absent(shared: Collection, photo: Photo, lost: int) -> None:
    put(shared, photo("half.jpg", keypoints=1000))
    shared._features.rows.delete([f"{schema.image_key('half.jpg')}:{lost}"])
    with pytest.raises(
        CorruptPayloadError, match=rf"'half\.jpg' is damaged \(chunk {lost + 1} of 2 is missing"
    ):
        shared.features(["half.jpg"])
    assert "half.jpg" not in {record.image_id for record in [*shared.published(), *shared.staged()]}
    shared.delete(["half.jpg"])
    assert rows_of(shared, "half.jpg") == []


def test_a_blob_cut_short_is_none_and_a_damaged_one_an_error(shared: Collection) -> None:
    data = np.random.default_rng(0).bytes(120_000)
    shared.put_blob("whitening", data)
    key = schema.blob_key("whitening")
    row = shared._blobs.rows.query(f'pk == "{key}:2"', ["*"])[0]
    damaged = row | {"payload": "AAAA"}
    shared._client.call("upsert", collection_name=shared._blobs.rows.layout.name, data=[damaged])
    with pytest.raises(CorruptPayloadError, match="blob 'whitening' is damaged"):
        shared.get_blob("whitening")
    shared._blobs.rows.delete([row["pk"]])
    assert shared.get_blob("whitening") is None
    shared.put_blob("whitening", data)
    assert shared.get_blob("whitening") == data


@pytest.mark.parametrize(
    ("image_id", "path", "complaint"),
    [
        ("é" * 513, "p", "image id has 1026 bytes, Milvus takes 1024"),
        ("a", "/" * 4097, "path of 'a' has 4097 bytes"),
        ("a", "bad\udcff.jpg", "path of 'a' is not valid text .*rename the file"),
    ],
)
def test_text_that_milvus_cannot_hold(
    shared: Collection, photo: Photo, calls: list, image_id: str, path: str, complaint: str
) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        shared.stage([photo("good"), photo(image_id)], [SOURCE, Source(path, 1, 1)])
    assert calls == []


def test_longest_text_fits(shared: Collection, photo: Photo) -> None:
    image_id = "\x01" * 1024
    records = shared.stage([photo(image_id)], [Source("\x02" * 4096, 1, 1)])
    shared.publish(records, photo(image_id).global_descriptor[None])
    assert shared.records([image_id]) == records
    shared.delete([image_id])


def test_the_same_id_twice_in_a_batch(shared: Collection, photo: Photo, calls: list) -> None:
    with pytest.raises(InvalidInputError, match="'twin' comes twice"):
        shared.stage([photo("twin"), photo("twin", seed=1)], [SOURCE] * 2)
    record = Record("twin", "p", 1, 1, 0, 1, 1, "0" * 32)
    with pytest.raises(InvalidInputError, match="'twin' comes twice"):
        shared.publish([record, record], np.eye(2, 16, dtype=np.float32))
    assert calls == []


def test_features_of_another_extractor(shared: Collection, photo: Photo, calls: list) -> None:
    stranger = ImageFeatures(**{**vars(photo("a")), "extractor": "delf@7"})
    with pytest.raises(FingerprintMismatchError, match=r"'xfeat@1'.*'delf@7'"):
        shared.stage([stranger], [SOURCE])
    assert calls == []


def test_embeddings_that_do_not_belong(shared: Collection, calls: list) -> None:
    record = Record("odd", "p", 1, 1, 0, 1, 1, "0" * 32)
    for wrong in (np.full((1, 16), np.nan), np.ones((1, 16)), np.zeros((1, 16))):
        with pytest.raises(InvalidInputError, match="embedding of 'odd' is not a unit vector"):
            shared.publish([record], wrong.astype(np.float32))
    for wrong in (np.eye(1, 8), np.ones(16) / 4):
        with pytest.raises(DimensionMismatchError, match=r"shape \[N, 16\]"):
            shared.publish([record], wrong.astype(np.float32))
    with pytest.raises(ValueError, match="1 records came with 2 embeddings"):
        shared.publish([record], np.eye(2, 16, dtype=np.float32))
    with pytest.raises(ValueError, match="zip"):
        shared.stage([], [SOURCE])
    assert calls == []


@pytest.mark.parametrize("limit", [0, 16_385])
def test_limits_that_milvus_does_not_give(shared: Collection, limit: int) -> None:
    with pytest.raises(InvalidInputError, match=f"limit must be 1 to 16384, is {limit}"):
        shared.search(np.eye(1, 16, dtype=np.float32), limit)


def test_pages_part_the_keys_evenly(shared: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [schema.image_key(str(number)) for number in range(20_000)]
    monkeypatch.setattr(rows_module.Rows, "__len__", lambda _: len(keys))
    pages = [re.fullmatch(r'pk >= "(\w+)" and pk < "(\w+)"', page) for page in shared._images.ranges()]
    sizes = [sum(low <= key < high for key in keys) for low, high in (page.groups() for page in pages)]
    assert len(sizes) == 11
    assert sum(sizes) == len(keys)
    assert max(sizes) < 1.2 * len(keys) / 11


def test_nothing_in_nothing_out(shared: Collection, calls: list) -> None:
    assert shared.stage([], []) == []
    shared.publish([], np.zeros((0, 16), np.float32))
    assert shared.features([]) == []
    assert shared.records([]) == []
    assert shared.search(np.zeros((0, 16), np.float32), 5) == []
    ids, vectors = shared.embeddings([])
    assert (ids, vectors.shape) == ([], (0, 16))
    assert calls == []


def test_a_collection_that_is_not_ours_is_left_alone(lite: Path, shared: Collection) -> None:
    layout = schema.features("theirs")
    for name in ("theirs", "theirs_features"):
        shared._client.call("create_collection", collection_name=name, schema=layout.milvus_schema())
    for arguments in ({}, {"drop_old": True}):
        with pytest.raises(SchemaMismatchError, match="was not made by Landbridge: choose another name"):
            Collection.create(lite, "theirs", dimension=16, extractor="xfeat@1", **arguments)
    with pytest.raises(SchemaMismatchError, match="was not made by Landbridge"):
        Collection.open(lite, "theirs")
    assert {"theirs", "theirs_features"} <= set(shared._client.call("list_collections"))


def test_only_half_of_a_collection_is_ours(lite: Path, shared: Collection, photo: Photo) -> None:
    with Collection.create(lite, "half", dimension=16, extractor="xfeat@1") as half:
        put(half, photo("a"))
        shared._client.call("drop_collection", collection_name="half_features")
        shared._client.call(
            "create_collection",
            collection_name="half_features",
            schema=schema.features("half").milvus_schema(),
        )
    with pytest.raises(SchemaMismatchError, match="'half_features' exists and was not made by Landbridge"):
        Collection.create(lite, "half", dimension=16, extractor="xfeat@1", drop_old=True)
    assert shared._client.call("has_collection", collection_name="half")


@pytest.mark.parametrize("made", range(4))
def test_a_creation_cut_short_is_completed(
    lite: Path, shared: Collection, photo: Photo, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    name, left, call = f"cut{made}", [made], Client.call

    def dying(self: Client, operation: str, **arguments: Any) -> Any:
        if operation in ("create_collection", "create_index", "load_collection"):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return call(self, operation, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "call", dying)
        with pytest.raises(KeyboardInterrupt):
            Collection.create(lite, name, dimension=16, extractor="xfeat@1")
    with Collection.create(lite, name, dimension=16, extractor="xfeat@1") as whole:
        put(whole, photo("a"))
        assert whole.search(photo("a").global_descriptor[None], 1)[0][0].image_id == "a"


def test_a_lost_companion_is_named_and_made_again(lite: Path, shared: Collection, photo: Photo) -> None:
    with Collection.create(lite, "lost", dimension=16, extractor="xfeat@1") as collection:
        put(collection, photo("a"))
    shared._client.call("drop_collection", collection_name="lost_features")
    with pytest.raises(SchemaMismatchError, match="'lost' has lost its companion 'lost_features': index"):
        Collection.open(lite, "lost")
    with Collection.create(lite, "lost", dimension=16, extractor="xfeat@1") as collection:
        assert list(collection.published()) == []  # so the photo is indexed again
        put(collection, photo("a"))
        assert [record.image_id for record in collection.published()] == ["a"]


def test_a_client_of_the_caller_is_used_and_left_open(lite: Path, shared: Collection) -> None:
    theirs = shared._client._client
    with Collection.create(lite, dimension=16, extractor="xfeat@1", client=theirs) as borrowed:
        assert len(borrowed) == len(shared)
    assert len(shared) >= 0


def test_index_of_another_metric(lite: Path) -> None:
    index = {"index_type": "FLAT", "metric_type": "L2", "params": {}}
    with pytest.raises(InvalidInputError, match="metric_type of FLAT must be COSINE or IP, is 'L2'"):
        Collection.create(lite, "l2", dimension=16, extractor="xfeat@1", index_params=index)


def test_no_secret_in_what_is_shown(shared: Collection) -> None:
    secret = Collection.create(
        "http://ada:hunter2@milvus:19530",
        dimension=16,
        extractor="xfeat@1",
        token="ada:hunter2",
        client=shared._client._client,
    )
    assert "hunter2" not in f"{secret!r} {secret.info()}"
    assert secret.info()["uri"] == "http://milvus:19530"


def test_hits_of_equal_similarity_are_in_the_order_of_their_ids(
    shared: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer(list[dict[str, Any]]):
        distances = (1.0000001, 0.5, 0.5, 0.5, -0.25)

    answer = Answer({"entity": {"image_id": name}} for name in ("b", "d", "a", "c", "e"))
    monkeypatch.setattr(nearest, "answers", lambda *_, **__: iter([answer]))
    hits = shared.search(np.eye(1, 16, dtype=np.float32), 5)[0]
    assert hits == [("b", 1.0), ("a", 0.5), ("c", 0.5), ("d", 0.5), ("e", -0.25)]
