"""What a collection is made with reaches it from `Index` and from the command line, and is not mixed up."""

import json

import pytest
from typer.testing import CliRunner

from connector.alias import Aliases
from connector.collection import Collection
from connector.errors import InvalidInputError, RefusedError, SchemaMismatchError
from landbridge import Index, cli
from landbridge.matches_folder import matches_folder

HNSW = {"index_type": "HNSW", "params": {"M": 8, "efConstruction": 40}}


def call(*arguments, **environment):
    runner = CliRunner(env={"COLUMNS": "100", "MILVUS_URI": None, **environment})
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def test_from_the_command_line(toy, toy_photos, tmp_path):
    uri = ["--uri", tmp_path / "toy.db", "--json"]
    index = ["--index-type", "hnsw", "--metric", "ip", "--index-params", '{"M": 8, "efConstruction": 40}']
    assert call("index", toy_photos, *uri, *index, "--consistency", "Bounded").exit_code == 0
    info = json.loads(call("info", *uri).stdout)
    assert info.items() >= {
        "index": "HNSW", "metric": "IP", "index_params": {"M": 8, "efConstruction": 40},
        "consistency_level": "Bounded", "ttl_seconds": None, "tenant": None, "count": 8,
    }.items()  # fmt: skip
    again = call("index", toy_photos, *uri, *index)
    assert (again.exit_code, json.loads(again.stdout)["unchanged"]) == (0, 8)
    for other, message in [
        (["--index-type", "FLAT"], "made with index type HNSW, not FLAT: leave that out"),
        (["--index-type", "HNSW"], "made with metric IP, not COSINE"),
        ([*index[:-1], '{"M": 9}'], "made with index parameter M 8, not 9"),
        (["--consistency", "Strong"], "made with consistency level Bounded, not Strong"),
        (["--ttl", 60], "made with time to live None, not 60"),
    ]:
        if "--index-type" in other and "--metric" not in other:
            other = [*other, "--metric", "COSINE"]
        result = call("index", toy_photos, *uri, *other)
        assert result.exit_code == 1
        assert message in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        (["--metric", "IP"], 2, "goes with an --index-type"),
        (["--index-params", "{}"], 2, "goes with an --index-type"),
        (["--index-type", "HNSW", "--index-params", "{M: 8}"], 2, "is no JSON"),
        (["--index-type", "HNSW", "--index-params", "[8]"], 2, "must be a JSON object"),
        (["--index-type", "HNSW", "--metric", "L2"], 1, "metric_type of HNSW must be COSINE or IP"),
        (["--index-type", "IVF_PQ"], 1, "cannot build the index IVF_PQ"),
        (["--consistency", "Sometimes"], 1, "give one of Strong, Session, Bounded, Eventually"),
        (["--ttl", "60"], 1, "Milvus Lite notes it and forgets nothing"),
    ],
)
def test_what_cannot_be(toy, toy_photos, tmp_path, wrong, code, message):
    result = call("index", toy_photos / "castle", "--uri", tmp_path / "toy.db", *wrong)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert call("info", "--uri", tmp_path / "toy.db").exit_code == 1


def test_from_python(toy, toy_photos, tmp_path):
    with Index(tmp_path / "toy.db", index_params=HNSW, consistency_level="Strong") as index:
        index.add(toy_photos)
    with Index(tmp_path / "toy.db", index_params=HNSW, consistency_level="Strong") as index:
        assert index.choices.index_params == {"metric_type": "COSINE", **HNSW}
        assert index.choices.consistency_level == "Strong"
    with pytest.raises(SchemaMismatchError, match="'landbridge' was made with index type HNSW, not FLAT"):
        Index(tmp_path / "toy.db", index_params={"index_type": "FLAT"})
    for wrong, error in (
        ({"consistency_level": "Never"}, InvalidInputError),
        ({"ttl_seconds": 9}, RefusedError),
        ({"index_params": {"index_type": "SCANN"}}, RefusedError),
    ):
        with Index(tmp_path / "other.db", **wrong) as index, pytest.raises(error):
            index.add(toy_photos)


def test_the_index_is_chosen_for_the_number_of_photos(toy, toy_photos, tmp_path, monkeypatch):
    asked = []
    create = Collection.create.__func__

    def recorded(cls, *arguments, **options):
        asked.append(options["images"])
        return create(cls, *arguments, **options)

    monkeypatch.setattr(Collection, "create", classmethod(recorded))
    with Index(tmp_path / "toy.db") as index:
        index.add(toy_photos)
        assert (asked, index.choices.index_params["index_type"]) == ([8], "FLAT")


def test_search_parameters_reach_milvus(toy_index, toy_photos, tmp_path, monkeypatch):
    expected = toy_index.search(toy_photos / "tower/1.png")
    toy_index.close()
    given = []
    search = Collection.search

    def recorded(self, *arguments, **options):
        given.append(options["search_params"])
        return search(self, *arguments, **options)

    monkeypatch.setattr(Collection, "search", recorded)
    with Index(tmp_path / "toy.db", search_params={"ef": 99}) as index:
        assert index.search(toy_photos / "tower/1.png") == expected
    result = call(
        "search", "--image", "tower/1", "--uri", tmp_path / "toy.db", "--search-params", '{"ef": 98}'
    )
    assert result.exit_code == 0
    assert given[:1] == [{"ef": 99}]
    assert given[-1:] == [{"ef": 98}]
    wrong = call("search", "--image", "tower/1", "--uri", tmp_path / "toy.db", "--search-params", "ef")
    assert (wrong.exit_code, "is no JSON" in wrong.stderr) == (2, True)


def test_tenants(toy, toy_photos, tmp_path):
    uri = ["--uri", tmp_path / "shared.db", "--json"]
    for tenant, photos in (("ada", toy_photos / "castle"), ("bob/../ada", toy_photos)):
        assert call("index", photos, *uri, "--tenant", tenant).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "shared.db.matches").iterdir()) == sorted(
        matches_folder("shared.db", "landbridge", tenant).name for tenant in ("ada", "bob/../ada")
    )
    info = json.loads(call("info", *uri, LANDBRIDGE_TENANT="ada").stdout)
    assert (info["tenant"], info["count"], info["verified_pairs"], info["joined"]) == ("ada", 4, 6, 4)
    info = json.loads(call("info", *uri, "--tenant", "bob/../ada").stdout)
    assert (info["count"], info["verified_pairs"]) == (8, 28)
    found = json.loads(call("search", "--image", "0", *uri, "--tenant", "ada").stdout)
    assert sorted(hit["image_id"] for hit in found["hits"]) == ["1", "2", "3"]
    ranked = json.loads(call("rank", toy_photos / "castle", *uri, "--tenant", "ada").stdout)["rankings"]
    assert all({hit["image_id"] for hit in ranking["hits"]} <= set("0123") for ranking in ranked)
    nobody = call("info", *uri)
    assert nobody.exit_code == 1
    assert "is shared by tenants: say whose photos" in nobody.stderr.replace("\n", " ")
    with Index(tmp_path / "alone.db") as index:
        index.add(toy_photos / "castle")
    with pytest.raises(SchemaMismatchError, match="was not made for tenants, such as 'ada'"):
        Index(tmp_path / "alone.db", tenant="ada")


def test_an_alias_has_the_pairs_of_what_it_leads_to(toy, toy_photos, tmp_path):
    """Two collections of other photos behind one alias, one after the other: their pairs do not meet."""
    uri = tmp_path / "toy.db"
    for name, photos in (("blue", toy_photos / "castle"), ("green", toy_photos)):
        with Index(uri, name) as index:
            index.add(photos)
    with Aliases(uri) as aliases, Collection.open(uri, "blue"), Collection.open(uri, "green"):
        for name, pairs in (("blue", 6), ("green", 28)):
            aliases.switch("live", name)
            with Index(uri, "live") as index:
                assert index.collection.name == name
                assert index.matches.folder == tmp_path / f"toy.db.matches/{name}"
                assert len(index.matches) == pairs
        with Index(uri, "live") as index, Index(uri, "blue") as other:
            aliases.switch("live", "blue")
            assert index.matches.folder != other.matches.folder
    assert not (tmp_path / "toy.db.matches/live").exists()


def test_where_pairs_have_always_been():
    assert str(matches_folder("a/photos.db", "landmarks")) == "a/photos.db.matches/landmarks"
    folder = matches_folder("http://milvus:19530", "landmarks", db_name="museum")
    assert (folder.parent.name, folder.name) == ("matches", "landmarks-2e9de37451815734")
    others = [
        matches_folder(*place)
        for place in [
            ("http://milvus:19530", "landmarks", "", ""),
            ("http://milvus:19530", "landmarks", "ada", "museum"),
            ("http://milvus:19530", "landmarks", "bob", "museum"),
        ]
    ]
    assert len({folder, *others}) == 4
