"""A service around an extractor that costs nothing: `python toy_service.py '{"port": 0, …}'`, or `started`.

It counts colours. A photo whose first pixel is magenta breaks it, and so does a batch with such a photo.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from extractor.extractor import Extractor
from extractor.features import ImageFeatures, LocalFeatures
from extractor.photo import Photo

MAGENTA = (255, 0, 255)


class ColourExtractor(Extractor):
    name = "colours"
    dimension = 48
    local_dimension = 3
    longest_side = 256

    def __init__(self, seconds: float = 0.0, learns: bool = False) -> None:
        self.seconds = seconds
        self.fingerprint = "colours-1"
        self._must_learn = learns
        self._learnt: bytes | None = None
        self.batches: list[list[str]] = []

    @property
    def learns(self) -> bool:
        return self._must_learn and self._learnt is None

    @property
    def learnt(self) -> bytes | None:
        return self._learnt

    def learn(self, photos: Iterable[Path]) -> None:
        self.restore(" ".join(sorted(path.stem for path in photos)).encode())

    def restore(self, learnt: bytes) -> None:
        if not self._must_learn:
            super().restore(learnt)
        self._learnt = learnt
        self.fingerprint = f"colours-{len(learnt)}"

    def extract(self, photo: Photo, image_id: str) -> ImageFeatures:
        time.sleep(self.seconds)
        if tuple(photo.pixels[0, 0]) == MAGENTA:
            raise RuntimeError("magenta")
        vector = np.concatenate([np.histogram(photo.pixels[..., c], 16, (0, 256))[0] for c in range(3)]) + 1.0
        rows = photo.pixels[::40, ::40].reshape(-1, 3).astype(np.float32) + 1
        keypoints = np.argwhere(np.ones(photo.pixels[::40, ::40].shape[:2]))[:, ::-1] * 40 * photo.scale
        count = len(rows)
        return ImageFeatures(
            image_id,
            photo.size,
            (vector / np.linalg.norm(vector)).astype(np.float32),
            LocalFeatures(
                keypoints.astype(np.float32),
                np.ones(count, np.float32),
                np.arange(count, 0, -1, np.float32),
                rows / np.linalg.norm(rows, axis=1, keepdims=True),
            ),
            self.fingerprint,
        )

    def extract_batch(self, photos: Sequence[tuple[str, Photo]]) -> list[ImageFeatures]:
        self.batches.append([image_id for image_id, _ in photos])
        return [self.extract(photo, image_id) for image_id, photo in photos]


class Service:
    """A running service.

    Attributes:
        process: the one that was started.
        log: file of all that it says.
        url: where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""

    def workers(self) -> list[int]:
        """Process ids of all workers that ever were ready."""
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.log.read_text())]

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until the service says something."""
        return until(lambda: re.search(pattern, self.log.read_text()), self.log)


def until(condition: Callable[[], Any], log: Path | None = None, seconds: float = 120.0) -> Any:
    """Wait until there is something, and give that."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing came within {seconds} s; {log and log.read_text()}")


@contextmanager
def started(command: Sequence[str] = (), **given: Any) -> Iterator[Service]:
    """Run a service in processes of its own, and end them whatever happens.

    Args:
        command: what starts it; by default this file.
        given: what this file is told.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                list(command) or [sys.executable, __file__, json.dumps(given)],
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        service = Service(process, log)
        try:
            service.url = service.says(r"running on (http://\S+)")[1]
            until(lambda: process.poll() is not None or _answers(service.url), log)
            yield service
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def main() -> int:
    from extractor.service.limits import Limits
    from extractor.service.server import Settings, serve

    given = json.loads(sys.argv[1])
    toy = given.get("toy", {})
    settings = Settings(
        partial(ColourExtractor, **toy),
        learnt=given["learnt"].encode() if "learnt" in given else None,
        token=given.get("token", ""),
        limits=Limits(**given.get("limits", {})),
    )
    return serve(settings, port=given.get("port", 0), workers=given.get("workers", 1))


if __name__ == "__main__":
    sys.exit(main())
