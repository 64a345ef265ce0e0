"""The k-NN graph of a Landbridge collection is what query expansion, ranking and clustering take."""

from __future__ import annotations

import numpy as np
import pytest

from connector.client import Client
from connector.collection import Source
from connector.knn_graph import KnnGraph
from ranking.clusters import clusters
from ranking.id_qe import expand
from ranking.match_graph import MatchGraph
from ranking.mmst_c import grow_tree

PLACES, VIEWS = 6, 5


@pytest.fixture(scope="session")
def graph(deployment, photo, tmp_path_factory: pytest.TempPathFactory):
    """Six places in five views each: the ids, their embeddings and the graph of four neighbours."""
    random = np.random.default_rng(8)
    centres = np.eye(16, dtype=np.float32)[:PLACES]
    vectors = np.repeat(centres, VIEWS, 0) + 0.05 * random.normal(size=(PLACES * VIEWS, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    images = [photo(f'"view" {i % VIEWS} of {i // VIEWS}', seed=i) for i in range(len(vectors))]
    with deployment.create("places") as collection:
        collection.publish(collection.stage(images, [Source("p", 1, 1)] * len(images)), vectors)
        ids, embeddings = collection.embeddings()
    client = Client(deployment.uri, token=deployment.token)
    folder = tmp_path_factory.mktemp("places")
    yield ids, embeddings, KnnGraph.build(client, "places", folder, 4, id_field="image_id")
    client.close()


def test_rows_are_those_of_the_embeddings(graph) -> None:
    ids, embeddings, found = graph
    assert list(found.ids) == ids
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    np.testing.assert_array_equal(found.neighbours, np.argsort(-similarity, axis=1)[:, :4])
    np.testing.assert_allclose(found.similarity, -np.sort(-similarity, axis=1)[:, :4], atol=1e-5)


def test_it_feeds_the_ranking_engine(graph) -> None:
    ids, embeddings, found = graph
    place = np.array([int(name[-1]) for name in ids])
    for matches in (
        MatchGraph.from_neighbours(found.neighbours, found.similarity, 0.5),
        MatchGraph.from_matrix(found.matrix(), 0.5),
    ):
        expanded = expand(embeddings, matches)
        assert (expanded @ expanded.T)[place[:, None] == place].min() > 0.999
        assert (embeddings @ embeddings.T)[place[:, None] == place].min() < 0.98
        assert (place[grow_tree(matches, 0).order] == place[0]).all()
        assert len(grow_tree(matches, 0).order) == VIEWS - 1
        parts = clusters(matches, 0.5)
        assert len({*zip(parts, place, strict=True)}) == len(set(parts)) == PLACES
