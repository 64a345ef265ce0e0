"""`landbridge import`: features that others extracted, from their files to a collection and to answers."""

import json
import os
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from connector.errors import FingerprintMismatchError
from extractor.configuration import ExternalConfiguration
from extractor.features import LocalFeatures
from extractor.files import StoredFeatures, write_features
from extractor.photo import read_photo
from landbridge import Index, cli

runner = CliRunner(env={"COLUMNS": "300", "MILVUS_URI": None})
TOYS = [f"{landmark}/{step}" for landmark in ("castle", "tower") for step in range(4)]


def call(*arguments):
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def added(*arguments, code=0):
    done = call("import", *arguments, "--json")
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout)


def ranked(*arguments):
    """Image ids by query."""
    done = call("rank", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return {
        ranking["query_id"]: [(hit["image_id"], hit["how"]) for hit in ranking["hits"]]
        for ranking in json.loads(done.stdout)["rankings"]
    }


@pytest.fixture
def stored(toy, toy_photos):
    """What others extracted from the toy world: the toy's features, at another size."""
    extractor = toy.ToyExtractor()
    features = {}
    for image_id in TOYS:
        made = extractor.extract(read_photo(toy_photos / f"{image_id}.png"), image_id)
        features[image_id] = StoredFeatures(image_id, made.local, made.global_descriptor, made.size)
    return features


def of_query(toy, path, motifs, variant):
    photo = read_photo(toy.write_photo(path, motifs, variant))
    made = toy.ToyExtractor().extract(photo, path.stem)
    return StoredFeatures(path.stem, made.local, made.global_descriptor, made.size)


class TestFormats:
    def test_h5_and_npz_and_delg_are_one_collection(self, stored, tmp_path):
        write_features(tmp_path / "f.h5", stored.values())
        write_features(tmp_path / "f.npz", stored.values())
        write_features(tmp_path / "delg", stored.values(), "delg")
        found = {}
        for name in ("f.h5", "f.npz", "delg"):
            uri = tmp_path / f"{name}.db"
            assert added(tmp_path / name, "--uri", uri) == {
                "added": 8, "unchanged": 0, "failed": {}, "verified_pairs": 28, "photos": 8,
            }  # fmt: skip
            with Index(uri) as index:
                assert sorted(index.library.ids) == TOYS
                for image in index.collection.features(TOYS):
                    given = stored[image.image_id]
                    np.testing.assert_array_equal(
                        image.local.descriptors, given.local.quantised().descriptors
                    )
                    # DELG keeps no sizes: the photo ends where its outermost keypoints are.
                    edge = tuple((np.floor(given.local.keypoints.max(0)) + 1).astype(int))
                    assert image.size == ((320, 240) if name != "delg" else edge)
            found[name] = ranked("--features", tmp_path / "f.h5", "--uri", uri)
        assert found["f.h5"] == found["f.npz"] == found["delg"]
        assert found["f.h5"]["castle/0"][0] == ("castle/0", "verified")

    def test_local_and_global_features_apart(self, stored, tmp_path):
        write_features(tmp_path / "local.h5", (StoredFeatures(i, s.local) for i, s in stored.items()))
        vectors = (StoredFeatures(i, None, s.global_descriptor) for i, s in stored.items())
        write_features(tmp_path / "global.h5", vectors)
        uri = ["--uri", tmp_path / "toy.db"]
        assert added(tmp_path / "local.h5", tmp_path / "global.h5", *uri)["verified_pairs"] == 28
        # Global descriptors alone: nothing can be verified, and all are found.
        uri = ["--uri", tmp_path / "global.db"]
        assert added(tmp_path / "global.h5", *uri)["added"] == 8
        found = ranked("--features", tmp_path / "global.h5", *uri)
        assert {how for hits in found.values() for _, how in hits} == {"similar"}

    def test_photos_without_features_and_features_without_photos(self, toy, toy_photos, stored, tmp_path):
        stored["castle/9"] = StoredFeatures("castle/9", *_parts(stored["castle/0"]))
        empty = LocalFeatures.empty(64)
        stored["tower/3"] = StoredFeatures("tower/3", empty, stored["tower/3"].global_descriptor, (320, 240))
        del stored["tower/2"]
        write_features(tmp_path / "f.h5", stored.values())
        uri = tmp_path / "toy.db"
        done = added(tmp_path / "f.h5", "--photos", toy_photos, "--uri", uri)
        assert (done["added"], done["photos"]) == (7, 7)
        assert done["failed"] == {
            str(
                tmp_path / "f.h5/castle/9"
            ): "there is no photo castle/9: give the folder that the names start from",
            str(toy_photos / "tower/2.png"): "the feature files hold no photo tower/2",
        }
        with Index(uri) as index:
            assert index.collection.records(["tower/3"])[0].keypoints == 0


def _parts(stored):
    return stored.local, stored.global_descriptor, stored.size


class TestAgain:
    @pytest.fixture
    def h5(self, stored, tmp_path):
        write_features(tmp_path / "f.h5", stored.values())
        added(tmp_path / "f.h5", "--uri", tmp_path / "toy.db")
        return tmp_path / "f.h5"

    def test_nothing_to_do(self, h5, tmp_path):
        done = added(h5, "--uri", tmp_path / "toy.db")
        assert (done["added"], done["unchanged"], done["verified_pairs"]) == (0, 8, 0)

    def test_files_that_changed(self, h5, stored, tmp_path):
        stored["castle/0"] = StoredFeatures("castle/0", *_parts(stored["tower/0"]))
        write_features(h5, stored.values())
        os.utime(h5, ns=(1, 1))
        done = added(h5, "--uri", tmp_path / "toy.db")
        # All come from the file that changed; what is the same is not verified again.
        assert (done["added"], done["verified_pairs"]) == (8, 7)

    def test_the_photos_later(self, h5, toy_photos, tmp_path):
        uri = tmp_path / "toy.db"
        with Index(uri) as index:
            paths = {record.path for record in index.collection.records(TOYS)}
        assert paths == {str(h5 / name) for name in TOYS}
        done = added(h5, "--photos", toy_photos, "--uri", uri)
        assert (done["added"], done["unchanged"]) == (0, 8)
        with Index(uri) as index:
            paths = {record.path for record in index.collection.records(TOYS)}
        assert paths == {str(toy_photos / f"{name}.png") for name in TOYS}

    def test_the_same_ids_in_another_file_are_refused(self, h5, stored, tmp_path):
        stored["castle/0"] = StoredFeatures("castle/0", *_parts(stored["tower/0"]))
        write_features(tmp_path / "other.h5", [stored["castle/0"]])
        done = added(tmp_path / "other.h5", "--uri", tmp_path / "toy.db", code=1)
        (reason,) = done["failed"].values()
        assert reason.startswith(f"goes by the same id as {h5}/castle/0 (castle/0): rename it")
        h5.unlink()
        assert added(tmp_path / "other.h5", "--uri", tmp_path / "toy.db")["added"] == 1


class TestQueries:
    @pytest.fixture
    def uri(self, toy, stored, tmp_path, toy_photos, monkeypatch):
        monkeypatch.setitem(toy.EXTRACTORS, "external", ExternalConfiguration())
        write_features(tmp_path / "f.h5", stored.values())
        uri = ["--uri", tmp_path / "toy.db"]
        added(tmp_path / "f.h5", "--photos", toy_photos, "--label", "mine", *uri)
        return uri

    def test_with_features_of_their_own(self, toy, uri, tmp_path):
        a = of_query(toy, tmp_path / "queries/a.png", [0, 1], 6)
        b = of_query(toy, tmp_path / "queries/b.png", [26, 27], 7)
        write_features(tmp_path / "q.npz", [a, b])
        found = ranked("--features", tmp_path / "q.npz", *uri)
        assert [name for name, _ in found["a"][:4]] == TOYS[:4]
        assert [how for _, how in found["a"]] == ["verified"] + 3 * ["bridged"] + 4 * ["similar"]
        assert found["b"][0] == ("tower/3", "verified")
        # The photos say which queries, and are shown.
        report = ["--report", tmp_path / "r.html", "--out", tmp_path / "s.csv"]
        assert ranked(tmp_path / "queries", "--features", tmp_path / "q.npz", *uri, *report) == found
        page = (tmp_path / "r.html").read_text()
        assert "castle/3" in page
        assert "no such file" not in page
        one = call("search", tmp_path / "queries/b.png", "--features", tmp_path / "q.npz", *uri, "--json")
        assert json.loads(one.stdout)["hits"][0]["image_id"] == "tower/3"
        write_features(tmp_path / "one.npz", [b])
        alone = call("search", "--features", tmp_path / "one.npz", *uri, "--json")
        assert alone.stdout == one.stdout

    def test_a_query_that_has_none(self, toy, uri, tmp_path):
        write_features(tmp_path / "q.npz", [of_query(toy, tmp_path / "queries/a.png", [0, 1], 6)])
        toy.write_photo(tmp_path / "queries/b.png", [2])
        done = call(
            "rank", tmp_path / "queries", "--features", tmp_path / "q.npz", *uri, "--out", tmp_path / "s.csv"
        )
        assert done.exit_code == 1
        assert "b.png: the feature files hold no photo b" in done.stderr
        lines = (tmp_path / "s.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["id", "a", "b"]
        assert lines[2] == "b,"

    def test_photos_of_the_index(self, uri):
        done = call("search", "--image", "castle/3", *uri, "--json")
        assert [hit["image_id"] for hit in json.loads(done.stdout)["hits"][:3]] == [
            "castle/2", "castle/1", "castle/0",
        ]  # fmt: skip
        done = call("search", "--image", "nobody", *uri)
        assert done.exit_code == 1
        assert "holds no photo 'nobody'" in done.stderr

    def test_photos_alone_say_what_is_missing(self, toy_photos, uri, tmp_path):
        other = ["--uri", tmp_path / "other.db"]
        added(tmp_path / "f.h5", *other)
        photo = toy_photos / "castle/0.png"
        for command in (["search", photo, *uri], ["index", toy_photos, *uri], ["index", toy_photos, *other]):
            done = call(*command)
            assert done.exit_code == 1
            assert (
                "holds features that others made, so photos alone cannot be added or searched" in done.stderr
            )

    def test_features_of_another_kind(self, stored, uri, toy, tmp_path):
        short = stored["castle/0"].local
        short = LocalFeatures(short.keypoints, short.scales, short.scores, short.descriptors[:, :32].copy())
        write_features(
            tmp_path / "q.npz", [StoredFeatures("q", short, stored["castle/0"].global_descriptor, (320, 240))]
        )
        done = call("search", "--features", tmp_path / "q.npz", *uri)
        assert done.exit_code == 1
        assert "('mine': 32-d local features, 32-d global descriptors): their features do not" in done.stderr
        done = call("import", tmp_path / "f.h5", "--label", "other", *uri)
        assert done.exit_code == 1
        assert "('other': 64-d local features" in done.stderr
        assert added(tmp_path / "f.h5", *uri)["unchanged"] == 8

    def test_wrong_use(self, toy_photos, uri, tmp_path):
        for command in (
            ["search"],
            ["search", toy_photos / "castle/0.png", "--image", "castle/0"],
            ["rank", "--json"],
            ["rank", "--features", tmp_path / "f.h5", "--report", tmp_path / "r.html"],
        ):
            assert call(*command, *uri).exit_code == 2, command
        done = call("search", "--features", tmp_path / "f.h5", *uri)
        assert done.exit_code == 1
        assert "f.h5 holds 8 photos: name one by its photo, or rank all of them" in done.stderr


class TestTrouble:
    def test_features_that_do_not_fit_are_named(self, stored, tmp_path):
        local, vector, size = _parts(stored["castle/1"])
        stored["castle/1"] = StoredFeatures(
            "castle/1", local, vector[:16] / np.linalg.norm(vector[:16]), size
        )
        local, vector, size = _parts(stored["castle/2"])
        narrow = local.descriptors[:, :32] / np.linalg.norm(local.descriptors[:, :32], axis=1, keepdims=True)
        narrow = LocalFeatures(local.keypoints, local.scales, local.scores, narrow)
        stored["castle/2"] = StoredFeatures("castle/2", narrow, vector, size)
        stored["castle/3"] = StoredFeatures("castle/3", stored["castle/3"].local, None, size)
        stored["tower/0"] = StoredFeatures("tower/0", *_parts(stored["tower/0"])[:2], (100, 50))
        write_features(tmp_path / "f.h5", stored.values())
        done = added(tmp_path / "f.h5", "--uri", tmp_path / "toy.db")
        assert done["added"] == 4
        assert {
            os.path.relpath(path, tmp_path / "f.h5"): reason for path, reason in done["failed"].items()
        } == {
            "castle/1": "castle/1: global descriptor of 32 components, it has 16",
            "castle/2": "castle/2: local descriptors of 64 components, they have 32",
            "castle/3": "castle/3: global descriptor of 32 components, it has none",
            "tower/0": "tower/0: keypoints lie outside the photo of 100 x 50 pixels: they must be in pixels "
            "of the photo as it is on disk",
        }
        # The same again tries them again, and nothing else.
        again = added(tmp_path / "f.h5", "--uri", tmp_path / "toy.db")
        assert (again["added"], again["unchanged"], again["failed"]) == (0, 4, done["failed"])

    def test_files_that_cannot_be_read(self, stored, tmp_path, monkeypatch):
        (tmp_path / "bad.h5").write_text("no HDF5")
        (tmp_path / "folder").mkdir()
        for what, problem in [
            ("bad.h5", "bad.h5: it cannot be read as HDF5"),
            ("folder", "folder: the folder holds no feature files"),
        ]:
            done = call("import", tmp_path / what, "--uri", tmp_path / "toy.db")
            assert done.exit_code == 1
            assert problem in done.stderr
        assert call("import", tmp_path / "nowhere.h5").exit_code == 2
        write_features(tmp_path / "delg", stored.values(), "delg")
        (tmp_path / "delg/castle/0.delg_local").write_bytes(b"\xff\xff")
        done = added(tmp_path / "delg", "--uri", tmp_path / "toy.db")
        assert done["added"] == 7
        (reason,) = done["failed"].values()
        assert "castle/0.delg_local" in reason
        # Wherever one stands.
        monkeypatch.chdir(tmp_path)
        done = added("delg", "--photos", "photos", "--uri", tmp_path / "photos.db")
        assert (done["added"], list(done["failed"])) == (7, [str(tmp_path / "photos/castle/0.png")])

    def test_no_global_descriptors(self, stored, toy_photos, tmp_path):
        kept = ["castle/0", "castle/1"]
        write_features(tmp_path / "delf", (stored[name] for name in kept), "delf")
        shutil.rmtree(toy_photos / "tower")
        for step in (2, 3):
            (toy_photos / f"castle/{step}.png").unlink()
        uri = tmp_path / "toy.db"
        done = call("import", tmp_path / "delf", "--uri", uri)
        assert done.exit_code == 1
        assert "delf: there are no global descriptors: add a file of them, or give the photos" in done.stderr
        assert not uri.exists()
        done = added(tmp_path / "delf", "--photos", toy_photos, "--uri", uri)
        assert (done["added"], done["verified_pairs"], done["failed"]) == (2, 1, {})
        with Index(uri) as index:
            assert index.collection.dimension == 1280
            # Queries need their photos too.
            queries, failed = index.stored_queries(
                tmp_path / "delf", {"castle/0": toy_photos / "castle/0.png"}
            )
            assert (len(queries), failed) == (1, {})
            np.testing.assert_array_equal(queries[0].embedding, index.members(["castle/0"])[0].embedding)
            with pytest.raises(ValueError, match="there are no global descriptors"):
                index.stored_queries(tmp_path / "delf")
        # A photo that changed is described again.
        shutil.copy(toy_photos / "castle/1.png", toy_photos / "castle/0.png")
        assert added(tmp_path / "delf", "--photos", toy_photos, "--uri", uri)["added"] == 1

    def test_an_index_of_photos_takes_no_features_of_others(self, toy_index, stored, tmp_path):
        write_features(tmp_path / "f.h5", stored.values())
        with pytest.raises(
            FingerprintMismatchError, match=r"was made by toy-1, this is external-.*'features'"
        ):
            toy_index.add_features(tmp_path / "f.h5")

    def test_extractions_of_two_extractors(self, stored, toy_photos, tmp_path):
        write_features(tmp_path / "f.h5", stored.values())
        assert call("extract", toy_photos, "--out", tmp_path / "out").exit_code == 0
        done = call("import", tmp_path / "out", tmp_path / "f.h5", "--uri", tmp_path / "toy.db")
        assert done.exit_code == 1
        assert "the features are by others and toy-1, and do not compare" in done.stderr


def test_a_dimension(stored, tmp_path):
    write_features(tmp_path / "f.h5", stored.values())
    uri = tmp_path / "toy.db"
    assert added(tmp_path / "f.h5", "--dimension", 5, "--uri", uri)["added"] == 8
    with Index(uri) as index:
        assert index.collection.dimension == 5
