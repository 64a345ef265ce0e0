"""Checkpoints of a stage: everything needed to go on as if nothing had happened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint cannot be gone on with; the message says why and what to do."""


def write_atomically(path: Path, content: Any) -> None:
    """Write what PyTorch can save, so that the file is whole at any moment or not there.

    The same content gives the same bytes, whatever the file is called.
    """
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_checkpoint(path: Path, identity: Mapping[str, object]) -> dict[str, Any] | None:
    """Read a checkpoint of this very training.

    Args:
        path: the file.
        identity: what must agree: settings, photos, and so on.

    Returns:
        What was saved, or None where there is no such file.

    Raises:
        CheckpointError: the file is damaged, or is of another training; the message names the differences.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved: Mapping[str, object] = state["identity"]
    except Exception as error:
        raise CheckpointError(f"{path} is no checkpoint, remove it to start anew: {error}") from error
    different = sorted(
        name for name in {*saved, *identity} if saved.get(name, None) != identity.get(name, None)
    )
    if different:
        changes = ", ".join(f"{name} {saved.get(name)!r}, now {identity.get(name)!r}" for name in different)
        raise CheckpointError(
            f"{path} is of another training ({changes}): repeat its settings, or train into another folder"
        )
    return state
