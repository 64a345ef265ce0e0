from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from extractor import network_model
from extractor.configuration import (
    AlikedConfiguration,
    DelfConfiguration,
    DelgConfiguration,
    GlobalLocalConfiguration,
    LiteBackboneConfiguration,
    LiteGlobalConfiguration,
    RetrievalNetworkConfiguration,
    RootSiftConfiguration,
    Vgg16BackboneConfiguration,
    WhitenedGlobalConfiguration,
    XFeatConfiguration,
)
from extractor.delg import DelgHeads
from extractor.extractor import Extractor, StackingExtractor
from extractor.features import ImageFeatures
from extractor.network_model import NetworkModel, place
from extractor.photo import Photo, PhotoError
from extractor.pyramid import Level, Pyramid
from extractor.vgg import Vgg16
from extractor.weights import ALIKED, StoredWeights, WeightsError, packed_weights
from extractor.whitening import Whitening

Texture = Callable[..., NDArray[np.uint8]]
LITE = LiteGlobalConfiguration(variant=0, sides=(96, 128))
BACKBONE = LiteBackboneConfiguration(0)


def as_photo(pixels: NDArray[np.uint8], reduced: float = 1) -> Photo:
    """A photo that was perhaps reduced so many times."""
    pixels = np.ascontiguousarray(pixels)
    return Photo(pixels, (round(reduced * pixels.shape[1]), round(reduced * pixels.shape[0])))


class Ends(NetworkModel[int]):
    """Gives the last pixel of a photo, and keeps which photos were run together."""

    def __init__(self) -> None:
        self.stacks: list[int] = []

    def move(self, device: str, dtype: torch.dtype) -> None:
        self.moved = device, dtype

    def prepare(self, photo: Photo) -> Pyramid:
        return Pyramid(photo.size, (Level(photo.pixels, (photo.pixels.shape[1], photo.pixels.shape[0])),))

    def run_stack(self, pyramids: Sequence[Pyramid]) -> list[int]:
        assert torch.is_inference_mode_enabled()
        assert len({pyramid.shape for pyramid in pyramids}) == 1
        self.stacks.append(len(pyramids))
        return [int(pyramid.levels[0].pixels[-1, -1, 0]) for pyramid in pyramids]


def test_photos_of_one_size_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Ends()
    shapes = [(2, 3), (3, 2), (2, 3), (2, 3), (3, 2), (1, 1), (2, 3)]
    prepared = [model.prepare(as_photo(np.full((*s, 3), i, np.uint8))) for i, s in enumerate(shapes)]
    assert model.run(prepared) == list(range(7))
    assert model.stacks == [4, 2, 1]
    monkeypatch.setattr(network_model, "STACK_PIXELS", 19)
    model.stacks.clear()
    assert model.run(prepared) == list(range(7))
    assert model.stacks == [3, 1, 2, 1]
    assert model.run([]) == []


def test_devices_and_types() -> None:
    model = Ends()
    assert model.to("cpu", "bfloat16") is model
    assert (model.moved, model.device) == (("cpu", torch.bfloat16), "cpu")
    for wrong in ("gpu", "mps", "meta", "cpu:0", ""):
        with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:NUMBER, got"):
            model.to(wrong)
    with pytest.raises(ValueError, match=r"there is no device cuda:99: PyTorch finds \d+ of CUDA"):
        model.to("cuda:99")
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16; got 'int8'"):
        model.to("cpu", "int8")


def test_placing_changes_no_value() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 4, 1, stride=2)
    )
    x = torch.rand(2, 3, 17, 20)
    expected = network(x)
    place(network)
    torch.testing.assert_close(network(x), expected)
    assert network[0].dilation == (1, 1)
    place(network, "cpu", torch.bfloat16)
    assert network(x.to(torch.bfloat16)).dtype == torch.bfloat16


def _delg(folder: Path) -> DelgConfiguration:
    torch.manual_seed(5)
    torch.save(DelgHeads(80, 192, 16, 24, 3.0).state_dict(), folder / "delg.pt")
    return DelgConfiguration(
        BACKBONE,
        StoredWeights("delg.pt", "none"),
        "stage4",
        "stage6",
        longest_side=160,
        local_scales=(0.5, 1.0, 1.4142),
        global_scales=(0.7071, 1.0),
        dimension=24,
        local_dimension=16,
    )


def _vgg(folder: Path) -> StoredWeights:
    torch.manual_seed(0)
    network = Vgg16()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    state |= {"whitening.mean": torch.rand(512), "whitening.projection": torch.randn(512, 9)}
    metadata = {"backbone": {"style": "vgg16"}, "pooling": {"power": 3.0, "levels": 2, "unit": True}}
    (folder / "vgg.pt").write_bytes(packed_weights(state, metadata))
    return StoredWeights("vgg.pt", "none")


def _rmac(folder: Path) -> Extractor:
    stored = _vgg(folder)
    backbone = Vgg16BackboneConfiguration(stored)
    model = WhitenedGlobalConfiguration(backbone, "conv5_3", sides=(96, 160), dimension=9)
    made = GlobalLocalConfiguration(model, XFeatConfiguration(sides=(160,))).load("rmac")
    made.global_model.projection = Whitening(np.full(512, 0.01, np.float32), np.eye(512, 9, dtype=np.float32))
    return made


def _gem(folder: Path) -> GlobalLocalConfiguration:
    model = RetrievalNetworkConfiguration(_vgg(folder), sides=(96, 160))
    return GlobalLocalConfiguration(model, XFeatConfiguration(sides=(160,)))


def create(name: str, folder: Path) -> Extractor:
    """The registered kinds at small sizes, over networks that are here or have random weights."""
    delf = DelfConfiguration(BACKBONE, longest_side=256, scales=(0.5, 1.0, 1.4142), dimension=None)
    kinds: dict[str, Callable[[], Extractor]] = {
        "xfeat": lambda: GlobalLocalConfiguration(LITE, XFeatConfiguration(sides=(256, 128))).load(name),
        "delf": lambda: GlobalLocalConfiguration(LITE, delf).load(name),
        "delg": lambda: _delg(folder).load(name),
        "rmac": lambda: _rmac(folder),
        "gem": lambda: _gem(folder).load(name),
        "aliked": lambda: GlobalLocalConfiguration(LITE, AlikedConfiguration(longest_side=128)).load(name),
        "sift": lambda: GlobalLocalConfiguration(LITE, RootSiftConfiguration(dimension=None)).load(name),
    }
    return kinds[name]()


@pytest.fixture(params=["xfeat", "delf", "delg", "rmac", "gem", "aliked", "sift"])
def extractor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StackingExtractor:
    if request.param == "aliked":
        try:
            ALIKED["n16"].path()
        except WeightsError as error:
            pytest.skip(str(error))
    monkeypatch.setenv("LANDBRIDGE_WEIGHTS", str(tmp_path))
    made = create(request.param, tmp_path)
    assert isinstance(made, StackingExtractor)
    return made


@pytest.fixture
def stacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of an accelerator; the networks stay on the processor."""
    monkeypatch.setattr(StackingExtractor, "stacks", True)


@pytest.fixture
def photos(texture: Texture) -> list[tuple[str, Photo]]:
    """Of three sizes, mixed; the last has the pixels of the first and was reduced from a larger original."""
    sizes = [(120, 160), (100, 130), (120, 160), (40, 50), (120, 160), (100, 130)]
    made = [(f"photo {n}", as_photo(texture(*size, seed=n))) for n, size in enumerate(sizes)]
    return [*made, ("large", as_photo(texture(120, 160, seed=0), reduced=2.5))]


def assert_close(ours: ImageFeatures, theirs: ImageFeatures, tolerance: float = 1e-5) -> None:
    """The same features; of two keypoints of equal score to rounding either may come first."""
    assert (ours.image_id, ours.size, ours.extractor) == (theirs.image_id, theirs.size, theirs.extractor)
    np.testing.assert_allclose(ours.global_descriptor, theirs.global_descriptor, atol=tolerance)
    a, b = (
        {
            (round(x, 2), round(y, 2), round(float(scale), 3)): (score, descriptor)
            for (x, y), scale, score, descriptor in zip(
                f.local.keypoints.tolist(), f.local.scales, f.local.scores, f.local.descriptors, strict=True
            )
        }
        for f in (ours, theirs)
    )
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key][0], b[key][0], rtol=2e-5)
        np.testing.assert_allclose(a[key][1], b[key][1], atol=tolerance)


def test_a_stack_gives_what_each_photo_gives_alone(
    extractor: StackingExtractor, photos: list[tuple[str, Photo]], stacking: None
) -> None:
    together = extractor.extract_batch(photos)
    assert len(together) == len(photos)
    for (image_id, photo), found in zip(photos, together, strict=True):
        assert_close(found, extractor.extract(photo, image_id))
        assert len(found.local) > 0
    assert extractor.extract_batch([]) == []


def test_on_the_processor_a_batch_is_exactly_its_photos(
    extractor: StackingExtractor, photos: list[tuple[str, Photo]]
) -> None:
    for (image_id, photo), found in zip(photos, extractor.extract_batch(photos), strict=True):
        alone = extractor.extract(photo, image_id)
        np.testing.assert_array_equal(found.global_descriptor, alone.global_descriptor)
        np.testing.assert_array_equal(found.local.descriptors, alone.local.descriptors)
        np.testing.assert_array_equal(found.local.keypoints, alone.local.keypoints)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_give_nearly_the_same(
    extractor: StackingExtractor, photos: list[tuple[str, Photo]], dtype: str, stacking: None
) -> None:
    exact = extractor.extract_batch(photos[:2])
    name = extractor.fingerprint
    assert extractor.to("cpu", dtype) is extractor
    assert extractor.fingerprint == name
    for theirs, ours in zip(exact, extractor.extract_batch(photos[:2]), strict=True):
        assert ours.global_descriptor.dtype == ours.local.descriptors.dtype == np.float32
        assert float(ours.global_descriptor @ theirs.global_descriptor) > 0.998
        assert np.linalg.norm(ours.local.descriptors, axis=1) == pytest.approx(1, abs=1e-5)
        nearest = (ours.local.descriptors @ theirs.local.descriptors.T).max(1)
        assert np.median(nearest) > 0.99
    with pytest.raises(ValueError, match=f"weights rounded to {dtype} cannot go to float32: create the"):
        extractor.to("cpu")


def test_streaming_to_a_device(
    tmp_path: Path, texture: Texture, monkeypatch: pytest.MonkeyPatch, stacking: None
) -> None:
    monkeypatch.setattr("extractor.extractor.READ_AHEAD", 4)
    extractor = create("xfeat", tmp_path)
    runs: list[int] = []
    run = extractor.run
    monkeypatch.setattr(extractor, "run", lambda prepared: runs.append(len(prepared)) or run(prepared))
    paths = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        height, width = ((60, 80), (90, 70))[number % 2]
        Image.fromarray(texture(height, width, seed=number)).save(path)
        paths.append((f"id {number}", path))
    paths[5] = ("missing", tmp_path / "missing.png")
    taken: list[int] = []

    def source() -> object:
        for number, one in enumerate(paths):
            taken.append(number)
            yield one

    answers = extractor.extract_many(source())  # type: ignore[arg-type]
    first = next(answers)
    assert isinstance(first, ImageFeatures)
    assert len(taken) <= 8
    found = [first, *answers]
    assert [isinstance(answer, PhotoError) for answer in found] == [n == 5 for n in range(10)]
    assert [a.image_id for a in found if isinstance(a, ImageFeatures)] == [
        image_id for image_id, _ in paths if image_id != "missing"
    ]
    assert runs == [4, 3, 2]
    assert list(extractor.extract_many([])) == []


def test_an_extractor_without_networks_stays_on_the_processor() -> None:
    extractor: Extractor = SimpleNamespace(name="plain")  # type: ignore[assignment]
    assert Extractor.to(extractor, "cpu") is extractor
    for place_, dtype in (("cuda", "float32"), ("cpu", "bfloat16")):
        with pytest.raises(ValueError, match="plain has no network to move: it runs on cpu in float32 alone"):
            Extractor.to(extractor, place_, dtype)
