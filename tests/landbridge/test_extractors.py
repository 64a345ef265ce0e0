"""Choosing an extractor: `landbridge extractors`, and collections that remember theirs."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from connector.errors import FingerprintMismatchError
from extractor.configuration import GlobalLocalConfiguration, LiteGlobalConfiguration, RootSiftConfiguration
from extractor.extractor import GlobalLocalExtractor
from extractor.registry import CARDS, create_extractor
from landbridge import Index
from landbridge.cli import app


@pytest.fixture
def small(monkeypatch):
    """Two quick extractors, one of which must learn, and how often it did."""
    learnt = []
    learn = GlobalLocalExtractor.learn

    def counted(self, photos):
        paths = list(photos)
        learnt.append([path.stem for path in paths])
        learn(self, paths)

    monkeypatch.setattr(GlobalLocalExtractor, "learn", counted)
    local = RootSiftConfiguration(longest_side=160, dimension=8)
    other = RootSiftConfiguration(longest_side=160, dimension=None)
    model = LiteGlobalConfiguration(sides=(64,))
    configurations = {
        "sift": GlobalLocalConfiguration(model, local),
        "xfeat-lite2": GlobalLocalConfiguration(model, other),
    }
    monkeypatch.setattr("extractor.registry.EXTRACTORS", configurations)
    return learnt


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        coarse = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((160, 128), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


def test_a_collection_keeps_what_its_extractor_learnt(small, photos, tmp_path):
    with Index(tmp_path / "a.db", extractor="sift") as index:
        assert len(index.add(photos).added) == 3
        made_by = index.extractor.fingerprint
        first = index.search(photos / "a.png")
    assert [sorted(names) for names in small] == [["a", "b", "c"]]
    with Index(tmp_path / "a.db") as index:
        assert index.search(photos / "a.png") == first
        assert index.extractor.fingerprint == index.collection.extractor == made_by
        assert index.collection.features(["a"])[0].local.dimension == 8
        Image.open(photos / "a.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "d.png")
        assert index.add(photos).added == ["d"]
    assert len(small) == 1


def test_stopped_before_what_was_learnt_is_stored(small, photos, tmp_path, monkeypatch):
    with Index(tmp_path / "a.db", extractor="sift") as index, monkeypatch.context() as patch:
        patch.setattr("connector.collection.Collection.put_blob", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            index.add(photos)
        assert len(index) == 0
    with Index(tmp_path / "a.db") as index:
        assert len(index.add(photos).added) == 3
        assert index.extractor.fingerprint == index.collection.extractor
    assert small[0] == small[1]


def test_what_a_ready_extractor_learnt_is_kept_too(small, photos, tmp_path):
    with Index(tmp_path / "a.db", extractor=create_extractor("sift", local_max_features=50)) as index:
        index.add(photos)
        first = index.search(photos / "a.png")
        assert index.collection.extractor == index.extractor.fingerprint
    with Index(tmp_path / "a.db", extractor=create_extractor("sift", local_max_features=50)) as index:
        assert index.search(photos / "a.png") == first
    assert len(small) == 1
    with (
        Index(tmp_path / "a.db", extractor=create_extractor("sift", local_max_features=49)) as index,
        pytest.raises(FingerprintMismatchError, match=r"was learnt by sift-.*, this is sift-"),
    ):
        index.search(photos / "a.png")


def test_another_extractor_is_refused(small, photos, tmp_path):
    with Index(tmp_path / "a.db") as index:
        index.add(photos)
    with pytest.raises(FingerprintMismatchError, match=r"was made by xfeat-lite2-.*, this is sift"):
        Index(tmp_path / "a.db", extractor="sift")
    with Index(tmp_path / "a.db", extractor="default") as index:
        assert index.add(photos).unchanged == 3
    with pytest.raises(ValueError, match=r"unknown extractor 'nonsense': there are sift, xfeat-lite2"):
        Index(tmp_path / "b.db", extractor="nonsense")
    assert not (tmp_path / "b.db").exists()


def test_what_was_learnt_elsewhere_is_refused(small, photos, tmp_path, monkeypatch):
    with Index(tmp_path / "a.db", extractor="sift") as index:
        index.add(photos)
    changed = RootSiftConfiguration(longest_side=160, dimension=7)
    other = GlobalLocalConfiguration(LiteGlobalConfiguration(sides=(64,)), changed)
    configurations = {"sift": other, "xfeat-lite2": other}
    monkeypatch.setattr("extractor.registry.EXTRACTORS", configurations)
    with (
        Index(tmp_path / "a.db") as index,
        pytest.raises(FingerprintMismatchError, match=r"was learnt by sift-.*, this is sift-"),
    ):
        index.search(photos / "a.png")


def test_the_command_takes_an_extractor(small, photos, tmp_path):
    run = CliRunner().invoke
    uri = ["--uri", str(tmp_path / "a.db"), "--json"]
    done = run(app, ["index", str(photos), "--extractor", "sift", *uri])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["photos"] == 3
    found = run(app, ["search", str(photos / "a.png"), *uri])
    assert found.exit_code == 0, found.output
    wrong = run(app, ["index", str(photos), "--extractor", "nonsense", *uri])
    assert wrong.exit_code == 1
    assert "unknown extractor 'nonsense': there are sift, xfeat-lite2" in wrong.stderr


def test_the_table():
    done = CliRunner().invoke(app, ["extractors", "--json"])
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert list(rows) == list(CARDS)
    default = rows["xfeat-lite2"]
    assert (default["default"], default["dimension"], default["local_dimension"]) == (True, 1280, 64)
    assert default["ready"]
    assert {needed["licence"] for needed in default["weights"]} == {"Apache-2.0"}
    assert sum(row["default"] for row in rows.values()) == 1
    for row in rows.values():
        assert row["ready"] == all(needed["here"] for needed in row["weights"])
        for needed in row["weights"]:
            assert (needed["missing"] is None) == needed["here"]
    plain = CliRunner().invoke(app, ["extractors"])
    assert plain.exit_code == 0
    assert all(name in plain.stdout for name in rows)


def test_the_extractors_that_are_ready_are_timed(small, photos, monkeypatch):
    ready = ("xfeat-lite2", "rootsift-pca40", "dir-imagenet", "external")
    monkeypatch.setattr("extractor.registry.CARDS", {name: CARDS[name] for name in ready})
    configurations = dict.fromkeys(ready, CARDS["rootsift-pca40"].configuration)
    monkeypatch.setattr("extractor.registry.EXTRACTORS", configurations)
    done = CliRunner().invoke(app, ["extractors", "--measure", str(photos / "a.png"), "--json"])
    taken = {row["name"]: row["milliseconds"] for row in json.loads(done.stdout)}
    assert taken["xfeat-lite2"] > 0
    assert taken["rootsift-pca40"] > 0
    assert taken["dir-imagenet"] is taken["external"] is None
    plain = CliRunner().invoke(app, ["extractors", "--measure", str(photos / "a.png")])
    assert "ms/photo" in plain.stdout
