"""What the service counts, for Prometheus; summed over its workers, past ones included.

Where `PROMETHEUS_MULTIPROC_DIR` is set before this module is imported, workers count in files of that folder.
"""

from __future__ import annotations

import os
import time

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CONTENT_TYPE_LATEST", "FOLDER", "Counted", "exposition"]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PHOTOS = (1, 2, 4, 8, 16, 32, 64, 128)

WORKER_STARTS = Counter(
    "landbridge_worker_starts", "Workers started; more than there are: some were replaced"
)
REQUESTS = Counter("landbridge_requests", "Requests answered", ["path", "status"])
REQUEST_SECONDS = Histogram(
    "landbridge_request_seconds", "From the first byte of a request to the last of its answer", ["path"],
    buckets=_SECONDS,
)  # fmt: skip
PHOTOS = Counter("landbridge_photos", "Photos answered; status 200 with features", ["status"])
WAITING_PHOTOS = Gauge(
    "landbridge_waiting_photos", "Photos taken on and not answered yet", multiprocess_mode="livesum"
)
WAITING_BYTES = Gauge(
    "landbridge_waiting_bytes", "Bytes of requests taken on and not answered yet", multiprocess_mode="livesum"
)
BATCH_PHOTOS = Histogram("landbridge_batch_photos", "Photos extracted together", buckets=_PHOTOS)
STAGE_SECONDS = Histogram(
    "landbridge_stage_seconds",
    "Of a photo: waiting to be decoded (admitted), decode, waiting for a batch (queue); of a batch: extract",
    ["stage"],
    buckets=_SECONDS,
)
GPU_BYTES = Gauge(
    "landbridge_gpu_memory_bytes",
    "Memory of the accelerator that PyTorch holds for tensors (allocated) and in all (reserved)",
    ["kind"],
    multiprocess_mode="livesum",
)


def exposition() -> bytes:
    """All figures, as Prometheus reads them."""
    if FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


class Counted:
    """ASGI middleware that counts requests and times them, by those paths that it is told of."""

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self.app = app
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        started = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            REQUESTS.labels(path, status).inc()
            REQUEST_SECONDS.labels(path).observe(time.perf_counter() - started)
