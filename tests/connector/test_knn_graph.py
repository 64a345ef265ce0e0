from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from connector import knn_graph as module
from connector import scan
from connector.client import Client, DataType, MilvusClient
from connector.errors import (
    CollectionChangedError,
    CollectionMissingError,
    InvalidInputError,
    NotLoadedError,
)
from connector.knn_graph import KnnGraph

HOSTILE = ['"', "'", "\\", '" or key != "', "a\nb", "nul\0", "Köln", "大教堂", "", "🏛", "aa", "a"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client = Client(tmp_path_factory.mktemp("graphs") / "theirs.db")
    yield client
    client.close()


def unit(count: int, dimension: int = 8, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make(
    client: Client,
    name: str,
    keys: list[Any],
    vectors: NDArray[np.float32],
    metric: str = "COSINE",
    index: str = "FLAT",
) -> str:
    """A collection as other people make them."""
    if client.call("has_collection", collection_name=name):
        client.call("drop_collection", collection_name=name)
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    if keys and isinstance(keys[0], int):
        fields.add_field("key", DataType.INT64, is_primary=True)
    else:
        fields.add_field("key", DataType.VARCHAR, is_primary=True, max_length=100)
    fields.add_field("photo", DataType.VARCHAR, max_length=100)
    fields.add_field("even", DataType.BOOL)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    parameters = MilvusClient.prepare_index_params()
    parameters.add_index("embedding", index_type=index, metric_type=metric, params={})
    client.call("create_collection", collection_name=name, schema=fields, index_params=parameters)
    put(client, name, keys, vectors)
    return name


def put(client: Client, name: str, keys: list[Any], vectors: NDArray[np.float32]) -> None:
    rows = [
        {"key": key, "photo": f"{key}.jpg", "even": i % 2 == 0, "embedding": vector}
        for i, (key, vector) in enumerate(zip(keys, vectors, strict=True))
    ]
    if rows:
        client.call("upsert", collection_name=name, data=rows)


def exact(vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    similarity = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, 1)


def test_the_graph_of_a_small_collection_by_hand(client: Client, tmp_path: Path) -> None:
    angles = np.deg2rad([0, 90, 10, 30])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    make(client, "by_hand", [7, -3, 9, 8], vectors)  # rows are in the order of the keys: -3, 7, 8, 9

    graph = KnnGraph.build(client, "by_hand", tmp_path, 2)

    assert list(graph.ids) == [-3, 7, 8, 9]
    assert graph.neighbours.dtype == np.int32
    assert graph.similarity.dtype == np.float32
    assert graph.neighbours.tolist() == [[2, 3], [3, 2], [3, 1], [1, 2]]
    cosines = np.cos(np.deg2rad([[60, 80], [10, 30], [20, 30], [10, 20]]))
    np.testing.assert_allclose(graph.similarity, cosines, atol=1e-6)
    dense = graph.matrix().toarray()
    np.testing.assert_allclose(dense[0], [0, 0, np.cos(np.deg2rad(60)), np.cos(np.deg2rad(80))], atol=1e-6)
    assert graph.matrix().shape == (4, 4)


@pytest.mark.parametrize(
    ("metric", "index"), [("COSINE", "FLAT"), ("IP", "HNSW"), ("L2", "FLAT"), ("L2", "AUTOINDEX")]
)
def test_agrees_with_exact_search(client: Client, tmp_path: Path, metric: str, index: str) -> None:
    vectors = unit(300)
    make(client, "exact", list(range(300)), vectors, metric, index)
    graph = KnnGraph.build(client, "exact", tmp_path, 10)
    neighbours, similarity = exact(vectors, 10)
    np.testing.assert_array_equal(graph.neighbours, neighbours)
    np.testing.assert_allclose(graph.similarity, similarity, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 10_000])
def test_keys_of_any_text_and_names_from_another_field(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(scan, "_ROWS_PER_PAGE", rows)
    vectors = unit(len(HOSTILE), seed=1)
    make(client, "hostile", HOSTILE, vectors)
    order = sorted(range(len(HOSTILE)), key=lambda i: HOSTILE[i].encode())

    graph = KnnGraph.build(client, "hostile", tmp_path / "a", 3)
    assert list(graph.ids) == [HOSTILE[i] for i in order]
    neighbours, similarity = exact(vectors[order], 3)
    np.testing.assert_array_equal(graph.neighbours, neighbours)
    np.testing.assert_allclose(graph.similarity, similarity, atol=1e-6)

    named = KnnGraph.build(client, "hostile", tmp_path / "b", 3, id_field="photo", vector_field="embedding")
    assert list(named.ids) == [f"{HOSTILE[i]}.jpg" for i in order]
    np.testing.assert_array_equal(named.neighbours, graph.neighbours)


def test_a_filter_makes_the_graph_of_some(client: Client, tmp_path: Path) -> None:
    vectors = unit(60, seed=2)
    make(client, "some", list(range(60)), vectors)
    graph = KnnGraph.build(client, "some", tmp_path, 5, filter="even == true")
    assert list(graph.ids) == list(range(0, 60, 2))
    np.testing.assert_array_equal(graph.neighbours, exact(vectors[::2], 5)[0])


def test_fewer_images_than_neighbours(client: Client, tmp_path: Path) -> None:
    make(client, "few", [1, 2, 3], unit(3, seed=3))
    graph = KnnGraph.build(client, "few", tmp_path / "few", 5)
    assert (graph.neighbours[:, 2:] == -1).all()
    assert np.isnan(graph.similarity[:, 2:]).all()
    assert np.sort(graph.neighbours[:, :2], 1).tolist() == [[1, 2], [0, 2], [0, 1]]
    matrix = graph.matrix()
    assert matrix.nnz == 6
    assert not np.isnan(matrix.data).any()

    make(client, "one", [1], unit(1))
    assert KnnGraph.build(client, "one", tmp_path / "one", 5).neighbours.tolist() == [[-1] * 5]
    make(client, "none", [], unit(1)[:0])
    none = KnnGraph.build(client, "none", tmp_path / "none", 5)
    assert none.neighbours.shape == none.similarity.shape == (0, 5)
    assert none.matrix().shape == (0, 0)


def test_duplicates_come_by_number_and_never_as_their_own_neighbours(client: Client, tmp_path: Path) -> None:
    vectors = np.repeat(unit(5, seed=4), 6, axis=0)  # six images alike, room for three
    make(client, "alike", list(range(30)), vectors)
    graph = KnnGraph.build(client, "alike", tmp_path, 3)
    for row, found in enumerate(graph.neighbours):
        assert row not in found
        assert (found // 6 == row // 6).all()
        assert found.tolist() == sorted(found)
    np.testing.assert_allclose(graph.similarity, 1, atol=1e-6)
    assert (graph.similarity <= 1).all()


def test_hits_in_any_order() -> None:
    query = np.array([0, 0, 0, 0, 1, 1, 1])
    row = np.array([7, 5, 9, 6, 6, 8, 2])  # images 5 and 6 ask
    similarity = np.array([0.5, 1, 0.5, 0.9, 0.7, 0.7, 0.7], np.float32)
    neighbours, similarities = module._nearest(query, row, similarity, 5, (3, 2))
    assert neighbours.tolist() == [[6, 7], [2, 8], [-1, -1]]
    np.testing.assert_array_equal(
        similarities, np.array([[0.9, 0.5], [0.7, 0.7], [np.nan, np.nan]], np.float32)
    )


@pytest.mark.parametrize(
    ("metric", "similarity"), [("COSINE", [1, 1, -0.5]), ("IP", [1.25, 1, -0.5]), ("L2", [0.375, 0.5, 1.25])]
)
def test_similarity_of_each_metric(metric: str, similarity: list[float]) -> None:
    job = object.__new__(module._Job)
    job.index = {"metric_type": metric}
    assert job._similarity(np.array([1.25, 1, -0.5], np.float32)).tolist() == similarity


def test_pages_and_batches_do_not_show(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client, "pages", list(range(100)), unit(100, seed=5))
    whole = KnnGraph.build(client, "pages", tmp_path / "whole", 4)
    monkeypatch.setattr(module, "_NUMBERS_PER_PAGE", 8 * 17)
    monkeypatch.setattr(module, "_QUERIES_PER_SEARCH", 5)
    told: list[tuple[int, int]] = []
    parts = KnnGraph.build(
        client, "pages", tmp_path / "parts", 4, progress=lambda done, total: told.append((done, total))
    )
    np.testing.assert_array_equal(parts.neighbours, whole.neighbours)
    np.testing.assert_allclose(parts.similarity, whole.similarity, atol=3e-7)
    assert told[:5] == [(0, 100), (5, 100), (10, 100), (15, 100), (17, 100)]
    assert told[-1] == (100, 100)


@pytest.mark.parametrize(
    ("metric", "lite", "neighbours", "images", "queries"),
    [
        ("COSINE", True, 100, 1000, 128),
        ("COSINE", False, 16_000, 1000, 6),
        ("L2", True, 10, 100_000, 5),  # 5 x 100,000 x 128 float32 fit 256 MB
        ("COSINE", True, 10, 10_000_000, 6),
        ("L2", False, 10, 100_000, 128),
        ("L2", True, 10, 10**9, 1),
    ],
)
def test_searches_fit_memory(metric: str, lite: bool, neighbours: int, images: int, queries: int) -> None:
    job = object.__new__(module._Job)
    job.client = type("Fake", (), {"lite": lite})()
    job.neighbours, job.dimension, job.index = neighbours, 128, {"metric_type": metric}
    assert job._queries_per_search(images) == queries


def test_approximate_indexes_search_widely(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client, "wide", list(range(20)), unit(20), index="HNSW")
    asked: list[Any] = []
    call = client.call

    def spy(operation: str, **arguments: Any) -> Any:
        if operation == "search":
            asked.append(arguments["search_params"]["params"])
        return call(operation, **arguments)

    monkeypatch.setattr(client, "call", spy)
    KnnGraph.build(client, "wide", tmp_path / "chosen", 200)
    KnnGraph.build(client, "wide", tmp_path / "given", 200, search_params={"ef": 999})
    assert asked == [{"ef": 402}, {"ef": 999}]


class InterruptedBuildError(Exception):
    pass


def interrupt(after: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= after:
            raise InterruptedBuildError

    return progress


def test_goes_on_where_it_was(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(client, "stopped", list(range(100)), unit(100, seed=6))
    monkeypatch.setattr(module, "_NUMBERS_PER_PAGE", 8 * 20)
    monkeypatch.setattr(module, "_QUERIES_PER_SEARCH", 7)
    whole = KnnGraph.build(client, "stopped", tmp_path / "whole", 4)
    folder = tmp_path / "stopped"
    for done in (50, 71):
        with pytest.raises(InterruptedBuildError):
            KnnGraph.build(client, "stopped", folder, 4, progress=interrupt(done))
        with pytest.raises(InvalidInputError, match=rf"has {done // 20 * 20} of 100 images: build it once"):
            KnnGraph.open(folder)
    with (folder / "journal").open("ab") as journal:
        journal.write(b"8")  # the beginning of a line: a power cut
    told: list[int] = []
    graph = KnnGraph.build(client, "stopped", folder, 4, progress=lambda done, total: told.append(done))
    assert told[:2] == [60, 67]
    np.testing.assert_array_equal(graph.neighbours, whole.neighbours)
    np.testing.assert_array_equal(graph.similarity, whole.similarity)

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(module._Job, "_search", fail)
    again = KnnGraph.build(client, "stopped", folder, 4)
    np.testing.assert_array_equal(again.neighbours, whole.neighbours)


def delete(client: Client, name: str, key: int) -> None:
    client.call("delete", collection_name=name, filter=f"key == {key}")


def add(client: Client, key: int, like: int) -> None:
    put(client, "changing", [key], unit(100, seed=7)[like : like + 1])


@pytest.mark.parametrize(
    ("change", "complaint", "searched"),
    [
        (lambda client: delete(client, "changing", 75), r"changed since .* \(75 was deleted\): delete", 60),
        (lambda client: delete(client, "changing", 3), r"\(3 was deleted\)", 100),
        (lambda client: add(client, 1000, 99), r"\(1000 was added\)", 40),
        (lambda client: add(client, 1000, 47), r"\(1000 was added\)", 40),
        (lambda client: add(client, -1, 3), r"\(-1 was added\)", 40),
    ],
)
def test_images_that_come_or_go_meanwhile(
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable,
    complaint: str,
    searched: int,
) -> None:
    make(client, "changing", list(range(100)), unit(100, seed=7))
    monkeypatch.setattr(module, "_NUMBERS_PER_PAGE", 8 * 20)
    with pytest.raises(InterruptedBuildError):
        KnnGraph.build(client, "changing", tmp_path, 4, progress=interrupt(40))
    change(client)
    told: list[int] = []
    with pytest.raises(CollectionChangedError, match=complaint):
        KnnGraph.build(client, "changing", tmp_path, 4, progress=lambda done, total: told.append(done))
    assert told[-1] == searched
    with pytest.raises(InvalidInputError, match="build it once more"):
        KnnGraph.open(tmp_path)


def test_a_finished_graph_of_what_has_changed_since(client: Client, tmp_path: Path) -> None:
    make(client, "later", list(range(10)), unit(10))
    KnnGraph.build(client, "later", tmp_path, 4)
    delete(client, "later", 9)
    with pytest.raises(CollectionChangedError, match=r"\(9 was deleted\)"):
        KnnGraph.build(client, "later", tmp_path, 4)


def test_anew_it_is_of_what_is_there_now(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client, "anew", list(range(10)), unit(10))
    KnnGraph.build(client, "anew", tmp_path, 4)
    delete(client, "anew", 9)
    with pytest.raises(InvalidInputError, match="with neighbours 4, not 3"):
        KnnGraph.build(client, "anew", tmp_path, 3, anew=True)

    def cut_short(*_: object) -> Iterator[Any]:
        raise InterruptedBuildError
        yield

    with monkeypatch.context() as patch:
        patch.setattr(module._Job, "_key_pages", cut_short)
        with pytest.raises(InterruptedBuildError):
            KnnGraph.build(client, "anew", tmp_path, 4, anew=True)
    with pytest.raises(FileNotFoundError):  # and not the old graph with half of the new keys
        KnnGraph.open(tmp_path)
    with pytest.raises(InterruptedBuildError):
        KnnGraph.build(client, "anew", tmp_path, 4, anew=True, progress=interrupt(0))
    with pytest.raises(InvalidInputError, match="has 0 of 9 images"):
        KnnGraph.open(tmp_path)
    graph = KnnGraph.build(client, "anew", tmp_path, 4)
    assert graph.ids.read(0, 9) == list(range(9))
    np.testing.assert_array_equal(graph.neighbours, exact(unit(10)[:9], 4)[0])


def test_what_cannot_be_built(client: Client, tmp_path: Path) -> None:
    make(client, "good", list(range(10)), unit(10))
    build = KnnGraph.build
    for neighbours in (0, 16_384):
        with pytest.raises(InvalidInputError, match=f"neighbours must be 1 to 16383, is {neighbours}"):
            build(client, "good", tmp_path, neighbours)
    with pytest.raises(CollectionMissingError, match=r"has no collection 'bad'; it has .*good"):
        build(client, "bad", tmp_path)
    with pytest.raises(InvalidInputError, match="has no field 'name'; it has key, photo, even, embedding"):
        build(client, "good", tmp_path, id_field="name")
    with pytest.raises(InvalidInputError, match="'photo' of 'good' holds no float vectors; embedding does"):
        build(client, "good", tmp_path, vector_field="photo")
    with pytest.raises(InvalidInputError, match="text alone or integers alone"):
        build(client, "good", tmp_path, id_field="embedding")
    with pytest.raises(FileNotFoundError, match="holds no k-NN graph"):
        KnnGraph.open(tmp_path)
    build(client, "good", tmp_path, 4)
    with pytest.raises(InvalidInputError, match="with neighbours 4, not 5: give another folder"):
        build(client, "good", tmp_path, 5)


def test_a_collection_that_is_not_loaded(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(client, "released", list(range(10)), unit(10))
    client.call("release_collection", collection_name="released")
    monkeypatch.setattr(client, "lite", False)  # others may have released it for a reason
    with pytest.raises(NotLoadedError, match="'released' is not loaded: load it first"):
        KnnGraph.build(client, "released", tmp_path, 4)
    monkeypatch.undo()
    assert len(KnnGraph.build(client, "released", tmp_path, 4)) == 10


def test_one_build_at_a_time(client: Client, tmp_path: Path) -> None:
    make(client, "busy", list(range(10)), unit(10))

    def build_too(done: int, total: int) -> None:
        KnnGraph.build(client, "busy", tmp_path, 4)

    with pytest.raises(InvalidInputError, match="another process builds the k-NN graph"):
        KnnGraph.build(client, "busy", tmp_path, 4, progress=build_too)


class Endless:
    """A collection of any size, of which nothing is in memory; image i has the neighbours around it."""

    lite, uri = False, "http://milvus:19530"

    def __init__(self, images: int) -> None:
        self.images = images

    def call(self, operation: str, **arguments: Any) -> Any:
        return getattr(self, operation)(**arguments)

    def has_collection(self, **_: Any) -> bool:
        return True

    def describe_collection(self, **_: Any) -> dict:
        return {
            "fields": [
                {"name": "pk", "type": DataType.VARCHAR, "params": {"max_length": 9}, "is_primary": True},
                {"name": "vector", "type": DataType.FLOAT_VECTOR, "params": {"dim": 2}},
            ]
        }

    def list_indexes(self, **_: Any) -> list[str]:
        return ["vector"]

    def describe_index(self, **_: Any) -> dict:
        return {"index_type": "FLAT", "metric_type": "IP"}

    def get_load_state(self, **_: Any) -> dict:
        return {"state": "Loaded"}

    def query(self, *, output_fields: list[str], **arguments: Any) -> list[dict]:
        if output_fields == ["count(*)"]:
            return [{"count(*)": self.images}]
        first = int(arguments["filter"][7:-2]) + 1 if arguments["filter"] else 0
        rows = range(first, min(first + arguments["limit"], self.images))
        return [{"pk": f"{row:09}", "vector": [float(row), 0.0]} for row in rows]

    def search(self, *, data: list, limit: int, **_: Any) -> list[Any]:
        middles = [min(max(int(vector[0]), limit), self.images - limit) for vector in data]
        places = np.arange(limit) - limit // 2
        return [
            SimpleNamespace(ids=[f"{place:09}" for place in places + middle], distances=[0.5] * limit)
            for middle in middles
        ]


def test_memory_does_not_grow_with_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUMBERS_PER_PAGE", 2 * 1000)
    monkeypatch.setattr(scan, "_ROWS_PER_PAGE", 1000)
    peaks = []
    for images in (1000, 3000, 9000):  # the first one compiles
        tracemalloc.start()
        graph = KnnGraph.build(Endless(images), "endless", tmp_path / str(images), 10)  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(graph) == images
    assert graph.neighbours[500].tolist() == [i for i in range(495, 506) if i != 500]
    assert peaks[2] < 1.2 * peaks[1]
