"""`landbridge graph knn`, `match` and `expand` as a stranger meets them, on the toy index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from connector.client import Client
from connector.collection import Collection
from connector.knn_graph import KnnGraph
from extractor.files import StoredFeatures, write_features
from landbridge import Index, cli

runner = CliRunner(env={"COLUMNS": "110"})
TOYS = sorted(f"{landmark}/{step}" for landmark in ("castle", "tower") for step in range(4))


@pytest.fixture
def uri(toy_index: Index) -> str:
    toy_index.close()
    return toy_index.uri


def call(command: str, *arguments: object) -> Any:
    return runner.invoke(cli.app, ["graph", command, *map(str, arguments)])


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_knn(uri: str, tmp_path: Path) -> None:
    usual = ("--uri", uri, "--k", 3, "--out", tmp_path / "knn")
    answer = call("knn", *usual)
    assert answer.exit_code == 0, answer.output
    assert "8 images of landbridge, 24 neighbours in all." in answer.stdout
    assert "nearest neighbours" in answer.stderr
    graph = KnnGraph.open(tmp_path / "knn")
    assert sorted(graph.ids.read(0, 8)) == TOYS
    assert graph.neighbours.shape == (8, 3)

    facts = json.loads(call("knn", *usual, "--json").stdout)
    similarity = facts.pop("median_similarity")
    assert facts == {
        "collection": "landbridge",
        "images": 8,
        "k": 3,
        "neighbours": 24,
        "folder": str(tmp_path / "knn"),
    }
    assert similarity == pytest.approx(float(np.median(graph.similarity[:, 0])))

    with Collection.open(uri) as collection:
        collection.delete(["tower/3"])
    answer = call("knn", *usual)
    assert answer.exit_code == 0, answer.output
    assert "was deleted): it is built anew." in words(answer.stderr)
    assert "7 images of landbridge, 21 neighbours in all." in answer.stdout

    answer = call("knn", *usual, "--filter", 'image_id like "castle%"')
    assert answer.exit_code == 1
    assert "give another folder, or delete this one" in words(answer.stderr)


def test_knn_lists_for_a_build_from_files(uri: str, tmp_path: Path) -> None:
    assert call("knn", "--uri", uri, "--k", 3, "--out", tmp_path / "knn").exit_code == 0
    with Collection.open(uri) as collection:
        images = collection.features(TOYS)
    write_features(
        tmp_path / "toys.h5",
        [StoredFeatures(i.image_id, i.local, i.global_descriptor, i.size) for i in images],
    )
    answer = call(
        *("build", tmp_path / "toys.h5", "--neighbours", tmp_path / "knn", "--rounds", 1),
        *("--out", tmp_path / "g", "--json"),
    )
    assert answer.exit_code == 0, answer.output
    knn = KnnGraph.open(tmp_path / "knn")
    pairs = {frozenset((row, int(other))) for row in range(8) for other in knn.neighbours[row]}
    assert json.loads(answer.stdout)["pairs"] == len(pairs)


def test_match_and_what_comes_of_it(uri: str, tmp_path: Path) -> None:
    graph = tmp_path / "graph"
    answer = call("match", "--uri", uri, "--out", graph)
    assert answer.exit_code == 0, answer.output
    assert "8 images," in answer.stdout
    assert "28 pairs, of which 0 were verified now." in answer.stdout
    facts = json.loads(call("match", "--uri", uri, "--out", graph, "--json").stdout)
    assert (facts["pairs"], facts["verified"], facts["without_local_features"]) == (28, 0, [])
    assert facts["graph"]["images"] == 8

    clusters = json.loads(call("cluster", graph, "--json").stdout)
    assert set(clusters) == set(TOYS)
    assert len({clusters[name] for name in TOYS[:4]}) == len({clusters[name] for name in TOYS[4:]}) == 1
    ranked = json.loads(call("rank", graph, "--limit", 3, "--json").stdout)
    assert ranked["method"] == "mmst-c"
    for ranking in ranked["rankings"]:
        assert {hit["image"][:5] for hit in ranking["hits"]} == {ranking["query"][:5]}
    assert json.loads(call("stats", graph, "--json").stdout) == facts["graph"]
    assert call("export", graph, tmp_path / "g.graphml").exit_code == 0

    answer = call("match", "--uri", uri, "--out", tmp_path / "alike", "--similarity", 0.99)
    assert answer.exit_code == 0, answer.output
    assert "8 images, 0 edges." in answer.stdout


def test_expand(uri: str, tmp_path: Path) -> None:
    usual = ("--uri", uri, "--out", tmp_path / "graph")
    answer = call("expand", *usual)
    assert answer.exit_code == 0, answer.output
    assert "Moved 8 of 8 descriptors." in answer.stdout
    assert f'client = MilvusClient("{uri}")' in words(answer.stdout)
    assert 'client.search("landbridge_expanded", [query], anns_field="embedding", limit=100' in answer.stdout
    assert f"landbridge graph drop-expanded --alias landbridge_expanded --uri {uri}" in answer.stdout
    assert "Back:" not in answer.stdout

    facts = json.loads(call("expand", *usual, "--json").stdout)
    assert (facts["alias"], facts["images"], facts["moved"]) == ("landbridge_expanded", 8, 8)
    assert facts["verified"] == 0
    assert facts["before"] is None
    assert facts["name"] in answer.stdout

    with Collection.open(uri) as collection:
        collection.delete(["tower/3"])
    answer = call("expand", *usual, "--field", "path")
    assert f"Back: landbridge alias landbridge_expanded {facts['name']} --uri {uri}" in answer.stdout
    assert "output_fields=['path'])" in answer.stdout
    with Client(uri) as client:
        names = [name for name in client.call("list_collections") if "_expanded_" in name]
    assert len(names) == 2

    answer = call("drop-expanded", "--uri", uri)
    assert answer.exit_code == 0, answer.output
    assert words(answer.stdout) == f"Dropped {', '.join(sorted(names))}."
    answer = call("drop-expanded", "--uri", uri, "--json")
    assert answer.exit_code == 1
    assert "has no expanded descriptors under 'landbridge_expanded'" in words(answer.stderr)


@pytest.mark.parametrize("command", ["knn", "match", "expand"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--collection", "photos"), "has no collection 'photos'"),
        (("--vector-field", "image_id"), "'image_id' of 'landbridge' holds no float vectors"),
        (("--id-field", "path"), "images are named by image_id"),
        (("--filter", 'image_id == "nobody"'), ""),
        (("--uri", "nowhere.db"), "there is no "),
    ],
)
def test_wrong_use(uri: str, tmp_path: Path, command: str, arguments: tuple[str, ...], message: str) -> None:
    answer = call(command, "--uri", uri, "--out", tmp_path / "g", *arguments)
    if command == "knn" and not message:  # an empty graph is one
        assert "0 images of landbridge, 0 neighbours in all." in answer.stdout
        return
    assert answer.exit_code == 1
    assert (message or "holds no images that fulfil") in words(answer.stderr)
