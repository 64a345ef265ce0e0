"""The toy world in somebody's own collection: their vectors rank it wrongly, verified pairs put it right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymilvus import DataType, MilvusClient
from typer.testing import CliRunner

import landbridge
from connector.errors import (
    DimensionMismatchError,
    FingerprintMismatchError,
    ImagesMissingError,
    InvalidInputError,
    OutsideRootsError,
    PhotoUnavailableError,
)
from connector.schema import image_key
from extractor.photo import PhotoError
from landbridge.attached import AttachedPhotos
from landbridge.cli import app

QUERY_VECTOR = np.array([3.0, 0, 0, 0], np.float32)
SIMILARITIES = {
    "tower/0": 0.9,
    "tower/1": 0.8,
    "castle/0": 0.7,
    "tower/2": 0.6,
    "castle/1": 0.5,
    "tower/3": 0.4,
    "castle/2": 0.3,
    "castle/3": 0.2,
}
"""Their model sees towers in the query, which shows what castle/0 shows."""
NAMES = list(SIMILARITIES)
LOST = {
    100: (0.85, "../outside.png", "leads out of"),
    101: (0.75, "castle/9.png", "there is no photo"),
    102: (0.65, None, "holds no path or URL, but None"),
    103: (0.55, "broken.png", "not a photo in a format"),
    104: (0.45, "https://photos.example/1.png", "none may be fetched"),
}
"""Rows whose photo cannot be had: similarity, url, why."""


def vector(similarity: float, length: float) -> list[float]:
    return [similarity * length, (1 - similarity**2) ** 0.5 * length, 0, 0]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, toy_template: Path) -> Path:
    """Their Milvus Lite folder, and the photos beside it."""
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copytree(toy_template / "photos", folder / "photos")
    (folder / "photos" / "broken.png").write_bytes(b"no photo")
    (folder / "outside.png").write_bytes(b"secret")
    client = MilvusClient(str(folder / "theirs.db"))
    fields = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    fields.add_field("number", DataType.INT64, is_primary=True)
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=4)
    index = MilvusClient.prepare_index_params()
    index.add_index("embedding", index_type="FLAT", metric_type="COSINE")
    client.create_collection("photos", schema=fields, index_params=index, timeout=20)
    client.create_partition("photos", "towers", timeout=20)
    for partition in ("castle", "tower"):
        rows = [
            {
                "number": place,
                "embedding": vector(similarity, 0.5 + place),
                "url": f"{name}.png",
                "landmark": partition,
                "tags": [name, {"place": np.float32(place).item()}],
            }
            for place, (name, similarity) in enumerate(SIMILARITIES.items())
            if name.startswith(partition)
        ]
        chosen = "towers" if partition == "tower" else "_default"
        client.insert("photos", rows, partition_name=chosen, timeout=20)
    client.close()
    return folder


@pytest.fixture
def theirs(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "theirs"))


@pytest.fixture
def query(toy: Any, tmp_path: Path) -> Path:
    """What castle/0 shows, seen from a little beside it."""
    return Path(toy.write_photo(tmp_path / "query.png", range(4), variant=7))


Attach = Callable[..., AttachedPhotos]


@pytest.fixture
def attach(theirs: Path, toy: Any) -> Iterator[Attach]:
    opened = []

    def attached(**arguments: Any) -> AttachedPhotos:
        usual = {"photo_field": "url", "roots": theirs / "photos"}
        opened.append(landbridge.attach(theirs / "theirs.db", "photos", **usual | arguments))
        return opened[-1]

    yield attached
    for photos in opened:
        photos.close()


def add_lost(theirs: Path) -> None:
    client = MilvusClient(str(theirs / "theirs.db"))
    client.load_collection("photos", timeout=20)
    rows = [
        {"number": id_, "embedding": vector(similarity, 1), "landmark": "lost", "url": url}
        for id_, (similarity, url, _) in LOST.items()
    ]
    client.insert("photos", rows, timeout=20)
    client.close()


def names(ranking: landbridge.AttachedRanking) -> list[str]:
    return [NAMES[id_] if id_ < 100 else str(id_) for id_ in ranking.ids]


def test_three_lines(theirs: Path, query: Path) -> None:
    photos = landbridge.attach(
        str(theirs / "theirs.db"), "photos", photo_field="url", roots=[str(theirs / "photos")]
    )
    ranking = photos.rerank(str(query), list(range(8)), method="verify")
    photos.close()
    assert names(ranking) == [
        "castle/0",
        "castle/1",
        *(n for n in NAMES if n not in ("castle/0", "castle/1")),
    ]
    assert [hit.how for hit in ranking.hits] == ["verified"] * 2 + ["similar"] * 6
    assert ranking.ids == (2, 4, 0, 1, 3, 5, 6, 7)
    assert ranking.image_ids == ("2", "4", "0", "1", "3", "5", "6", "7")
    assert ranking.hits[0].fields == {"number": 2}
    assert (ranking.query_id, ranking.unavailable) == ("query", {})


def test_bridges_among_candidates(attach: Attach, query: Path) -> None:
    ranking = attach().rerank(query, range(8), vector=QUERY_VECTOR, output_fields=["landmark", "nothing"])
    assert names(ranking)[:4] == ["castle/0", "castle/1", "castle/2", "castle/3"]
    assert [hit.how for hit in ranking.hits[:4]] == ["verified", "verified", "bridged", "bridged"]
    assert ranking.hits[3].bridges == ("4", "6")
    assert ranking.hits[3].reason == "bridged over 4 → 6"
    assert ranking.hits[3].fields == {"number": 7, "landmark": "castle", "nothing": None}
    assert sorted(ranking.ids) == list(range(8))


def test_the_method_global_is_the_order_as_given_and_extracts_nobody(attach: Attach, query: Path) -> None:
    photos = attach()
    given = [7, 0, 3, 3, 1]
    ranking = photos.rerank(query, given, vector=QUERY_VECTOR, method="global")
    assert ranking.ids == (7, 0, 3, 1)
    assert [hit.score for hit in ranking.hits] == pytest.approx([0.2, 0.9, 0.6, 0.8], abs=1e-6)
    assert photos.rerank(query, given, method="global").ids == (7, 0, 3, 1)
    assert photos.extractor.extracted == ["query"] * 2
    assert photos.search(query, QUERY_VECTOR, 3, method="global").ids == (0, 1, 2)
    assert photos.rerank(query, given, limit=2, method="global").ids == (7, 0)
    assert photos.rerank(query, [], method="mmst-c").ids == ()


def test_without_its_vector_the_candidates_stand_for_the_query(attach: Attach, query: Path) -> None:
    ranking = attach().rerank(query, [7, 0, 3], method="global")
    vectors = np.array([vector(SIMILARITIES[NAMES[id_]], 1)[:2] for id_ in (7, 0, 3)])
    weighted = vectors[0] + vectors[1] / 2 + vectors[2] / 3
    expected = vectors @ weighted / np.linalg.norm(weighted)
    assert [hit.score for hit in ranking.hits] == pytest.approx(expected, abs=1e-6)


def test_local_features_are_kept(attach: Attach, query: Path) -> None:
    first = attach()
    ranking = first.rerank(query, [4, 2, 0])
    assert sorted(first.extractor.extracted) == ["0", "2", "4", "query"]
    first.close()
    again = attach()
    assert again.rerank(query, [4, 2, 0]) == ranking
    assert again.extractor.extracted == ["query"]
    assert again.rerank(query, [4, 2, 0, 1]).ids[:2] == (2, 4)
    assert sorted(again.extractor.extracted) == ["1", "query", "query"]


def test_or_not(attach: Attach, query: Path) -> None:
    photos = attach(keep=False)
    kept = attach(companion="kept", matches=photos._matches_folder.with_name("kept"))
    assert photos.rerank(query, range(8)) == kept.rerank(query, range(8))
    photos.rerank(query, range(8))
    assert sorted(photos.extractor.extracted) == [*map(str, range(8)), "query", "query"]
    assert photos.collection.missing([0]) == [0]
    assert photos.info()["local_features"] == 0
    assert kept.info()["local_features"] == 8
    with pytest.raises(ValueError, match="attach without keep=False"):
        photos.add()


def test_candidates_without_photo_stay(theirs: Path, attach: Attach, query: Path) -> None:
    add_lost(theirs)
    photos = attach()
    ids = [*LOST, *range(8)]
    for method in ("verify", "id-qe", "mmst-c"):
        ranking = photos.rerank(query, ids, vector=QUERY_VECTOR, method=method)
        assert sorted(ranking.ids) == sorted(ids)
        assert {hit.how for hit in ranking.hits if int(hit.image_id) in LOST} == {"similar"}
        assert {hit.image_id for hit in ranking.hits if hit.how == "verified"} == {"2", "4"}
        assert ranking.unavailable.keys() == LOST.keys()
        for id_, (_, _, why) in LOST.items():
            assert why in ranking.unavailable[id_]
    assert "secret" not in json.dumps(ranking.as_dict())
    assert photos.collection.digests().keys() == set(range(8))
    assert json.loads(ranking.to_json())["unavailable"]["101"] == ranking.unavailable[101]


def test_without_any_photo_it_is_their_order(attach: Attach, query: Path) -> None:
    photos = attach(photo_field="", roots=())
    ranking = photos.rerank(query, range(8), vector=QUERY_VECTOR, method="verify")
    assert ranking.ids == tuple(range(8))
    assert set(ranking.unavailable.values()) == {
        "no local features of it are stored, and no field names its photo"
    }
    with pytest.raises(PhotoUnavailableError, match="image 3 cannot be searched with: no local features"):
        photos.search(image=3)
    with pytest.raises(ValueError, match="attach with a photo field and roots"):
        photos.add()


def test_search_reaches_over_bridges_beyond_what_is_found(
    attach: Attach, query: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landbridge.attached.CANDIDATES", 5)
    photos = attach()
    first = photos.search(query, QUERY_VECTOR, 5)
    assert set(first.ids) == {0, 1, 2, 3, 4}
    photos.add()
    ranking = photos.search(query, QUERY_VECTOR, 5, output_fields=["landmark"])
    assert names(ranking)[:4] == ["castle/0", "castle/1", "castle/2", "castle/3"]
    assert [hit.fields["landmark"] for hit in ranking.hits[:4]] == ["castle"] * 4
    assert len(ranking.hits) == 5
    assert set(photos.rerank(query, [0, 1, 2, 3], vector=QUERY_VECTOR).ids) == {0, 1, 2, 3}

    # castle/2 is the bridge to castle/3, and may be one without being shown.
    some = photos.search(query, QUERY_VECTOR, 8, filter="number != 6 and number != 0")
    assert names(some)[:3] == ["castle/0", "castle/1", "castle/3"]
    assert some.hits[2].bridges == ("4", "6")
    assert set(some.ids) == {1, 2, 3, 4, 5, 7}
    assert set(photos.search(query, QUERY_VECTOR, 8, partitions=["towers"]).ids) == {0, 1, 3, 5}
    assert set(photos.search(query, QUERY_VECTOR, 8, partitions=["_default"], filter="number < 7").ids) == {
        2, 4, 6,
    }  # fmt: skip
    assert photos.search(query, QUERY_VECTOR, 8, filter="number < 0").ids == ()


def test_one_of_their_images_as_the_query(attach: Attach, theirs: Path) -> None:
    with attach() as photos:
        photos.add()
    shutil.rmtree(theirs / "photos")
    photos = attach(photo_field="", roots=())
    ranking = photos.search(image=2, limit=3)
    assert (ranking.query_id, names(ranking)) == ("2", ["castle/1", "castle/2", "castle/3"])
    assert photos.rerank(ids=[0, 4, 2], image=2).ids == (4, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landbridge.attached.CANDIDATES", 1)
        assert set(photos.search(image=2, limit=7, method="global").ids) == {0, 1, 3, 4, 5, 6, 7}
    with pytest.raises(ImagesMissingError, match=r"does not hold 1 of 1 ids: 55$"):
        photos.search(image=55)


class StoppedError(Exception):
    pass


def test_adding_goes_on_where_it_was_stopped(theirs: Path, attach: Attach) -> None:
    add_lost(theirs)
    steps: list[tuple[str, int, int]] = []

    def stop(step: str, done: int, total: int) -> None:
        steps.append((step, done, total))
        if done >= 4:
            raise StoppedError

    photos = attach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landbridge.row_photos._BATCH", 2)
        with pytest.raises(StoppedError):
            photos.add(progress=stop)
    assert steps == [("extract", 0, 13), ("extract", 2, 13), ("extract", 4, 13)]
    assert photos.collection.digests().keys() == {0, 1, 2, 3}
    added = photos.add(filter="number < 6")
    assert (added.added, added.unchanged, added.failed) == (2, 4, {})
    added = photos.add()
    assert (added.added, added.unchanged, added.failed.keys()) == (2, 6, LOST.keys())
    assert added.verified > 0
    again = photos.add()
    assert (again.added, again.unchanged, again.verified) == (0, 8, 0)
    assert sorted(photos.extractor.extracted, key=int) == list(map(str, range(8)))


def test_adding_a_partition(attach: Attach) -> None:
    photos = attach()
    assert photos.add(partitions=["towers"]).added == 4
    assert photos.collection.digests().keys() == {0, 1, 3, 5}
    with pytest.raises(InvalidInputError, match="has no partition 'spires'"):
        photos.add(partitions=["spires"])


def test_rows_that_are_gone(theirs: Path, attach: Attach, query: Path) -> None:
    with attach() as photos:
        photos.add()
    client = MilvusClient(str(theirs / "theirs.db"))
    client.delete("photos", filter="number == 6", timeout=20)
    photos = attach()
    assert names(photos.search(query, QUERY_VECTOR, 3))[:2] == ["castle/0", "castle/1"]
    assert 6 not in photos.search(query, QUERY_VECTOR, 8).ids
    with pytest.raises(ImagesMissingError, match=r"does not hold 1 of 2 ids: 6$"):
        photos.rerank(query, [6, 2])
    client.close()


def test_features_that_are_gone(theirs: Path, attach: Attach, query: Path) -> None:
    photos = attach()
    photos.add()
    assert photos.rerank(query, range(8)).ids[1] == 4
    photos.collection._companion._store.delete([image_key("4")])
    shutil.rmtree(theirs / "photos" / "castle")
    ranking = photos.rerank(query, range(8))
    assert ranking.unavailable.keys() == {4}
    assert sorted(ranking.ids) == list(range(8))
    assert {hit.image_id: hit.how for hit in ranking.hits}["4"] == "similar"
    assert names(ranking)[0] == "castle/0"
    assert ranking == attach(matches=theirs / "other").rerank(query, range(8)), ranking.ids


def test_removing_leaves_no_trace(theirs: Path, attach: Attach, query: Path) -> None:
    photos = attach()
    photos.rerank(query, range(8))
    assert photos.info()["local_features"] == 8
    assert (theirs / "theirs.db.matches" / "photos_landbridge").is_dir()
    photos.remove()
    assert photos.info()["local_features"] == 0
    assert not (theirs / "theirs.db.matches" / "photos_landbridge").exists()
    client = MilvusClient(str(theirs / "theirs.db"))
    assert client.list_collections(timeout=20) == ["photos"]
    client.close()
    assert photos.rerank(query, range(8), method="verify").ids[:2] == (2, 4)


def test_it_is_loaded_no_longer_than_it_is_attached(theirs: Path, attach: Attach) -> None:
    client = MilvusClient(str(theirs / "theirs.db"))
    assert str(client.get_load_state("photos", timeout=20)["state"]) == "NotLoad"
    photos = attach()
    assert str(client.get_load_state("photos", timeout=20)["state"]) == "Loaded"
    photos.close()
    assert str(client.get_load_state("photos", timeout=20)["state"]) == "NotLoad"
    first, second = attach(), attach()
    first.close()
    assert len(second.collection.search(QUERY_VECTOR[None], 3).ids[0]) == 3
    second.close()
    second.close()
    assert str(client.get_load_state("photos", timeout=20)["state"]) == "NotLoad"
    client.load_collection("photos", timeout=20)
    attach().close()
    assert str(client.get_load_state("photos", timeout=20)["state"]) == "Loaded"
    client.close()


class TestWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"roots": ()}, ValueError, "the photo field 'url' needs roots"),
            ({"photo_field": ""}, ValueError, "roots need a photo field"),
            ({"roots": ["http://photos.example/a"]}, OutsideRootsError, "must end in '/'"),
            ({"roots": "nowhere"}, OutsideRootsError, "is not a folder"),
            ({"id_field": "landmark"}, InvalidInputError, "those of its primary key, 'number'"),
            ({"extractor": "sharp"}, ValueError, "unknown extractor 'sharp'"),
        ],
    )
    def test_of_attach(
        self, attach: Attach, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            attach(**arguments)

    def test_of_queries(self, attach: Attach, query: Path) -> None:
        photos = attach()
        for arguments, message in [
            ({}, "give the query: a photo, or image="),
            ({"photo": query, "image": 3}, "give the query: a photo, or image="),
            ({"photo": query, "method": "best"}, "unknown method 'best'"),
        ]:
            for ask in (photos.search, photos.rerank):
                with pytest.raises(ValueError, match=message):
                    ask(**arguments)
        with pytest.raises(ValueError, match="give vector=, the query's, of the model that made 'embedding'"):
            photos.search(query)
        with pytest.raises(DimensionMismatchError, match=r"has 4 components.* of shape \[5\]: use the model"):
            photos.rerank(query, [1], vector=np.zeros(5))
        with pytest.raises(InvalidInputError, match="holds NaN or infinite"):
            photos.search(query, [1, 0, 0, np.nan])
        with pytest.raises(PhotoError, match="no such file"):
            photos.rerank(query.with_name("none.png"), [1])
        with pytest.raises(InvalidInputError, match=r"ids of 'photos' are integers, and not '1', '2'$"):
            photos.rerank(query, ["1", "2"])
        assert photos.collection.missing([1]) == [1]

    def test_features_of_another_extractor(self, attach: Attach, toy: Any) -> None:
        with attach() as photos:
            photos.add()
        other = toy.ToyExtractor()
        other.fingerprint = "toy-2"
        with pytest.raises(FingerprintMismatchError, match="are of toy-1, this is toy-2: they do not comp"):
            attach(extractor=other)
        beside = attach(extractor=other, companion="beside")
        assert beside.add().added == 8
        assert beside.info()["extractor"] == "toy-2"

    def test_an_extractor_that_has_not_learnt(self, attach: Attach, toy: Any) -> None:
        class Learner(toy.ToyExtractor):
            learns = True

        with pytest.raises(ValueError, match="toy must learn from photos before it extracts"):
            attach(extractor=Learner())


class TestCommands:
    @pytest.fixture
    def run(self, theirs: Path, toy: Any) -> Callable[..., Any]:
        def run(*arguments: object, code: int = 0, text: str = "") -> Any:
            command = [*map(str, arguments), "--uri", str(theirs / "theirs.db"), "--collection", "photos"]
            result = CliRunner().invoke(app, command, input=text, env={"COLUMNS": "200"})
            assert result.exit_code == code, result.output
            return result

        return run

    def test_attach_says_what_it_found(self, run: Callable[..., Any], theirs: Path) -> None:
        facts = json.loads(run("attach", "--json").stdout)
        assert facts == {
            "collection": "photos",
            "rows": 8,
            "vector_field": "embedding",
            "dimension": 4,
            "metric": "COSINE",
            "id_field": "number",
            "id_type": "integer",
            "companion": "photos_landbridge",
            "local_features": 0,
            "extractor": None,
        }
        assert not (theirs / "theirs.db.matches").exists()
        assert "COSINE" in run("attach").stdout

    def test_attach_adds_and_removes(self, run: Callable[..., Any], theirs: Path) -> None:
        add_lost(theirs)
        photos = ("--photo-field", "url", "--root", theirs / "photos")
        added = run("attach", *photos)
        assert "Local features: 8 added, 0 unchanged, 5 failed." in added.stdout
        assert "photos of 5 rows cannot be had" in added.stderr
        assert "101: there is no photo 'castle/9.png'" in added.stderr
        again = json.loads(run("attach", *photos, "--json").stdout)
        assert (again["added"], again["unchanged"], again["local_features"]) == (0, 8, 8)
        assert again["failed"].keys() == set(map(str, LOST))
        run("attach", *photos, "--filter", "number > 99", code=1)
        assert "goes" not in run("attach", "--remove", *photos, code=2).stdout
        assert "local features of 8 photos. photos is as it was." in run("attach", "--remove").stdout
        assert json.loads(run("attach", "--remove", "--json").stdout)["local_features"] == 0

    def test_rerank(self, run: Callable[..., Any], theirs: Path, query: Path, tmp_path: Path) -> None:
        photos = ("--photo-field", "url", "--root", theirs / "photos")
        (tmp_path / "ids.txt").write_text("0\n1\n2\n4\n")
        (tmp_path / "ids.json").write_text("[0, 1, 2, 4]")
        np.save(tmp_path / "query.npy", QUERY_VECTOR)
        ranking = json.loads(run("rerank", query, "--ids", tmp_path / "ids.txt", *photos, "--json").stdout)
        assert ranking["ids"] == [2, 4, 0, 1]
        assert [hit["how"] for hit in ranking["hits"]] == ["verified", "verified", "similar", "similar"]
        for given in (
            ("--ids", tmp_path / "ids.json"),
            ("--ids", "-"),
            ("--id", 0, "--id", 1, "--id", 2, "--id", 4),
        ):
            same = json.loads(run("rerank", query, *given, "--json", text="0\n1\n2\n4\n").stdout)
            assert same["ids"] == ranking["ids"]
        run("attach", *photos)
        searched = run("rerank", query, "--vector", tmp_path / "query.npy", *photos, "--limit", 3,
                       "--filter", "number != 6", "--output-field", "landmark")  # fmt: skip
        assert "Photos like query" in searched.stdout
        assert "bridged over 4 → 6" in searched.stdout
        assert searched.stdout.count("castle") == 3
        by_id = json.loads(run("rerank", "--image", 2, "--partition", "_default", "--json").stdout)
        assert by_id["ids"] == [4, 6, 7]
        exact = json.loads(run("rerank", "--image", 2, "--id", 0, "--output-field", "tags", "--json").stdout)
        assert exact["hits"][0]["fields"] == {"number": 0, "tags": ["tower/0", {"place": 0.0}]}

    def test_wrong_use(self, run: Callable[..., Any], query: Path) -> None:
        for arguments, message in [
            ((query,), "give candidates (--ids, --id), or the query's --vector"),
            ((), "give the query: a photo, or the --image id"),
            ((query, "--id", "1", "--filter", "number > 3"), "chooses among what a search finds"),
            ((query, "--id", "1", "--method", "best"), "'best' is none of"),
        ]:
            assert message in " ".join(run("rerank", *arguments, code=2).stderr.replace("│", " ").split())
        assert "ids of 'photos' are integers" in run("rerank", query, "--id", "one", code=1).stderr
