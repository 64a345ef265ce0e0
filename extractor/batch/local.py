"""Shards on this machine: a process for each GPU, or for every eight cores; where that is one, this one."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from extractor.batch.shard import extract_shard, load_extractor, portable
from extractor.files.extraction import Extraction
from extractor.threads import available_cores, limit_cores

CORES = 8
"""Cores that one process can keep busy: more threads would wait for one another in Python."""


_PHOTO, _SHARD = "photo", "shard"


def extract(
    extraction: Extraction,
    shards: Sequence[int],
    device: str,
    dtype: str,
    done: Callable[[], None],
    processes: int | None = None,
) -> None:
    """Extract shards.

    Args:
        extraction: where they belong.
        shards: their numbers.
        device: `cpu`, `cuda` for all GPUs, or one of PyTorch's devices.
        dtype: see `Extractor.to`.
        done: called after each photo.
        processes: on the processor: how many; by default one for every `CORES`.

    Raises:
        ValueError: there is no such device, or see `load_extractor`.
        OSError: a file cannot be written, or a worker died.
    """
    devices = _devices(device, processes)[: len(shards)]
    if len(devices) > 1:
        _in_processes(extraction, shards, devices, dtype, done)
        return
    extractor = load_extractor(extraction, devices[0], dtype)
    for shard in shards:
        extract_shard(extraction, shard, extractor, done)


def _devices(device: str, processes: int | None) -> list[str]:
    """The device of each process."""
    if device == "cpu":
        return ["cpu"] * (processes or max(1, available_cores() // CORES))
    if device != "cuda":
        return [device]
    import torch

    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if not devices:
        raise ValueError("PyTorch finds no GPU here: use the device cpu")
    return devices


def _in_processes(
    extraction: Extraction,
    shards: Sequence[int],
    devices: Sequence[str],
    dtype: str,
    done: Callable[[], None],
) -> None:
    context = multiprocessing.get_context("spawn")
    cores = max(1, available_cores() // len(devices))
    workers: dict[Connection, SpawnProcess] = {}
    waiting = iter(shards)
    try:
        for device in devices:
            ours, theirs = context.Pipe()
            worker = context.Process(
                target=_work, args=(theirs, extraction.folder, device, dtype, cores), daemon=True
            )
            worker.start()
            theirs.close()
            workers[ours] = worker
            ours.send(next(waiting))
        while workers:
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                try:
                    said = connection.recv()
                except EOFError:
                    raise ChildProcessError(
                        "a worker process was killed, perhaps for want of memory; the same command goes on "
                        "where this one ended"
                    ) from None
                if isinstance(said, Exception):
                    raise said
                if said == _PHOTO:
                    done()
                    continue
                shard = next(waiting, None)
                connection.send(shard)
                if shard is None:
                    workers.pop(connection).join()
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join()


def _work(connection: Connection, folder: Path, device: str, dtype: str, cores: int) -> None:
    """A worker process: extracts shards as it is told, until it is told None or nobody is there to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_cores(cores)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            extraction = Extraction.open(folder)
            extractor = load_extractor(extraction, device, dtype)
            while (shard := connection.recv()) is not None:
                extract_shard(extraction, shard, extractor, lambda: connection.send(_PHOTO))
                connection.send(_SHARD)
        except Exception as error:
            connection.send(portable(error))
