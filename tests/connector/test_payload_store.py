"""Payloads in rows, when a read does not see what was just written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pymilvus.client import entity_helper

from connector import schema
from connector.client import Client
from connector.collection import Collection
from connector.errors import RefusedError
from connector.payload import CHUNK_BYTES
from connector.payload_store import Entry, PayloadStore
from connector.rows import Rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    with Collection.create(tmp_path_factory.mktemp("lite") / "p.db", dimension=4, extractor="a@1") as made:
        yield made._features.rows


@pytest.fixture
def store(rows: Rows) -> PayloadStore:
    return PayloadStore(rows, concurrent=False)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Reads that do not wait see nothing of what was written: the consistency levels of all reads."""
    levels: list[str] = []
    query = Rows.query

    def sees(
        self: Rows, expression: str, fields: Sequence[str], *, consistency_level: str = "Session"
    ) -> Any:
        levels.append(consistency_level)
        return query(self, expression, fields) if consistency_level == "Session" else []

    monkeypatch.setattr(Rows, "query", sees)
    return levels


def owner(name: str) -> str:
    return schema.image_key(name)


def data(chunks: int, fill: int = 1) -> bytes:
    return bytes([fill]) * (chunks * CHUNK_BYTES)


def chunks(rows: Rows, name: str) -> list[int]:
    return sorted(row["chunk"] for row in rows.query(f'owner == "{owner(name)}"', ["chunk"]))


@pytest.mark.parametrize("before", [2, 3, 6])
def test_a_shorter_payload_leaves_no_row_of_the_longer_one(
    rows: Rows, store: PayloadStore, before: int
) -> None:
    name = f"shorter than {before}"
    store.put([Entry(owner(name), data(before))])
    assert chunks(rows, name) == list(range(before))
    PayloadStore(rows, concurrent=False).put([Entry(owner(name), data(1, 2))])
    assert chunks(rows, name) == [0]
    assert store.get(owner(name), name) == data(1, 2)


def test_what_a_store_wrote_itself_it_need_not_see_to_remove(
    rows: Rows, store: PayloadStore, late: list[str]
) -> None:
    store.put([Entry(owner("own"), data(4)), Entry(owner("other"), data(1))])
    store.put([Entry(owner("own"), data(2, 2)), Entry(owner("other"), data(2))])
    assert set(late) == {"Eventually"}
    assert chunks(rows, "own") == chunks(rows, "other") == [0, 1]


@pytest.mark.parametrize("again", [1, 3, 4])
def test_rows_behind_the_last_chunk_count_for_nothing(rows: Rows, late: list[str], again: int) -> None:
    name = f"left behind {again}"
    record = Entry(owner(name), data(3), "first")
    PayloadStore(rows, concurrent=False).put([record])
    store = PayloadStore(rows, concurrent=False)  # which neither remembers nor sees the longer one
    store.put([Entry(owner(name), data(1, 2), "second")])
    assert chunks(rows, name) == [0, 1, 2], "nothing was left behind: this tests nothing"
    assert store.get(owner(name), name) == data(1, 2)
    assert store.whole([owner(name)]) == {owner(name)}
    assert store.records("chunk >= 0")[owner(name)] == "second"

    store.put([Entry(owner(name), data(again, 3), "third")])
    assert store.get(owner(name), name) == data(again, 3)
    assert store.records("chunk >= 0")[owner(name)] == "third"
    store.delete([owner(name)])
    assert chunks(rows, name) == []


def test_rows_may_come_in_any_order(rows: Rows, late: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for chunks_, text in ((2, "long"), (1, "short")):
        PayloadStore(rows, concurrent=False).put([Entry(owner("order"), data(chunks_), text)])
    assert chunks(rows, "order") == [0, 1]
    query = Rows.query
    for step in (1, -1):
        monkeypatch.setattr(Rows, "query", lambda *a, s=step, **k: sorted(query(*a, **k), key=_chunk)[::s])
        store = PayloadStore(rows, concurrent=False)
        assert store.whole([owner("order")]) == {owner("order")}
        assert store.records("chunk >= 0")[owner("order")] == "short"


def _chunk(row: dict[str, Any]) -> str:
    return str(row["pk"])


@pytest.mark.parametrize("lost", [0, 1])
def test_rows_left_behind_do_not_complete_a_payload(
    rows: Rows, store: PayloadStore, late: list[str], lost: int
) -> None:
    name = f"incomplete {lost}"
    PayloadStore(rows, concurrent=False).put([Entry(owner(name), data(3))])
    store.put([Entry(owner(name), data(2, 2), "short")])
    rows.delete([f"{owner(name)}:{lost}"])
    assert store.get(owner(name), name) is None
    assert store.whole([owner(name)]) == set()
    assert owner(name) not in store.records("chunk >= 0")


def test_one_read_and_one_write_for_a_batch(store: PayloadStore, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = []
    call = Client.call

    def counted(self: Client, operation: str, **arguments: Any) -> Any:
        operations.append(operation)
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", counted)
    store.put([Entry(owner(f"batch {i}"), data(1)) for i in range(20)])
    assert operations == ["query", "upsert"]


def test_pymilvus_checks_a_text_whole(
    rows: Rows, store: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    check = entity_helper.convert_to_str_array

    def counted(values: Any, *arguments: Any, **more: Any) -> Any:
        steps.append(sum(1 for _ in values))
        return check(values, *arguments, **more)

    monkeypatch.setattr(entity_helper, "convert_to_str_array", counted)
    store.put([Entry(owner("whole"), data(1), "Zürich \N{CAMERA}")])
    assert steps
    assert max(steps) == 1, "pymilvus goes over the characters of a text one by one"
    row = rows.read([f"{owner('whole')}:0"], ["pk", "record"])[f"{owner('whole')}:0"]
    assert row["record"] == "Zürich \N{CAMERA}"


def test_a_text_that_is_too_long_is_refused(store: PayloadStore) -> None:
    with pytest.raises(RefusedError, match=r"record.*65536"):
        store.put([Entry(owner("long"), b"", "r" * (schema.TEXT_BYTES + 1))])
