"""The disk of Milvus is full, and has room again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from . import Backend, Fault, SurpriseError, Worker

WAY_OUT = "make room"
BLOBS, LEFT = 6, 2**23


def unavailable() -> str:
    """Why no small disk can be made here; empty when one can."""
    if os.geteuid() or not shutil.which("mount"):
        return "no disk to fill: only root may mount one"
    return ""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own, in memory."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(backend: Backend, worker: Worker, disk: Path) -> Fault:
    """Blobs of 4 MiB are written to a disk that has no room for all of them, and then has.

    Args:
        backend: Milvus Lite is given a folder on the disk; a server has its data there.
        worker: writes.
        disk: the small one.
    """
    whole = backend.place("roomy")
    worker.complete("fill", whole, blobs=BLOBS)
    expected = worker.content(whole)
    place = backend.place("cramped")
    if backend.lite:
        place = replace(place, uri=str(disk / "cramped.db"))
    worker.complete("fill", place, blobs=1)
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - LEFT)
    outcome = worker.run("fill", place, blobs=BLOBS, timeout=10)
    filler.unlink()
    if not outcome.failed or not re.search(WAY_OUT, outcome.failed):
        raise SurpriseError(f"the disk was full, and the client said: {outcome}")
    lost = worker.content(place).lacks(outcome.acknowledged, expected)
    worker.complete("fill", place, blobs=BLOBS)
    found = worker.content(place)
    lost += found.lost(expected)
    return Fault("full disk", str(backend), 1, lost, found.duplicated(expected), [outcome.failed])
