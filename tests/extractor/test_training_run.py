from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from extractor import registry
from extractor.training import run as training
from extractor.training import stage as stages
from extractor.training.checkpoint import CheckpointError, read_checkpoint, write_atomically
from extractor.training.log import CsvLog
from extractor.training.photos import LabelledPhoto
from extractor.training.run import train
from extractor.training.settings import Settings
from extractor.weights import WeightsError, load_state_dict

Texture = Callable[..., NDArray[np.uint8]]

SMALL = Settings(
    epochs=1,
    attention_epochs=1,
    crop=64,
    attention_crop=64,
    batch=5,
    log_every=2,
    validate_every=3,
    checkpoint_every=2,
    threads=2,
    held_back=2,
)


@pytest.fixture
def photos(tmp_path: Path, texture: Texture) -> list[LabelledPhoto]:
    """Six photos of each of six textures, of another part each; 24 are left to learn from, in 5 steps."""
    made = []
    for landmark in range(6):
        whole = texture(160, 160, landmark)
        for number in range(6):
            path = tmp_path / "photos" / f"l{landmark}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(whole[8 * number :, 12 * number :]).save(path)
            made.append((path, f"l{landmark}"))
    return made


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(folder))
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def undated(path: Path) -> list[dict[str, str]]:
    """Rows of a log without the speed, which is never the same."""
    return [{name: value for name, value in row.items() if name != "photos_per_second"} for row in rows(path)]


@pytest.mark.parametrize(("method", "name"), [("delf", "delf-attention-lite0"), ("delg", "delg-lite0")])
def test_what_is_trained_extracts(
    method: str, name: str, photos: list[LabelledPhoto], tmp_path: Path, weights: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    trained = train(
        method, "lite0", photos, tmp_path / "out", SMALL, report=lambda *progress: told.append(progress)
    )
    assert trained.extractor == name
    assert trained.weights == weights / f"{method}-lite0.pt"
    assert (trained.landmarks, trained.photos) == (4, 24)
    assert (trained.validation_landmarks, trained.validation_photos) == (2, 12)
    assert trained.failed == {}
    expected = ["classification", "attention"] if method == "delf" else ["joint"]
    assert list(trained.stages) == expected
    assert [(stage, 5, 5) for stage in expected] == [one for one in told if one[1] == one[2]]
    parts = {key.partition(".")[0] for key in load_state_dict(trained.weights)}
    assert parts >= ({"backbone", "attention"} if method == "delf" else {"backbone", "encoder", "whitening"})
    extractor = registry.create_extractor(name)
    if extractor.learns:
        extractor.learn([path for path, _ in photos])
    (features,) = [extractor._read_and_extract("a", photos[0][0])]
    assert len(features.local) > 10
    assert features.local.dimension == extractor.local_dimension


def test_log(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    settings = replace(SMALL, rate=0.01, warm_up=0.2, checkpoint_every=100)
    trained = train("delg", "lite0", photos, tmp_path / "out", settings)
    found = rows(tmp_path / "out" / "joint.csv")
    assert [row["step"] for row in found] == ["0", "2", "3", "4", "5"]
    assert [bool(row["validation_map"]) for row in found] == [True, False, True, False, True]
    assert float(found[3]["epoch"]) == pytest.approx(4 * 5 / 24, rel=1e-4)
    # One step of warm-up, then half a cosine over the 4 others; a row has the rate of the step it ends.
    rate = [0.01 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in (0, 1, 2, 3)]
    assert [float(row["rate"]) for row in found[1:]] == pytest.approx(rate, rel=1e-4)
    stage = trained.stages["joint"]
    assert list(stage.validation) == [0, 3, 5]
    assert float(found[-1]["validation_map"]) == pytest.approx(stage.validation[5], rel=1e-5)
    for name in ("arcface", "attention", "reconstruction"):
        assert float(found[-1][f"loss_{name}"]) == pytest.approx(stage.losses[name], rel=1e-5)


def test_log_drops_the_rows_after_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    log = CsvLog(path, ["step", "loss"], 0)
    for step in (0, 2, 4, 10):
        log.append({"step": step, "loss": step / 3 if step else None})
    CsvLog(path, ["step", "loss"], 4).append({"step": 6, "loss": 1.0})
    assert path.read_text().split() == ["step,loss", "0,", "2,0.666667", "4,1.33333", "6,1"]
    CsvLog(path, ["step", "loss"], 0)
    assert path.read_text().split() == ["step,loss"]


def test_the_same_again_is_done_and_gives_the_same(
    photos: list[LabelledPhoto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("delg", "lite0", photos, tmp_path / "out", SMALL)
    log = (tmp_path / "out" / "joint.csv").read_bytes()
    monkeypatch.setattr(stages._Run, "_step", None)
    again = train("delg", "lite0", photos[::-1], tmp_path / "out", replace(SMALL, threads=1, log_every=1))
    assert again.digest == first.digest
    assert again.stages["joint"].validation == first.stages["joint"].validation
    assert (tmp_path / "out" / "joint.csv").read_bytes() == log


CHILD = """
import json, sys
import torch
from pathlib import Path
torch.set_num_threads(1)
from extractor.training.run import train
from extractor.training.settings import Settings
method, photos, folder, settings = json.loads(sys.argv[1])
train(method, "lite0", [(Path(p), l) for p, l in photos], Path(folder), Settings(**settings), replace=True)
"""


@pytest.mark.parametrize(("method", "stage"), [("delf", "attention"), ("delg", "joint")])
def test_killed_and_resumed_gives_the_same(
    method: str, stage: str, photos: list[LabelledPhoto], tmp_path: Path
) -> None:
    import json

    (tmp_path / "photos" / "l0" / "1.png").write_bytes(b"damaged")
    settings = replace(SMALL, epochs=1, attention_epochs=3, attention_crop=176, checkpoint_every=1)
    if method == "delg":
        settings = replace(settings, epochs=3)
    whole = train(method, "lite0", photos, tmp_path / "whole", settings)
    assert len(whole.failed) == 1
    told = [method, [[str(path), label] for path, label in photos], str(tmp_path / "cut"), asdict(settings)]
    child = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(told)], env=dict(os.environ))
    checkpoint = tmp_path / "cut" / f"{stage}.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    steps = whole.stages[stage].steps
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < steps, "it was killed in the middle"
    resumed = train(method, "lite0", photos, tmp_path / "cut", settings, replace=True)
    assert resumed.digest == whole.digest
    assert undated(tmp_path / "cut" / f"{stage}.csv") == undated(tmp_path / "whole" / f"{stage}.csv")
    assert resumed.stages[stage].validation == whole.stages[stage].validation
    assert resumed.stages[stage].losses == whole.stages[stage].losses
    assert resumed.failed == whole.failed


def test_checkpoint_of_other_settings_or_photos(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=0.2, held_back=0)
    train("delg", "lite0", photos, tmp_path / "out", settings)
    with pytest.raises(CheckpointError, match=r"rate 0\.001, now 0\.002.*another folder"):
        train("delg", "lite0", photos, tmp_path / "out", replace(settings, rate=0.002))
    with pytest.raises(CheckpointError, match="photos '"):
        train("delg", "lite0", photos[1:], tmp_path / "out", settings)


def test_damaged_checkpoint(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "joint.pt").write_bytes(b"PK damaged")
    with pytest.raises(CheckpointError, match=r"joint\.pt is no checkpoint, remove it"):
        train("delg", "lite0", photos, tmp_path / "out", SMALL)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_atomically(path, {"identity": {"a": 1}, "value": torch.ones(2)})
    with pytest.raises(AttributeError):
        write_atomically(path, {"identity": {}, "value": lambda: 1})
    found = read_checkpoint(path, {"a": 1})
    assert found is not None
    assert found["value"].tolist() == [1, 1]
    other = tmp_path / "b.pt"
    write_atomically(other, {"identity": {"a": 1}, "value": torch.ones(2)})
    assert path.read_bytes() == other.read_bytes()


def test_other_weights_are_not_written_over(
    photos: list[LabelledPhoto], tmp_path: Path, weights: Path
) -> None:
    weights.mkdir()
    other = weights / "delg-lite0.pt"
    other.write_bytes(b"of another training")
    with pytest.raises(FileExistsError, match=r"delg-lite0\.pt holds other weights"):
        train("delg", "lite0", photos, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "joint.pt").exists()
    settings = replace(SMALL, epochs=0.2, held_back=0)
    train("delg", "lite0", photos, tmp_path / "out", settings, replace=True)
    assert other.read_bytes() != b"of another training"


def test_bad_photos_are_named_and_all_bad_is_an_error(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    bad = [path for path, label in photos if label == "l1"]
    for path in bad:
        path.write_bytes(b"damaged")
    trained = train("delg", "lite0", photos, tmp_path / "out", replace(SMALL, held_back=0))
    assert sorted(trained.failed) == sorted(bad)
    for path, _ in photos:
        path.unlink()
    with pytest.raises(ValueError, match=r"none of the photos for validation can be read.*no such file"):
        train("delg", "lite0", photos, tmp_path / "another", SMALL, replace=True)
    with pytest.raises(ValueError, match=r"none of the photos of step 1 can be read.*no such file"):
        train("delg", "lite0", photos, tmp_path / "other", replace(SMALL, held_back=0), replace=True)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision(precision: str, photos: list[LabelledPhoto], tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=0.2, held_back=2)  # one step: what it sees is the same
    exact = train("delg", "lite0", photos, tmp_path / "exact", settings)
    mixed = train(
        "delg",
        "lite0",
        photos,
        tmp_path / "mixed",
        replace(settings, precision=precision),  # type: ignore[arg-type]
        replace=True,
    )
    assert mixed.stages["joint"].losses != exact.stages["joint"].losses
    for name, loss in exact.stages["joint"].losses.items():
        assert mixed.stages["joint"].losses[name] == pytest.approx(loss, rel=0.05)
    assert all(
        value.dtype in (torch.float32, torch.int64) for value in load_state_dict(mixed.weights).values()
    )


def test_accumulated_batches_are_one_large_batch(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    (photos[0][0]).write_bytes(b"damaged")  # so that the halves differ in size
    large = replace(
        SMALL,
        batch=12,
        optimiser="sgd",
        rate=0.005,
        backbone_rate=0.0005,
        warm_up=0,
        log_every=1,
        held_back=0,
    )
    logs = []
    for name, settings in (("large", large), ("small", replace(large, batch=4, accumulate=3))):
        train("delf", "lite0", photos, tmp_path / name, settings, replace=True)
        logs.append(
            [float(row["loss_classification"]) for row in rows(tmp_path / name / "classification.csv")]
        )
    assert len(logs[0]) == 3
    assert logs[1] == pytest.approx(logs[0], rel=1e-3)


def test_a_loss_that_is_not_finite_ends_training(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    settings = replace(SMALL, rate=1e30, backbone_rate=1e30, optimiser="sgd", epochs=3, warm_up=0)
    with pytest.raises(ValueError, match=r"loss is (nan|inf) at step \d+ of joint: train with a lower rate"):
        train("delg", "lite0", photos, tmp_path / "out", settings)


def test_too_little_memory(
    photos: list[LabelledPhoto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(training.JointTraining, "losses", losses)
    with pytest.raises(
        ValueError, match=r"cpu has too little memory for joint: make batch \(now 5\) smaller"
    ):
        train("delg", "lite0", photos, tmp_path / "out", SMALL)


def test_attention_sees_batches_at_many_scales(
    photos: list[LabelledPhoto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[torch.Tensor] = []
    losses = training.AttentionTraining.losses

    def seen(self: Any, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        shown.append(pixels)
        return losses(self, pixels, labels)

    monkeypatch.setattr(training.AttentionTraining, "losses", seen)
    settings = replace(SMALL, epochs=0.1, attention_epochs=4, attention_crop=224, held_back=0, batch=12)
    train("delf", "lite0", photos, tmp_path / "out", settings)
    sides = [pixels.shape[1] for pixels in shown]
    assert len(sides) == 12
    assert min(sides) == 160  # 0.35 of 224 pixels would be too few
    assert 190 < max(sides) <= 224
    assert all(pixels.shape[1] == pixels.shape[2] and pixels.shape[3] == 3 for pixels in shown)
    assert all(0 <= float(pixels.min()) < float(pixels.max()) <= 255 for pixels in shown)


def test_nothing_is_held_back(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    trained = train("delg", "lite0", photos, tmp_path / "out", replace(SMALL, epochs=0.2, held_back=0))
    assert trained.stages["joint"].validation == {}
    assert (trained.photos, trained.validation_photos) == (36, 0)


@pytest.mark.parametrize(
    ("method", "backbone", "start", "message"),
    [
        ("dir", "lite0", None, "'dir' cannot be trained: there are delf, delg"),
        ("delf", "vgg", None, "no backbone 'vgg': there are lite0, lite2, resnet50, resnet101"),
        ("delf", "lite0", "somewhere", "starts from the weights of its package"),
    ],
)
def test_wrong_choices(
    method: str, backbone: str, start: str | None, message: str, photos: list[LabelledPhoto], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(method, backbone, photos, tmp_path / "out", SMALL, start)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("epochs", 0, "epochs must be above 0"),
        ("batch", -1, "batch must be above 0"),
        ("warm_up", 1.0, "warm_up"),
        ("optimiser", "adam", "optimiser must be one of adamw, sgd; got 'adam'"),
        ("precision", "int8", "precision must be one of float32, bfloat16, float16"),
        ("device", "cuda:77", "no device 'cuda:77'"),
        ("device", "abacus", "no device 'abacus'"),
    ],
)
def test_wrong_settings(option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **{option: value})  # type: ignore[arg-type]


@pytest.fixture
def resnet_folder(tmp_path: Path) -> Path:
    """ResNet-50 with random weights, as a hub keeps it."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    network = transformers.AutoBackbone.from_config(transformers.ResNetConfig(out_features=["stage4"]))
    network.save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


def test_resnet(resnet_folder: Path, photos: list[LabelledPhoto], tmp_path: Path, weights: Path) -> None:
    settings = replace(
        SMALL,
        epochs=0.1,
        attention_epochs=0.1,
        crop=32,
        attention_crop=32,
        batch=2,
        held_back=0,
        optimiser="sgd",
    )
    trained = train("delf", "resnet50", photos, tmp_path / "out", settings, start=str(resnet_folder))
    assert trained.weights == weights / "delf-resnet50.pt"
    model = registry.EXTRACTORS["delf-attention"].local_model.load()  # type: ignore[attr-defined]
    assert model.model.attention is not None
    with pytest.raises(WeightsError, match="is not a ResNet-101"):
        train("delg", "resnet101", photos, tmp_path / "other", settings, start=str(resnet_folder))


def test_unknown_start(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no backbone"):
        train("delf", "resnet50", photos, tmp_path / "out", SMALL, start=str(tmp_path / "nowhere"))


def test_every_trainable_extractor_is_registered_with_its_file() -> None:
    for method, extractors in training.TRAINED.items():
        for backbone, name in extractors.items():
            configuration = registry.EXTRACTORS[name]
            files = {getattr(one, "file", "") for one in configuration.weights()}
            assert f"{method}-{backbone}.pt" in files


def test_it_learns(photos: list[LabelledPhoto], tmp_path: Path) -> None:
    settings = replace(SMALL, epochs=6, attention_epochs=6, rate=1e-2, backbone_rate=1e-3, held_back=0)
    trained = train("delf", "lite0", photos, tmp_path / "out", settings)
    assert trained.stages["classification"].losses["classification"] < 0.5 * math.log(6)
    assert trained.stages["attention"].losses["attention"] < 0.5 * math.log(6)
