"""Blue and green collections behind an alias, and collections of an older schema brought up to date."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from connector import payload, schema
from connector.alias import Aliases
from connector.client import Client, DataType, MilvusClient
from connector.collection import Collection, Record, Source
from connector.errors import (
    CollectionMissingError,
    FingerprintMismatchError,
    InvalidInputError,
    SchemaMismatchError,
)
from connector.migration import migrate
from extractor.features import ImageFeatures

Photo = Callable[..., ImageFeatures]


def put(collection: Collection, *images: ImageFeatures) -> None:
    records = collection.stage(images, [Source("p.jpg", 1, 1)] * len(images))
    collection.publish(records, np.stack([image.global_descriptor for image in images]))


@pytest.fixture(scope="module")
def blue_green(deployment, photo: Photo) -> Iterator[tuple[Collection, Collection]]:
    """The same photo by an old extractor and by a new one, with descriptors of other dimensions."""
    with (
        deployment.create("blue", drop_old=True) as blue,
        deployment.create("green", extractor="delf@7", dimension=8, drop_old=True) as green,
    ):
        put(blue, photo("tower"))
        new = photo("tower", seed=1)
        short = new.global_descriptor[:8] / np.linalg.norm(new.global_descriptor[:8])
        put(green, ImageFeatures(**{**vars(new), "global_descriptor": short, "extractor": "delf@7"}))
        yield blue, green


@pytest.fixture
def aliases(deployment, blue_green) -> Iterator[Aliases]:
    with Aliases(deployment.uri, token=deployment.token) as opened:
        yield opened
        for alias in opened.list():
            opened.drop(alias)


def test_switch_and_roll_back(deployment, aliases: Aliases) -> None:
    def behind() -> tuple[str, str, int]:
        with deployment.open("live") as collection:
            assert len(collection.features(["tower"])[0].local) == 30
            return collection.name, collection.extractor, collection.dimension

    assert aliases.switch("live", "blue") is None
    assert behind() == ("blue", "xfeat@1", 16)
    assert aliases.switch("live", "green") == "blue"
    assert behind() == ("green", "delf@7", 8)
    assert {alias: to for alias, to in aliases.list().items() if to in ("blue", "green")} == {"live": "green"}
    assert aliases.roll_back("live") == "blue"
    assert behind() == ("blue", "xfeat@1", 16)
    with pytest.raises(InvalidInputError, match="'live' was not switched to 'blue' from another"):
        aliases.roll_back("live")
    assert aliases.switch("live", "green") == "blue"
    assert aliases.switch("live", "green") == "green"
    assert aliases.roll_back("live") == "blue"


def test_plain_clients_read_the_alias(aliases: Aliases, blue_green) -> None:
    blue, green = blue_green
    plain = blue._client._client
    aliases.switch("live", "blue")
    for collection, dimension in ((blue, 16), (green, 8)):
        aliases.switch("live", collection.name)
        query = [np.eye(1, dimension, dtype=np.float32)[0]]
        hits = plain.search("live", query, limit=5, output_fields=["image_id"], timeout=10)[0]
        assert [hit["entity"]["image_id"] for hit in hits] == ["tower"]


def test_a_switch_is_one_step(aliases: Aliases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is cut short, the alias leads to the old collection or to the new one."""
    aliases.switch("live", "blue")
    writes, call = [], Client.call

    def recorded(self: Client, operation: str, **arguments: Any) -> Any:
        if operation in ("create_alias", "alter_alias", "drop_alias", "alter_collection_properties"):
            writes.append((operation, self._client.describe_alias("live", timeout=5)["collection_name"]))
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", recorded)
    aliases.switch("live", "green")
    aliases.roll_back("live")
    assert writes == [
        ("alter_collection_properties", "blue"),
        ("alter_alias", "blue"),
        ("alter_alias", "green"),
    ]


def test_what_cannot_be_switched(deployment, aliases: Aliases) -> None:
    aliases.switch("live", "blue")
    with pytest.raises(CollectionMissingError, match="no collection 'red'"):
        aliases.switch("live", "red")
    with pytest.raises(CollectionMissingError, match="no alias 'dead'; it has live"):
        aliases.roll_back("dead")
    with pytest.raises(InvalidInputError, match="'green' is a collection: give the alias another name"):
        aliases.switch("green", "blue")
    with pytest.raises(InvalidInputError, match="'live' is an alias of 'blue': name the collection itself"):
        aliases.switch("other", "live")
    with pytest.raises(InvalidInputError, match="'a b' cannot name"):
        aliases.switch("a b", "blue")
    with deployment.create("asleep") as collection:
        collection._client.call("release_collection", collection_name="asleep")
    with pytest.raises(InvalidInputError, match=r"'asleep' is not loaded .*load it first"):
        aliases.switch("live", "asleep")
    assert aliases.list() == {"live": "blue"}


def test_an_alias_is_opened_and_not_dropped(deployment, aliases: Aliases) -> None:
    aliases.switch("live", "blue")
    with deployment.create("live") as collection:
        assert collection.name == "blue"
        assert len(collection) == 1
    with pytest.raises(FingerprintMismatchError, match=r"'blue' holds features of 'xfeat@1'"):
        deployment.create("live", extractor="delf@7")
    with pytest.raises(InvalidInputError, match="'live' is an alias of collection 'blue': drop that by its"):
        deployment.create("live", drop_old=True)
    with Client(deployment.uri, token=deployment.token) as client:
        assert not [name for name in client.call("list_collections") if name.startswith("live")]


# A collection as the first version wrote it: two parts, and what was learnt among the features.

VERSION_1 = {
    "images": [
        ("pk", 32), ("image_id", 1024), ("path", 4096), ("width", 0), ("height", 0), ("keypoints", 0),
        ("file_bytes", 0), ("modified_ns", 0), ("digest", 32), ("embedding", 16),
    ],
    "features": [
        ("pk", 48), ("owner", 32), ("chunk", 0), ("chunks", 0), ("digest", 32), ("record", 65_535),
        ("payload", 65_535), ("placeholder", 2),
    ],
}  # fmt: skip


def make_version_1(client: MilvusClient, name: str, fields: list[tuple[str, int]], metric: str) -> None:
    made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    for field, size in fields[:-1]:
        if size:
            made.add_field(field, DataType.VARCHAR, max_length=size, is_primary=field == "pk")
        else:
            made.add_field(field, DataType.INT64)
    vector, dimension = fields[-1]
    made.add_field(vector, DataType.FLOAT_VECTOR, dim=dimension)
    index = {"index_type": "FLAT", "metric_type": "COSINE", "params": {}}
    said = {
        "landbridge.schema": "1",
        "landbridge.extractor": "xfeat@1",
        "landbridge.index": json.dumps(index, sort_keys=True),
    }
    client.create_collection(name, schema=made, properties=said, consistency_level="Session", timeout=20)
    params = MilvusClient.prepare_index_params()
    params.add_index(vector, index_type="FLAT", metric_type=metric, params={})
    client.create_index(name, params, timeout=20)
    client.load_collection(name, timeout=20)


def chunk_rows(owner: str, data: bytes, record: str = "") -> list[dict[str, Any]]:
    texts = payload.split(data)
    return [
        {
            "pk": f"{owner}:{chunk}", "owner": owner, "chunk": chunk, "chunks": len(texts),
            "digest": payload.digest(data), "record": "" if chunk else record, "payload": text,
            "placeholder": [0.0, 0.0],
        }
        for chunk, text in enumerate(texts)
    ]  # fmt: skip


BLOBS = {"whitening": np.random.default_rng(0).bytes(120_000), "extractor": b"learnt"}


@pytest.fixture
def version_1(deployment, blue_green, photo: Photo) -> Iterator[list[ImageFeatures]]:
    """The photos of a collection `old`; two of them have several chunks."""
    client = blue_green[0]._client._client
    make_version_1(client, "old", VERSION_1["images"], "COSINE")
    make_version_1(client, "old_features", VERSION_1["features"], "L2")
    images = [photo(f"{i}", seed=i, keypoints=[30, 1700][i % 2]) for i in range(4)]
    for number, image in enumerate(images):
        packed, key = payload.pack(image), schema.image_key(image.image_id)
        record = Record(
            image.image_id, "p.jpg", 640, 480, len(image.local), 1, number, payload.digest(packed)
        )
        client.upsert("old_features", chunk_rows(key, packed, json.dumps(asdict(record))), timeout=20)
        row = {"pk": key, **asdict(record), "embedding": image.global_descriptor}
        client.upsert("old", [row], timeout=20)
    for name, data in BLOBS.items():
        client.upsert("old_features", chunk_rows(schema.blob_key(name), data), timeout=20)
    yield images
    for name in ("old", "old_features", "old_blobs"):
        client.drop_collection(name, timeout=20)


def check_migrated(deployment, images: list[ImageFeatures]) -> None:
    with deployment.open("old") as collection:
        assert len(collection) == 4
        assert {record.image_id for record in collection.published()} == {"0", "1", "2", "3"}
        assert list(collection.staged()) == []
        for image, stored in zip(images, collection.features(list("0123")), strict=True):
            np.testing.assert_array_equal(stored.local.descriptors, image.local.descriptors)
            assert collection.search(image.global_descriptor[None], 1)[0][0].image_id == image.image_id
        for name, data in BLOBS.items():
            assert collection.get_blob(name) == data
        assert len(collection._features.rows) == 2 * 1 + 2 * 3
        assert len(collection._blobs.rows) == 3 + 1


def test_an_old_collection_is_named_and_brought_up_to_date(
    deployment, version_1: list[ImageFeatures]
) -> None:
    for attempt in (deployment.open, deployment.create):
        with pytest.raises(SchemaMismatchError, match=r"'old' has schema version 1, .* reads 2: bring it up"):
            attempt("old")
    with Client(deployment.uri, token=deployment.token) as client:
        assert "old_blobs" not in client.call("list_collections")
    assert migrate(deployment.uri, "old", token=deployment.token) == ["2"]
    check_migrated(deployment, version_1)
    assert migrate(deployment.uri, "old", token=deployment.token) == []
    check_migrated(deployment, version_1)


@pytest.mark.parametrize("dies_before", [0, 2, 4, 6, 8])
def test_a_migration_cut_short_is_done_again(
    deployment, version_1: list[ImageFeatures], monkeypatch: pytest.MonkeyPatch, dies_before: int
) -> None:
    left, call = [dies_before], Client.call

    def dying(self: Client, operation: str, **arguments: Any) -> Any:
        if operation in (
            "create_collection", "create_index", "upsert", "delete", "alter_collection_properties",
        ):  # fmt: skip
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return call(self, operation, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "call", dying)
        with pytest.raises(KeyboardInterrupt):
            migrate(deployment.uri, "old", token=deployment.token)
    with pytest.raises(SchemaMismatchError, match="has schema version 1"):
        deployment.open("old")
    migrate(deployment.uri, "old", token=deployment.token)
    check_migrated(deployment, version_1)


def test_what_is_not_ours_is_not_migrated(deployment, blue_green) -> None:
    client = blue_green[0]._client
    client.call("create_collection", collection_name="foreign", dimension=4)
    with pytest.raises(SchemaMismatchError, match="'foreign' exists and was not made by Landbridge"):
        migrate(deployment.uri, "foreign", token=deployment.token)
    with pytest.raises(CollectionMissingError, match="no collection 'nowhere'"):
        migrate(deployment.uri, "nowhere", token=deployment.token)
    client.call(
        "alter_collection_properties", collection_name="foreign", properties={"landbridge.schema": "9"}
    )
    with pytest.raises(SchemaMismatchError, match=r"version 9, .*install the version that made it"):
        migrate(deployment.uri, "foreign", token=deployment.token)
    client.call("drop_collection", collection_name="foreign")


def test_aliases_of_another_database(deployment) -> None:
    """Milvus 2.3 lists the aliases of the default database, whichever is asked."""
    with Client(deployment.uri, token=deployment.token) as client:
        client.call("create_database", db_name="annex")
    for name in ("wing_1", "wing_2"):
        deployment.create(name, db_name="annex").close()
    with Aliases(deployment.uri, token=deployment.token, db_name="annex") as aliases:
        aliases.switch("wing", "wing_1")
        assert aliases.switch("wing", "wing_2") == "wing_1"
        assert aliases.list() == {"wing": "wing_2"}
        assert aliases.names() >= {"wing", "wing_1", "wing_2"}
        with pytest.raises(InvalidInputError, match="wing leads to collection 'wing_2'"):
            aliases.drop_collection("wing_2")
        aliases.drop("wing")
        aliases.drop_collection("wing_2")
