"""Milliseconds to extract a photo's features, and how much of that the bare networks take.

    python benchmarks/extraction.py --json OUT [--data DIR] [--quick] [--only NAME ...]
        [--device cuda] [--dtype bfloat16] [--compile] [--peak TFLOPS]

The floor is the forward pass of the networks alone, on the very inputs that the extraction gave them: both
are timed in turn, photo after photo, and medians compared. On the processor each photo has one thread, and
the time is processor time, as other programs may run; on a device photos of one size are run as one stack,
and the time is wall time per photo. Photos per second are of wall time from files, on all cores.

Photos are those of `roxford_mini` in DIR (or LANDBRIDGE_DATA), cut to 4:3 and reduced, else the rendered
sample world. Extractors whose weights are not here get random ones of the same architecture: they take as
long.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pipeline import machine
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from extractor.configuration import DELF_SCALES, DelgConfiguration, GlobalLocalConfiguration
from extractor.delg import DelgHeads
from extractor.extractor import GlobalLocalExtractor, StackingExtractor
from extractor.network_model import NetworkModel
from extractor.photo import Photo, find_photos, read_photo
from extractor.reduction import ReducedLocal
from extractor.registry import EXTRACTORS, configured
from extractor.resnet import DEPTHS, STYLES, ResNet
from extractor.threads import available_cores, one_torch_thread
from extractor.vgg import Vgg16
from extractor.weights import FOLDER_VARIABLE, StoredWeights, WeightsError, packed_weights
from landbridge.sample_world import SampleWorld

SIZES = {640: (640, 480), 1024: (1024, 768)}
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "T4": 65.0}
"""Dense matrix products in 16 bits, as the makers say, by what the device's name holds."""
STACK = 32
"""Photos of one stack on a device."""


@dataclass(frozen=True)
class Subject:
    """What is timed.

    Attributes:
        extractor: as registered.
        side: longest side of the photos.
        options: where not the usual ones.
        half: `local` times the local features alone.
        photos: how many on the processor.
    """

    extractor: str
    side: int = 640
    options: Mapping[str, Any] = field(default_factory=dict)
    half: str | None = None
    photos: int = 12


SUBJECTS = {
    "xfeat-one-level": Subject("xfeat-lite2", options={"local_sides": (640,)}, half="local"),
    "xfeat": Subject("xfeat-lite2", half="local"),
    "xfeat-lite2": Subject("xfeat-lite2"),
    "delf-4-scales": Subject("delf", options={"local_scales": DELF_SCALES[1:5]}, half="local"),
    "delf": Subject("delf", side=1024, photos=6),
    "delg": Subject("delg", side=1024, photos=2),
    "dir": Subject("dir", side=1024, photos=2),
    "siamac": Subject("siamac", side=1024, photos=2),
    "aliked": Subject("aliked", photos=3),
    "rootsift-pca40": Subject("rootsift-pca40"),
}


class Watch:
    """Seconds of work: of this thread on the processor, of wall time on a device that has come to rest."""

    def __init__(self, device: str) -> None:
        self.device = device

    def now(self) -> float:
        if self.device == "cpu":
            return time.thread_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
        start = self.now()
        result = function(*arguments)
        return self.now() - start, result


@dataclass
class Forward:
    """Forward passes of the networks of an extractor: those made, to make again, and their seconds."""

    watch: Watch
    calls: list[Callable[[], Any]] = field(default_factory=list)
    seconds: float = 0.0

    @contextmanager
    def recorded(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        self.calls.clear()
        self.seconds = 0.0
        originals = [getattr(network, entry(network)) for network in networks]
        for network, original in zip(networks, originals, strict=True):
            object.__setattr__(network, entry(network), self._recording(original))
        try:
            yield
        finally:
            for network, original in zip(networks, originals, strict=True):
                object.__setattr__(network, entry(network), original)

    def _recording(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            self.calls.append(lambda: forward(*arguments))
            seconds, result = self.watch.timed(forward, *arguments)
            self.seconds += seconds
            return result

        return run

    @torch.inference_mode()
    def again(self) -> None:
        for call in self.calls:
            call()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    arguments.add_argument("--quick", action="store_true", help="two photos each, one of the slow ones")
    arguments.add_argument("--only", action="append", choices=list(SUBJECTS), help="may be repeated")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="float32")
    arguments.add_argument(
        "--compile", action="store_true", help="the networks, by torch.compile, for one size"
    )
    arguments.add_argument("--peak", type=float, help="TFLOPS of the device, where it is not known")
    given = arguments.parse_args()
    figures: dict[str, float] = {}
    random: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = sources(given.data, folder, given.quick)
        print(f"{where(given.device)}\n{len(files)} photos; {given.dtype}")
        print(
            f"{'':<18}{'ms':>9}{'floor':>9}{'ratio':>7}{'photos/s':>10}  decode/prepare/forward/rest  GFLOP"
        )
        for name in given.only or SUBJECTS:
            subject = SUBJECTS[name]
            extractor, drawn = create(subject, folder)
            if extractor is None:
                print(f"{name:<18} its weights are not here")
                continue
            random += [name] * drawn
            extractor.to(given.device, given.dtype)
            if given.compile:
                compile_networks(extractor)
            count = max(1, min(2, subject.photos // 2)) if given.quick else subject.photos
            photos = resized(files, subject.side, folder, count if given.device == "cpu" else 2 * STACK)
            found = measure(extractor, subject, photos, given.device, given.peak)
            figures |= {f"{figure}.{name}": value for figure, value in found.items()}
            show(name, found, drawn)
    result = {
        "name": "extraction",
        "machine": where(given.device),
        "dtype": given.dtype,
        "random_weights": random,
        "figures": figures,
        "ratios": ratios(figures),
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(
    extractor: StackingExtractor, subject: Subject, paths: list[Path], device: str, peak: float | None
) -> dict[str, float]:
    """All figures of one extractor."""
    if extractor.learns:
        extractor.learn(paths)
    models = [m for m in models_of(extractor) if subject.half is None or m is models_of(extractor)[-1]]
    watch, forward = Watch(device), Forward(Watch(device))
    networks = [network for model in models for network in networks_of(model)]
    decoded = [watch.timed(read_photo, path, subject.side) for path in paths]
    photos = [photo for _, photo in decoded]
    stacks = [[photo] for photo in photos] if device == "cpu" else [photos[:STACK], photos[STACK:]]
    size = len(stacks[0])

    def prepare(stack: Sequence[Photo]) -> list[list[Any]]:
        return [[model.prepare(photo) for photo in stack] for model in models]

    def run(prepared: list[list[Any]]) -> None:
        for model, each in zip(models, prepared, strict=True):
            model.run(each)

    times: dict[str, list[float]] = {name: [] for name in ("prepare", "rest", "forward", "run", "floor")}
    with one_torch_thread():
        for warm in (True, False):
            for stack in stacks[:1] if warm else stacks:
                seconds, prepared = watch.timed(prepare, stack)
                with forward.recorded(networks):
                    recorded = watch.timed(run, prepared)[0]
                inside = forward.seconds
                spent = (
                    seconds,
                    recorded - inside,
                    inside,
                    watch.timed(run, prepared)[0],
                    watch.timed(forward.again)[0],
                )
                for name, value in zip(times, spent, strict=True):
                    times[name] += [] if warm else [1e3 * value / size]
    medians = {name: statistics.median(values) for name, values in times.items()}
    decode = 1e3 * statistics.median(seconds for seconds, _ in decoded)
    gigaflop = flops(forward) / size / 1e9
    # On a device the processor's cores decode and prepare meanwhile.
    total = medians["run"] + (medians["prepare"] if device == "cpu" else 0.0)
    whole = decode + medians["prepare"] + medians["forward"] + medians["rest"]
    found = {
        "ms_per_photo": total,
        "ms_floor": medians["floor"],
        "share_decode": decode / whole,
        "share_prepare": medians["prepare"] / whole,
        "share_forward": medians["forward"] / whole,
        "share_rest": medians["rest"] / whole,
        "gflop_per_photo": gigaflop,
    }
    if subject.half is None:
        found["photos_per_second"] = throughput(extractor, paths if device == "cpu" else 4 * paths)
    if device != "cpu":
        name = torch.cuda.get_device_name(device)
        tflops = peak or next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
        if tflops:
            found["model_flop_utilisation"] = gigaflop / medians["run"] / tflops
        found["gpu_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return found


def throughput(extractor: StackingExtractor, paths: Sequence[Path]) -> float:
    """Photos per second of wall time from files, on all cores."""
    start = time.perf_counter()
    count = sum(1 for _ in extractor.extract_many((path.name, path) for path in paths))
    return count / (time.perf_counter() - start)


def models_of(extractor: StackingExtractor) -> list[Any]:
    if isinstance(extractor, GlobalLocalExtractor):
        return [extractor.global_model, extractor.local_model]
    return [extractor]


def networks_of(model: Any) -> list[nn.Module]:
    if isinstance(model, ReducedLocal):
        model = model.model
    if not isinstance(model, NetworkModel):
        return []
    return [model.network if hasattr(model, "network") else model.backbone.network]  # type: ignore[attr-defined]


def compile_networks(extractor: StackingExtractor) -> None:
    """Compile the forward passes, anew for each size of photo and stack."""
    for model in models_of(extractor):
        for network in networks_of(model):
            compiled = torch.compile(getattr(network, entry(network)), dynamic=False)
            object.__setattr__(network, entry(network), compiled)


def entry(network: nn.Module) -> str:
    """Name of the method that is its forward pass."""
    return "maps" if hasattr(network, "maps") else "forward"


def flops(forward: Forward) -> float:
    """Of the recorded forward passes; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        forward.again()
    return counter.get_total_flops()


def create(subject: Subject, folder: Path) -> tuple[StackingExtractor | None, bool]:
    """The extractor, and whether its weights are random; None where they cannot be drawn."""
    name = subject.extractor
    configuration = configured(EXTRACTORS[name], dict(subject.options), name)
    try:
        return configuration.load(name), False
    except WeightsError:
        if name not in RANDOM:
            return None, False
    for weights in configuration.weights():
        if isinstance(weights, StoredWeights):
            (folder / weights.file).write_bytes(RANDOM[name](configuration))
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        return configuration.load(name), True
    finally:
        del os.environ[FOLDER_VARIABLE]
        if before is not None:
            os.environ[FOLDER_VARIABLE] = before


def random_delg(configuration: DelgConfiguration) -> bytes:
    torch.manual_seed(0)
    c = configuration
    heads = DelgHeads(1024, 2048, c.local_dimension, c.dimension, c.power)
    return packed(ResNet(DEPTHS[50], STYLES["keras"]), "keras", heads.state_dict())


def random_dir(configuration: GlobalLocalConfiguration) -> bytes:
    torch.manual_seed(0)
    whitening = {"whitening.mean": torch.zeros(2048), "whitening.projection": torch.eye(2048)}
    return packed(ResNet(DEPTHS[101], STYLES["torchvision"]), "torchvision", whitening, 3.0)


def random_siamac(configuration: GlobalLocalConfiguration) -> bytes:
    torch.manual_seed(0)
    whitening = {"whitening.mean": torch.zeros(512), "whitening.projection": torch.eye(512)}
    return packed(Vgg16(), "vgg16", whitening)


def packed(network: nn.Module, style: str, heads: Mapping[str, Any], power: float | None = None) -> bytes:
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()} | dict(heads)
    told = {"style": style, "epsilon": 1e-5, "input": [255.0, [0.5] * 3, [0.25] * 3]}
    return packed_weights(state, {"backbone": told, "pooling": {"power": power, "levels": 0, "unit": True}})


RANDOM: Mapping[str, Callable[[Any], bytes]] = {
    "delg": random_delg,
    "dir": random_dir,
    "siamac": random_siamac,
}
"""Weights files of the registered architectures with random weights."""


def sources(data: Path | None, folder: Path, quick: bool) -> list[Path]:
    if data:
        return find_photos(Path(data) / "roxford_mini")
    print("no --data and no LANDBRIDGE_DATA: measured on the rendered sample world")
    few = {"landmarks": 2, "photos_per_landmark": 4, "lookalikes": 0, "distractors": 4}
    SampleWorld(**(few if quick else {}), size=SIZES[1024]).write(folder / "world")
    return find_photos(folder / "world")


def resized(files: Sequence[Path], side: int, folder: Path, count: int) -> list[Path]:
    """Photos of one size, as JPEG files: cut from the middle, so that they can be stacked."""
    paths = []
    (folder / str(side)).mkdir(exist_ok=True)
    for number in range(count):
        path = folder / str(side) / f"{number}.jpg"
        if not path.exists():
            image = Image.fromarray(read_photo(files[number % len(files)]).pixels)
            width, height = image.size
            wide = min(width, height * 4 // 3)
            high = wide * 3 // 4
            left, top = (width - wide) // 2, (height - high) // 2
            image.resize(SIZES[side], Image.Resampling.LANCZOS, (left, top, left + wide, top + high)).save(
                path, quality=92
            )
        paths.append(path)
    return paths


def where(device: str) -> str:
    text = f"{machine()}, {processor()}, PyTorch {torch.__version__}"
    if device == "cpu":
        return f"{text}, one thread per photo, {available_cores()} photos at once"
    return f"{text}, {torch.cuda.get_device_name(device)}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def show(name: str, found: Mapping[str, float], drawn: bool) -> None:
    parts = ("decode", "prepare", "forward", "rest")
    shares = "/".join(f"{100 * found[f'share_{part}']:.0f}" for part in parts)
    floor, rate = found["ms_floor"], found.get("photos_per_second")
    print(
        f"{name:<18}{found['ms_per_photo']:9.1f}{floor:9.1f}"
        + (f"{found['ms_per_photo'] / floor:7.2f}" if floor else f"{'':7}")
        + (f"{rate:10.2f}" if rate else f"{'':10}")
        + f"  {shares:<28}{found['gflop_per_photo']:8.1f}"
        + (f"  MFU {found['model_flop_utilisation']:.2f}" if "model_flop_utilisation" in found else "")
        + ("  (random weights)" if drawn else ""),
        flush=True,
    )


def ratios(figures: Mapping[str, float]) -> dict[str, float]:
    names = [key.removeprefix("ms_floor.") for key in figures if key.startswith("ms_floor.")]
    return {
        f"{name}_over_floor": figures[f"ms_per_photo.{name}"] / figures[f"ms_floor.{name}"]
        for name in names
        if figures[f"ms_floor.{name}"]
    }


if __name__ == "__main__":
    main()
