"""Expanded descriptors of the toy index in Milvus, as plain clients find them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector.alias import Aliases
from connector.client import Client, MilvusClient
from connector.errors import InvalidInputError
from landbridge import Index
from landbridge.collection_expansion import Expanded, drop_expansion, expand_collection
from landbridge.collection_graph import CollectionGraph, match_collection
from landbridge.collection_source import CollectionSource
from ranking.id_qe import expand


@pytest.fixture
def source(toy_index: Index) -> CollectionSource:
    toy_index.close()
    return CollectionSource(toy_index.uri)


@pytest.fixture
def plain(source: CollectionSource) -> Iterator[MilvusClient]:
    client = MilvusClient(source.uri)
    yield client
    client.close()


def run(source: CollectionSource, folder: Path, **arguments: Any) -> tuple[CollectionGraph, Expanded]:
    matched = match_collection(source, folder, neighbours=9)
    return matched, expand_collection(source, matched, folder, **arguments)


def add_tower(source: CollectionSource, toy: Any, photos: Path, step: int) -> None:
    toy.write_photo(photos / "tower" / f"{step}.png", range(20 + 2 * step, 24 + 2 * step), step)
    with Index(source.uri) as index:
        index.add(photos)


def test_a_plain_search_finds_what_was_bridged(
    source: CollectionSource, plain: MilvusClient, tmp_path: Path
) -> None:
    matched, made = run(source, tmp_path / "graph")
    assert made.alias == "landbridge_expanded"
    assert made.name.startswith("landbridge_expanded_")
    assert (made.before, made.dropped, made.images, made.moved) == (None, [], 8, 8)
    assert (made.vector_field, made.fields[:2]) == ("embedding", ["image_id", "path"])

    graph = matched.graph
    query = graph.descriptors[graph.ids.index("tower/0")]
    found = {}
    for name in ("landbridge", made.alias):
        plain.load_collection(name, timeout=20)
        hits = plain.search(
            name, [query], limit=8, output_fields=["image_id", "width", "embedding"], timeout=20
        )
        found[name] = {hit["entity"]["image_id"]: hit["entity"] for hit in hits[0]}
        assert {entity["width"] for entity in found[name].values()} == {320}
    before, after = (list(found[name]).index("tower/3") for name in ("landbridge", made.alias))
    assert after < before  # it has no motif of tower/0

    expected = expand(graph.descriptors, graph.graph)
    order = np.argsort(-expected @ query)
    assert list(found[made.alias]) == [graph.ids[i] for i in order]
    for number, name in enumerate(graph.ids):
        np.testing.assert_allclose(found[made.alias][name]["embedding"], expected[number], atol=2e-3)
        np.testing.assert_array_equal(found["landbridge"][name]["embedding"], graph.descriptors[number])
    assert not (tmp_path / "graph" / "expansion").exists()


def test_again_it_writes_nothing(
    source: CollectionSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = run(source, tmp_path)
    call, made = Client.call, []

    def spied(self: Client, operation: str, **arguments: Any) -> Any:
        made.append(operation)
        return call(self, operation, **arguments)

    monkeypatch.setattr(Client, "call", spied)
    assert run(source, tmp_path)[1] == first
    assert not {"upsert", "create_collection", "alter_alias", "drop_collection"} & set(made)


def test_with_more_photos_the_alias_moves_on(
    source: CollectionSource, plain: MilvusClient, toy: Any, tmp_path: Path
) -> None:
    names = [run(source, tmp_path / "graph")[1].name]
    for step in (4, 5):
        add_tower(source, toy, tmp_path / "photos", step)
        _, made = run(source, tmp_path / "graph")
        assert made.before == names[-1]
        assert made.dropped == names[:-1]
        names.append(made.name)
        assert made.images == 5 + step
    kept = {name for name in plain.list_collections(timeout=20) if "_expanded_" in name}
    assert kept == set(names[1:])
    with Aliases(source.uri) as aliases:
        assert aliases.list() == {"landbridge_expanded": names[2]}
        aliases.roll_back("landbridge_expanded")
    assert run(source, tmp_path / "graph")[1].name == names[2]
    with Aliases(source.uri) as aliases:
        assert aliases.list() == {"landbridge_expanded": names[2]}

    assert drop_expansion(source) == sorted(names[1:])
    assert not [name for name in plain.list_collections(timeout=20) if "_expanded" in name]
    with Aliases(source.uri) as aliases:
        assert aliases.list() == {}
    with pytest.raises(InvalidInputError, match="no expanded descriptors under 'landbridge_expanded'"):
        drop_expansion(source)


def test_what_is_in_use_elsewhere_is_not_dropped(
    source: CollectionSource, plain: MilvusClient, toy: Any, tmp_path: Path
) -> None:
    first = run(source, tmp_path / "graph")[1].name
    plain.load_collection(first, timeout=20)
    with Aliases(source.uri) as aliases:
        aliases.switch("stable", first)
    for step in (4, 5):
        add_tower(source, toy, tmp_path / "photos", step)
        _, made = run(source, tmp_path / "graph")
        assert made.dropped == []
    with Aliases(source.uri) as aliases:
        assert aliases.list()["stable"] == first
        plain.load_collection("landbridge", timeout=20)
        aliases.switch("landbridge_expanded", "landbridge")
    with pytest.raises(InvalidInputError, match="leads to 'landbridge', which holds no expanded"):
        drop_expansion(source)


def test_the_fields_and_the_alias_of_ones_choice(
    source: CollectionSource, plain: MilvusClient, tmp_path: Path
) -> None:
    some = replace(source, filter='image_id like "tower%"')
    _, made = run(some, tmp_path, alias="towers", fields=["path", "path"])
    assert (made.alias, made.fields, made.images) == ("towers", ["path"], 4)
    assert {field["name"] for field in plain.describe_collection("towers")["fields"]} == {
        *("pk", "path", "embedding")
    }
    with pytest.raises(InvalidInputError, match="'landbridge_features' is a collection"):
        run(some, tmp_path, alias="landbridge_features")
    matched = match_collection(some, tmp_path)
    with pytest.raises(InvalidInputError, match="of 'ada' alone are expanded: give an alias"):
        expand_collection(replace(some, tenant="ada"), matched, tmp_path)


def test_of_similarity_alone_nothing_is_expanded(source: CollectionSource, tmp_path: Path) -> None:
    matched = match_collection(source, tmp_path, neighbours=7, similarity=0.2)
    with pytest.raises(InvalidInputError, match="nothing was verified in this graph"):
        expand_collection(source, matched, tmp_path)


def test_a_run_that_was_stopped_is_completed(
    source: CollectionSource, plain: MilvusClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connector.expanded._ROWS_PER_WRITE", 3)

    class StoppedError(Exception):
        pass

    def stop(step: str, done: int, total: int) -> None:
        if step == "write expanded" and done == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(source, tmp_path, progress=stop)
    (half_written,) = (name for name in plain.list_collections(timeout=20) if "_expanded_" in name)
    assert (tmp_path / "expansion").exists()
    told: list[int] = []
    _, made = run(source, tmp_path, progress=lambda step, done, total: told.append(done))
    assert made.name == half_written
    assert told == [6, 8]
    rows = plain.query("landbridge_expanded", output_fields=["count(*)"], timeout=20)
    assert rows[0]["count(*)"] == 8
