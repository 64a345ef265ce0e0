"""Running the service: worker processes on one socket, replaced when they die, drained when told to stop."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from filelock import FileLock, Timeout
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from extractor.extractor import Extractor
from extractor.service.limits import Limits
from extractor.weights import WeightsError

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger("uvicorn.error")

_METRICS = "PROMETHEUS_MULTIPROC_DIR"
_DRAIN_SECONDS = 120
_HUNG_SECONDS = 60
_MOST_CONNECTIONS = 1000


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know.

    Attributes:
        load: makes the extractor; a worker is another process, so it must be picklable.
        device: where the extractor runs; `cuda` gives each worker the next of the devices that there are.
        dtype: in which it calculates: `float32`, `bfloat16` or `float16`.
        learnt: what an extractor learnt that must learn; see `Extractor.restore`.
        token: which clients must show; none when empty.
        limits: of one worker.
    """

    load: Callable[[], Extractor]
    device: str = "cpu"
    dtype: str = "float32"
    learnt: bytes | None = None
    token: str = field(default="", repr=False)
    limits: Limits = field(default_factory=Limits)


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 8420, workers: int = 1) -> int:
    """Serve until SIGTERM or SIGINT; what was taken on before is answered first.

    Args:
        settings: of every worker.
        host: address to listen on.
        port: 0 for any that is free.
        workers: processes, each with the extractor in its memory; they share the port.

    Returns:
        Exit status: 0, or 1 when a worker could not start.
    """
    with tempfile.TemporaryDirectory(prefix="landbridge-service-") as folder:
        os.environ[_METRICS] = folder
        config = uvicorn.Config(
            partial(worker_app, settings, Path(folder)),
            factory=True,
            host=host,
            port=port,
            workers=workers,
            lifespan="on",
            ws="none",
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            timeout_worker_healthcheck=_HUNG_SECONDS,
        )
        supervisor = _Supervisor(config, [config.bind_socket()])
        supervisor.run()
        failed = any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes)
        return int(failed)


class _Supervisor(Multiprocess):
    def init_processes(self) -> None:
        super().init_processes()
        self._hear_of_deaths()

    def keep_subprocess_alive(self) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        self._hear_of_deaths()
        for dead in before - {process.pid for process in self.processes}:
            mark_process_dead(dead)

    def terminate_all(self) -> None:
        # The workers close their own copies: from here on nobody can connect.
        for socket in self.sockets:
            socket.close()
        super().terminate_all()

    def _hear_of_deaths(self) -> None:
        # A worker that dies while it is asked how it is ends the question only if no one else holds its end.
        for process in self.processes:
            process.child_conn.close()


def worker_app(settings: Settings, folder: Path) -> FastAPI:
    """Load the extractor and make the app around it, in a worker.

    Args:
        settings: what to load.
        folder: which the workers of a service share.

    Raises:
        SystemExit: the extractor cannot be loaded; no other worker is started in this one's place.
    """
    _end_with_parent()
    try:
        from extractor.service.app import create_app

        device = _own_device(settings.device, folder)
        extractor = ready_extractor(settings, device)
        app = create_app(
            extractor, settings.limits, token=settings.token, device=device, dtype=settings.dtype
        )
    except (ValueError, OSError, ImportError, WeightsError) as error:
        logger.error("%s", error)
        raise SystemExit(STARTUP_FAILURE) from None
    except Exception:
        logger.exception("The extractor cannot be loaded")
        raise SystemExit(STARTUP_FAILURE) from None
    logger.info("Serving %s on %s in %s", extractor.fingerprint, device, settings.dtype)
    return app


def ready_extractor(settings: Settings, device: str) -> Extractor:
    """Load an extractor with what it learnt, and move it.

    Raises:
        ValueError: it must learn first, learnt something else, or does not run there.
    """
    extractor = settings.load()
    if settings.learnt is not None:
        extractor.restore(settings.learnt)
    if extractor.learns:
        raise ValueError(
            f"{extractor.name} must learn from photos before it can serve: give --learn with a folder of "
            "photos of the index, or --learnt with what such an extractor learnt"
        )
    return extractor.to(device, settings.dtype)


def _own_device(device: str, folder: Path) -> str:
    """For `cuda`, the next device; the place of a worker that died is free again."""
    if device != "cuda":
        return device
    import torch

    count = max(1, torch.cuda.device_count())
    place = 0
    while True:
        lock = FileLock(folder / f"worker-{place}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            place += 1
        else:
            _held.append(lock)
            return f"cuda:{place % count}"


_held: list[FileLock] = []


def _end_with_parent() -> None:
    """No worker outlives the process that started it, however that ended."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="parent").start()
