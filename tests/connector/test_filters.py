from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from connector import filters
from connector.client import Client, DataType, MilvusClient
from connector.errors import InvalidInputError

HOSTILE = [
    "", '"', "'", "\\", '\\"', '\\\\"', 'x" or id != "', "x' or id != '", "line\nbreak", "\r\n", "tab\t",
    "nul\0", "\x01\x7f\x1b", "\u2028\x85", "\ufeffmark", "大教堂", "\\大", "Köln 🏛", "%_", "{x}", "$meta",
    "\\u0041", "\\x41", "id", "true", "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (filters.equals("id", 'a"b\\c\n'), r'id == "a\"b\\c\n"'),
        (filters.is_in("n", [1, np.int32(-2), np.int64(3)]), "n in [1, -2, 3]"),
        (filters.is_in("n", []), "n in []"),
        (filters.is_in("id", ["a", "b", "a"]), 'id in ["a", "b"]'),
        (filters.is_in("n", [1, -(2**63)]), "(n in [1]) or (n == (-9223372036854775807 - 1))"),
        (filters.is_in("b", [True, np.False_]), "b in [true, false]"),
        (filters.equals("x", np.float64(0.1)), "x == 0.1"),
        (filters.greater("id", "m"), 'id > "m"'),
        (filters.at_least("n", 2), "n >= 2"),
        (filters.less("n", 7), "n < 7"),
        (filters.all_of("", "a == 1", " ", "b == 2 or c == 3"), "(a == 1) and (b == 2 or c == 3)"),
        (filters.all_of("", " "), ""),
        (filters.any_of("a == 1", "b == 2"), "(a == 1) or (b == 2)"),
        (filters.any_of("a == 1", ""), ""),
        (filters.negated("a == 1 or b == 2"), "not (a == 1 or b == 2)"),
    ],
)
def test_expressions(expression: str, expected: str) -> None:
    assert expression == expected


@pytest.mark.parametrize("field", ["", "1a", "a b", 'a" == "', "a == 1 or b", "naïve", "a\n"])
def test_a_field_name_that_is_none(field: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be a field of a filter"):
        filters.equals(field, 1)
    with pytest.raises(InvalidInputError, match="cannot be a field of a filter"):
        filters.is_in(field, [])


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("\ud800", "is not valid text"),
        (2**63, "does not fit 64 bits"),
        (-(2**63) - 1, "does not fit 64 bits"),
        (float("nan"), "give a finite number"),
        (float("-inf"), "give a finite number"),
        (None, "is a NoneType"),
        (b"x", "is a bytes"),
        (["x"], "is a list"),
    ],
)
def test_values_that_milvus_does_not_have(value: Any, complaint: str) -> None:
    with pytest.raises(InvalidInputError, match=complaint):
        filters.equals("id", value)


def test_nothing_has_no_alternative_and_no_negation() -> None:
    with pytest.raises(InvalidInputError, match="would match every row"):
        filters.any_of()
    with pytest.raises(InvalidInputError, match="stands for all rows"):
        filters.negated(" ")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("filters") / "rows.db")
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=2000)
    fields.add_field("copy", DataType.VARCHAR, max_length=2000)
    fields.add_field("n", DataType.INT64)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    client.call("create_collection", collection_name="rows", schema=fields, index_params=index)
    put(client, HOSTILE)
    yield client
    client.close()


def put(client: Client, ids: list[str]) -> None:
    rows = [{"id": name, "copy": name, "n": len(name), "vector": [0.0, 1.0]} for name in ids]
    client.call("upsert", collection_name="rows", data=rows)


def find(client: Client, expression: str) -> list[str]:
    rows = client.call(
        "query",
        collection_name="rows",
        filter=expression,
        output_fields=["id"],
        consistency_level="Session",
        limit=16_384,
    )
    return sorted(row["id"] for row in rows)


def test_order_and_logic_are_those_of_milvus(client: Client) -> None:
    put(client, HOSTILE)
    ids = sorted(HOSTILE)
    assert find(client, filters.greater("id", "\\")) == [name for name in ids if name > "\\"]
    assert find(client, filters.at_least("id", "大教堂")) == [name for name in ids if name >= "大教堂"]
    assert find(client, filters.less("id", '"')) == [name for name in ids if name < '"']
    assert find(client, filters.is_in("n", [-(2**63), 200])) == ["a" * 200]
    assert find(client, filters.is_in("id", [])) == []
    some = filters.any_of(filters.equals("id", "'"), filters.equals("copy", '"'))
    assert find(client, some) == ['"', "'"]
    assert find(client, filters.all_of(filters.negated(some), filters.equals("n", 1))) == ["\\"]


text = st.text(st.characters(codec="utf-8"), max_size=30)
quotes = st.text(st.sampled_from("\"'\\\n\r\t[]()=!% oandr\0u0大"), max_size=30)


@given(name=st.one_of(text, quotes, st.sampled_from(HOSTILE)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(name='" or id != "')
@example(name="\\")
def test_exactly_the_row_of_an_id_is_found(client: Client, name: str) -> None:
    put(client, [name, name + '"', name + "\\", "\\" + name])
    for field in ("id", "copy"):
        assert find(client, filters.equals(field, name)) == [name]
        assert find(client, filters.is_in(field, [name])) == [name]
    others = find(client, filters.negated(filters.equals("copy", name)))
    assert name not in others
    assert {name + '"', name + "\\"} <= set(others)
