"""`landbridge reindex`, `alias` and `drop` as a stranger meets them."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from landbridge import Index, cli

_spec = importlib.util.spec_from_file_location("toy_reindex", Path(__file__).with_name("toy_reindex.py"))
new_toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(new_toy)

runner = CliRunner(env={"COLUMNS": "300", "MILVUS_URI": None})


@pytest.fixture
def call(toy_photos, toy_template, tmp_path, monkeypatch):
    """Run a command on an index of the toy photos by the old extractor."""
    monkeypatch.setattr("extractor.registry.EXTRACTORS", new_toy.EXTRACTORS)
    for name in ("toy.db", "toy.db.matches"):
        shutil.copytree(toy_template / name, tmp_path / name)
    with Index(tmp_path / "toy.db") as index:
        assert index.add(toy_photos).unchanged == 8

    def run(*arguments, **options):
        command = [*map(str, arguments), "--uri", str(tmp_path / "toy.db")]
        return runner.invoke(cli.app, command, **options)

    return run


def told(result):
    """What a command that went well says."""
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return json.loads(result.stdout) if result.stdout.startswith("{") else " ".join(result.stdout.split())


def refused(result, code=1):
    assert result.exit_code == code
    return " ".join(result.stderr.replace("│", " ").split())


def test_blue_and_green(call, toy_photos, tmp_path):
    assert told(call("alias", "--json")) == {}
    assert told(call("alias")) == "There are no aliases: `landbridge alias NAME COLLECTION` makes one."
    made = told(call("alias", "live", "landbridge", "--json"))
    assert made == {"name": "live", "old": None, "behind": "landbridge"}

    looked = told(call("reindex", "live", "--extractor", "new-toy", "--no-switch"))
    assert looked == (
        "live_2: 8 photos, 8 of them added now. Pairs verified: 28. live still leads to landbridge. "
        "Try it by --collection live_2; this command without --no-switch switches."
    )
    done = told(call("reindex", "live", "--extractor", "new-toy", "--json"))
    assert done == {
        "name": "live", "old": "landbridge", "new": "live_2", "behind": "live_2", "photos": 8, "added": 0,
        "removed": 0, "verified_pairs": 0, "missing": {},
    }  # fmt: skip
    assert told(call("alias")) == "live leads to live_2"
    assert told(call("info", "--collection", "live", "--json"))["extractor"] == "new-toy-1"
    again = told(call("reindex", "live", "--extractor", "new-toy"))
    assert again == "live leads to live_2, which is as asked for: there was nothing to do."

    assert "live leads to collection 'live_2'" in refused(call("drop", "live_2", "--yes"))
    assert told(call("reindex", "live", "--roll-back")) == "live leads to landbridge again; live_2 is kept."
    assert told(call("alias", "live", "live_2")) == "live leads to live_2; before, it led to landbridge."
    assert told(call("reindex", "live", "--roll-back", "--json"))["behind"] == "landbridge"

    assert "live_2 was not dropped" in refused(call("drop", "live_2", input="n\n"))
    assert "nobody can be asked" in refused(call("drop", "live_2", "--json"), 2)
    assert "is dropped" in told(call("drop", "live_2", input="y\n"))
    assert [path.name for path in (tmp_path / "toy.db.matches").iterdir()] == ["landbridge"]
    assert "no collection 'live_2'" in refused(call("drop", "live_2", "--yes", "--json"))


def test_missing_photos_keep_it(call, toy_photos):
    told(call("alias", "live", "landbridge"))
    (toy_photos / "castle/0.png").unlink()
    result = call("reindex", "live", "--extractor", "new-toy")
    assert result.exit_code == 1
    assert "live still leads to landbridge. Bring the missing photos back" in result.stdout.replace("\n", " ")
    assert "1 photos of landbridge are missing in live_2:" in result.stderr
    assert f"{toy_photos}/castle/0.png: cannot be read: No such file" in result.stderr
    done = call("reindex", "live", "--extractor", "new-toy", "--allow-missing", "--json")
    answer = told(done)
    assert (answer["behind"], list(answer["missing"])) == ("live_2", [f"{toy_photos}/castle/0.png"])


def test_a_plain_collection(call):
    result = told(call("reindex", "landbridge", "--extractor", "new-toy"))
    assert "landbridge is a collection, so it cannot lead to another." in result
    assert "run this again with --rename" in result
    result = told(call("reindex", "landbridge", "--extractor", "new-toy", "--rename"))
    assert (
        "landbridge leads to it. landbridge_1 is kept: `landbridge reindex landbridge --roll-back`" in result
    )
    assert told(call("alias", "--json")) == {"landbridge": "landbridge_2"}


def test_what_is_given_for_the_new_collection(call):
    new = ["--into", "mine", "--dimension", 5, "--index-type", "autoindex", "--metric", "ip"]
    assert told(call("reindex", "landbridge", "--extractor", "new-toy", *new, "--json"))["new"] == "mine"
    info = told(call("info", "--collection", "mine", "--json"))
    assert (info["dimension"], info["metric"]) == (5, "IP")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["reindex", "landbridge"], 2, "say which: a new one, or the same again"),
        (["reindex", "landbridge", "--extractor", "nope"], 1, "unknown extractor 'nope'"),
        (["reindex", "nope", "--extractor", "new-toy"], 1, "neither an alias nor a collection 'nope'"),
        (["reindex", "nope", "--roll-back"], 1, "has no alias 'nope'; it has none at all"),
        (["reindex", "landbridge", "--roll-back"], 1, "'landbridge' is a collection"),
        (
            ["reindex", "landbridge", "--extractor", "new-toy", "--metric", "IP"],
            2,
            "goes with an --index-type",
        ),
        (["alias", "live"], 2, "give the collection too, or neither"),
        (["alias", "live", "nope"], 1, "has no collection 'nope'"),
        (["alias", "landbridge", "landbridge"], 1, "'landbridge' is a collection: give the alias another"),
        (["drop", "landbridge_features", "--yes"], 1, "or a part of one: it is left alone"),
    ],
)
def test_what_cannot_be(call, arguments, code, message):
    assert message in refused(call(*arguments), code)
