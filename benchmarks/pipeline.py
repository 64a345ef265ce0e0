"""Where the time goes from a folder of photos to the table of methods: seconds per step of one real run.

    python benchmarks/pipeline.py --json OUT [--data DIR] [--quick]

Steps that run on several threads are summed over the threads, so they can exceed the wall time.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import extractor.extractor
import landbridge
from connector.collection import Collection
from landbridge.datasets import load_dataset
from landbridge.evaluation import evaluate
from landbridge.retrieval import Library, Retrieval
from landbridge.sample_world import SampleWorld

STEPS = ("load", "decode", "global", "local", "insert", "search", "verify", "rank")


class Stopwatch:
    """Seconds by step; the time of a step inside another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack = threading.local()
        self._lock = threading.Lock()

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            stack = self._stack.__dict__.setdefault("inner", [])
            stack.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                inner = stack.pop()
                if stack:
                    stack[-1] += elapsed
                with self._lock:
                    self.seconds[step] += elapsed - inner

        return wrapper


@contextmanager
def watched(stopwatch: Stopwatch, places: list[tuple[Any, str, str]]) -> Iterator[None]:
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, step in places:
        setattr(owner, name, stopwatch.timed(step, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--data", type=Path, default=os.environ.get("LANDBRIDGE_DATA"))
    arguments.add_argument("--quick", action="store_true", help="a small sample world")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if given.data and not given.quick:
            photos = Path(given.data) / "roxford_mini"
        else:
            photos = Path(scratch) / "world"
            SampleWorld(**({"landmarks": 2, "distractors": 8} if given.quick else {})).write(photos)
        figures = run(photos, Path(scratch))
    result = {"name": "pipeline", "machine": machine(), "figures": figures, "ratios": ratios(figures)}
    for step in STEPS:
        print(f"{step:<8} {figures[f'seconds_{step}']:8.1f} s")
    print(f"{'total':<8} {figures['seconds_total']:8.1f} s of wall time, {figures['photos']} photos")
    for name, value in result["ratios"].items():
        print(f"{name} {value:.2f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


def run(photos: Path, scratch: Path) -> dict[str, float]:
    stopwatch = Stopwatch()
    start = time.perf_counter()
    dataset = load_dataset(photos, min_positives=2)
    with landbridge.Index(scratch / "index.db") as index:
        models = stopwatch.timed("load", lambda: index.extractor)()
        places = [
            (extractor.extractor, "read_photo", "decode"),
            *((models.global_model, part, "global") for part in ("prepare", "run")),
            *((models.local_model, part, "local") for part in ("prepare", "run")),
            (Collection, "stage", "insert"),
            (Collection, "publish", "insert"),
            (Collection, "search", "search"),
            (Library, "verify", "verify"),
            (Library, "join", "rank"),
            (Retrieval, "rank", "rank"),
        ]
        with watched(stopwatch, places):
            evaluation = evaluate(dataset, index)
        total = time.perf_counter() - start
    figures = {f"seconds_{step}": stopwatch.seconds[step] for step in STEPS}
    figures |= {"seconds_total": total, "photos": evaluation.index + len(dataset.queries)}
    for protocol, methods in evaluation.protocols.items():
        figures |= {f"{protocol}.{method}": scores["mAP"] for method, scores in methods.items()}
    return figures


def ratios(figures: dict[str, float]) -> dict[str, float]:
    networks = figures["seconds_global"] + figures["seconds_local"]
    return {"extraction_over_networks": (networks + figures["seconds_decode"]) / networks}


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
