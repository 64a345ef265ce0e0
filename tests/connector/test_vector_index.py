from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from connector import schema, vector_index
from connector.client import Client
from connector.errors import InvalidInputError, RefusedError
from connector.vector_index import chosen, completed, probe, search_params


@pytest.mark.parametrize(
    ("images", "dimension", "kind"),
    [
        (0, 512, "FLAT"),
        (100_000, 512, "FLAT"),
        (100_001, 512, "HNSW"),
        (2**25, 512, "HNSW"),  # 64 GiB
        (2**25 + 1, 512, "IVF_SQ8"),
        (2**27, 512, "IVF_SQ8"),  # 256 GiB
        (2**27 + 1, 512, "DISKANN"),
        (1_000_000_000, 1280, "DISKANN"),
    ],
)
def test_the_index_grows_with_the_collection(images: int, dimension: int, kind: str) -> None:
    assert chosen(images, dimension, lite=False)["index_type"] == kind
    assert chosen(images, dimension, lite=True) == dict(vector_index.EXACT)


def test_the_index_of_local_descriptors_is_the_small_one_that_the_backend_has() -> None:
    on_server = vector_index.chosen_local(1_000_000, 64, lite=False)
    assert on_server == {
        "index_type": "IVF_PQ",
        "metric_type": "COSINE",
        "params": {"nlist": 4000, "m": 16, "nbits": 8},
    }
    assert vector_index.chosen_local(1_000_000, 64, lite=True)["index_type"] == "HNSW"


@pytest.mark.parametrize(
    ("index", "dimension", "params"),
    [
        ({"index_type": "HNSW"}, 512, {"M": 16, "efConstruction": 200}),
        ({"index_type": "HNSW", "params": {"M": 4}}, 512, {"M": 4}),
        ({"index_type": "IVF_FLAT"}, 512, {"nlist": 2896}),  # 4 * isqrt(524,288 rows of a segment)
        ({"index_type": "IVF_SQ8"}, 2**20, {"nlist": 128}),
        ({"index_type": "IVF_PQ"}, 512, {"nlist": 2896, "m": 128, "nbits": 8}),
        ({"index_type": "IVF_PQ"}, 70, {"nlist": 4000, "m": 14, "nbits": 8}),
        ({"index_type": "GPU_CAGRA"}, 512, {"intermediate_graph_degree": 64, "graph_degree": 32}),
        ({"index_type": "DISKANN"}, 512, {}),
    ],
)
def test_what_is_left_out_is_filled_in(index: dict[str, Any], dimension: int, params: dict[str, Any]) -> None:
    found = completed(index, 1_000_000, dimension)
    assert found == {"index_type": index["index_type"], "metric_type": "COSINE", "params": params}


def test_an_index_that_is_none() -> None:
    with pytest.raises(InvalidInputError, match="lack the index_type"):
        completed({"metric_type": "IP"}, 10, 8)
    with pytest.raises(InvalidInputError, match="must be COSINE or IP, is 'L2'"):
        completed({"index_type": "HNSW", "metric_type": "L2"}, 10, 8)


@pytest.mark.parametrize(
    ("kind", "limit", "expected"),
    [
        ("FLAT", 100, {}),
        ("AUTOINDEX", 100, {}),
        ("HNSW", 10, {"ef": 256}),
        ("HNSW", 1000, {"ef": 2000}),
        ("HNSW", 16_384, {"ef": 32_768}),
        ("IVF_SQ8", 10, {"nprobe": 250}),
        ("SCANN", 10, {"nprobe": 250}),
        ("DISKANN", 20, {"search_list": 100}),
        ("DISKANN", 100, {"search_list": 200}),
        ("GPU_CAGRA", 10, {"itopk_size": 128, "search_width": 4}),
        ("GPU_CAGRA", 129, {"itopk_size": 256, "search_width": 4}),
    ],
)
def test_search_parameters(kind: str, limit: int, expected: dict[str, int]) -> None:
    assert search_params({"index_type": kind, "params": {"nlist": "2000"}}, limit) == expected
    assert kind != "DISKANN" or max(limit, 20) <= expected["search_list"] <= max(200, 10 * limit)


class Backend:
    """A server that takes every index; `said` is what it tells of it, one after the other."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self.said = list(said)
        self.collections: list[str] = []

    def has_collection(self, collection_name: str, timeout: float) -> bool:
        return collection_name in self.collections

    def create_collection(self, collection_name: str, **_: Any) -> None:
        self.collections.append(collection_name)

    def describe_collection(self, collection_name: str, timeout: float) -> dict[str, Any]:
        return {"collection_name": collection_name, "properties": schema.properties("probe")}

    def drop_collection(self, collection_name: str, timeout: float) -> None:
        self.collections.remove(collection_name)

    def list_indexes(self, **_: Any) -> list[str]:
        return ["embedding"]

    def describe_index(self, **_: Any) -> dict[str, Any]:
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]

    def insert(self, data: list[dict[str, Any]], **_: Any) -> None:
        vectors = np.array([row["embedding"] for row in data])
        assert len(vectors) > 1024, "a server leaves fewer rows without an index"
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def create_index(self, **_: Any) -> None: ...

    def flush(self, **_: Any) -> None: ...


def said(kind: str = "HNSW", indexed: int = 0, pending: int = 0, state: str = "Finished") -> dict[str, Any]:
    return {
        "index_type": kind,
        "total_rows": 1200,
        "indexed_rows": indexed,
        "pending_index_rows": pending,
        "state": state,
    }


def try_out(backend: Backend, kind: str = "HNSW") -> None:
    client = Client("http://milvus:19530", client=backend, timeout=0.3)  # type: ignore[arg-type]
    probe(client, schema.images("photos", 8, completed({"index_type": kind}, 0, 8)))


def test_an_index_that_is_built_passes_and_leaves_nothing() -> None:
    backend = Backend(said(pending=1200), said(indexed=600, pending=600), said(indexed=1200))
    backend.collections = ["photos_probe"]  # of a trial that was cut short
    try_out(backend)
    assert len(backend.said) == 1
    assert backend.collections == []


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (said(pending=1200), "after 0.3 s it has indexed 0 of 1200 vectors"),
        (said(pending=1200, state="Failed"), "it has indexed 0 of 1200 vectors"),
        (said("FLAT", indexed=1200), "it makes FLAT of it"),
    ],
)
def test_an_index_that_is_only_noted_is_refused(answer: dict[str, Any], complaint: str) -> None:
    backend = Backend(answer)
    with pytest.raises(RefusedError, match=rf"cannot build the index HNSW .*{complaint}.*other index_params"):
        try_out(backend)
    assert backend.collections == []


@pytest.mark.parametrize("kind", ["FLAT", "AUTOINDEX"])
def test_exact_search_needs_no_trial(kind: str) -> None:
    try_out(Backend(), kind)
