"""Shards as tasks of a Ray cluster, whose machines see photos and features under the same paths."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from extractor.batch.local import CORES
from extractor.batch.shard import extract_shard, load_extractor, portable
from extractor.extractor import Extractor
from extractor.files.extraction import Extraction
from extractor.threads import limit_cores

RETRIES = 5
"""How often a shard is given to another worker when one dies."""


def extract(
    extraction: Extraction,
    shards: Sequence[int],
    device: str,
    dtype: str,
    address: str,
    done: Callable[[int], None],
) -> None:
    """Extract shards on a cluster; see `local.extract`.

    Args:
        extraction: where they belong.
        shards: their numbers.
        device: `cpu`, or `cuda` for one GPU to each task.
        dtype: see `Extractor.to`.
        address: of the cluster, or `local` to start one on this machine.
        done: told how many photos were done, a shard at a time.

    Raises:
        ValueError: there is no Ray here, the cluster has no such device, or see `load_extractor`.
        ConnectionError: there is no cluster at this address.
        OSError: a machine does not see the folders, or workers died again and again.
    """
    ray = _ray()
    if device not in ("cpu", "cuda"):
        raise ValueError(f"on a cluster the device is cpu or cuda, which Ray assigns; got {device!r}")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address,
        include_dashboard=False if address == "local" else None,
        log_to_driver=False,
        logging_level="error",
    )
    try:
        cores, gpus = _share(ray.nodes(), device)
        task = ray.remote(_extract_shard).options(
            num_cpus=cores, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        folder = str(extraction.folder.resolve())
        waiting = [task.remote(folder, shard, device, dtype, cores) for shard in shards]
        while waiting:
            ready, waiting = ray.wait(waiting)
            for result in ready:
                done(ray.get(result))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ChildProcessError(
            f"a shard was given up after {RETRIES + 1} workers died, perhaps for want of memory ({error}); "
            "the same command goes on where this one ended"
        ) from None
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ValueError("Ray is not installed: pip install 'landbridge[cluster]'") from None
    return ray


def _share(nodes: Sequence[Mapping[str, Any]], device: str) -> tuple[int, int]:
    """Cores and GPUs of a task, such that there is room for it on every machine that has any."""
    have = [node["Resources"] for node in nodes if node["Alive"]]
    if device == "cpu":
        return int(min([CORES, *(node["CPU"] for node in have if node.get("CPU", 0) >= 1)])), 0
    able = [node for node in have if node.get("GPU", 0) >= 1]
    if not able:
        raise ValueError("no machine of the cluster has a GPU: use the device cpu")
    return int(max(1, min(node.get("CPU", 1) // node["GPU"] for node in able))), 1


def _extract_shard(folder: str, shard: int, device: str, dtype: str, cores: int) -> int:
    """A task: extract a shard; returns how many photos were done."""
    limit_cores(cores)
    try:
        if not Extraction.is_at(Path(folder)):
            raise ValueError(f"{socket.gethostname()} does not see {folder}: {_SHARED}")
        extraction = Extraction.open(folder)
        entries = extraction.entries(shard)
        if not any(Path(entry.path).exists() for entry in entries):
            raise ValueError(f"{socket.gethostname()} does not see {entries[0].path}: {_SHARED}")
        extractor = _loaded(folder, extraction.fingerprint, device, dtype)
        photos = 0

        def done() -> None:
            nonlocal photos
            photos += 1

        extract_shard(extraction, shard, extractor, done)
        return photos
    except Exception as error:
        raise portable(error) from None


_SHARED = "all machines of a cluster need the photos and the features under the same paths"


@lru_cache(maxsize=1)
def _loaded(folder: str, fingerprint: str, device: str, dtype: str) -> Extractor:
    """The extractor, which a worker keeps for its next tasks."""
    return load_extractor(Extraction.open(folder), device, dtype)
