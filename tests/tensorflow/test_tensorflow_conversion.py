"""Conversion of what TensorFlow itself wrote, against what TensorFlow computed.

TensorFlow's requirements clash with ours, so it has a virtual environment of its own, whose Python
LANDBRIDGE_TENSORFLOW names: `make test-tensorflow` makes it and runs these tests.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from extractor import resnet
from extractor.configuration import DelfConfiguration, DelgConfiguration, ResNetBackboneConfiguration
from extractor.conversion.convert import convert
from extractor.delf import Delf
from extractor.delg import Delg
from extractor.reduction import ReducedLocal, published_projection
from extractor.weights import StoredWeights

PYTHON = os.environ.get("LANDBRIDGE_TENSORFLOW")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="LANDBRIDGE_TENSORFLOW names no Python with TensorFlow: make test-tensorflow"
)

TOLERANCE = 1e-5
"""Of the largest value: both calculate in float32, in another order, ours with normalisation folded in."""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    script = Path(__file__).with_name("write_published.py")
    done = subprocess.run(
        [str(PYTHON), str(script), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resnet.DEPTHS, 50, (2, 3, 2, 2))


def near(found: torch.Tensor, expected: NDArray[np.float32]) -> None:
    error = np.abs(found.numpy() - expected).max() / np.abs(expected).max()
    assert found.shape == expected.shape
    assert error < TOLERANCE, error


def near_before_softplus(found: torch.Tensor, expected: NDArray[np.float32]) -> None:
    """Small scores are exponentials of what is compared; the very small ones have too few digits."""
    assert found.shape == expected.shape
    shown = expected > 1e-20
    assert shown.mean() > 0.5
    both = [scores[shown].astype(np.float64) for scores in (found.numpy(), expected)]
    logits = [scores + np.log(-np.expm1(-scores)) for scores in both]
    near(torch.from_numpy(logits[0]), logits[1])


@pytest.mark.parametrize(
    ("name", "decoded", "style"),
    [
        ("delg_slim_features", False, "slim"),
        ("delg_slim_decoded", True, "slim"),
        ("delg_keras", True, "keras"),
        ("delg_keras_thinned", True, "keras-thinned"),
    ],
)
def test_delg(published: Path, tmp_path: Path, name: str, decoded: bool, style: str) -> None:
    stored = StoredWeights(str(convert(published / name, tmp_path / "delg.pt").path), "none")
    delg = Delg(
        "delg",
        DelgConfiguration(ResNetBackboneConfiguration(50, stored), stored, local_dimension=10, dimension=48),
    )
    assert (delg.heads.decoder is not None) == decoded
    assert delg.backbone.identity["network"] == f"resnet-{style}"
    expected = np.load(published / name / "expected.npz")
    for place in range(3):
        pixels = torch.from_numpy(expected[f"image{place}"])[None]
        with torch.inference_mode():
            features, last = delg.backbone.maps(pixels, ["stage3", "stage4"])
            near(features.permute(0, 2, 3, 1), expected[f"features{place}"])
            near_before_softplus(delg.heads.score(features)[..., None], expected[f"attention{place}"])
            near(delg.heads.encoder(features).permute(0, 2, 3, 1), expected[f"local{place}"])
            whole = functional.normalize(torch.from_numpy(expected[f"global{place}"]), dim=1).numpy()
            near(delg.heads.describe(last), whole)


@pytest.mark.parametrize(("name", "model"), [("delf_slim", "model"), ("delf_keras", ".")])
def test_delf(published: Path, tmp_path: Path, name: str, model: str) -> None:
    stored = StoredWeights(str(convert(published / name, tmp_path / "delf.pt").path), "none")
    configuration = DelfConfiguration(
        ResNetBackboneConfiguration(50, stored), ("stage3",), dimension=20, attention=stored
    )
    delf = Delf(configuration)
    expected = np.load(published / name / model / "expected.npz")
    for place in range(3):
        pixels = torch.from_numpy(expected[f"image{place}"])[None]
        with torch.inference_mode():
            (features,) = delf.backbone.maps(pixels, ["stage3"])
            near(features.permute(0, 2, 3, 1), expected[f"features{place}"])
            assert delf.attention is not None
            near_before_softplus(delf.attention(features)[..., None], expected[f"attention{place}"])


def test_pca_of_delf(published: Path, tmp_path: Path) -> None:
    """It is taken over: nothing is left to learn."""
    path = convert(published / "delf_slim", tmp_path / "delf.pt").path
    projection = published_projection(path, 20)
    assert projection is not None
    assert projection.projection is not None
    assert projection.projection.shape == (64, 20)
    stored = StoredWeights(str(path), "none")
    reduced = DelfConfiguration(
        ResNetBackboneConfiguration(50, stored), ("stage3",), dimension=20, attention=stored
    ).load()
    assert isinstance(reduced, ReducedLocal)
    assert reduced.projection is not None
