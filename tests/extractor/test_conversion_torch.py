"""Checkpoints of cnnimageretrieval-pytorch and deep-image-retrieval, against the published architectures.

The networks are computed here in float64 from the state dicts as published.
"""

from __future__ import annotations

import math
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extractor.configuration import RetrievalNetworkConfiguration
from extractor.conversion.convert import convert
from extractor.conversion.torch_checkpoint import load_checkpoint
from extractor.imagenet import DEVIATION, MEAN
from extractor.photo import Photo
from extractor.resnet import stored_resnet
from extractor.retrieval_network import RetrievalNetwork
from extractor.weights import StoredWeights, WeightsError, load_metadata

UNITS = (2, 1, 2, 1)
WIDTH = 4
CHANNELS = 128

State = dict[str, Tensor]


# Published networks with random weights


def linear(generator: torch.Generator, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    return weight, torch.randn(outputs, generator=generator) * 0.1


def resnet_state(seed: int, names: tuple[str, ...]) -> State:
    """A ResNet in the names of torchvision; `names` of conv1, bn1, and the four layers."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        scale = (2 / (inputs * kernel**2)) ** 0.5
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * scale

    def normalisation(name: str, size: int) -> None:
        for part in ("weight", "running_var"):
            state[f"{name}.{part}"] = torch.rand(size, generator=generator) * 1.5 + 0.2
        for part in ("bias", "running_mean"):
            state[f"{name}.{part}"] = torch.randn(size, generator=generator) * 0.3
        state[f"{name}.num_batches_tracked"] = torch.tensor(12)

    convolution(names[0], WIDTH, 3, 7)
    normalisation(names[1], WIDTH)
    inputs = WIDTH
    for stage, units in enumerate(UNITS):
        width = WIDTH << stage
        for unit in range(units):
            block = f"{names[2 + stage]}.{unit}"
            for number, (before, after, kernel) in enumerate(
                ((inputs, width, 1), (width, width, 3), (width, 4 * width, 1)), start=1
            ):
                convolution(f"{block}.conv{number}", after, before, kernel)
                normalisation(f"{block}.bn{number}", after)
            if unit == 0:
                convolution(f"{block}.downsample.0", 4 * width, inputs, 1)
                normalisation(f"{block}.downsample.1", 4 * width)
            inputs = 4 * width
    return state


def resnet_map(state: State, names: tuple[str, ...], x: Tensor) -> Tensor:
    def layer(x: Tensor, convolution: str, normalisation: str, stride: int = 1, pad: int = 0) -> Tensor:
        y = functional.conv2d(x, state[f"{convolution}.weight"].double(), stride=stride, padding=pad)
        parts = (f"{normalisation}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
        mean, variance, weight, bias = (state[part].double()[:, None, None] for part in parts)
        return (y - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    x = functional.relu(layer(x, names[0], names[1], 2, 3))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, units in enumerate(UNITS):
        for unit in range(units):
            block = f"{names[2 + stage]}.{unit}"
            stride = 2 if stage > 0 and unit == 0 else 1
            shortcut = x
            if unit == 0:
                shortcut = layer(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            y = functional.relu(layer(x, f"{block}.conv1", f"{block}.bn1"))
            y = functional.relu(layer(y, f"{block}.conv2", f"{block}.bn2", stride, 1))
            x = functional.relu(shortcut + layer(y, f"{block}.conv3", f"{block}.bn3"))
    return x


VGG = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256))
VGG += ((17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512), (26, 512, 512), (28, 512, 512))


def vgg_state(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for place, inputs, outputs in VGG:
        scale = (2 / (inputs * 9)) ** 0.5
        state[f"features.{place}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * scale
        state[f"features.{place}.bias"] = torch.randn(outputs, generator=generator) * 0.1
    return state


def vgg_map(state: State, x: Tensor) -> Tensor:
    for place, *_ in VGG:
        if place in (5, 10, 17, 24):
            x = functional.max_pool2d(x, 2)
        weight, bias = (state[f"features.{place}.{part}"].double() for part in ("weight", "bias"))
        x = functional.relu(functional.conv2d(x, weight, bias, padding=1))
    return x


def unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + 1e-6)


def gem(x: Tensor, power: float) -> Tensor:
    return x.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power)


def boxes(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """Regions as the toolbox lays them out: float arithmetic, centres, and all."""
    shorter = min(height, width)
    step = [(max(height, width) - shorter) / (n - 1) for n in range(2, 8)]
    more = min(range(6), key=lambda n: abs((shorter**2 - shorter * step[n]) / shorter**2 - 0.4)) + 1
    found = []
    for level in range(1, levels + 1):
        side = math.floor(2 * shorter / (level + 1))
        half = math.floor(side / 2 - 1)
        centres = []
        for length, extra in ((height, more * (height > width)), (width, more * (width > height))):
            count = level + extra
            gap = 0 if count == 1 else (length - side) / (count - 1)
            centres.append([math.floor(half + n * gap) - half for n in range(count)])
        found += [(row, column, side) for row in centres[0] for column in centres[1] if side]
    return found


FEATURES = ("features.0", "features.1", "features.4", "features.5", "features.6", "features.7")
NAVER = ("module.conv1", "module.bn1", *(f"module.layer{n}" for n in (1, 2, 3, 4)))
PHOTOS = [
    Photo(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8), (size[1], size[0]))
    for seed, size in enumerate(((96, 128), (117, 90)))
]


def as_input(photo: Photo) -> Tensor:
    pixels = torch.from_numpy(photo.pixels.copy()).double() / 255
    return ((pixels - torch.tensor(MEAN).double()) / torch.tensor(DEVIATION).double()).permute(2, 0, 1)[None]


def described(path: Path, sides: tuple[int, ...] = (128,)) -> Callable[[Photo], NDArray[np.float32]]:
    return RetrievalNetwork(RetrievalNetworkConfiguration(StoredWeights(str(path), "none"), sides)).describe


def close(found: NDArray[np.float32], expected: Tensor) -> None:
    """Ours is float32, with normalisation folded in; theirs adds 1e-6 to each norm before it divides."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 / len(expected) ** 0.5, rtol=1e-5)


def meta(architecture: str, pooling: str, **more: Any) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "pooling": pooling,
        "mean": list(MEAN),
        "std": list(DEVIATION),
        **more,
    }


# cnnimageretrieval


def test_gem_with_learned_whitening(tmp_path: Path) -> None:
    state = resnet_state(0, FEATURES)
    rng = np.random.default_rng(0)
    whitenings = {
        name: {
            kind: {"m": rng.normal(size=(CHANNELS, 1)) * 0.1, "P": rng.normal(size=(CHANNELS, CHANNELS))}
            for kind in ("ss", "ms")
        }
        for name in ("retrieval-SfM-30k", "retrieval-SfM-120k")
    }
    checkpoint = {
        "meta": meta("resnet101", "gem", outputdim=CHANNELS, Lw=whitenings),
        "state_dict": {**state, "pool.p": torch.tensor([2.9])},
    }
    torch.save(checkpoint, tmp_path / "net.pth")
    path = convert(tmp_path / "net.pth", tmp_path / "ours.pt").path
    describe = described(path)
    taken = whitenings["retrieval-SfM-120k"]["ss"]
    network, _ = stored_resnet(path)
    for photo in PHOTOS:
        x = as_input(photo)
        features = resnet_map(state, FEATURES, x)
        torch.testing.assert_close(network.double().maps(x, 4)[3], features, rtol=1e-11, atol=1e-11)
        vector = unit(gem(features, float(np.float32(2.9)))[0]).numpy()[:, None]
        close(describe(photo), unit(torch.from_numpy(taken["P"] @ (vector - taken["m"]))[:, 0]))


def test_gem_with_a_whitening_layer_at_two_sizes(tmp_path: Path) -> None:
    state = resnet_state(1, FEATURES)
    weight, bias = linear(torch.Generator().manual_seed(3), CHANNELS, CHANNELS)
    tensors = {**state, "pool.p": torch.tensor([3.0]), "whiten.weight": weight, "whiten.bias": bias}
    torch.save(
        {"meta": meta("resnet50", "gem", whitening=True, regional=False), "state_dict": tensors, "epoch": 9},
        tmp_path / "net.pth",
    )
    describe = described(convert(tmp_path / "net.pth", tmp_path / "ours.pt").path, (128, 64))
    for photo in PHOTOS:
        total = torch.zeros(CHANNELS, dtype=torch.float64)
        for side in (128, 64):
            small = photo.reduced(side)
            vector = unit(gem(resnet_map(state, FEATURES, as_input(small)), 3)[0])
            total += unit(weight.double() @ vector + bias.double())
        close(describe(photo), unit(total / 2))


@pytest.mark.parametrize("pooling", ["mac", "spoc"])
def test_vgg16(tmp_path: Path, pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path / "weights"))
    state = vgg_state(0)
    torch.save({"meta": meta("vgg16", pooling), "state_dict": state}, tmp_path / "net.pth")
    path = convert(tmp_path / "net.pth").path
    assert path == tmp_path / "weights" / {"mac": "siamac-vgg16.pt", "spoc": "spoc-vgg16.pt"}[pooling]
    describe = described(path)
    for photo in PHOTOS:
        features = vgg_map(state, as_input(photo))
        close(
            describe(photo), unit((features.amax((2, 3)) if pooling == "mac" else features.mean((2, 3)))[0])
        )


def test_rmac(tmp_path: Path) -> None:
    """Regions are summed before the layer of whitening sees them."""
    state = resnet_state(2, FEATURES)
    weight, bias = linear(torch.Generator().manual_seed(4), CHANNELS, CHANNELS)
    tensors = {**state, "whiten.weight": weight, "whiten.bias": bias}
    torch.save(
        {"meta": meta("resnet50", "rmac", whitening=True), "state_dict": tensors}, tmp_path / "net.pth"
    )
    describe = described(convert(tmp_path / "net.pth", tmp_path / "ours.pt").path)
    for photo in PHOTOS:
        features = resnet_map(state, FEATURES, as_input(photo))
        total = unit(features.amax((2, 3))[0])
        for row, column, side in boxes(*features.shape[2:], 3):
            part = features[:, :, row : row + side, column : column + side]
            total = total + unit(part.amax((2, 3))[0])
        close(describe(photo), unit(weight.double() @ unit(total) + bias.double()))


def test_regional_gem(tmp_path: Path) -> None:
    """Each region is whitened, then their sum is."""
    state = resnet_state(3, FEATURES)
    generator = torch.Generator().manual_seed(5)
    region, whole = (linear(generator, CHANNELS, CHANNELS) for _ in range(2))
    tensors = {**state, "pool.rpool.p": torch.tensor([2.5])}
    for name, (weight, bias) in (("pool.whiten", region), ("whiten", whole)):
        tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
    torch.save(
        {"meta": meta("resnet50", "gem", whitening=True, regional=True), "state_dict": tensors},
        tmp_path / "net.pth",
    )
    describe = described(convert(tmp_path / "net.pth", tmp_path / "ours.pt").path)
    for photo in PHOTOS:
        features = resnet_map(state, FEATURES, as_input(photo))
        height, width = features.shape[2:]
        places = [(0, 0, height, width)]
        places += [(row, column, side, side) for row, column, side in boxes(height, width, 3)]
        total = torch.zeros(CHANNELS, dtype=torch.float64)
        for row, column, rows, columns in places:
            part = features[:, :, row : row + rows, column : column + columns]
            total += unit(region[0].double() @ unit(gem(part, 2.5)[0]) + region[1].double())
        close(describe(photo), unit(whole[0].double() @ unit(total) + whole[1].double()))


@pytest.mark.parametrize(
    ("changes", "tensors", "complaint"),
    [
        ({"architecture": "alexnet"}, {}, "is of alexnet; known are vgg16, resnet50, resnet101, resnet152"),
        ({"pooling": "netvlad"}, {}, r"pools by netvlad; known are gem, mac, rmac, spoc"),
        ({}, {"pool.p": torch.ones(9)}, "has a power of its own for each of 9 channels"),
        ({"local_whitening": True}, {"lwhiten.weight": torch.ones(2, 2)}, "holds lwhiten.weight, for which"),
        ({"whitening": True}, {}, r"has no variable whiten\.weight"),
    ],
)
def test_networks_that_are_not_known(
    tmp_path: Path, changes: dict[str, Any], tensors: State, complaint: str
) -> None:
    state = {**resnet_state(0, FEATURES), "pool.p": torch.tensor([3.0]), **tensors}
    torch.save({"meta": {**meta("resnet50", "gem"), **changes}, "state_dict": state}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=complaint):
        convert(tmp_path / "net.pth", tmp_path / "ours.pt")


def test_vgg16_of_other_colours(tmp_path: Path) -> None:
    told = {**meta("vgg16", "mac"), "mean": [0.5, 0.5, 0.5]}
    torch.save({"meta": told, "state_dict": vgg_state(0)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"expects other colours than our VGG16: \(0.5, 0.5, 0.5\)"):
        convert(tmp_path / "net.pth", tmp_path / "ours.pt")


# deep-image-retrieval


@pytest.fixture
def scikit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], type]:
    """A class that pickles as one of the modules of others does, without these modules."""

    def make(full: str) -> type:
        module, _, name = full.rpartition(".")
        made = type(name, (), {"__module__": module})
        for end in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:end])
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        setattr(sys.modules[module], name, made)
        return made

    return make


def naver_checkpoint(make: Callable[[str], type], pca: str, **options: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    state = resnet_state(4, NAVER)
    weight, bias = linear(torch.Generator().manual_seed(6), CHANNELS, CHANNELS)
    learned = make(pca)()
    learned.__dict__.update(
        mean_=rng.normal(size=CHANNELS).astype(np.float32) * 0.05,
        components_=np.asfortranarray(rng.normal(size=(CHANNELS, CHANNELS))),
        explained_variance_=rng.uniform(0.01, 2, CHANNELS),
        noise_variance_=np.float64(0.5),
        whiten=True,
        n_components=None,
        svd_solver="full",
    )
    tensors = {**state, "module.fc.weight": weight, "module.fc.bias": bias}
    if options.get("pooling", "gem") == "gem":
        tensors["module.adpool.p"] = torch.tensor([2.4])
    return {
        "state_dict": tensors,
        "model_options": {"arch": "resnet101_rmac", "out_dim": CHANNELS, "gemp": 3, **options},
        "preprocess": {"mean": list(MEAN), "std": list(DEVIATION), "input_size": 224},
        "pca": {"Landmarks_clean": learned},
        "current_iter": 296,
        "watch": make("utils.watcher.AverageMeter")(),
    }


@pytest.mark.parametrize("pca", ["sklearn.decomposition.pca.PCA", "sklearn.decomposition._pca.PCA"])
@pytest.mark.parametrize("zipped", [False, True])
def test_dir(tmp_path: Path, scikit: Callable[[str], type], pca: str, zipped: bool) -> None:
    checkpoint = naver_checkpoint(scikit, pca, pooling="gem")
    torch.save(checkpoint, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    learned = vars(checkpoint["pca"]["Landmarks_clean"])
    state = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
    describe = described(convert(tmp_path / "net.pt", tmp_path / "ours.pt").path)
    names = tuple(name.removeprefix("module.") for name in NAVER)
    for photo in PHOTOS:
        features = resnet_map(state, names, as_input(photo))
        pooled = gem(features, float(np.float32(2.4)))[0]
        vector = functional.normalize(state["fc.weight"].double() @ pooled + state["fc.bias"].double(), dim=0)
        mapped = (vector.numpy() - learned["mean_"]) @ learned["components_"].T
        mapped /= learned["explained_variance_"] ** 0.25
        close(describe(photo), torch.from_numpy(mapped / np.linalg.norm(mapped)))


@pytest.mark.parametrize("unit_features", [False, True])
def test_dir_with_mac_and_without_whitening(
    tmp_path: Path, scikit: Callable[[str], type], unit_features: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path))
    checkpoint = naver_checkpoint(
        scikit, "sklearn.decomposition.pca.PCA", pooling="max", norm_features=unit_features
    )
    del checkpoint["pca"]
    torch.save(checkpoint, tmp_path / "net.pt")
    state = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
    path = convert(tmp_path / "net.pt").path
    assert path == tmp_path / "dir-resnet101.pt"
    assert load_metadata(path)["pooling"] == {"power": None, "levels": 0, "unit": unit_features}
    names = tuple(name.removeprefix("module.") for name in NAVER)
    for photo in PHOTOS:
        pooled = resnet_map(state, names, as_input(photo)).amax((2, 3))[0]
        pooled = functional.normalize(pooled, dim=0) if unit_features else pooled
        expected = state["fc.weight"].double() @ pooled + state["fc.bias"].double()
        close(described(path)(photo), functional.normalize(expected, dim=0))


def test_dir_that_is_not_known(tmp_path: Path, scikit: Callable[[str], type]) -> None:
    for options, complaint in (
        ({"arch": "resnet101_fpn_rmac"}, "is of resnet101_fpn_rmac; known are resnet50_rmac"),
        ({"pooling": "other"}, "pools by other; known are gem, max, avg"),
    ):
        checkpoint = naver_checkpoint(scikit, "sklearn.decomposition.pca.PCA", **options)
        torch.save(checkpoint, tmp_path / "net.pt")
        with pytest.raises(WeightsError, match=complaint):
            convert(tmp_path / "net.pt", tmp_path / "ours.pt")
    torch.save({"weights": torch.ones(2)}, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"neither of cnnimageretrieval-pytorch nor .*: it holds weights"):
        convert(tmp_path / "net.pt", tmp_path / "ours.pt")


# Reading


class Runs:
    """Pickles as a call."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "net.pt", tmp_path / "mark"
    torch.save({"a": Runs(os.mkdir, str(mark))}, path)
    with pytest.raises(WeightsError, match=r"cannot read .*net\.pt: .*posix"):
        load_checkpoint(path)
    assert not mark.exists()
    torch.save({"a": Runs(np.frombuffer, b"12345678")}, path)
    with pytest.raises(WeightsError, match=r"cannot read .*frombuffer"):
        load_checkpoint(path)
    torch.save({"a": np.array(["text"])}, path)
    with pytest.raises(WeightsError, match="it asks for an array of 'U4'"):
        load_checkpoint(path)
    torch.save({"a": np.array([{}], object)}, path)
    with pytest.raises(WeightsError, match="it asks for an array of 'O8'"):
        load_checkpoint(path)


def test_arrays_of_a_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "c": rng.normal(size=(3, 4)),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32)),
        "big": rng.integers(0, 9, (2, 2)).astype(">i4"),
        "empty": np.zeros((0, 3)),
    }
    torch.save({"arrays": arrays, "number": np.float32(1.5), "list": [arrays["c"]]}, tmp_path / "net.pt")
    found = load_checkpoint(tmp_path / "net.pt")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found["arrays"][name], array)
    np.testing.assert_array_equal(found["list"][0], arrays["c"])
    assert found["number"] == 1.5


def test_checkpoints_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"a": torch.ones(1000)}, path)
    data = path.read_bytes()
    for spoiled in (data[:-100], data[:50], b"", b"<html>not found</html>"):
        path.write_bytes(spoiled)
        with pytest.raises(
            WeightsError, match=r"cannot read .*net\.pt: .*Download it again if it is cut off"
        ):
            load_checkpoint(path)
    with pytest.raises(WeightsError, match=r"cannot read .*other\.pt: No such file"):
        load_checkpoint(tmp_path / "other.pt")
    torch.save(torch.ones(2), path)
    with pytest.raises(WeightsError, match=r"net\.pt is no checkpoint, but a Tensor"):
        load_checkpoint(path)
