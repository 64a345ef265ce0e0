"""Dynamic batching: photos of all requests are decoded side by side and extracted together."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.photo import Photo, PhotoError, PhotoTooLargeError, decode_photo
from extractor.service import metrics
from extractor.service.limits import Limits
from extractor.service.wire import Answer, Failure
from extractor.threads import available_cores

logger = logging.getLogger("uvicorn.error")

_ACCELERATOR_BATCH = 32
_LONGEST_WAIT = 60


@dataclass(frozen=True)
class Upload:
    """A photo as it came.

    Attributes:
        image_id: its name.
        data: the content of its file.
        size: (width, height) of the original where the photo was reduced before it was sent, else None.
    """

    image_id: str
    data: bytes
    size: tuple[int, int] | None = None


class BusyError(Exception):
    """There is no room for more.

    Attributes:
        seconds: after which there may be.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"as many photos are waiting as fit: try again in {seconds} s")
        self.seconds = seconds


class Batches:
    """The photos that one worker has taken on; use it as an async context manager.

    A batch is what is decoded when the extractor becomes free. An incomplete one waits a moment, and only
    while other photos are on their way.
    """

    def __init__(self, extractor: Extractor, limits: Limits, device: str = "cpu") -> None:
        """Take over an extractor.

        Args:
            extractor: ready: on its device, and with nothing to learn.
            limits: what is taken on.
            device: where the extractor is.
        """
        self.extractor = extractor
        self.limits = limits
        self.device = device
        cores = available_cores()
        self.batch = limits.batch or (1 if device == "cpu" else _ACCELERATOR_BATCH)
        self.photos = 0
        self.bytes = 0
        self._seconds_per_photo = 0.0
        self._decoders = ThreadPoolExecutor(cores, thread_name_prefix="decode")
        # On a CPU a batch is photos on threads of their own, of which all wait for the slowest: singly they
        # do not. An accelerator runs one batch while the next is prepared for it.
        self._side_by_side = 2 if device != "cpu" else cores if self.batch == 1 else 1
        self._extracting = ThreadPoolExecutor(self._side_by_side, thread_name_prefix="batches")
        # One batch more is decoded meanwhile: no more pixels than that are in memory.
        self.at_once = (self._side_by_side + 1) * self.batch
        self._turns = asyncio.Semaphore(self.at_once)
        self._filling = asyncio.Lock()  # two batches that fill at once would be half of one each
        self._decoded: asyncio.Queue[tuple[str, Photo, float, asyncio.Future[Answer]]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._side_by_side)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        self._decoders.shutdown(cancel_futures=True)
        self._extracting.shutdown(cancel_futures=True)

    @property
    def full(self) -> bool:
        """Whether one photo more would be refused."""
        return self.photos >= self.limits.waiting_photos

    @contextmanager
    def receiving(self, length: int) -> Iterator[None]:
        """Keep room for a body of so many bytes while it is received and worked on.

        Raises:
            BusyError: there is no room for it, or for any photo.
        """
        if self.full or self.bytes + length > self.limits.waiting_bytes:
            raise self._busy()
        self._add(length=length)
        try:
            yield
        finally:
            self._add(length=-length)

    async def extract(self, uploads: Sequence[Upload]) -> list[Answer]:
        """Features of photos, or why there are none, in order.

        Raises:
            BusyError: there is no room for so many; none is taken on.
        """
        if self.photos + len(uploads) > self.limits.waiting_photos:
            raise self._busy()
        self._add(photos=len(uploads))
        try:
            answers = await asyncio.gather(*(self._answer(upload) for upload in uploads))
        finally:
            self._add(photos=-len(uploads))
        for answer in answers:
            metrics.PHOTOS.labels(answer.status if isinstance(answer, Failure) else 200).inc()
        return answers

    def _add(self, photos: int = 0, length: int = 0) -> None:
        self.photos += photos
        self.bytes += length
        metrics.WAITING_PHOTOS.inc(photos)
        metrics.WAITING_BYTES.inc(length)

    def _busy(self) -> BusyError:
        seconds = math.ceil(self.photos * self._seconds_per_photo / self._side_by_side)
        return BusyError(min(max(seconds, 1), _LONGEST_WAIT))

    async def _answer(self, upload: Upload) -> Answer:
        loop = asyncio.get_running_loop()
        arrived = time.perf_counter()
        async with self._turns:
            turn = time.perf_counter()
            try:
                photo = await loop.run_in_executor(self._decoders, self._decode, upload)
            except PhotoTooLargeError as error:
                return Failure(upload.image_id, 413, error.reason)
            except PhotoError as error:
                return Failure(upload.image_id, 422, error.reason)
            decoded = time.perf_counter()
            metrics.STAGE_SECONDS.labels("admitted").observe(turn - arrived)
            metrics.STAGE_SECONDS.labels("decode").observe(decoded - turn)
            future: asyncio.Future[Answer] = loop.create_future()
            self._decoded.put_nowait((upload.image_id, photo, decoded, future))
            return await future

    def _decode(self, upload: Upload) -> Photo:
        if len(upload.data) > self.limits.photo_bytes:
            raise PhotoTooLargeError(Path(upload.image_id), too_many_bytes(len(upload.data), self.limits))
        photo = decode_photo(upload.data, upload.image_id, self.extractor.longest_side, self.limits.pixels)
        return photo if upload.size is None else Photo(photo.pixels, upload.size)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._filling:
                batch = [await self._decoded.get()]
                await self._fill(batch)
            started = time.perf_counter()
            answers = await loop.run_in_executor(
                self._extracting, self._extract, [(image_id, photo) for image_id, photo, _, _ in batch]
            )
            seconds = time.perf_counter() - started
            metrics.BATCH_PHOTOS.observe(len(batch))
            metrics.STAGE_SECONDS.labels("extract").observe(seconds)
            self._seconds_per_photo += (seconds / len(batch) - self._seconds_per_photo) / 4
            for (_, _, decoded, future), answer in zip(batch, answers, strict=True):
                metrics.STAGE_SECONDS.labels("queue").observe(started - decoded)
                if not future.done():
                    future.set_result(answer)

    async def _fill(self, batch: list[tuple[str, Photo, float, asyncio.Future[Answer]]]) -> None:
        """Add what is decoded, and what will be in a moment."""
        try:
            async with asyncio.timeout(self.limits.batch_seconds):
                while len(batch) < min(self.batch, self.photos):
                    batch.append(await self._decoded.get())
        except TimeoutError:
            pass

    def _extract(self, photos: list[tuple[str, Photo]]) -> list[Answer]:
        """Features of a batch; where that fails, of each photo alone: one does not fail the others."""
        try:
            features = self.extractor.extract_batch(photos)
            answers: list[Answer] = [answer for answer, _ in zip(features, photos, strict=True)]
        except Exception:
            logger.exception("A batch of %d photos failed: each is extracted alone", len(photos))
            answers = [self._extract_alone(image_id, photo) for image_id, photo in photos]
            if not any(isinstance(answer, ImageFeatures) for answer in answers):
                self._leave_a_lost_device()
        self._note_memory()
        return answers

    def _extract_alone(self, image_id: str, photo: Photo) -> Answer:
        try:
            return self.extractor.extract(photo, image_id)
        except Exception as error:
            logger.exception("%r failed", image_id)
            return Failure(image_id, 500, f"the extractor failed ({type(error).__name__})")

    def _leave_a_lost_device(self) -> None:
        """After some errors a process can use CUDA no more: end this one, and another takes its place."""
        if self.device.startswith("cuda"):
            import torch

            try:
                torch.cuda.synchronize(self.device)
            except RuntimeError:
                logger.exception("%s is lost to this worker: it ends", self.device)
                os._exit(1)

    def _note_memory(self) -> None:
        if self.device.startswith("cuda"):
            import torch

            metrics.GPU_BYTES.labels("allocated").set(torch.cuda.memory_allocated(self.device))
            metrics.GPU_BYTES.labels("reserved").set(torch.cuda.memory_reserved(self.device))


def too_many_bytes(length: int, limits: Limits) -> str:
    """Why a photo is refused."""
    return (
        f"{length / 2**20:.3g} MiB: this service takes photos of at most {limits.photo_bytes / 2**20:.3g} MiB"
    )
