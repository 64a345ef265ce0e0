"""`landbridge train` from the command line, and the labels that it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from landbridge import cli
from landbridge.cli import train as command
from landbridge.datasets import DatasetError
from landbridge.datasets.labelled_photos import labelled_photos

runner = CliRunner(env={"COLUMNS": "160"})
SHORT = ("--epochs", "0.2", "--crop", "64", "--batch", "8", "--validation", "0")


def call(*arguments: object) -> Any:
    return runner.invoke(cli.app, ["train", *(str(argument) for argument in arguments)])


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three landmarks of three photos each."""
    rng = np.random.default_rng(0)
    for landmark in ("a", "b", "c"):
        for number in range(3):
            path = tmp_path / "photos" / landmark / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (72, 80, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def gldv2(tmp_path: Path) -> Path:
    """Two landmarks in the layout of Google Landmarks v2."""
    root = tmp_path / "gldv2"
    rng = np.random.default_rng(0)
    for image_id in ("abc1", "abd2", "xyz3", "xyz4"):
        path = root / "train" / image_id[0] / image_id[1] / image_id[2] / f"{image_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (72, 80, 3), dtype=np.uint8)).save(path)
    (root / "train_clean.csv").write_text("landmark_id,images\n7,abc1 abd2 gone5\n9,xyz3 xyz4\n")
    (root / "train.csv").write_text(
        "id,url,landmark_id\nabc1,http://x,1\nabd2,http://x,2\nxyz3,http://x,2\nxyz4,http://x,\n"
    )
    return root


def test_folders(folders: Path, weights: Path, tmp_path: Path) -> None:
    (folders / "a" / "0.png").write_text("no photo")
    (folders / "loose.png").write_bytes((folders / "b" / "0.png").read_bytes())
    answer = call("delg", "--data", folders, "--out", tmp_path / "run", *SHORT[2:], "--epochs", 2, "--json")
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["extractor"] == "delg-lite0"
    assert found["weights"] == str(weights / "delg-lite0.pt")
    assert Path(found["weights"]).is_file()
    assert found["next"] == "landbridge index PHOTOS --extractor delg-lite0"
    assert (found["photos"], found["landmarks"], found["unlabelled"]) == (9, 3, 1)
    assert list(found["failed"]) == [str(folders / "a" / "0.png")]
    assert found["stages"]["joint"]["steps"] == 3
    assert "1 photos could not be read" in answer.stderr
    assert "1 photos have no landmark" in answer.stderr
    assert (tmp_path / "run" / "joint.csv").is_file()


def test_table_and_next_command(folders: Path, tmp_path: Path, weights: Path) -> None:
    answer = call(
        "delf", "--data", folders, "--out", tmp_path / "run", *SHORT, "--attention-epochs", 0.2,
        "--attention-crop", 64,
    )  # fmt: skip
    assert answer.exit_code == 0, answer.stderr
    for wanted in ("classification", "attention", str(weights / "delf-lite0.pt")):
        assert wanted in answer.stdout
    assert "landbridge index PHOTOS --extractor delf-attention-lite0" in answer.stdout
    ready = {
        row["name"]: row["ready"]
        for row in json.loads(runner.invoke(cli.app, ["extractors", "--json"]).stdout)
    }
    assert ready["delf-attention-lite0"]
    assert not ready["delg-lite0"]


def test_sample_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_WORLD_PHOTOS", 3)
    monkeypatch.setattr(command, "_WORLD_SIZE", (80, 64))
    told = ["delg", "--data", "sample-world", "--landmarks", 4, "--out", tmp_path / "run", *SHORT, "--json"]
    answer = call(*told)
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert (found["photos"], found["landmarks"]) == (12, 4)
    rendered = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.jpg")}
    assert len(rendered) == 12
    again = call(*told)
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["digest"] == found["digest"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.jpg")} == rendered


def test_failures_are_one_line(folders: Path, tmp_path: Path) -> None:
    missing = call("delg", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert missing.exit_code == 1
    assert missing.stderr.strip() == f"landbridge: {tmp_path / 'nowhere'} is not a folder"
    method = call("vlad", "--data", folders, "--out", tmp_path / "run")
    assert method.stderr.strip() == "landbridge: 'vlad' cannot be trained: there are delf, delg"
    assert call("delg", "--data", folders, "--out", tmp_path / "run", *SHORT).exit_code == 0
    other = call("delg", "--data", folders, "--out", tmp_path / "run", *SHORT, "--rate", 0.5)
    assert other.exit_code == 1
    assert "is of another training (rate 0.001, now 0.5)" in other.stderr
    elsewhere = call("delg", "--data", folders, "--out", tmp_path / "run2", *SHORT)
    assert elsewhere.exit_code == 1
    assert "holds other weights" in elsewhere.stderr
    assert "Traceback" not in "".join(one.stderr for one in (missing, method, other, elsewhere))


def test_clean_table_comes_first(gldv2: Path) -> None:
    found = labelled_photos(gldv2)
    assert [(path.name, label) for path, label in found.photos] == [
        ("abc1.jpg", "7"), ("abd2.jpg", "7"), ("xyz3.jpg", "9"), ("xyz4.jpg", "9"),
    ]  # fmt: skip
    assert found.photos[0][0] == gldv2 / "train" / "a" / "b" / "c" / "abc1.jpg"
    assert (found.missing, found.unlabelled) == (1, 0)


def test_table_by_photo(gldv2: Path) -> None:
    found = labelled_photos(gldv2, gldv2 / "train.csv")
    assert [label for _, label in found.photos] == ["1", "2", "2"]
    assert (found.missing, found.unlabelled) == (0, 1)
    (gldv2 / "train_clean.csv").unlink()
    assert labelled_photos(gldv2) == found


def test_flat_photos_without_train_folder(gldv2: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in gldv2.rglob("*.jpg"):
        path.rename(flat / path.name)
    found = labelled_photos(flat, gldv2 / "train_clean.csv")
    assert found.photos[2] == (flat / "xyz3.jpg", "9")
    assert found.missing == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,url\na,b\n", "has neither the columns landmark_id,images nor id,landmark_id"),
        ("landmark_id,images\n7,a\n7,b\n", "the landmark_id 7 is there already"),
        ("landmark_id,images\n,a\n", "the landmark_id is empty"),
        ("id,landmark_id\nnone1,4\nnone2,4\n", "none of the 2 photos of"),
    ],
)
def test_wrong_tables(text: str, message: str, gldv2: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        labelled_photos(gldv2, tmp_path / "labels.csv")


def test_several_tables(gldv2: Path) -> None:
    (gldv2 / "train_clean.csv").rename(gldv2 / "other.csv")
    with pytest.raises(DatasetError, match="several CSV files of landmarks"):
        labelled_photos(gldv2)
    assert call("delg", "--data", gldv2, "--labels", gldv2 / "nowhere.csv").exit_code == 1


def test_no_labels_at_all(folders: Path) -> None:
    with pytest.raises(DatasetError, match="holds neither subfolders with photos"):
        labelled_photos(folders / "a")


def test_deeper_folders_belong_to_the_landmark(folders: Path) -> None:
    (folders / "a" / "x").mkdir()
    (folders / "a" / "0.png").rename(folders / "a" / "x" / "0.png")
    found = labelled_photos(folders)
    assert sorted({label for _, label in found.photos}) == ["a", "b", "c"]
    assert len(found.photos) == 9
