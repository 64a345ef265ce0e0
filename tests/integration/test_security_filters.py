"""Hostile ids in filters, on both deployments: exactly the row with the id is found, read and deleted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connector import filters
from connector.client import Client, DataType, MilvusClient
from connector.scan import Table

HOSTILE = [
    "", '"', "'", "\\", '\\"', '\\\\"', 'x" or id != "', "x' or id != '", "line\nbreak", "\r\n", "tab\t",
    "nul\0", "\x01\x7f\x1b", "\u2028\x85", "\ufeffmark", "大教堂", "\\大", "Köln 🏛", "%_", "{x}", "$meta",
    "\\u0041", "\\x41", "id", "true", "a" * 200,
]  # fmt: skip
alphabet = st.one_of(st.sampled_from("\"'\\\n\r\t[]()=!% oandr\0ux大"), st.characters(codec="utf-8"))


@pytest.fixture(scope="module")
def client(deployment) -> Iterator[Client]:
    client = Client(deployment.uri, token=deployment.token)
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=2000)
    fields.add_field("copy", DataType.VARCHAR, max_length=2000)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    client.call("create_collection", collection_name="hostile", schema=fields, index_params=index)
    put(client, HOSTILE)
    yield client
    client.close()


def put(client: Client, ids: list[str]) -> None:
    rows = [{"id": name, "copy": name, "vector": [0.0, 1.0]} for name in ids]
    client.call("upsert", collection_name="hostile", data=rows)


def find(client: Client, expression: str) -> list[str]:
    rows = client.call(
        "query",
        collection_name="hostile",
        filter=expression,
        output_fields=["id"],
        consistency_level="Session",
    )
    return sorted(row["id"] for row in rows)


@pytest.mark.parametrize("field", ["id", "copy"])
def test_each_is_found_alone_and_all_together(client: Client, field: str) -> None:
    put(client, HOSTILE)
    for name in HOSTILE:
        assert find(client, filters.equals(field, name)) == [name]
        others = filters.all_of(filters.is_in(field, HOSTILE), filters.negated(filters.equals(field, name)))
        assert find(client, others) == sorted(set(HOSTILE) - {name})
    assert find(client, filters.is_in(field, HOSTILE)) == sorted(HOSTILE)


def test_pages_go_on_behind_any_key(client: Client) -> None:
    put(client, HOSTILE)
    pages = list(Table.of(client, "hostile").pages(client, rows=1, filter=filters.is_in("id", HOSTILE)))
    assert [row["id"] for page in pages for row in page] == sorted(HOSTILE, key=str.encode)


@given(name=st.text(alphabet, max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_the_row_of_an_id_is_found_and_deleted(client: Client, name: str) -> None:
    near = [name, name + '"', name + "\\", "\\" + name]
    put(client, near)
    assert find(client, filters.equals("id", name)) == [name]
    assert find(client, filters.is_in("copy", [name])) == [name]
    client.call("delete", collection_name="hostile", filter=filters.is_in("id", [name]))
    client.call(
        "query", collection_name="hostile", output_fields=["count(*)"], consistency_level="Strong"
    )  # on servers of 2.3, deletions are not a part of a session
    assert find(client, filters.is_in("id", near)) == sorted(set(near) - {name})
