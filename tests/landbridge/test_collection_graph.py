"""Match graphs of collections in Milvus: of the toy index, and of somebody's own vectors."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connector import knn_graph
from connector.attached import AttachedCollection
from connector.client import Client, DataType, MilvusClient
from connector.collection import Collection
from connector.errors import CollectionChangedError, ImagesMissingError, InvalidInputError
from connector.knn_graph import KnnGraph
from connector.snapshot import Snapshot
from extractor.photo import read_photo
from landbridge import Index, collection_source
from landbridge.collection_graph import match_collection
from landbridge.collection_source import CollectionSource
from landbridge.experiments import NamedGraph, pairing

TOYS = {f"{landmark}/{step}" for landmark in ("castle", "tower") for step in range(4)}


def edges(graph: NamedGraph) -> dict[tuple[str, str], float]:
    """The confidence of each edge, by the names of its ends."""
    matrix = graph.graph.matrix().tocoo()
    return {
        (graph.ids[i], graph.ids[j]): float(value)
        for i, j, value in zip(matrix.row, matrix.col, matrix.data, strict=True)
        if graph.ids[i] < graph.ids[j]
    }


def landmarks(graph: NamedGraph) -> set[frozenset[str]]:
    """The names of each cluster of several images."""
    members: dict[int, set[str]] = {}
    for name, cluster in graph.clusters().items():
        members.setdefault(cluster, set()).add(name)
    return {frozenset(names) for names in members.values() if len(names) > 1}


WALKS = {frozenset(f"{landmark}/{step}" for step in range(4)) for landmark in ("castle", "tower")}


class TestOfLandbridge:
    @pytest.fixture
    def source(self, toy_index: Index) -> CollectionSource:
        toy_index.close()
        return CollectionSource(toy_index.uri)

    def test_what_the_index_verified_is_not_verified_again(
        self, source: CollectionSource, tmp_path: Path
    ) -> None:
        steps: list[tuple[str, int, int]] = []
        made = match_collection(
            source, tmp_path / "graph", neighbours=7, progress=lambda *step: steps.append(step)
        )
        assert (made.pairs, made.verified, made.without) == (28, 0, [])
        assert set(made.graph.ids) == TOYS
        assert landmarks(made.graph) == WALKS
        assert landmarks(NamedGraph.open(tmp_path / "graph")) == WALKS
        assert made.graph.rank("mmst-c", ["tower/0"], 3)["tower/0"] == ["tower/1", "tower/2", "tower/3"]
        assert made.graph.measured is not None
        assert dict.fromkeys(step for step, _, _ in steps) == dict.fromkeys(
            ["read vectors", "nearest neighbours", "read digests"]
        )
        with Collection.open(source.uri) as collection:
            ids, embeddings = collection.embeddings()
        assert made.graph.ids == ids
        np.testing.assert_array_equal(made.graph.descriptors, embeddings)

    def test_what_it_verifies_serves_the_index(self, source: CollectionSource, tmp_path: Path) -> None:
        expected = match_collection(source, tmp_path / "a", neighbours=7)
        shutil.rmtree(tmp_path / "toy.db.matches")
        made = match_collection(source, tmp_path / "b", neighbours=7)
        assert made.verified == 28
        assert edges(made.graph) == edges(expected.graph)
        with Index(source.uri) as index:
            assert len(index.matches) == 28

    def test_of_few_neighbours_a_second_round_finds_more(
        self, source: CollectionSource, tmp_path: Path
    ) -> None:
        one = match_collection(source, tmp_path / "one", neighbours=3, rounds=1)
        two = match_collection(source, tmp_path / "two", neighbours=3)
        assert one.pairs < two.pairs < 28
        assert edges(one.graph).keys() <= edges(two.graph).keys()

    def test_features_are_read_for_the_pairs_at_hand(
        self, source: CollectionSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = match_collection(source, tmp_path / "a", neighbours=7)
        shutil.rmtree(tmp_path / "toy.db.matches")
        monkeypatch.setattr(pairing, "_CACHED_BYTES", 8 * 100_000)  # of photos of 60 KB
        monkeypatch.setattr(collection_source, "_IMAGES_PER_READ", 3)
        reads: list[int] = []
        features = Collection.features

        def spied(self: Collection, image_ids: Any) -> Any:
            reads.append(len(image_ids))
            return features(self, image_ids)

        monkeypatch.setattr(Collection, "features", spied)
        made = match_collection(source, tmp_path / "b", neighbours=7)
        assert edges(made.graph) == edges(expected.graph)
        assert max(reads) == 3
        assert sum(reads) <= 8 + 1  # each photo once, and one of them to learn the dimension

    def test_unchanged_it_searches_nothing(
        self, source: CollectionSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = match_collection(source, tmp_path, neighbours=7)

        def fail(*_: object) -> None:
            raise AssertionError

        monkeypatch.setattr(knn_graph._Job, "_search", fail)
        again = match_collection(source, tmp_path, neighbours=7)
        assert (again.pairs, again.verified) == (28, 0)
        assert edges(again.graph) == edges(expected.graph)
        with pytest.raises(AssertionError):
            match_collection(source, tmp_path, neighbours=6)

    def test_with_more_photos_it_verifies_what_is_new(
        self, source: CollectionSource, toy: Any, tmp_path: Path
    ) -> None:
        match_collection(source, tmp_path / "graph", neighbours=9)
        toy.write_photo(tmp_path / "photos" / "tower" / "4.png", range(28, 32), 4)
        with Index(source.uri) as index:
            index.add(tmp_path / "photos")
        made = match_collection(source, tmp_path / "graph", neighbours=9)
        assert len(made.graph) == 9
        assert made.verified == 0  # `add` has joined it
        whole = match_collection(source, tmp_path / "whole", neighbours=9)
        assert edges(made.graph) == edges(whole.graph)
        assert ("tower/3", "tower/4") in edges(made.graph)

    def test_a_replaced_photo_is_noticed(self, source: CollectionSource, toy: Any, tmp_path: Path) -> None:
        match_collection(source, tmp_path / "graph", neighbours=7)
        photo = tmp_path / "photos" / "tower" / "3.png"
        photo.unlink()
        toy.write_photo(photo, range(4), 9)  # the motifs of castle/0
        with Index(source.uri) as index:
            index.add(tmp_path / "photos")
        made = match_collection(source, tmp_path / "graph", neighbours=7)
        assert ("castle/0", "tower/3") in edges(made.graph)
        knn = KnnGraph.open(tmp_path / "graph" / "neighbours")
        nearest = knn.neighbours[made.graph.ids.index("tower/3"), 0]
        assert made.graph.ids[nearest] == "castle/0"

    def test_some_of_them(self, source: CollectionSource, tmp_path: Path) -> None:
        some = replace(source, filter='image_id like "tower%"')
        made = match_collection(some, tmp_path, neighbours=7)
        assert set(made.graph.ids) == {name for name in TOYS if name.startswith("tower")}
        assert made.pairs == 6

    def test_images_that_come_or_go_meanwhile(
        self, source: CollectionSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = Snapshot.read

        def then_delete(client: Client, collection: str, *arguments: Any, **options: Any) -> Snapshot:
            found = read(client, collection, *arguments, **options)
            client.call("delete", collection_name=collection, filter='image_id == "tower/3"')
            return found

        monkeypatch.setattr(Snapshot, "read", then_delete)
        with pytest.raises(CollectionChangedError, match="came or went while it was read: do it again"):
            match_collection(source, tmp_path, neighbours=7)
        monkeypatch.undo()
        assert len(match_collection(source, tmp_path, neighbours=7).graph) == 7

    def test_wrong_use(self, source: CollectionSource, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="rounds must be 1 or 2"):
            match_collection(source, tmp_path, rounds=3)
        with pytest.raises(InvalidInputError, match="leave out the id field 'path'"):
            match_collection(replace(source, id_field="path"), tmp_path)
        (tmp_path / "own" / "neighbours").mkdir(parents=True)
        precious = tmp_path / "own" / "neighbours" / "letters.txt"
        precious.write_text("dear")
        with pytest.raises(InvalidInputError, match="neighbours is not what was made here"):
            match_collection(source, tmp_path / "own")
        assert precious.read_text() == "dear"

        (tmp_path / "of_files").mkdir()
        (tmp_path / "of_files" / "current.json").write_text("{}")
        with pytest.raises(InvalidInputError, match="of_files holds a graph that was made of files"):
            match_collection(source, tmp_path / "of_files")

        def match_too(*_: object) -> None:
            match_collection(source, tmp_path)

        with pytest.raises(InvalidInputError, match="another process builds the graph"):
            match_collection(source, tmp_path, progress=match_too)


class TestOfSomebody:
    @pytest.fixture
    def source(self, toy: Any, toy_photos: Path, tmp_path: Path) -> CollectionSource:
        """Their collection: integer keys, paths, and vectors that are not of unit norm."""
        uri = str(tmp_path / "theirs.db")
        fields = MilvusClient.create_schema(auto_id=False)
        fields.add_field("number", DataType.INT64, is_primary=True)
        fields.add_field("photo", DataType.VARCHAR, max_length=50)
        fields.add_field("landmark", DataType.VARCHAR, max_length=50)
        fields.add_field("vector", DataType.FLOAT_VECTOR, dim=toy.DIMENSION)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="L2")
        client = Client(uri)
        client.call("create_collection", collection_name="theirs", schema=fields, index_params=index)
        extractor = toy.ToyExtractor()
        self.features = [extractor.extract(read_photo(toy_photos / f"{n}.png"), n) for n in sorted(TOYS)]
        rows = [
            {
                "number": -number,
                "photo": image.image_id,
                "landmark": image.image_id.partition("/")[0],
                "vector": 3 * image.global_descriptor,
            }
            for number, image in enumerate(self.features)
        ]
        client.call("upsert", collection_name="theirs", data=rows)
        client.close()
        return CollectionSource(uri, "theirs", id_field="photo")

    def keep(self, source: CollectionSource, images: int) -> None:
        with AttachedCollection(source.uri, source.collection, load=True) as theirs:
            theirs.put_local([-number for number in range(images)], self.features[:images])

    def test_their_images_are_verified(self, source: CollectionSource, tmp_path: Path) -> None:
        self.keep(source, 8)
        made = match_collection(source, tmp_path / "graph", neighbours=7)
        assert (made.pairs, made.verified, made.without) == (28, 28, [])
        assert landmarks(made.graph) == WALKS
        assert made.keys.read(0, 8) == list(range(-7, 1))
        assert made.graph.ids == sorted(TOYS, reverse=True)
        norms = np.linalg.norm(made.graph.descriptors, axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-6)
        by_key = match_collection(replace(source, id_field=""), tmp_path / "by_key", neighbours=7)
        assert by_key.graph.ids == [str(number) for number in range(-7, 1)]
        assert by_key.verified == 0

    def test_images_without_local_features_are_named(self, source: CollectionSource, tmp_path: Path) -> None:
        self.keep(source, 6)
        made = match_collection(source, tmp_path, neighbours=7)
        assert made.without == ["tower/3", "tower/2"]
        assert {len(names) for names in landmarks(made.graph)} == {4, 2}
        assert len(made.graph) == 8

    def test_without_any_nothing_is_verified(self, source: CollectionSource, tmp_path: Path) -> None:
        with pytest.raises(
            ImagesMissingError, match=r"no image of 'theirs' has local features in 'theirs_la"
        ):
            match_collection(source, tmp_path, neighbours=7)

    def test_names_stand_once(self, source: CollectionSource, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match=r"'landmark' of .* the same name: 'castle', 'tower'"):
            match_collection(replace(source, id_field="landmark"), tmp_path)


def test_neighbours_that_are_alike(tmp_path: Path) -> None:
    uri = str(tmp_path / "angles.db")
    client = Client(uri)
    fields = MilvusClient.create_schema(auto_id=False)
    fields.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=9)
    fields.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")
    client.call("create_collection", collection_name="angles", schema=fields, index_params=index)
    degrees = {"a": 0, "b": 10, "c": 25, "d": 60, "e": 68}
    rows = [
        {"pk": pk, "vector": [np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))]}
        for pk, angle in degrees.items()
    ]
    client.call("upsert", collection_name="angles", data=rows)
    client.close()
    source = CollectionSource(uri, "angles")
    # With one neighbour each: a - b and d - e chose each other, c chose b alone.
    made = match_collection(source, tmp_path / "one", neighbours=1, similarity=0.5)
    cosine = {pair: np.cos(np.deg2rad(angle)) for pair, angle in {("a", "b"): 10, ("d", "e"): 8}.items()}
    assert edges(made.graph) == pytest.approx(cosine, abs=1e-6)
    assert (made.pairs, made.verified) == (2, 0)
    assert landmarks(made.graph) == {frozenset("ab"), frozenset("de")}
    made = match_collection(source, tmp_path / "two", neighbours=2, similarity=np.cos(np.deg2rad(12)))
    assert edges(made.graph).keys() == {("a", "b"), ("d", "e")}  # b - c, at 15 degrees, is cut
    made = match_collection(source, tmp_path / "two", neighbours=2, similarity=np.cos(np.deg2rad(20)))
    assert landmarks(made.graph) == {frozenset("abc"), frozenset("de")}
    counts = Counter(made.graph.clusters(0.98).values())
    assert sorted(counts.values()) == [1, 2, 2]
    with pytest.raises(InvalidInputError, match="similarity above 0 and at most 1, got 2 and 0"):
        match_collection(source, tmp_path, similarity=0)
