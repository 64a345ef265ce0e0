"""An extractor without a network, for batch jobs: `install` registers it in this process.

Run as a script, this file is a batch job that kills itself at a moment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from extractor import registry
from extractor.extractor import Extractor
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import Photo, PhotoError, read_photo
from extractor.threads import available_cores

NAMES = ("toy", "learner")


class ToyExtractor(Extractor):
    """Grey values of the photo, and of some of its places."""

    dimension = 12
    local_dimension = 6
    longest_side = 64

    def __init__(self, name: str) -> None:
        self.name = name
        self.fingerprint = f"{name}-{'0' * 12}"
        self.extracted: list[str] = []
        if available_cores() > int(os.environ.get("TOY_CORES", "1000")):
            raise ValueError(f"this process takes {available_cores()} cores")

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        self.extracted.append(image_id)
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        values = photo.pixels.astype(np.float32).reshape(-1)
        whole = values[: self.dimension] + 1
        count = int(values[0]) % 5
        local = values[: 6 * count].reshape(count, 6) + 1
        return ImageFeatures(
            image_id,
            photo.size,
            whole / np.linalg.norm(whole),
            LocalFeatures(
                np.arange(2 * count, dtype=np.float32).reshape(count, 2),
                np.ones(count, np.float32),
                np.arange(count, dtype=np.float32)[::-1].copy(),
                local / np.linalg.norm(local, axis=1, keepdims=True),
            ),
            self.fingerprint,
        )


class Learner(ToyExtractor):
    """One that must learn: the sum of the first pixel of all photos of the sample."""

    total: int | None = None

    @property
    def learns(self) -> bool:
        return self.total is None

    @property
    def learnt(self) -> bytes | None:
        return None if self.total is None else str(self.total).encode()

    def learn(self, photos: Iterable[Path]) -> None:
        total = 0
        for path in photos:
            with suppress(PhotoError):
                total += int(read_photo(path).pixels[0, 0, 0])
        self.restore(str(total).encode())

    def restore(self, learnt: bytes) -> None:
        self.total = int(learnt)
        self.fingerprint = f"{self.name}-{self.total:012x}"


class _Configuration:
    def __init__(self, kind: type[ToyExtractor]) -> None:
        self.kind = kind
        self.loaded: list[ToyExtractor] = []

    def load(self, name: str) -> Extractor:
        self.loaded.append(self.kind(name))
        return self.loaded[-1]


def extractors() -> dict[str, Any]:
    return {registry.DEFAULT: _Configuration(ToyExtractor), "learner": _Configuration(Learner)}


def install() -> None:
    registry.EXTRACTORS = extractors()  # type: ignore[assignment]


def write_photos(folder: Path, count: int, seed: int = 0) -> dict[str, Path]:
    """Photos by id."""
    import cv2

    rng = np.random.default_rng(seed)
    photos = {}
    for number in range(count):
        path = folder / f"{number % 3}/{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        photos[f"{number % 3}/{number:03d}"] = path
    return photos


def tree(folder: Path) -> dict[str, bytes]:
    """Everything in a folder of features, but for the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def known_to_new_interpreters(folder: Path, patch: Any) -> None:
    """Let every interpreter that is started from now on register the toy."""
    here = str(Path(__file__).parent)
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {here!r})\nimport batch_toy\nbatch_toy.install()\n"
    )
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    patch.setenv("PYTHONPATH", os.pathsep.join(paths))


def _watch(moment: str, nth: int) -> Counter[str]:
    """Count the steps that write, and kill this process before or after the nth of one kind."""
    times: Counter[str] = Counter()

    def note(step: str) -> None:
        times[step] += 1
        if (step, times[step]) == (moment, nth):
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            note(f"before {name}")
            result = step(*arguments, **options)
            note(f"after {name}")
            return result

        return call

    Path.replace = watched("replace", Path.replace)  # type: ignore[method-assign]
    ToyExtractor.extract = watched("extract", ToyExtractor.extract)  # type: ignore[method-assign]
    Learner.learn = watched("learn", Learner.learn)  # type: ignore[method-assign]
    return times


def main(moment: str, nth: str, photos: str, folder: str, kind: str) -> None:
    install()
    from extractor.batch import extract_photos, run

    run.SHARD = 4
    times = _watch(moment, int(nth))
    named = {path.stem: path for path in sorted(Path(photos).rglob("*.png"))}
    done = extract_photos(named, folder, extractor="learner", format=kind)
    print(json.dumps({"times": times, "extracted": done.extracted, "unchanged": done.unchanged}))


if __name__ == "__main__":
    main(*sys.argv[1:])
