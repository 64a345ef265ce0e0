from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from connector import expanded as module
from connector.client import Client, DataType, MilvusClient
from connector.errors import (
    CollectionMissingError,
    ConnectorError,
    ImagesMissingError,
    InvalidInputError,
    RefusedError,
)
from connector.expanded import companion_name, companions, drop_expanded, write_expanded

KEYS = ['"quoted"', "back\\slash", "c", "d"]
ORIGINAL = np.eye(4, dtype=np.float32)
EXPANDED = (ORIGINAL[[1, 2, 3, 0]] * 0.9 + 0.1).astype(np.float32)


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("expanded") / "theirs.db")
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    fields.add_field("key", DataType.VARCHAR, is_primary=True, max_length=64)
    fields.add_field("width", DataType.INT32)
    fields.add_field("title", DataType.VARCHAR, max_length=99)
    fields.add_field("tags", DataType.ARRAY, element_type=DataType.INT64, max_capacity=4)
    fields.add_field("about", DataType.JSON)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=4)
    index = MilvusClient.prepare_index_params()
    index.add_index("embedding", index_type="HNSW", metric_type="IP", params={"M": 8, "efConstruction": 50})
    client.call("create_collection", collection_name="photos", schema=fields, index_params=index)
    client.call(
        "upsert",
        collection_name="photos",
        data=[
            {
                "key": key,
                "width": 100 + i,
                "title": f"title of {key}",
                "tags": [i, i + 1],
                "about": {"city": ["Köln", i]},
                "licence": f"CC{i}",
                "embedding": ORIGINAL[i],
            }
            for i, key in enumerate(KEYS)
        ],
    )
    yield client
    client.close()


def write(client: Client, name: str, vectors: NDArray = EXPANDED, **arguments: Any) -> str | None:
    return write_expanded(client, "photos", name, "photos_expanded", KEYS, vectors, **arguments)


def search(client: Client, query: NDArray, name: str = "photos_expanded", *fields: str) -> list[dict]:
    """As any program does that knows Milvus and the alias alone."""
    plain: MilvusClient = client._client
    return plain.search(name, data=[query], limit=4, output_fields=list(fields), timeout=10)[0]


def test_plain_searches_on_the_alias_find_what_was_expanded(client: Client) -> None:
    assert write(client, "expanded_1") is None
    for row, key in enumerate(KEYS):
        best = search(client, ORIGINAL[(row + 1) % 4])[0]
        assert best["key"] == key
        assert best["distance"] == pytest.approx(1.0)
        assert search(client, ORIGINAL[row], "photos")[0]["key"] == key  # the source is what it was
    names = client.call("list_indexes", collection_name="expanded_1")
    index = client.call("describe_index", collection_name="expanded_1", index_name=names[0])
    assert (index["index_type"], index["metric_type"]) == ("HNSW", "IP")
    assert {field["name"] for field in _describe(client, "expanded_1")["fields"]} == {"key", "embedding"}


def _describe(client: Client, name: str) -> dict:
    return client.call("describe_collection", collection_name=name)


def test_fields_are_copied_on_request(client: Client) -> None:
    write(client, "expanded_1", fields=["title", "tags", "about", "licence"])
    best = search(client, ORIGINAL[2], "photos_expanded", "title", "tags", "about", "licence")[0]
    assert best["key"] == KEYS[1]
    assert {**best["entity"], "tags": list(best["entity"]["tags"])} == {
        "title": r"title of back\slash",
        "tags": [1, 2],
        "about": {"city": ["Köln", 1]},
        "licence": "CC1",
    }
    fields = {field["name"]: field for field in _describe(client, "expanded_1")["fields"]}
    assert fields["title"]["params"]["max_length"] == 99
    assert "width" not in fields


def test_descriptors_of_a_file_of_half_precision(client: Client, tmp_path) -> None:
    np.save(tmp_path / "expanded.npy", EXPANDED.astype(np.float16))
    write(client, "expanded_1", np.load(tmp_path / "expanded.npy", mmap_mode="r"))
    assert search(client, ORIGINAL[1])[0]["distance"] == pytest.approx(1.0, abs=1e-3)


def test_the_alias_moves_on_and_the_old_collection_stays(client: Client) -> None:
    assert write(client, "expanded_1") is None
    assert write(client, "expanded_1") is None
    assert write(client, "expanded_2", EXPANDED[[1, 0, 2, 3]]) == "expanded_1"
    assert search(client, ORIGINAL[1])[0]["key"] == KEYS[1]
    assert search(client, ORIGINAL[1], "expanded_1")[0]["key"] == KEYS[0]
    assert write(client, "expanded_1") == "expanded_2"  # back in one step
    assert search(client, ORIGINAL[1])[0]["key"] == KEYS[0]


def test_what_was_cut_short_is_completed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_PER_WRITE", 1)
    write(client, "expanded_0", EXPANDED[::-1])
    call, calls = client.call, []

    class CutError(Exception):
        pass

    def cut(operation: str, **arguments: Any) -> Any:
        calls.append(operation)
        if len(calls) == left:
            raise CutError
        return call(operation, **arguments)

    attempts = 0
    for left in range(1, 40):
        calls.clear()
        monkeypatch.setattr(client, "call", cut)
        try:
            write(client, "expanded_1", fields=["title"])
        except CutError:
            attempts += 1
            monkeypatch.setattr(client, "call", call)
            assert search(client, ORIGINAL[0])[0]["key"] == KEYS[0]  # still the old one
            if left % 3 == 0 and call("has_collection", collection_name="expanded_1"):
                call("drop_collection", collection_name="expanded_1")  # and from the beginning
        else:
            break
    monkeypatch.setattr(client, "call", call)
    assert attempts > 15
    assert search(client, ORIGINAL[1])[0]["key"] == KEYS[0]
    rows = client.call("query", collection_name="expanded_1", filter='title like "%"', output_fields=["*"])
    assert sorted(row["key"] for row in rows) == sorted(KEYS)


@pytest.mark.parametrize("lost", [2, 3])
def test_a_batch_that_arrived_in_part_is_written_again(
    client: Client, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr(module, "_ROWS_PER_WRITE", 2)
    write(client, "expanded_1")
    client.call("delete", collection_name="expanded_1", filter=f'key == "{KEYS[lost]}"')
    told: list[int] = []
    write(client, "expanded_1", progress=lambda done, total: told.append(done))
    assert told == [2, 4]
    assert [search(client, ORIGINAL[row])[0]["key"] for row in (3, 0)] == KEYS[2:]


def test_a_second_run_writes_nothing(client: Client) -> None:
    told: list[tuple[int, int]] = []
    write(client, "expanded_1", progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 4), (4, 4)]
    told.clear()
    write(client, "expanded_1", progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 4)]


def test_what_cannot_be_written(client: Client) -> None:
    write(client, "expanded_1")
    with pytest.raises(InvalidInputError, match=r"vectors must be \[4, 4\].*'photos', are \[3, 4\]"):
        write(client, "expanded_2", EXPANDED[:3])
    with pytest.raises(InvalidInputError, match="'expanded_1' exists and holds something else"):
        write(client, "expanded_1", EXPANDED[::-1])
    with pytest.raises(InvalidInputError, match="'photos' exists and holds something else"):
        write(client, "photos")
    with pytest.raises(InvalidInputError, match="'photos' is a collection and cannot be an alias"):
        write_expanded(client, "photos", "expanded_2", "photos", KEYS, EXPANDED)
    with pytest.raises(CollectionMissingError, match="has no collection 'paintings'"):
        write_expanded(client, "paintings", "expanded_2", "alias", KEYS, EXPANDED)
    assert not client.call("has_collection", collection_name="expanded_2")


def test_rows_that_are_not_there_or_come_twice(client: Client) -> None:
    write(client, "expanded_1")
    for keys, failure, complaint in [
        ([*KEYS[:3], "e"], ImagesMissingError, "'photos' has no row with key 'e' and 0 more"),
        ([*KEYS[:3], KEYS[0]], RefusedError, "3 rows of 'twice' arrived, not 4: alias .* stays"),
    ]:
        name = "twice" if failure is RefusedError else "missing"
        with pytest.raises(failure, match=complaint):
            write_expanded(client, "photos", name, "photos_expanded", keys, EXPANDED[::-1], fields=["width"])
        assert search(client, ORIGINAL[1])[0]["key"] == KEYS[0]


def test_companions_are_dropped_by_name_and_nothing_else_is(client: Client) -> None:
    write(client, "expanded_1")
    write(client, "expanded_2", EXPANDED[::-1])
    for name, complaint in [
        ("photos", "'photos' was not made by write_expanded"),
        ("photos_expanded", "'photos_expanded' was not made by write_expanded"),
        ("expanded_2", "alias 'photos_expanded' leads to 'expanded_2'"),
        ("expanded_3", "no collection 'expanded_3'"),
    ]:
        with pytest.raises(ConnectorError, match=complaint):
            drop_expanded(client, name)
    drop_expanded(client, "expanded_1")
    assert sorted(client.call("list_collections")) == ["expanded_2", "photos"]
    assert search(client, ORIGINAL[1])


def test_a_companion_is_named_after_what_it_holds(client: Client) -> None:
    usual = companion_name("photos_expanded", "photos", KEYS, EXPANDED)
    assert usual == companion_name("photos_expanded", "photos", KEYS, EXPANDED.astype(np.float64))
    others = [
        companion_name("photos_expanded", "photos", KEYS, EXPANDED, ["title"]),
        companion_name("photos_expanded", "photos", KEYS[::-1], EXPANDED),
        companion_name("photos_expanded", "others", KEYS, EXPANDED),
        companion_name("photos_expanded", "photos", KEYS, ORIGINAL),
    ]
    assert len({usual, *others}) == 5
    write(client, usual)
    write(client, others[3], ORIGINAL)
    write(client, "photos_expanded_2", ORIGINAL[::-1])  # named by somebody
    write(client, f"the_{usual}")
    fields = client._client.create_schema(auto_id=False)
    fields.add_field("key", DataType.INT64, is_primary=True)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=4)
    client.call("create_collection", collection_name="photos_expanded_0123456789ab", schema=fields)
    assert companions(client, "photos_expanded") == sorted([usual, others[3]])
    assert companions(client, "photos") == []
