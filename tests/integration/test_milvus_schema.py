"""What a collection can be made with: index, tenants, consistency, forgetting, database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from connector import schema
from connector.client import Client
from connector.collection import Collection, Record, Source
from connector.errors import (
    ImagesMissingError,
    InvalidInputError,
    RefusedError,
    SchemaMismatchError,
)
from extractor.features import ImageFeatures

Photo = Callable[..., ImageFeatures]


def put(collection: Collection, *images: ImageFeatures) -> list[Record]:
    records = collection.stage(images, [Source("p.jpg", 1, 1)] * len(images))
    collection.publish(records, np.stack([image.global_descriptor for image in images]))
    return records


def names(records: Any) -> set[str]:
    return {record.image_id for record in records}


def describe(collection: Collection, part: str = "") -> dict[str, Any]:
    return collection._client.call("describe_collection", collection_name=collection.name + part)


@pytest.mark.parametrize("kind", ["AUTOINDEX", "IVF_SQ8", "IVF_PQ"])
def test_an_index_is_what_it_says_or_an_error_before_the_first_row(
    deployment, photo: Photo, kind: str
) -> None:
    name = f"index_{kind.lower()}"
    if deployment.lite and kind == "IVF_PQ":
        with pytest.raises(RefusedError, match=r"cannot build the index IVF_PQ .*give other index_params"):
            deployment.create(name, index_params={"index_type": kind})
        with Client(deployment.uri) as client:
            assert not [n for n in client.call("list_collections") if n.startswith(name)]
        return
    with deployment.create(name, index_params={"index_type": kind}) as collection:
        put(collection, *(photo(f"{i}", seed=i) for i in range(40)))
        hits = collection.search(photo("3", seed=3).global_descriptor[None], 5)[0]
        assert hits[0].image_id == "3"
        assert hits[0].similarity == pytest.approx(1, abs=0.02)
        assert collection.info()["index"] == kind
    with deployment.create(name) as again:
        assert (len(again), again.info()["index"]) == (40, kind)
    if kind != "AUTOINDEX":  # of which a server may tell another name
        with pytest.raises(SchemaMismatchError, match=f"has the index {kind} COSINE, not FLAT COSINE"):
            deployment.create(name, index_params={"index_type": "FLAT"})
        with pytest.raises(SchemaMismatchError, match=f"has the index {kind} COSINE, not {kind} IP"):
            deployment.create(name, index_params={"index_type": kind, "metric_type": "IP"})


@pytest.mark.parametrize("index", [{"index_type": "NOPE"}, {"index_type": "GPU_CAGRA"}])
def test_an_index_that_is_none_of_the_backend(deployment, index: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match=f"cannot build the index {index['index_type']}"):
        deployment.create("never", index_params=index)


@pytest.mark.parametrize("deployment", ["server"], indirect=True)
def test_an_index_that_the_server_was_compiled_without(deployment) -> None:
    """This server takes it, and answers searches without any index."""
    with pytest.raises(RefusedError, match=r"GPU_IVF_FLAT .*after 8 s it has indexed 0 of 1200 vectors"):
        deployment.create("never", index_params={"index_type": "GPU_IVF_FLAT"}, timeout=8)


def test_the_index_is_chosen_for_the_size(deployment, photo: Photo) -> None:
    with deployment.create("sized", images=200_000) as collection:
        assert collection.info()["index"] == ("FLAT" if deployment.lite else "HNSW")
        put(collection, *(photo(f"{i}", seed=i) for i in range(40)))
        assert collection.search(photo("3", seed=3).global_descriptor[None], 5)[0][0].image_id == "3"


@pytest.fixture(scope="module")
def tenants(deployment, photo: Photo) -> Any:
    """Two tenants whose photos go by the same names."""
    opened = [deployment.create("shared", tenant=tenant) for tenant in ('ada "lovelace"', "bob")]
    for seed, collection in zip((0, 100), opened, strict=True):
        put(collection, *(photo(f"{i}", seed=seed + i, keypoints=1000) for i in range(6)))
        collection.put_blob("whitening", collection.tenant.encode())
    yield opened
    for collection in opened:
        collection.close()


def test_each_has_its_own(tenants: Sequence[Collection], photo: Photo) -> None:
    for seed, collection in zip((0, 100), tenants, strict=True):
        assert len(collection) == 6
        assert names(collection.published()) == {str(i) for i in range(6)}
        ids, vectors = collection.embeddings()
        assert len(ids) == 6
        expected = photo("x", seed=seed + 3).global_descriptor
        np.testing.assert_array_equal(vectors[ids.index("3")], expected)
        hits = collection.search(expected[None], 100)[0]
        assert len(hits) == 6
        assert (hits[0].image_id, hits[0].similarity) == ("3", pytest.approx(1, abs=1e-5))
        stored = collection.features(["5"])[0].local.descriptors
        np.testing.assert_array_equal(stored, photo("5", seed=seed + 5, keypoints=1000).local.descriptors)
        assert collection.get_blob("whitening") == collection.tenant.encode()


def test_every_search_and_read_names_the_tenant(
    tenants: Sequence[Collection], photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, dict[str, Any]]] = []
    call = Client.call

    def recorded(self: Client, operation: str, **arguments: Any) -> Any:
        made.append((operation, arguments))
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", recorded)
    bob = tenants[1]
    put(bob, photo("once more", seed=7))
    bob.search(np.eye(1, 16, dtype=np.float32), 3, filter="width > 1")
    bob.features(["once more"])
    bob.records(["once more"])
    bob.embeddings()
    list(bob.staged())
    len(bob)
    bob.get_blob("whitening")
    bob.delete(["once more"])
    reads = [arguments["filter"] for operation, arguments in made if operation in ("query", "search")]
    assert len(reads) > 10
    assert all('tenant == "bob"' in expression for expression in reads)
    rows = [row for _, arguments in made for row in arguments.get("data", []) if isinstance(row, dict)]
    assert rows
    assert all(row["tenant"] == "bob" for row in rows)


def test_replacing_and_deleting_touches_no_other(tenants: Sequence[Collection], photo: Photo) -> None:
    ada, bob = tenants
    new = photo("2", seed=500, keypoints=3)
    put(ada, new)
    assert len(ada.features(["2"])[0].local) == 3
    assert len(bob.features(["2"])[0].local) == 1000
    assert (len(ada), len(bob)) == (6, 6)
    assert ada.search(new.global_descriptor[None], 1)[0][0].image_id == "2"
    ada.delete(["4"])
    assert (len(ada), len(bob)) == (5, 6)
    assert names(bob.published()) == {str(i) for i in range(6)}
    with pytest.raises(ImagesMissingError):
        ada.records(["4"])
    put(ada, photo("4", seed=4, keypoints=1000), photo("2", seed=2, keypoints=1000))


@pytest.mark.parametrize(
    "filter", ["width > 0) or (width > 0", '1 == 1) or (tenant != ""', 'tenant == "bob") or (1 == 1']
)
def test_a_filter_does_not_reach_another_tenant(
    tenants: Sequence[Collection],
    filter: str,  # noqa: A002
) -> None:
    with pytest.raises(RefusedError, match=r"reaches for images of other tenants|refused search"):
        tenants[0].search(np.eye(1, 16, dtype=np.float32), 100, filter=filter)


def test_an_index_of_a_tenant_is_named(deployment, tenants: Sequence[Collection]) -> None:
    with pytest.raises(SchemaMismatchError, match="'shared' is shared by tenants: say whose photos"):
        deployment.open("shared")
    with deployment.open("shared", tenant="nobody") as nobody:
        assert (len(nobody), list(nobody.published())) == (0, [])
        assert nobody.search(np.eye(1, 16, dtype=np.float32), 3) == [[]]
        assert nobody.get_blob("whitening") is None


def test_tenants_and_none_do_not_mix(deployment, collection: Collection) -> None:
    with pytest.raises(SchemaMismatchError, match=r"was not made for tenants, such as 'bob': leave"):
        deployment.open(tenant="bob")
    with pytest.raises(InvalidInputError, match="tenant has 258 bytes, Milvus takes 256"):
        deployment.create("long", tenant="é" * 129)


def test_the_consistency_of_searches(deployment, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    with deployment.create("strong", consistency_level="Strong") as collection:
        if not deployment.lite:  # which tells Strong of any
            assert describe(collection)["consistency_level_name"] == "Strong"
    with deployment.create("strong") as collection:
        levels, call = [], Client.call

        def recorded(self: Client, operation: str, **arguments: Any) -> Any:
            levels.append((operation, arguments.get("consistency_level")))
            return call(self, operation, **arguments)

        monkeypatch.setattr(Client, "call", recorded)
        collection.search(np.eye(1, 16, dtype=np.float32), 3)
        assert levels == [("search", "Strong")]
    with pytest.raises(InvalidInputError, match=r"consistency_level is 'strong': give one of Strong, Sess"):
        deployment.create("never", consistency_level="strong")


def test_images_are_forgotten_and_what_was_learnt_is_not(deployment) -> None:
    if deployment.lite:
        with pytest.raises(RefusedError, match="Milvus Lite notes it and forgets nothing"):
            deployment.create("fading", ttl_seconds=86_400)
        with Client(deployment.uri) as client:
            assert "fading" not in client.call("list_collections")
    else:
        with deployment.create("fading", ttl_seconds=86_400) as collection:
            lives = [describe(collection, part)["properties"].get(schema.TTL_PROPERTY) for part in PARTS]
            assert lives == ["86400", "86400", None]
    with pytest.raises(InvalidInputError, match="ttl_seconds is 0"):
        deployment.create("never", ttl_seconds=0)


PARTS = ("", "_features", "_blobs")


def test_a_collection_tells_what_it_is(deployment, collection: Collection) -> None:
    for part in PARTS:
        said = describe(collection, part)["properties"]
        assert said[schema.VERSION_PROPERTY] == schema.VERSION
        assert said[schema.EXTRACTOR_PROPERTY] == "xfeat@1"
        assert said[schema.CONSISTENCY_PROPERTY] == "Session"


def test_the_same_name_in_two_databases(deployment, collection: Collection, photo: Photo) -> None:
    collection._client.call("create_database", db_name="museum")
    with deployment.create(db_name="museum", dimension=16) as other:
        put(other, photo("only here", seed=900))
        assert len(other) == 1
        assert names(other.published()) == {"only here"}
    assert "only here" not in names(collection.published())
    with deployment.open(db_name="museum") as again:
        assert len(again) == 1
