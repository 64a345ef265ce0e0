"""Batch extraction by a toy: what is written, what is done again, and what is not."""

from __future__ import annotations

import csv
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from extractor.batch import extract_photos, run
from extractor.files import FeatureFileError, read_features
from extractor.files.extraction import SUFFIXES, Extraction
from extractor.photo import read_photo


def _toy() -> Any:
    spec = importlib.util.spec_from_file_location("batch_toy", Path(__file__).with_name("batch_toy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toy = _toy()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    extractors = toy.extractors()
    monkeypatch.setattr("extractor.registry.EXTRACTORS", extractors)
    monkeypatch.setattr(run, "SHARD", 4)
    return extractors


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    return toy.write_photos(tmp_path / "photos", 10)


def extracted(extractors: dict[str, Any]) -> list[str]:
    """Ids that were extracted since the last time one asked."""
    ids = []
    for configuration in extractors.values():
        for one in configuration.loaded:
            ids += one.extracted
            one.extracted = []
    return sorted(ids)


@pytest.mark.parametrize("kind", SUFFIXES)
def test_features_are_those_of_the_extractor(
    kind: str, photos: dict[str, Path], tmp_path: Path, registered: dict[str, Any]
) -> None:
    steps: list[tuple[str, int, int]] = []
    done = extract_photos(photos, tmp_path / "out", format=kind, progress=lambda *step: steps.append(step))
    assert (done.extracted, done.unchanged, done.failed) == (10, 0, {})
    assert steps == [("extract", count, 10) for count in range(11)]
    assert not (tmp_path / "out/failed.csv").exists()
    files = read_features(tmp_path / "out")
    assert list(files) == sorted(photos)
    extractor = toy.ToyExtractor("toy")
    for image_id, path in photos.items():
        stored, wanted = files[image_id], extractor.extract(read_photo(path), image_id)
        assert stored.size == wanted.size == (10, 8)
        assert stored.local is not None
        local = wanted.local.quantised() if kind == "npz" else wanted.local
        np.testing.assert_array_equal(stored.local.keypoints, local.keypoints)
        np.testing.assert_allclose(
            stored.local.descriptors, local.descriptors.reshape(stored.local.descriptors.shape), atol=1e-6
        )
        if kind == "delf":
            assert stored.global_descriptor is None
        else:
            np.testing.assert_allclose(stored.global_descriptor, wanted.global_descriptor, atol=1e-6)
    # Other programs are given the feature files alone.
    assert list(read_features(tmp_path / "out/features")) == sorted(photos)


def test_the_list_says_what_photos_they_are(photos: dict[str, Path], tmp_path: Path) -> None:
    extract_photos(photos, tmp_path / "out")
    extraction = Extraction.open(tmp_path / "out")
    assert (extraction.extractor, extraction.dimension, extraction.local_dimension) == ("xfeat-lite2", 12, 6)
    assert (extraction.fingerprint, extraction.learnt) == (f"xfeat-lite2-{'0' * 12}", None)
    assert [len(extraction.entries(shard)) for shard in extraction.shards()] == [4, 4, 2]
    for _, entry in extraction:
        path = photos[entry.image_id]
        status = path.stat()
        assert entry.path == str(path.resolve())
        assert (entry.file_bytes, entry.modified_ns) == (status.st_size, status.st_mtime_ns)
    assert [entry.image_id for _, entry in extraction] == list(photos)


@pytest.mark.parametrize("kind", SUFFIXES)
class TestAgain:
    @pytest.fixture
    def out(self, kind: str, photos: dict[str, Path], tmp_path: Path, registered: dict[str, Any]) -> Path:
        extract_photos(photos, tmp_path / "out", format=kind)
        assert extracted(registered) == sorted(photos)
        return tmp_path / "out"

    def test_nothing_to_do(self, out: Path, photos: dict[str, Path], registered: dict[str, Any]) -> None:
        before = toy.tree(out)
        loaded = len(registered["xfeat-lite2"].loaded)
        done = extract_photos(photos, out)
        assert (done.extracted, done.unchanged, done.failed) == (0, 10, {})
        assert toy.tree(out) == before
        assert len(registered["xfeat-lite2"].loaded) == loaded, "no model is loaded for nothing"

    def test_new_photos_come_after(
        self, out: Path, photos: dict[str, Path], tmp_path: Path, registered: dict[str, Any]
    ) -> None:
        before = toy.tree(out)
        more = toy.write_photos(tmp_path / "more", 15) | photos
        done = extract_photos(more, out)
        assert (done.extracted, done.unchanged) == (5, 10)
        assert extracted(registered) == sorted(set(more) - set(photos))
        after = toy.tree(out)
        assert {name: after[name] for name in before} == before
        assert list(read_features(out)) == sorted(more)

    def test_a_changed_photo_alone_is_done_again(
        self, out: Path, photos: dict[str, Path], tmp_path: Path, registered: dict[str, Any]
    ) -> None:
        before = dict(read_features(out))
        changed = list(photos)[5]
        photos[changed].write_bytes(toy.write_photos(tmp_path / "others", 1, seed=9)["0/000"].read_bytes())
        done = extract_photos(photos, out)
        assert (done.extracted, done.unchanged, extracted(registered)) == (1, 9, [changed])
        after = read_features(out)
        for name, stored in before.items():
            same = np.array_equal(stored.local.descriptors, after[name].local.descriptors)
            assert same == (name != changed)
        # It is as if it had been so from the start.
        extract_photos(photos, tmp_path / "fresh", format=Extraction.open(out).format)
        assert toy.tree(out) == toy.tree(tmp_path / "fresh")

    def test_a_photo_that_breaks_and_is_mended(
        self, out: Path, photos: dict[str, Path], registered: dict[str, Any]
    ) -> None:
        name, path = list(photos.items())[2]
        before, good, status = toy.tree(out), path.read_bytes(), path.stat()
        path.write_text("no photo")
        done = extract_photos(photos, out)
        assert (done.extracted, done.unchanged, list(done.failed)) == (0, 9, [path])
        assert done.failed[path].startswith("not a photo in a format that is read")
        with (out / "failed.csv").open() as file:
            assert list(csv.reader(file)) == [["id", "path", "reason"], [name, str(path), done.failed[path]]]
        assert list(read_features(out)) == sorted(set(photos) - {name})
        assert not any(name in file for file in toy.tree(out))
        path.write_bytes(good)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        done = extract_photos(photos, out)
        assert (done.extracted, done.unchanged, done.failed) == (1, 9, {})
        assert extracted(registered) == [name]
        assert toy.tree(out) == before

    def test_features_that_were_lost(
        self, out: Path, photos: dict[str, Path], registered: dict[str, Any]
    ) -> None:
        before = toy.tree(out)
        victim = sorted(name for name in before if name.startswith("features/"))[0]
        (out / victim).unlink()
        done = extract_photos(photos, out)
        lost = list(photos)[:4] if Extraction.open(out).is_sharded else ["0/000"]
        assert (done.extracted, extracted(registered)) == (len(lost), sorted(lost))
        assert toy.tree(out) == before

    def test_a_moved_folder(
        self, out: Path, photos: dict[str, Path], tmp_path: Path, registered: dict[str, Any]
    ) -> None:
        (tmp_path / "photos").rename(tmp_path / "elsewhere")
        moved = {name: tmp_path / "elsewhere" / f"{name}.png" for name in photos}
        done = extract_photos(moved, out)
        assert (done.extracted, done.unchanged, extracted(registered)) == (0, 10, [])
        assert {entry.path for _, entry in Extraction.open(out)} == {str(path) for path in moved.values()}

    def test_photos_that_are_gone_keep_their_features(self, out: Path, photos: dict[str, Path]) -> None:
        name = list(photos)[1]
        photos.pop(name).unlink()
        photos[next(iter(photos))].touch()  # of the same shard
        assert extract_photos(photos, out).extracted == 1
        assert name in read_features(out)

    def test_another_file_of_the_same_id_is_refused(
        self, out: Path, photos: dict[str, Path], tmp_path: Path
    ) -> None:
        before = toy.tree(out)
        others = toy.write_photos(tmp_path / "others", 1, seed=7)
        done = extract_photos(others, out)
        assert (done.extracted, done.unchanged) == (0, 0)
        (reason,) = done.failed.values()
        assert reason.startswith(f"goes by the same id as {photos['0/000']} (0/000): rename it")
        (out / "failed.csv").unlink()
        assert toy.tree(out) == before


def test_what_is_asked_for_must_be_what_is_there(photos: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract_photos(photos, out)
    with pytest.raises(ValueError, match=r"out holds features as npz, not h5: give another folder"):
        extract_photos(photos, out, format="h5")
    with pytest.raises(
        ValueError, match=r"holds features of xfeat-lite2-0{12}, not of learner: give another"
    ):
        extract_photos(photos, out, extractor="learner")
    with pytest.raises(ValueError, match=r"unknown extractor 'nonsense': there are learner, xfeat-lite2"):
        extract_photos(photos, out, extractor="nonsense")
    with pytest.raises(ValueError, match=r"no format 'jpg' of feature files: there are npz, h5, delf, delg"):
        extract_photos(photos, out, format="jpg")
    with pytest.raises(ValueError, match=r"has no network to move: it runs on cpu in float32 alone"):
        extract_photos(photos, tmp_path / "other", dtype="bfloat16")
    with FileLock(out / ".lock"), pytest.raises(OSError, match=r"out is in use: wait for the other run"):
        extract_photos(photos, out)


def test_another_release_is_refused(
    photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_photos(photos, tmp_path / "out")
    path = tmp_path / "out/extraction.json"
    path.write_text(path.read_text().replace("0" * 12, "1" * 12))
    assert extract_photos(photos, tmp_path / "out").unchanged == 10
    photos["0/000"].touch()
    with pytest.raises(ValueError, match=r"holds features of xfeat-lite2-1{12}, this is xfeat-lite2-0{12}"):
        extract_photos(photos, tmp_path / "out")
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(FeatureFileError, match="it is of version 2, this release reads 1"):
        extract_photos(photos, tmp_path / "out")
    path.write_text("{}")
    with pytest.raises(FeatureFileError, match=r"extraction\.json: it is damaged"):
        extract_photos(photos, tmp_path / "out")


def test_it_learns_once(photos: dict[str, Path], tmp_path: Path, registered: dict[str, Any]) -> None:
    steps = []
    extract_photos(photos, tmp_path / "out", extractor="learner", progress=lambda *step: steps.append(step))
    assert steps[:10] == [("learn", count, 10) for count in range(1, 11)]
    extraction = Extraction.open(tmp_path / "out")
    total = sum(int(read_photo(path).pixels[0, 0, 0]) for path in photos.values())
    assert (extraction.learnt, extraction.fingerprint) == (str(total).encode(), f"learner-{total:012x}")
    more = {**photos, **toy.write_photos(tmp_path / "more", 12, seed=3)}
    more = {name: photos.get(name, path) for name, path in more.items()}
    assert extract_photos(more, tmp_path / "out").extracted == 2
    assert Extraction.open(tmp_path / "out") == extraction
    assert extraction.learnt == str(total).encode()


def test_names_that_cannot_be_stored(photos: dict[str, Path], tmp_path: Path) -> None:
    path = photos["0/000"]
    odd = {"\udc80": path, "a/../b": photos["1/001"], "/a": photos["2/002"], "x" * 201: photos["0/003"]}
    for kind, taken in (("npz", ["x" * 201]), ("delg", [])):
        done = extract_photos(odd | {"good": photos["1/004"]}, tmp_path / kind, format=kind)
        assert sorted(read_features(tmp_path / kind)) == ["good", *taken]
        assert "its name is not valid text" in done.failed[path]
        assert len(done.failed) == 4 - len(taken)
    assert done.failed[photos["1/001"]] == "it cannot go by 'a/../b': rename it"


def test_no_photos(tmp_path: Path) -> None:
    left_out = {tmp_path / "a.jpg": "goes by the same id"}
    done = extract_photos({}, tmp_path / "out", left_out=left_out)
    assert (done.extracted, done.unchanged, done.failed) == (0, 0, left_out)
    assert not (tmp_path / "out").exists()


def test_photos_called_like_files(photos: dict[str, Path], tmp_path: Path) -> None:
    odd = {"a": photos["0/000"], "a.jpg": photos["1/001"], "b.c.png": photos["2/002"]}
    extract_photos(odd, tmp_path / "out")
    photos["1/001"].touch()
    assert extract_photos(odd, tmp_path / "out").unchanged == 2
    assert sorted(read_features(tmp_path / "out")) == sorted(odd)


class TestProcesses:
    """Processes and clusters start fresh interpreters, which know the toy by `sitecustomize`."""

    @pytest.fixture
    def two(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        toy.known_to_new_interpreters(tmp_path, monkeypatch)
        monkeypatch.setattr("extractor.batch.local.CORES", 1)
        monkeypatch.setattr("extractor.batch.local.available_cores", lambda: 2)

    def test_the_same_as_in_one(
        self, two: None, photos: dict[str, Path], tmp_path: Path, registered: dict[str, Any]
    ) -> None:
        steps: list[tuple[str, int, int]] = []
        done = extract_photos(
            photos, tmp_path / "two", extractor="learner", progress=lambda *step: steps.append(step)
        )
        assert done.extracted == 10
        assert [step for step in steps if step[0] == "extract"] == [
            ("extract", count, 10) for count in range(11)
        ]
        assert extracted(registered) == [], "the photos were extracted elsewhere"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("extractor.batch.local.CORES", 2)
            extract_photos(photos, tmp_path / "one", extractor="learner")
        assert extracted(registered) == sorted(photos)
        assert toy.tree(tmp_path / "one") == toy.tree(tmp_path / "two")

    def test_each_takes_its_share_of_the_cores(
        self, two: None, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        extract_photos(dict(list(photos.items())[:1]), tmp_path / "out")
        monkeypatch.setenv("TOY_CORES", "1")
        assert extract_photos(photos, tmp_path / "out").extracted == 9

    def test_what_a_worker_says(self, two: None, photos: dict[str, Path], tmp_path: Path) -> None:
        extract_photos(photos, tmp_path / "out")
        path = tmp_path / "out/extraction.json"
        path.write_text(path.read_text().replace("0" * 12, "1" * 12))
        for photo in photos.values():
            photo.touch()
        with pytest.raises(ValueError, match=r"holds features of xfeat-lite2-1{12}, this is"):
            extract_photos(photos, tmp_path / "out")

    def test_a_worker_that_is_killed(
        self, two: None, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import multiprocessing

        monkeypatch.setenv("TOY_SECONDS", "0.05")

        def kill(step: str, done: int, total: int) -> None:
            if done == 3:
                multiprocessing.active_children()[0].kill()

        with pytest.raises(ChildProcessError, match="a worker process was killed"):
            extract_photos(photos, tmp_path / "out", progress=kill)
        assert multiprocessing.active_children() == []
        done = extract_photos(photos, tmp_path / "out")
        assert done.extracted + done.unchanged == 10
        monkeypatch.setattr("extractor.batch.local.CORES", 2)
        extract_photos(photos, tmp_path / "one")
        assert toy.tree(tmp_path / "out") == toy.tree(tmp_path / "one")
