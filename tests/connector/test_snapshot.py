"""What a collection holds, in files: the same for the same rows, however Milvus pages them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector import scan
from connector import snapshot as module
from connector.client import Client, DataType, MilvusClient
from connector.errors import CollectionMissingError, InvalidInputError, NotLoadedError
from connector.snapshot import Snapshot

VECTORS = np.array([[3, 4], [0, 0], [20 / 29, -21 / 29], [-5, 12]], np.float32)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("snapshots") / "theirs.db")
    fields = MilvusClient.create_schema(auto_id=False)
    fields.add_field("key", DataType.INT64, is_primary=True)
    fields.add_field("photo", DataType.VARCHAR, max_length=20)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=2)
    index = MilvusClient.prepare_index_params()
    index.add_index("embedding", index_type="FLAT", metric_type="IP")
    for name in ("photos", "none"):
        client.call("create_collection", collection_name=name, schema=fields, index_params=index)
    put(client, [8, -2, 30, 4], VECTORS)
    yield client
    client.close()


def put(client: Client, keys: list[int], vectors: Any) -> None:
    rows = [{"key": key, "photo": f"{key}.jpg", "embedding": v} for key, v in zip(keys, vectors, strict=True)]
    client.call("upsert", collection_name="photos", data=rows)


def test_rows_in_the_order_of_their_keys_with_unit_vectors(client: Client, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    found = Snapshot.read(
        client, "photos", tmp_path, id_field="photo", progress=lambda *step: told.append(step)
    )
    assert found.keys.read(0, 4) == [-2, 4, 8, 30]
    assert found.ids.read(0, 4) == ["-2.jpg", "4.jpg", "8.jpg", "30.jpg"]
    expected = [[0, 0], [-5 / 13, 12 / 13], [0.6, 0.8], [20 / 29, -21 / 29]]
    np.testing.assert_allclose(found.vectors, expected, atol=1e-7)
    assert found.vectors[3].tobytes() == VECTORS[2].tobytes()  # unit already, to rounding
    assert told == [(4, 4)]
    assert len(found) == 4


def test_the_fingerprint_is_of_the_rows_and_not_of_the_pages(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(**arguments: Any) -> str:
        return Snapshot.read(client, "photos", tmp_path, **arguments).fingerprint

    whole = fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_NUMBERS_PER_PAGE", 2 * 3)
        patch.setattr(scan, "_ROWS_PER_PAGE", 3)
        assert fingerprint() == whole
    others = {fingerprint(id_field="photo"), fingerprint(filter="key > -9"), fingerprint(filter="key > 0")}
    put(client, [4], [[12, -5]])
    others.add(fingerprint())
    put(client, [4], VECTORS[3:])
    put(client, [5], VECTORS[3:])
    others.add(fingerprint())
    client.call("delete", collection_name="photos", filter="key == 5")
    assert fingerprint() == whole
    assert len(others - {whole}) == 5


def test_what_cannot_be_read(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match=r"'photos' holds no images that fulfil 'key > 99'"):
        Snapshot.read(client, "photos", tmp_path, filter="key > 99")
    with pytest.raises(InvalidInputError, match=r"'none' holds no images$"):
        Snapshot.read(client, "none", tmp_path)
    with pytest.raises(InvalidInputError, match="has no field 'name'"):
        Snapshot.read(client, "photos", tmp_path, id_field="name")
    with pytest.raises(CollectionMissingError):
        Snapshot.read(client, "nothing", tmp_path)
    client.call("release_collection", collection_name="none")
    monkeypatch.setattr(client, "lite", False)
    with pytest.raises(NotLoadedError, match="'none' is not loaded"):
        Snapshot.read(client, "none", tmp_path)
