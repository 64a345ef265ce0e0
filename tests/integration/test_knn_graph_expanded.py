"""Expanded descriptors written back: searches of a plain client on the alias profit from ID-QE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from connector.client import Client, DataType, MilvusClient
from connector.errors import InvalidInputError
from connector.expanded import drop_expanded, write_expanded
from connector.knn_graph import KnnGraph
from ranking.id_qe import expand_file
from ranking.match_graph import MatchGraph

BESIDE = ["photo", "tags", "about", "licence"]


@pytest.fixture
def client(deployment):
    client = Client(deployment.uri, token=deployment.token)
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    fields.add_field("pk", DataType.INT64, is_primary=True)
    fields.add_field("photo", DataType.VARCHAR, max_length=99)
    fields.add_field("tags", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=9)
    fields.add_field("about", DataType.JSON)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=32)
    index = MilvusClient.prepare_index_params()
    index.add_index("embedding", index_type="HNSW", metric_type="IP", params={"M": 8, "efConstruction": 64})
    client.call("create_collection", collection_name="tower", schema=fields, index_params=index)
    yield client
    client.close()


def photos() -> np.ndarray:
    """Ten views of a tower, which differ much, and 190 other photos."""
    random = np.random.default_rng(3)
    tower = np.eye(1, 32) + 0.25 * random.normal(size=(10, 32))
    vectors = np.concatenate([tower, random.normal(size=(190, 32))])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_plain_search_on_the_alias_finds_what_was_bridged(
    deployment, client: Client, tmp_path: Path
) -> None:
    vectors = photos()
    rows = [
        {
            "pk": pk,
            "photo": f'"{pk}".jpg',
            "tags": ["a", f"{pk}"],
            "about": {"number": pk},
            "licence": f"CC{pk}",
            "embedding": vector,
        }
        for pk, vector in enumerate(vectors)
    ]
    client.call("upsert", collection_name="tower", data=rows)
    graph = KnnGraph.build(client, "tower", tmp_path, 10)
    assert list(graph.keys) == list(graph.ids) == list(range(200))
    tower = np.arange(200) < 10  # stands in for verification
    verified = MatchGraph.from_neighbours(graph.neighbours, tower[graph.neighbours] & tower[:, None])
    np.save(tmp_path / "before.npy", vectors.astype(np.float16))
    expand_file(tmp_path / "before.npy", tmp_path / "after.npy", verified)
    expanded = np.load(tmp_path / "after.npy", mmap_mode="r")

    assert (
        write_expanded(client, "tower", "tower_1", "tower_idqe", graph.keys, expanded, fields=BESIDE) is None
    )

    plain = MilvusClient(deployment.uri, token=deployment.token, timeout=10)
    options = {"limit": 10, "output_fields": BESIDE, "search_params": {"params": {"ef": 128}}, "timeout": 10}

    def found(name: str) -> tuple[set[int], list[dict]]:
        query = [vectors[0].tolist()]
        hits = plain.search(name, query, consistency_level="Strong", **options)[0]
        return set(hits.ids), [hit["entity"] for hit in hits]

    before, (after, entities) = found("tower")[0], found("tower_idqe")
    assert before == set(np.argsort(-vectors @ vectors[0])[:10])
    assert after == set(np.argsort(-expanded.astype(np.float32) @ vectors[0])[:10])
    views = set(range(10))
    assert len(before & views) == 7
    assert after == views
    for entity in entities:
        pk = entity["about"]["number"]
        assert entity["photo"] == f'"{pk}".jpg'
        assert list(entity["tags"]) == ["a", f"{pk}"]
        assert entity["licence"] == f"CC{pk}"

    assert write_expanded(client, "tower", "tower_2", "tower_idqe", graph.keys, vectors) == "tower_1"
    options["output_fields"] = []
    assert found("tower_idqe")[0] == found("tower")[0]
    with pytest.raises(InvalidInputError, match="alias 'tower_idqe' leads to 'tower_2'"):
        drop_expanded(client, "tower_2")
    drop_expanded(client, "tower_1")
    assert found("tower_idqe")[0] == found("tower")[0]
    plain.close()
