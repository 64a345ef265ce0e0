"""Checkpoints of TensorFlow: read without it, and converted to networks that compute what they did.

The checkpoints are written here, byte by byte, and the networks computed here in float64 from the variables
as TensorFlow names and lays them out. `tests/tensorflow` does the same with TensorFlow itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from extractor import resnet
from extractor.configuration import DelfConfiguration, DelgConfiguration, ResNetBackboneConfiguration
from extractor.conversion.convert import convert
from extractor.conversion.crc32c import crc32c, masked_crc32c
from extractor.conversion.tensor_bundle import TensorBundle
from extractor.delf import Delf
from extractor.delg import Delg
from extractor.photo import Photo
from extractor.reduction import ReducedLocal
from extractor.resnet import stored_resnet
from extractor.weights import StoredWeights, WeightsError, load_metadata, load_state_dict

Values = dict[str, NDArray[np.float32]]

STEM, WIDTH, HIDDEN, REDUCED, EMBEDDED = 6, 4, 512, 5, 7
UNITS = (2, 3, 2, 2)


# Writing


def varint(number: int) -> bytes:
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def message(*fields: tuple[int, int | bytes | str]) -> bytes:
    """A message of Protocol Buffers."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of a LevelDB table with a restart at every third key, its trailer behind it."""
    out, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % 3 == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    out += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    return out + b"\0" + struct.pack("<I", masked_crc32c(out + b"\0"))


def table(entries: list[tuple[bytes, bytes]], size: int = 40) -> bytes:
    """A LevelDB table of blocks of so many entries."""
    out, index = b"", []
    for start in range(0, len(entries), size):
        part = block(entries[start : start + size])
        index.append(
            (entries[min(start + size, len(entries)) - 1][0], varint(len(out)) + varint(len(part) - 5))
        )
        out += part
    handles = b""
    for part in (block([]), block(index)):
        handles += varint(len(out)) + varint(len(part) - 5)
        out += part
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(folder: Path, values: Mapping[str, Any], text: bytes | None = None) -> Path:
    """A checkpoint of one shard; `text` becomes its graph of objects."""
    folder.mkdir(parents=True, exist_ok=True)
    data = b""
    entries = [(b"", message((1, 1), (3, message((1, 1)))))]
    stored = dict(values) if text is None else {**values, "_CHECKPOINTABLE_OBJECT_GRAPH": text}
    for name in sorted(stored):
        value = stored[name]
        if isinstance(value, bytes):
            kind, shape = 7, b""
            length = struct.pack("<I", masked_crc32c(struct.pack("<I", len(value))))
            raw = varint(len(value)) + length + value
            checksum = masked_crc32c(struct.pack("<I", len(value)) + length + value)
        else:
            kind = {"f": 1, "i": 9}[value.dtype.kind]
            shape = b"".join(message((2, message((1, side)))) for side in value.shape)
            raw = value.tobytes()
            checksum = masked_crc32c(raw)
        entry = message((1, kind), (2, shape), (4, len(data)), (5, len(raw)))
        entries.append((name.encode(), entry + varint(6 << 3 | 5) + struct.pack("<I", checksum)))
        data += raw
    index = folder / "variables.index"
    index.write_bytes(table(entries))
    index.with_suffix(".data-00000-of-00001").write_bytes(data)
    return index


def node(name: str, op: str, *inputs: str, **attributes: bytes) -> bytes:
    pairs = ((5, message((1, key), (2, value))) for key, value in attributes.items())
    return message((1, name), (2, op), *((3, one) for one in inputs), *pairs)


def floating(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def write_graph(path: Path, nodes: Iterable[bytes]) -> None:
    graph = message(*((1, one) for one in nodes))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(message((1, 1), (2, message((2, graph)))))


def graph_of(variables: Iterable[str], attended: str, epsilon: float = 1e-5) -> list[bytes]:
    """A graph in which each kernel is multiplied with something, the attention's with what is named."""
    nodes = [node("image", "Placeholder")]
    for name in variables:
        nodes += [node(name, "VariableV2"), node(f"{name}/read", "Identity", name)]
        if name.endswith("weights"):
            product = name.removesuffix("/weights") + "/Conv2D"
            source = attended if "score/first" in name or "compute/conv1" in name else "image"
            nodes.append(node(product, "Conv2D", f"{source}:0", f"{name}/read"))
    nodes.append(node("bn", "FusedBatchNormV3", "image", epsilon=floating(4, epsilon)))
    three = message((1, 1), (2, b"")) + floating(5, 3.0)
    nodes += [node("p", "Const", value=message((8, three))), node("gem", "Pow", "image", "p")]
    return [*nodes, node("relu", "Relu", "local/expand/Conv2D", "^bn")]


# Variables


class Maker:
    """Random variables; those of normalisations are no zeros and ones."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.values: Values = {}

    def kernel(self, name: str, *shape: int) -> None:
        scale = (2 / np.prod(shape[:-1])) ** 0.5
        self.values[name] = (self.rng.normal(size=shape) * scale).astype(np.float32)

    def vector(self, name: str, size: int) -> None:
        positive = name.endswith(("gamma", "variance"))
        values = self.rng.uniform(0.2, 1.8, size) if positive else self.rng.normal(size=size) * 0.3
        self.values[name] = values.astype(np.float32)

    def normalisation(self, scope: str, size: int) -> None:
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            self.vector(f"{scope}/{part}", size)


def slim_variables(stages: int, seed: int = 0) -> Values:
    """Of TF-Slim's ResNet, and of heads: DELF's with their published names, DELG's with names of ours."""
    make = Maker(seed)

    def convolution(scope: str, *shape: int) -> None:
        make.kernel(f"{scope}/weights", *shape)
        make.normalisation(f"{scope}/BatchNorm", shape[-1])

    convolution("resnet_v1_50/conv1", 7, 7, 3, STEM)
    inputs = STEM
    for stage in range(stages):
        width = WIDTH << stage
        for unit in range(UNITS[stage]):
            scope = f"resnet_v1_50/block{stage + 1}/unit_{unit + 1}/bottleneck_v1"
            if inputs != 4 * width:
                convolution(f"{scope}/shortcut", 1, 1, inputs, 4 * width)
            convolution(f"{scope}/conv1", 1, 1, inputs, width)
            convolution(f"{scope}/conv2", 3, 3, width, width)
            convolution(f"{scope}/conv3", 1, 1, width, 4 * width)
            inputs = 4 * width
    third = 16 * WIDTH
    first, second = (
        ("attention_block/attention/compute/conv1", "attention_block/attention/compute/conv2")
        if stages == 3
        else ("score/first", "score/second")
    )
    convolution(first, 1, 1, third, HIDDEN)
    make.kernel(f"{second}/weights", 1, 1, HIDDEN, 1)
    make.values[f"{second}/weights"] *= 0.05  # scores of about 1, not their exponentials
    make.vector(f"{second}/biases", 1)
    if stages == 4:
        for scope, shape in (
            ("local/reduce", (1, 1, third, REDUCED)),
            ("local/expand", (1, 1, REDUCED, third)),
            ("whole/embedding", (inputs, EMBEDDED)),
        ):
            make.kernel(f"{scope}/weights", *shape)
            make.vector(f"{scope}/biases", shape[-1])
    return make.values


# Computing, in float64, from the variables as they are


def convolved(x: Tensor, kernel: NDArray[np.float32], stride: int = 1, pads: tuple[int, ...] = ()) -> Tensor:
    weight = torch.from_numpy(kernel.astype(np.float64).transpose(3, 2, 0, 1))
    return functional.conv2d(functional.pad(x, pads) if pads else x, weight, stride=stride)


def normalised(x: Tensor, values: Values, scope: str, epsilon: float) -> Tensor:
    gamma, beta, mean, variance = (
        torch.from_numpy(values[f"{scope}/{part}"].astype(np.float64))[:, None, None]
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    return (x - mean) * (gamma / torch.sqrt(variance + epsilon)) + beta


def same(length: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def slim_maps(values: Values, pixels: Tensor, stages: int) -> list[Tensor]:
    """Maps of the blocks of `resnet_v1_50`; the last unit of the first three has the stride."""

    def layer(x: Tensor, scope: str, stride: int = 1, pad: int = 0) -> Tensor:
        y = convolved(x, values[f"{scope}/weights"], stride, (pad,) * 4)
        return normalised(y, values, f"{scope}/BatchNorm", 1e-5)

    x = ((pixels.double() - 128) / 128).permute(0, 3, 1, 2)
    x = functional.relu(layer(x, "resnet_v1_50/conv1", 2, 3))
    pads = (*same(x.shape[3], 3, 2), *same(x.shape[2], 3, 2))
    x = functional.max_pool2d(functional.pad(x, pads, value=-np.inf), 3, 2)
    found = []
    for stage in range(stages):
        for unit in range(UNITS[stage]):
            scope = f"resnet_v1_50/block{stage + 1}/unit_{unit + 1}/bottleneck_v1"
            stride = 2 if stage < 3 and unit == UNITS[stage] - 1 else 1
            if f"{scope}/shortcut/weights" in values:
                shortcut = layer(x, f"{scope}/shortcut", stride)
            else:
                shortcut = x[:, :, ::stride, ::stride]
            y = functional.relu(layer(x, f"{scope}/conv1"))
            y = functional.relu(layer(y, f"{scope}/conv2", stride, 1))
            x = functional.relu(shortcut + layer(y, f"{scope}/conv3"))
        found.append(x)
    return found


def biased(x: Tensor, values: Values, scope: str, kernel: str, bias: str) -> Tensor:
    offset = torch.from_numpy(values[f"{scope}/{bias}"].astype(np.float64))
    return convolved(x, values[f"{scope}/{kernel}"]) + offset[:, None, None]


def slim_scores(values: Values, seen: Tensor, first: str, second: str) -> Tensor:
    x = convolved(seen, values[f"{first}/weights"])
    x = functional.relu(normalised(x, values, f"{first}/BatchNorm", 1e-5))
    return functional.softplus(biased(x, values, second, "weights", "biases"))[:, 0]


def pooled(x: Tensor) -> Tensor:
    return x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < tolerance, error


EXACT = 1e-12
"""Both calculate in float64 from the same float32 values; only sums are in another order."""
ROUNDED = 1e-5
"""Ours calculates in float32, with normalisation folded into the convolutions."""

PIXELS = [
    torch.from_numpy(np.random.default_rng(5).integers(0, 256, (1, *size, 3), dtype=np.uint8))
    for size in ((97, 128), (70, 101), (64, 96))
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(resnet.DEPTHS, 50, UNITS)


def write_slim(folder: Path, stages: int, attended: str = "image", **graph: float) -> Values:
    values = slim_variables(stages)
    write_bundle(folder / "variables", {**values, "global_step": np.array(7, np.int64)})
    write_graph(folder / "saved_model.pb", graph_of(values, attended, **graph))
    return values


@pytest.mark.parametrize("stages", [3, 4])
def test_the_backbone_of_slim_is_exact(tmp_path: Path, stages: int) -> None:
    values = write_slim(tmp_path / "model", stages)
    network, _ = stored_resnet(convert(tmp_path / "model", tmp_path / "ours.pt").path)
    network.double()
    for pixels in PIXELS:
        x = ((pixels.double() - 128) / 128).permute(0, 3, 1, 2)
        with torch.inference_mode():
            for found, expected in zip(
                network.maps(x, stages), slim_maps(values, pixels, stages), strict=True
            ):
                near(found, expected, EXACT)


def test_delf_of_slim(tmp_path: Path) -> None:
    values = write_slim(tmp_path / "delf_gld_20190411" / "model", 3)
    make = np.random.default_rng(1)
    mean = make.normal(size=64).astype(np.float32)
    rows = make.normal(size=(64, 64)).astype(np.float32)
    for name, array in (("mean", mean), ("pca_proj_mat", rows)):
        shape = message((1, b"".join(map(varint, array.shape))))
        datum = message((1, shape), (2, message((1, array.tobytes()))))
        (tmp_path / "delf_gld_20190411" / "pca").mkdir(exist_ok=True)
        (tmp_path / "delf_gld_20190411" / "pca" / f"{name}.datum").write_bytes(datum)
    done = convert(tmp_path / "delf_gld_20190411", tmp_path / "ours.pt")
    assert done.metadata["score_threshold"] == 100
    stored = StoredWeights(str(done.path), "none")
    configuration = DelfConfiguration(
        ResNetBackboneConfiguration(50, stored),
        ("stage3",),
        score_threshold=None,
        dimension=8,
        attention=stored,
    )
    delf = Delf(configuration)
    assert delf.score_threshold == 100
    scope = "attention_block/attention/compute"
    for pixels in PIXELS:
        expected = slim_maps(values, pixels, 3)[2]
        with torch.inference_mode():
            (features,) = delf.backbone.maps(pixels, ["stage3"])
            near(features, expected, ROUNDED)
            assert delf.attention is not None
            scores = slim_scores(values, expected, f"{scope}/conv1", f"{scope}/conv2")
            near(delf.attention(features), scores, ROUNDED)

    # The published projection is taken, and nothing is left to learn.
    reduced = configuration.load()
    assert isinstance(reduced, ReducedLocal)
    assert reduced.projection is not None
    assert reduced.projection.projection is not None
    np.testing.assert_array_equal(reduced.projection.mean, mean)
    np.testing.assert_array_equal(reduced.projection.projection, rows[:8].T)


@pytest.mark.parametrize("decoded", [False, True])
def test_delg_of_slim(tmp_path: Path, decoded: bool) -> None:
    values = write_slim(tmp_path / "model", 4, "relu" if decoded else "image")
    done = convert(tmp_path / "model", tmp_path / "ours.pt")
    stored = StoredWeights(str(done.path), "none")
    delg = Delg(
        "delg",
        DelgConfiguration(
            ResNetBackboneConfiguration(50, stored),
            stored,
            local_dimension=REDUCED,
            dimension=EMBEDDED,
            power=1.0,
        ),
    )
    assert ("decoder" in done.parameters) == decoded
    for pixels in PIXELS:
        maps = slim_maps(values, pixels, 4)
        local = biased(maps[2], values, "local/reduce", "weights", "biases")
        seen = (
            functional.relu(biased(local, values, "local/expand", "weights", "biases"))
            if decoded
            else maps[2]
        )
        scores = slim_scores(values, seen, "score/first", "score/second")
        weight, bias = (
            torch.from_numpy(values[f"whole/embedding/{part}"].astype(np.float64))
            for part in ("weights", "biases")
        )
        whole = functional.normalize(pooled(maps[3]) @ weight + bias, dim=1)
        with torch.inference_mode():
            features, last = delg.backbone.maps(pixels, ["stage3", "stage4"])
            near(delg.heads.score(features), scores, ROUNDED)
            near(delg.heads.encoder(features), local, ROUNDED)
            near(delg.heads.describe(last), whole, ROUNDED)
    photo = Photo(PIXELS[0][0].numpy(), (128, 97))
    assert delg.extract(photo, "a").local.descriptors.shape[1] == REDUCED


def test_other_epsilons_and_thresholds(tmp_path: Path) -> None:
    values = write_slim(tmp_path / "r101delg_gldv2clean_20200914", 4, epsilon=2e-3)
    done = convert(tmp_path / "r101delg_gldv2clean_20200914", tmp_path / "ours.pt")
    assert done.metadata["score_threshold"] == 357.48
    backbone = done.metadata["backbone"]
    assert isinstance(backbone, dict)
    assert backbone["epsilon"] == 0.002
    variance = load_state_dict(done.path)["attention.bn1.running_var"].double()
    expected = torch.from_numpy(values["score/first/BatchNorm/moving_variance"].astype(np.float64)) + 2e-3
    near(variance + 1e-5, expected, 1e-6)


# Keras


def keras_variables(stages: int = 4, seed: int = 2) -> Values:
    """Variables by the path of attributes that leads to them."""
    make = Maker(seed)

    def layer(path: str, *shape: int) -> None:
        make.kernel(f"{path}/kernel", *shape)
        make.vector(f"{path}/bias", shape[-1])

    layer("backbone/conv1", 7, 7, 3, STEM)
    make.normalisation("backbone/bn_conv1", STEM)
    inputs = STEM
    for stage in range(stages):
        width = WIDTH << stage
        for unit in range(UNITS[stage]):
            path = f"backbone/l{stage + 2}{'abc'[unit]}"
            if unit == 0:
                layer(f"{path}/conv_shortcut", 1, 1, inputs, 4 * width)
                make.normalisation(f"{path}/bn_shortcut", 4 * width)
            for letter, kernel, before, after in (
                ("a", 1, inputs, width),
                ("b", 3, width, width),
                ("c", 1, width, 4 * width),
            ):
                layer(f"{path}/conv2{letter}", kernel, kernel, before, after)
                make.normalisation(f"{path}/bn2{letter}", after)
            inputs = 4 * width
    layer("backbone/embedding_layer", inputs, EMBEDDED)
    layer("attention/conv1", 1, 1, 16 * WIDTH, HIDDEN)
    make.normalisation("attention/bn_conv1", HIDDEN)
    layer("attention/conv2", 1, 1, HIDDEN, 1)
    make.values["attention/conv2/kernel"] *= 0.05
    layer("autoencoder/conv1", 1, 1, 16 * WIDTH, REDUCED)
    layer("autoencoder/conv2", 1, 1, REDUCED, 16 * WIDTH)
    return make.values


def keras_maps(values: Values, pixels: Tensor, thinned: bool) -> list[Tensor]:
    """Maps of blocks 3 and 4; the first convolution of the first block of a stage has the stride."""

    def layer(x: Tensor, path: str, normalisation: str, stride: int = 1, pad: int = 0) -> Tensor:
        offset = torch.from_numpy(values[f"{path}/bias"].astype(np.float64))[:, None, None]
        y = convolved(x, values[f"{path}/kernel"], stride, (pad,) * 4) + offset
        return normalised(y, values, normalisation, 1e-3)

    x = ((pixels.double() - 128) / 128).permute(0, 3, 1, 2)
    x = functional.pad(x, (*same(x.shape[3], 7, 2), *same(x.shape[2], 7, 2)))
    x = functional.max_pool2d(functional.relu(layer(x, "backbone/conv1", "backbone/bn_conv1", 2)), 3, 2)
    found = []
    for stage in range(4):
        for unit in range(UNITS[stage]):
            path = f"backbone/l{stage + 2}{'abc'[unit]}"
            stride = 2 if unit == 0 and stage > 0 and not (stage == 3 and thinned) else 1
            shortcut = x
            if unit == 0:
                shortcut = layer(x, f"{path}/conv_shortcut", f"{path}/bn_shortcut", stride)
            y = functional.relu(layer(x, f"{path}/conv2a", f"{path}/bn2a", stride))
            y = functional.relu(layer(y, f"{path}/conv2b", f"{path}/bn2b", 1, 1))
            x = functional.relu(shortcut + layer(y, f"{path}/conv2c", f"{path}/bn2c"))
        if stage == 2 and thinned:
            x = x[:, :, ::2, ::2]
        if stage >= 2:
            found.append(x)
    return found


def write_keras(folder: Path, values: Values, *more: str) -> None:
    """A SavedModel whose variables have keys without meaning, and a graph of objects that leads to them."""
    keys = {path: f"variables/{n}/.ATTRIBUTES/VARIABLE_VALUE" for n, path in enumerate(values)}
    paths = ["", "_model", *(f"_model/{path}" for path in (*values, *more))]
    paths += [path.rpartition("/")[0] for path in paths]
    paths += [path.rpartition("/")[0] for path in paths]
    numbers = {path: number for number, path in enumerate(sorted(set(paths)))}
    nodes = []
    for path in numbers:
        below = (one for one in numbers if one and one.rpartition("/")[0] == path)
        children = [message((1, numbers[one]), (2, one.rpartition("/")[2])) for one in below]
        fields: list[tuple[int, bytes]] = [(1, child) for child in children]
        key = keys.get(path.removeprefix("_model/"))
        if key is not None:
            fields.append((2, message((1, "VARIABLE_VALUE"), (2, "a name"), (3, key))))
        nodes.append(message(*fields))
    stored = {keys[path]: value for path, value in values.items()}
    write_bundle(folder / "variables", stored, message(*((1, one) for one in nodes)))


@pytest.mark.parametrize("thinned", [False, True])
def test_delg_of_keras(tmp_path: Path, thinned: bool) -> None:
    values = keras_variables()
    write_keras(tmp_path / "model", values, *["backbone/subsampling_layer"] * thinned)
    done = convert(tmp_path / "model", tmp_path / "ours.pt")
    network, _ = stored_resnet(done.path)
    network.double()
    stored = StoredWeights(str(done.path), "none")
    configuration = DelgConfiguration(
        ResNetBackboneConfiguration(50, stored), stored, local_dimension=REDUCED, dimension=EMBEDDED
    )
    delg = Delg("delg", configuration)
    for pixels in PIXELS:
        third, fourth = keras_maps(values, pixels, thinned)
        local = biased(third, values, "autoencoder/conv1", "kernel", "bias")
        seen = functional.relu(biased(local, values, "autoencoder/conv2", "kernel", "bias"))
        x = biased(seen, values, "attention/conv1", "kernel", "bias")
        x = functional.relu(normalised(x, values, "attention/bn_conv1", 1e-3))
        scores = functional.softplus(biased(x, values, "attention/conv2", "kernel", "bias"))[:, 0]
        weight, bias = (
            torch.from_numpy(values[f"backbone/embedding_layer/{part}"].astype(np.float64))
            for part in ("kernel", "bias")
        )
        with torch.inference_mode():
            maps = network.maps(((pixels.double() - 128) / 128).permute(0, 3, 1, 2), 4)
            near(maps[2], third, EXACT)
            near(maps[3], fourth, EXACT)
            features, last = delg.backbone.maps(pixels, ["stage3", "stage4"])
            near(delg.heads.score(features), scores, ROUNDED)
            near(delg.heads.encoder(features), local, ROUNDED)
            near(
                delg.heads.describe(last),
                functional.normalize(pooled(fourth) @ weight + bias, dim=1),
                ROUNDED,
            )


def test_keras_without_its_parts(tmp_path: Path) -> None:
    values = keras_variables()
    without = {name: value for name, value in values.items() if not name.startswith("autoencoder")}
    write_keras(tmp_path / "half", without)
    with pytest.raises(WeightsError, match=r"has of embedding_layer and autoencoder only one"):
        convert(tmp_path / "half", tmp_path / "ours.pt")
    write_keras(tmp_path / "more", {**values, "attention/conv3/kernel": np.zeros((1, 1), np.float32)})
    with pytest.raises(WeightsError, match=r"holds variables/\d+/.*, for which this network has no place"):
        convert(tmp_path / "more", tmp_path / "ours.pt")
    write_keras(tmp_path / "other", {"dense/kernel": np.zeros((1, 1), np.float32)})
    with pytest.raises(WeightsError, match="no object with a backbone and an attention"):
        convert(tmp_path / "other", tmp_path / "ours.pt")
    del values["backbone/l3b/bn2c/beta"]
    write_keras(tmp_path / "less", values)
    with pytest.raises(
        WeightsError, match="an object should have beta, and has gamma, moving_mean, moving_v"
    ):
        convert(tmp_path / "less", tmp_path / "ours.pt")


# Reading


def test_crc32c() -> None:
    """Values of RFC 3720, B.4, and the mask of LevelDB undone."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(bytes([255] * 32)) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    turned = (masked_crc32c(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (turned >> 17 | turned << 15) & 0xFFFFFFFF == 0xE3069283


def test_a_bundle_of_many_variables(tmp_path: Path) -> None:
    """More than a block holds, with long common beginnings, empty and scalar ones."""
    rng = np.random.default_rng(0)
    values = {f"scope/name{n}/weights": rng.normal(size=(n % 4, 3)).astype(np.float32) for n in range(150)}
    values["step"] = np.array(9, np.int64)
    bundle = TensorBundle(write_bundle(tmp_path, values, b"objects"))
    assert bundle.names == sorted([*values, "_CHECKPOINTABLE_OBJECT_GRAPH"])
    for name, value in values.items():
        assert bundle.shape(name) == value.shape
        np.testing.assert_array_equal(bundle.array(name), value)
    assert bundle.text("_CHECKPOINTABLE_OBJECT_GRAPH") == b"objects"
    with pytest.raises(WeightsError, match="is not one string"):
        bundle.text("step")
    with pytest.raises(WeightsError, match="is of the type 7, which no weights are of"):
        bundle.array("_CHECKPOINTABLE_OBJECT_GRAPH")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("file", "spoil", "complaint"),
    [
        ("variables/variables.index", cut, r"variables\.index is no index .* its end is missing; download"),
        ("variables/variables.index", flip, r"variables\.index is no index .*checksum of the block at byte"),
        ("variables/variables.index", empty, r"variables\.index is no index of a TensorFlow checkpoint"),
        ("variables/variables.data-00000-of-00001", cut, r"00001 is cut off: .* should end at byte \d+, and"),
        (
            "variables/variables.data-00000-of-00001",
            flip,
            r"00001 is damaged: the checksum of attention.* wrong",
        ),
        ("variables/variables.data-00000-of-00001", Path.unlink, r"cannot read .*00001: No such file"),
        ("saved_model.pb", cut, r"saved_model\.pb is no SavedModel: it is cut off; download it again"),
        ("saved_model.pb", empty, r"saved_model\.pb is no SavedModel: it holds no graph"),
        ("saved_model.pb", Path.unlink, r"cannot read .*saved_model\.pb: No such file"),
        ("variables/variables.index", Path.unlink, r"should hold one checkpoint.* and has none"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, spoil: Callable[[Path], None], complaint: str) -> None:
    write_slim(tmp_path / "model", 3)
    spoil(tmp_path / "model" / file)
    with pytest.raises(WeightsError, match=complaint):
        convert(tmp_path / "model", tmp_path / "ours.pt")
    assert not (tmp_path / "ours.pt").exists()


def change(values: Values, **changes: NDArray[np.float32] | None) -> Values:
    changed: dict[str, Any] = {**values, **{name.replace("__", "/"): v for name, v in changes.items()}}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("stages", "changes", "complaint"),
    [
        (
            3,
            {"resnet_v1_50__conv1__BatchNorm__beta": None},
            "has no variable resnet_v1_50/conv1/BatchNorm/beta",
        ),
        (
            3,
            {"other__weights": np.ones((3, 3, 2, 2), np.float32)},
            "holds other/weights, for which this network",
        ),
        (
            4,
            {"whole__embedding__weights": None},
            "should hold one kernel from 128 to any channels, for the whit",
        ),
        (4, {"more__weights": np.ones((9, 4), np.float32)}, "holds more/weights, for which this network"),
        (
            4,
            {"more__weights": np.ones((128, 9), np.float32)},
            "holds more/weights, whole/embedding/weights: it",
        ),
        (
            4,
            {"score__first__BatchNorm__moving_mean": None},
            "should hold one moving_mean of 512 values beside",
        ),
        (3, {"resnet_v1_50__conv1__weights": np.full((7, 7, 3, STEM), np.nan, np.float32)}, "a value of res"),
    ],
)
def test_other_variables(tmp_path: Path, stages: int, changes: dict[str, Any], complaint: str) -> None:
    values = write_slim(tmp_path / "model", stages)
    write_bundle(tmp_path / "model" / "variables", change(values, **changes))
    with pytest.raises(WeightsError, match=complaint):
        convert(tmp_path / "model", tmp_path / "ours.pt")


def test_what_training_leaves_is_not_missed(tmp_path: Path) -> None:
    values = write_slim(tmp_path / "model", 3)
    before = convert(tmp_path / "model", tmp_path / "before.pt").path
    more = {
        "attention_block/logits/weights": np.ones((1, 1, 64, 9), np.float32),
        "resnet_v1_50/conv1/weights/Momentum": np.ones((7, 7, 3, STEM), np.float32),
        "resnet_v1_50/conv1/weights/RMSProp_1": np.ones((7, 7, 3, STEM), np.float32),
    }
    write_bundle(tmp_path / "model" / "variables", {**values, **more}, b"objects")
    after = convert(tmp_path / "model", tmp_path / "after.pt").path
    assert before.read_bytes() == after.read_bytes()


@pytest.mark.parametrize(
    ("place", "stride"), [("block2/unit_3", 1), ("block2/unit_1", 2), ("block4/unit_2", 2)]
)
def test_strides_that_are_elsewhere(tmp_path: Path, place: str, stride: int) -> None:
    values = write_slim(tmp_path / "model", 4)
    nodes = graph_of(values, "image")
    name = f"resnet_v1_50/{place}/bottleneck_v1/conv2"
    for value in (stride, 3 - stride):
        told = message((1, message((3, bytes([1, value, value, 1])))))
        convolution = node(f"{name}/Conv2D", "Conv2D", "image", f"{name}/weights/read", strides=told)
        write_graph(tmp_path / "model" / "saved_model.pb", [*nodes, convolution])
        if value == stride:
            with pytest.raises(
                WeightsError, match=rf"has the strides \[.*\] in {place[:5]} {place[5]}, unlike"
            ):
                convert(tmp_path / "model", tmp_path / "ours.pt")
        else:
            assert convert(tmp_path / "model", tmp_path / "ours.pt").written


def test_powers_of_pooling(tmp_path: Path) -> None:
    values = write_slim(tmp_path / "model", 4)
    for exponents, power in (((2.5,), 2.5), ((2.0, 3.0), 3.0), ((), 3.0), ((2.0, 2.5), None)):
        nodes = [one for one in graph_of(values, "image") if b"Pow" not in one]
        for number, exponent in enumerate(exponents):
            value = message((8, message((1, 1), (2, b"")) + floating(5, exponent)))
            nodes += [
                node(f"p{number}", "Const", value=value),
                node(f"g{number}", "Pow", "image", f"p{number}"),
            ]
        write_graph(tmp_path / "model" / "saved_model.pb", nodes)
        target = tmp_path / f"{exponents}.pt"
        if power is None:
            with pytest.raises(WeightsError, match=r"saved_model\.pb has powers: 2\.0, 2\.5"):
                convert(tmp_path / "model", target)
        else:
            assert convert(tmp_path / "model", target).metadata["power"] == power


def test_what_is_no_such_network(tmp_path: Path) -> None:
    write_bundle(tmp_path / "model" / "variables", {"dense/kernel": np.ones((2, 2), np.float32)})
    with pytest.raises(
        WeightsError, match="is neither of TF-Slim's ResNet nor of Keras objects: it holds dense"
    ):
        convert(tmp_path / "model", tmp_path / "ours.pt")
    write_slim(tmp_path / "delf", 3)
    stored = StoredWeights(str(convert(tmp_path / "delf", tmp_path / "delf.pt").path), "none")
    with pytest.raises(WeightsError, match=r"delf\.pt holds a ResNet of \(2, 3, 2\) blocks, not ResNet-101"):
        ResNetBackboneConfiguration(101, stored).load()
    assert load_metadata(tmp_path / "delf.pt")["backbone"]["style"] == "slim"
