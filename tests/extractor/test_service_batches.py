from __future__ import annotations

import asyncio
import importlib.util
import io
import threading
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extractor.features import ImageFeatures
from extractor.photo import Photo
from extractor.service import metrics
from extractor.service.batches import Batches, BusyError, Upload
from extractor.service.limits import Limits
from extractor.service.wire import Answer, Failure
from extractor.threads import available_cores

spec = importlib.util.spec_from_file_location("toy_service", Path(__file__).with_name("toy_service.py"))
toy: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)


def png(colour: tuple[int, int, int] = (9, 9, 9), size: tuple[int, int] = (80, 60)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def run(limits: Limits, extractor: Any, work: Callable[[Batches], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with asyncio.timeout(30), Batches(extractor, limits) as batches:
            return await work(batches)

    return asyncio.run(inside())


class Gated(toy.ColourExtractor):
    """Waits in each batch until it is let on."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def extract_batch(self, photos: Sequence[tuple[str, Photo]]) -> list[ImageFeatures]:
        self.entered.release()
        assert self.gate.acquire(timeout=20)
        return super().extract_batch(photos)


def test_what_comes_while_a_batch_is_in_work_makes_the_next_ones() -> None:
    extractor = Gated()

    async def work(batches: Batches) -> list[list[Answer]]:
        first = asyncio.create_task(batches.extract([Upload("0", png())]))
        await asyncio.to_thread(extractor.entered.acquire, timeout=20)
        others = [asyncio.create_task(batches.extract([Upload(str(i), png())])) for i in range(1, 8)]
        while batches._decoded.qsize() < 7:
            await asyncio.sleep(0.001)
        extractor.gate.release(3)
        return await asyncio.gather(first, *others)

    found = run(Limits(batch=4), extractor, work)
    assert [answers[0].image_id for answers in found] == [str(i) for i in range(8)]
    assert [len(batch) for batch in extractor.batches] == [1, 4, 3]
    assert sorted(chain(*extractor.batches)) == [str(i) for i in range(8)]


def test_a_lone_photo_does_not_wait_for_others() -> None:
    extractor = toy.ColourExtractor()

    async def work(batches: Batches) -> list[Answer]:
        async with asyncio.timeout(5):
            return await batches.extract([Upload("a", png())])

    run(Limits(batch=4, batch_seconds=20.0), extractor, work)
    assert extractor.batches == [["a"]]


def test_a_batch_waits_for_what_is_on_its_way() -> None:
    extractor = toy.ColourExtractor()
    sizes = [(8, 8), (3000, 2000), (900, 30), (16, 4)]
    uploads = [Upload(str(i), png(size=size)) for i, size in enumerate(sizes)]
    found = run(Limits(batch=4, batch_seconds=20.0), extractor, lambda batches: batches.extract(uploads))
    assert [len(batch) for batch in extractor.batches] == [4]
    assert [answer.size for answer in found] == sizes


def test_photos_that_are_not_batched_run_side_by_side() -> None:
    extractor = Gated()

    async def work(batches: Batches) -> None:
        uploads = [Upload(str(i), png()) for i in range(available_cores() + 1)]
        task = asyncio.create_task(batches.extract(uploads))
        for _ in range(available_cores()):
            assert await asyncio.to_thread(extractor.entered.acquire, timeout=20)
        assert not await asyncio.to_thread(extractor.entered.acquire, timeout=0.1)
        extractor.gate.release(len(uploads))
        assert [answer.image_id for answer in await task] == [upload.image_id for upload in uploads]

    run(Limits(), extractor, work)
    assert {len(batch) for batch in extractor.batches} == {1}


def test_answers_are_in_order_and_failures_are_each_photos_own() -> None:
    extractor = toy.ColourExtractor()
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(jpeg, "JPEG")
    uploads = [
        Upload("good", png()),
        Upload("cut", jpeg.getvalue()[:2000]),
        Upload("magenta", png(toy.MAGENTA)),
        Upload("empty", b""),
        Upload("bomb", png(size=(600, 600))),
        Upload("long", png() + bytes(20_000)),
        Upload("reduced", png(size=(30, 20)), (300, 200)),
    ]
    limits = Limits(batch=7, pixels=300_000, photo_bytes=20_000)
    good, cut, magenta, empty, bomb, long, reduced = run(limits, extractor, lambda b: b.extract(uploads))
    alone = extractor.extract(Photo(np.full((60, 80, 3), 9, np.uint8), (80, 60)), "good")
    assert np.array_equal(good.global_descriptor, alone.global_descriptor)
    assert isinstance(cut, Failure)
    assert (cut.status, cut.image_id) == (422, "cut")
    assert "truncated" in cut.reason
    assert magenta == Failure("magenta", 500, "the extractor failed (RuntimeError)")
    assert empty == Failure("empty", 422, "the file is empty")
    assert bomb == Failure("bomb", 413, "600 x 600 is more than 0.3 megapixels")
    assert isinstance(long, Failure)
    assert long.status == 413
    assert reduced.size == (300, 200)


def test_an_extractor_that_answers_too_few_does_not_mix_photos_up() -> None:
    extractor = toy.ColourExtractor()
    extractor.extract_batch = lambda photos: [extractor.extract(photos[0][1], photos[0][0])]
    uploads = [Upload("a", png((1, 2, 3))), Upload("b", png((200, 2, 3)))]
    found = run(Limits(batch=2, batch_seconds=5.0), extractor, lambda batches: batches.extract(uploads))
    assert [answer.image_id for answer in found] == ["a", "b"]


def test_no_more_is_taken_on_than_fits() -> None:
    extractor = Gated()
    limits = Limits(photos=2, waiting_photos=3, photo_bytes=500, request_bytes=1000, waiting_bytes=2000)

    async def work(batches: Batches) -> None:
        first = asyncio.create_task(batches.extract([Upload("a", png()), Upload("b", png())]))
        await asyncio.to_thread(extractor.entered.acquire, timeout=20)
        with pytest.raises(BusyError) as caught:
            await batches.extract([Upload("c", png()), Upload("d", png())])
        assert caught.value.seconds == 1
        assert (batches.photos, batches.full) == (2, False)
        second = asyncio.create_task(batches.extract([Upload("c", png())]))
        await asyncio.sleep(0)
        assert (batches.photos, batches.full) == (3, True)
        with pytest.raises(BusyError), batches.receiving(1):
            pass
        extractor.gate.release(9)
        await first
        await second
        assert batches.photos == 0
        with batches.receiving(1500):
            with pytest.raises(BusyError), batches.receiving(501):
                pass
            with batches.receiving(500):
                assert batches.bytes == 2000
        assert batches.bytes == 0

    run(limits, extractor, work)


def test_the_wait_that_is_advised_follows_the_work_that_waits() -> None:
    extractor = toy.ColourExtractor(seconds=0.4)

    async def work(batches: Batches) -> None:
        await batches.extract([Upload(str(i), png()) for i in range(4)])
        tasks = [asyncio.create_task(batches.extract([Upload(str(i), png())])) for i in range(32)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as caught:
            await batches.extract([Upload("more", png())])
        # 32 photos of 0.4 s wait; the estimate takes over a quarter of what it sees with each batch.
        assert 4 <= caught.value.seconds <= 13
        for task in tasks:
            task.cancel()

    run(Limits(waiting_photos=32, batch=2), extractor, work)


def on_cuda(extractor: Any, uploads: list[Upload]) -> list[Answer]:
    async def inside() -> list[Answer]:
        limits = Limits(batch=2, batch_seconds=20)
        async with asyncio.timeout(30), Batches(extractor, limits, "cuda:0") as batches:
            return await batches.extract(uploads)

    return asyncio.run(inside())


def test_an_accelerator_runs_a_batch_while_the_next_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: {"cuda:0": 7000}[device])
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: {"cuda:0": 9000}[device])
    both = threading.Barrier(2, timeout=20)

    class Overlapping(toy.ColourExtractor):
        def extract_batch(self, photos: Sequence[tuple[str, Photo]]) -> list[ImageFeatures]:
            both.wait()
            return super().extract_batch(photos)

    found = on_cuda(Overlapping(), [Upload(str(i), png()) for i in range(4)])
    assert [answer.image_id for answer in found] == ["0", "1", "2", "3"]
    text = metrics.exposition().decode()
    assert 'landbridge_gpu_memory_bytes{kind="allocated"} 7000.0' in text
    assert 'landbridge_gpu_memory_bytes{kind="reserved"} 9000.0' in text


@pytest.mark.parametrize("lost", [True, False])
def test_a_worker_whose_device_is_lost_ends(monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    def synchronize(device: str) -> None:
        if lost:
            raise RuntimeError("an illegal memory access was encountered")

    ended: list[int] = []
    monkeypatch.setattr("torch.cuda.synchronize", synchronize)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 0)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 0)
    monkeypatch.setattr("os._exit", ended.append)
    on_cuda(toy.ColourExtractor(), [Upload("a", png(toy.MAGENTA))])
    assert ended == [1] * lost
    ended.clear()
    on_cuda(toy.ColourExtractor(), [Upload("a", png(toy.MAGENTA)), Upload("b", png())])
    assert ended == []
