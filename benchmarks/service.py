"""The extractor service under load, on loopback: is anything lost, is its memory bounded, what does it cost.

    python benchmarks/service.py --json OUT [--photos 96] [--rounds 5] [--extractor NAME] [--device cpu]
        [--dtype float32] [--quick]

1. Photos per second through the service and by the same extractor here, in turn.
2. Four times as many requests at once as the service takes on, without retries: each is answered 200 or 429.
   And again with the client's retries: all come through. After each round the worker's memory is read.
3. The worker is killed (-9) amid that: another takes its place, and all come through.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from pipeline import machine

from extractor.extractor import Extractor
from extractor.features import ImageFeatures
from extractor.registry import create_extractor
from extractor.remote import RemoteExtractor
from landbridge.photos import photos_in
from landbridge.sample_world import SampleWorld

WAITING = 16
OVERLOAD = 4

Photos = list[tuple[str, Path]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--photos", type=int, default=96)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--extractor", default="default")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--dtype", default="float32")
    arguments.add_argument("--quick", action="store_true", help="24 small photos, two rounds")
    given = arguments.parse_args()
    count, rounds, size = (24, 2, (320, 240)) if given.quick else (given.photos, given.rounds, (640, 480))
    direct = create_extractor(given.extractor).to(given.device, given.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        photos = make_photos(Path(scratch), count, size)
        options = ("--extractor", given.extractor, "--device", given.device, "--dtype", given.dtype)
        with service(Path(scratch) / "log", *options, "--max-waiting", str(WAITING)) as (url, process):
            figures = measure(direct, url, process, photos, rounds)
    ratio = figures["photos_per_second_service"] / figures["photos_per_second_direct"]
    result = {
        "name": "service",
        "machine": machine(),
        "figures": figures,
        "ratios": {
            "service_over_direct": ratio,
            "rss_last_over_first": figures["rss_mb_last"] / figures["rss_mb_first"],
        },
    }
    for name, value in (result["figures"] | result["ratios"]).items():
        print(f"{name:<28} {value:10.3f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    if figures["lost"] or figures["lost_with_kill"] or figures["other_answers"]:
        sys.exit("requests were lost")


def measure(
    direct: Extractor, url: str, process: subprocess.Popen, photos: Photos, rounds: int
) -> dict[str, float]:
    remote = RemoteExtractor(url, in_flight=WAITING // 2)
    crowd = RemoteExtractor(url, in_flight=OVERLOAD * WAITING)
    expected = list(direct.extract_many(photos))
    lost(list(remote.extract_many(photos)), expected)
    speeds: dict[str, list[float]] = {"direct": [], "service": []}
    for _ in range(rounds):
        for name, extractor in (("direct", direct), ("service", remote)):
            speeds[name].append(len(photos) / timed(lambda e=extractor: list(e.extract_many(photos))))
    worker = workers(process)[0]
    many = [(f"{i}", photos[i % len(photos)][1]) for i in range(OVERLOAD * WAITING)]
    wanted = [replace(expected[i % len(photos)], image_id=f"{i}") for i in range(len(many))]
    answers: Counter[int] = Counter()
    missing = 0
    memory = []
    with peak_rss_mb(worker) as peak:
        for _ in range(rounds + 1):
            answers += flood(url, many)
            missing += lost(list(crowd.extract_many(many)), wanted)
            memory.append(rss_mb(worker))
    began = time.perf_counter()
    timer = threading.Timer(0.5, os.kill, (worker, signal.SIGKILL))
    timer.start()
    missing_with_kill = lost(list(crowd.extract_many(many)), wanted)
    timer.join()
    return {
        "photos_per_second_direct": statistics.median(speeds["direct"]),
        "photos_per_second_service": statistics.median(speeds["service"]),
        "requests_without_retries": sum(answers.values()),
        "answered_200": answers[200],
        "answered_429": answers[429],
        "other_answers": sum(answers.values()) - answers[200] - answers[429],
        "lost": missing,
        "rss_mb_first": memory[0],
        "rss_mb_peak": max(peak),
        "rss_mb_last": memory[-1],
        "lost_with_kill": missing_with_kill,
        "seconds_with_kill": time.perf_counter() - began,
        "workers_replaced": workers(process)[0] != worker,
    }


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> Photos:
    SampleWorld(
        seed=1,
        landmarks=1,
        photos_per_landmark=count,
        lookalikes=0,
        distractors=0,
        queries_without_match=0,
        size=size,
    ).write(folder / "world")
    return list(photos_in(folder / "world" / "jpg")[0].items())[:count]


@contextmanager
def service(log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    command = [sys.executable, "-m", "landbridge", "serve", "--port", "0", *options]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        while "running on " not in (text := log.read_text()):
            if process.poll() is not None:
                sys.exit(text)
            time.sleep(0.1)
        url = text.split("running on ")[1].split()[0]
        while process.poll() is None and not ready(url):
            time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        process.wait()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def flood(url: str, photos: Photos) -> Counter[int]:
    """Post every photo once from far more clients than there is room for; no retries."""
    bodies = [path.read_bytes() for _, path in photos]
    clients = OVERLOAD * WAITING
    with (
        httpx.Client(
            base_url=url, timeout=300, trust_env=False, limits=httpx.Limits(max_connections=clients)
        ) as client,
        ThreadPoolExecutor(clients) as pool,
    ):
        return Counter(pool.map(lambda body: client.post("/v1/extract", content=body).status_code, bodies))


def lost(found: list, expected: list) -> int:
    """Photos that did not come back as they are."""
    same = 0
    for one, other in zip(found, expected, strict=True):
        same += (
            isinstance(one, ImageFeatures)
            and one.image_id == other.image_id
            and len(one.local) == len(other.local)
            and bool(np.abs(one.global_descriptor - other.global_descriptor).max() < 1e-2)
        )
    return len(expected) - same


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def workers(process: subprocess.Popen) -> list[int]:
    """The worker processes, by the largest first: Python's resource tracker is a child too."""
    children = [
        int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    return sorted(children, key=lambda pid: -rss_mb(pid))


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def peak_rss_mb(pid: int) -> Iterator[list[float]]:
    """Megabytes of memory of a process, read ten times a second."""
    memory, done = [rss_mb(pid)], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            memory.append(rss_mb(pid))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
