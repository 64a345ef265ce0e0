"""`landbridge extract`, and its files in a collection: the same as if the photos had been indexed."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from landbridge import Index, cli

runner = CliRunner(env={"COLUMNS": "300", "MILVUS_URI": None})


def call(*arguments):
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def content(uri):
    """Records and exact embeddings by id, and how many pairs were verified."""
    with Index(uri) as index:
        ids, embeddings = index.collection.embeddings()
        records = index.collection.records(ids)
        images = {
            record.image_id: (record, embedding.tobytes())
            for record, embedding in zip(records, embeddings, strict=True)
        }
        return images, len(index.matches), index.collection.extractor


@pytest.mark.parametrize("kind", ["npz", "h5", "delg"])
def test_extract_and_import_are_index(toy_photos, toy_index, tmp_path, kind):
    toy_index.close()
    out = tmp_path / "out"
    done = call("extract", toy_photos, "--out", out, "--format", kind, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"extracted": 8, "unchanged": 0, "failed": {}}
    assert "extract" in done.stderr
    uri = tmp_path / "imported.db"
    done = call("import", out, "--uri", uri, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "added": 8, "unchanged": 0, "failed": {}, "verified_pairs": 28, "photos": 8,
    }  # fmt: skip
    assert content(uri) == content(tmp_path / "toy.db")
    # Photos are searched with, and added, as ever.
    query = toy_photos / "castle/0.png"
    answers = [call("search", query, "--uri", where, "--json") for where in (uri, tmp_path / "toy.db")]
    assert answers[0].exit_code == 0, answers[0].stderr
    assert answers[0].stdout == answers[1].stdout
    again = json.loads(call("index", toy_photos, "--uri", uri, "--json").stdout)
    assert (again["added"], again["unchanged"], again["verified_pairs"]) == (0, 8, 0)
    again = json.loads(call("import", out, "--uri", uri, "--json").stdout)
    assert (again["added"], again["unchanged"], again["verified_pairs"]) == (0, 8, 0)


def test_queries_that_were_extracted(toy, toy_photos, toy_index, tmp_path):
    toy_index.close()
    toy.write_photo(tmp_path / "queries/a.png", [0, 1], 6)
    toy.write_photo(tmp_path / "queries/b.png", [26, 27], 7)
    assert call("extract", tmp_path / "queries", "--out", tmp_path / "out").exit_code == 0
    uri = ["--uri", tmp_path / "toy.db"]
    ranked = [
        call("rank", *what, *uri, "--json").stdout
        for what in (
            [tmp_path / "queries"],
            ["--features", tmp_path / "out"],
            [tmp_path / "queries", "--features", tmp_path / "out"],
        )
    ]
    assert len(json.loads(ranked[0])["rankings"]) == 2
    assert ranked[0] == ranked[1] == ranked[2]


def test_the_photos_are_where_one_says(toy_photos, tmp_path):
    assert call("extract", toy_photos, "--out", tmp_path / "out").exit_code == 0
    elsewhere = shutil.copytree(toy_photos, tmp_path / "elsewhere")
    shutil.rmtree(toy_photos)
    uri = tmp_path / "toy.db"
    assert call("import", tmp_path / "out", "--photos", elsewhere, "--uri", uri).exit_code == 0
    images, _, _ = content(uri)
    assert {record.path for record, _ in images.values()} == {str(path) for path in elsewhere.rglob("*.png")}
    # They were copied with their times, so they are the photos that were extracted.
    assert json.loads(call("index", elsewhere, "--uri", uri, "--json").stdout)["unchanged"] == 8


def test_parts_that_were_extracted_apart(toy_photos, toy_index, tmp_path):
    toy_index.close()
    for landmark in ("castle", "tower"):
        part = shutil.copytree(toy_photos / landmark, tmp_path / "parts" / landmark / landmark)
        assert call("extract", part.parent, "--out", tmp_path / f"{landmark}-features").exit_code == 0
    parts = [tmp_path / "castle-features", tmp_path / "tower-features"]
    uri = tmp_path / "imported.db"
    done = call("import", *parts, "--photos", toy_photos, "--uri", uri)
    assert done.exit_code == 0, done.stderr
    assert content(uri) == content(tmp_path / "toy.db")


def test_a_collection_knows_the_extractor_at_once(toy, toy_photos, tmp_path, monkeypatch):
    class Other(toy.ToyExtractor):
        name, fingerprint = "other", "other-1"

    class Configuration:
        def load(self, name):
            return Other()

    monkeypatch.setitem(toy.EXTRACTORS, "other", Configuration())
    assert call("extract", toy_photos, "--out", tmp_path / "out", "--extractor", "other").exit_code == 0
    with Index(tmp_path / "toy.db") as index:
        assert len(index.add_features(tmp_path / "out").added) == 8
        assert index.search(toy_photos / "castle/0.png").image_ids[0] == "castle/0"
    done = call("import", tmp_path / "out", "--uri", tmp_path / "toy.db")
    assert "0 added, 8 unchanged" in done.stdout
    assert call("index", toy_photos, "--uri", tmp_path / "photos.db").exit_code == 0
    done = call("import", tmp_path / "out", "--uri", tmp_path / "photos.db")
    assert done.exit_code == 1
    assert "was made by toy-1, this is other-1: their features do not compare" in done.stderr


def test_a_changed_photo_goes_on_to_the_collection(toy, toy_photos, tmp_path):
    out, uri = tmp_path / "out", tmp_path / "toy.db"
    call("extract", toy_photos, "--out", out)
    call("import", out, "--uri", uri)
    before = content(uri)[0]
    toy.write_photo(toy_photos / "castle/0.png", [50, 51, 52, 53])
    assert "1 extracted, 7 unchanged" in call("extract", toy_photos, "--out", out).stdout
    done = json.loads(call("import", out, "--uri", uri, "--json").stdout)
    assert (done["added"], done["unchanged"], done["verified_pairs"]) == (1, 7, 7)
    after = content(uri)[0]
    assert [name for name in before if before[name] != after[name]] == ["castle/0"]


def test_photos_that_fail(toy_photos, tmp_path):
    (toy_photos / "bad.jpg").write_text("no photo")
    shutil.copy(toy_photos / "castle/0.png", toy_photos / "castle/0.webp")
    done = call("extract", toy_photos, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "8 extracted, 0 unchanged, 2 failed" in done.stdout
    assert "2 photos could not be extracted" in done.stderr
    listed = (tmp_path / "out/failed.csv").read_text()
    for reason in ("not a photo in a format", "goes by the same id as 0.png (castle/0)"):
        assert reason in done.stderr
        assert reason in listed
    again = call("extract", toy_photos, "--out", tmp_path / "out", "--json")
    assert (again.exit_code, list(json.loads(again.stdout)["failed"])) == (
        0,
        [str(toy_photos / "castle/0.webp"), str(toy_photos / "bad.jpg")],
    )


def test_nothing_but_failures(toy, tmp_path):
    (tmp_path / "photos").mkdir()
    done = call("extract", tmp_path / "photos", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "photos holds no photos (JPEG" in done.stderr
    (tmp_path / "photos/bad.jpg").write_text("no photo")
    done = call("extract", tmp_path / "photos", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "bad.jpg: not a photo in a format" in done.stderr
    done = call("import", tmp_path / "out", "--uri", tmp_path / "toy.db")
    assert done.exit_code == 1
    assert "out holds no features" in done.stderr


def test_wrong_use(toy_photos, tmp_path):
    for arguments, problem in [
        (["--extractor", "nonsense"], "unknown extractor 'nonsense'"),
        (["--format", "jpg"], "no format 'jpg' of feature files"),
        (["--device", "cuda"], "PyTorch finds no GPU here"),
        (["--dtype", "float16"], "no network to move"),
    ]:
        done = call("extract", toy_photos, "--out", tmp_path / "out", *arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert problem in done.stderr
