"""Searches that also verify what local descriptors vote for: in the toy world and by hand-written votes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from landbridge import Index
from landbridge import retrieval as module
from landbridge.cli import app


@pytest.fixture
def missed(toy: Any, toy_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Index, Path]:
    """A query whose global descriptor leads to the tower only, while its local features show the castle too.

    The global search finds four candidates, the tower's photos, and the votes one.
    """
    monkeypatch.setattr(module, "CANDIDATES", 4)
    monkeypatch.setattr(module, "_LOCAL_CANDIDATES", 1)
    toy.write_photo(tmp_path / "query.png", [0, 1, 20, 21, 22, 23, 24, 25])
    return toy_index, tmp_path / "query.png"


def how(ranking: Any) -> dict[str, str]:
    return {hit.image_id: hit.how for hit in ranking.hits}


@pytest.mark.parametrize("method", ["verify", "id-qe", "mmst-c"])
def test_what_the_global_descriptor_misses_is_found_and_verified(
    missed: tuple[Index, Path], method: str
) -> None:
    index, query = missed
    assert how(index.search(query, 8, "verify")).get("castle/0") == "similar"

    built = index.build_local_index()

    assert built.added == 8
    ranking = index.search(query, 8, method)
    assert how(ranking)["castle/0"] == "verified"
    if method == "verify":
        verified = [hit.how for hit in ranking.hits].count("verified")
        assert all(hit.how == "verified" for hit in ranking.hits[:verified])


def test_without_the_local_index_all_is_as_before(missed: tuple[Index, Path], tmp_path: Path) -> None:
    index, query = missed
    before = [index.search(query, 8, method) for method in module.METHODS]
    index.build_local_index()
    index.drop_local_index()
    assert [index.search(query, 8, method) for method in module.METHODS] == before
    index.build_local_index()
    index.close()
    with Index(tmp_path / "toy.db", local_index=False) as without:
        assert without.library.local is None
        assert without.collection.local.exists


def test_votes_alone_change_no_ranking(missed: tuple[Index, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are voted for, and do not verify, stay where their similarity puts them."""
    index, query = missed
    before = [index.search(query, 8, method) for method in module.METHODS]
    index.build_local_index()
    every = [index.library.number[name] for name in ("castle/3", "castle/2")]  # share nothing with the query
    monkeypatch.setattr(module.Library, "local_candidates", lambda self, descriptors: every)
    assert [index.search(query, 8, method) for method in module.METHODS] == before


def test_candidates_by_votes_come_once_and_without_the_query(missed: tuple[Index, Path]) -> None:
    index, query = missed
    index.build_local_index()
    found, _ = index.queries({"query": query})
    retrieval = index.retrieval([*found, *index.members(["castle/1"])])

    for node, hits, images in zip(retrieval._node, retrieval._candidates, retrieval._to_verify, strict=True):
        assert images[:4] == [i for i, _ in hits]
        assert len(set(images)) == len(images) == 5
        assert node not in images
    own = index.library.features([retrieval.queries[1].key])[retrieval.queries[1].key]
    assert index.library.ids[index.library.local_candidates(own.descriptors)[0]] == "castle/1"


def test_images_that_are_not_in_the_library_do_not_count(missed: tuple[Index, Path]) -> None:
    index, _ = missed
    index.build_local_index()
    library = index.library
    fewer = dataclasses.replace(library, ids=library.ids[1:], keys=library.keys[1:])
    own = library.features(library.keys[:1])[library.keys[0]].descriptors
    assert library.ids[0] in [library.ids[i] for i in library.local_candidates(own)]
    assert all(0 <= i < len(fewer.ids) for i in fewer.local_candidates(own))
    assert library.ids[0] not in [fewer.ids[i] for i in fewer.local_candidates(own)]


def test_adding_keeps_it_up_to_date(toy: Any, toy_index: Index, toy_photos: Path) -> None:
    toy_index.build_local_index()
    steps: list[tuple[str, int, int]] = []
    toy.write_photo(toy_photos / "tower" / "9.png", [40, 41])
    toy.write_photo(toy_photos / "castle" / "0.png", [60, 61], variant=3)

    toy_index.add(toy_photos, lambda *step: steps.append(step))

    assert [step for step in steps if step[0] == "index local descriptors"][-1][1:] == (9, 9)
    assert toy_index.collection.local.update().added == 0
    for image_id in ("castle/0", "tower/9"):
        own = toy_index.collection.features([image_id])[0].local.descriptors
        assert toy_index.library.ids[toy_index.library.local_candidates(own)[0]] == image_id


def test_the_command_line(toy: Any, toy_index: Index, toy_photos: Path, tmp_path: Path) -> None:
    toy_index.close()
    uri = ["--uri", str(tmp_path / "toy.db")]

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, *uri, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert "local_index" not in run("index", str(toy_photos))
    built = run("index", str(toy_photos), "--local-index")
    assert built["unchanged"] == 8
    assert (built["local_index"]["rows"], built["local_index"]["index"]) == (800, "HNSW")
    assert run("index", str(toy_photos))["local_index"]["rows"] == 800
    toy.write_photo(tmp_path / "query.png", [0, 1, 2, 3])
    for option in ([], ["--no-local-index"]):
        hits = run("search", str(tmp_path / "query.png"), *option)["hits"]
        assert hits[0]["image_id"] == "castle/0"
    assert run("info")["local_index"]["rows"] == 800
    assert "local_index" not in run("index", str(toy_photos), "--drop-local-index")
    assert run("info")["local_index"] is None
