"""Checkpoints of PyTorch with more in them than tensors, read without running what is in them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from extractor.weights import WeightsError

_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")


class Opaque:
    """Stands for an object whose class is not imported; its attributes are there to be read."""


class _Dtype:
    """A dtype of numbers."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        name = code.decode() if isinstance(code, bytes) else code
        if not _NUMBER.fullmatch(name):
            raise ValueError(f"it asks for an array of {name!r}")
        self.plain = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order: Any = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.plain = self.plain.newbyteorder(order)


class _Array:
    """An array that is put together from its bytes."""

    values: NDArray[np.generic] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.plain.itemsize:
            raise ValueError(f"it asks for an array of shape {shape} with other bytes")
        values = np.frombuffer(data, dtype.plain)
        self.values = values.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.plain)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Empty bytes are written as a call of `bytes`."""
    return b""


_ADMITTED = [
    (_encode, "_codecs.encode"),
    *((_no_bytes, f"{module}.bytes") for module in ("builtins", "__builtin__")),
    (_Array, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((_reconstruct, "_reconstruct"), (_scalar, "scalar"))
    ),
    *((Opaque, f"sklearn.decomposition.{module}.PCA") for module in ("pca", "_pca")),
    *(
        (Opaque, f"{package}watcher.{name}")
        for package in ("utils.", "dirtorch.utils.")
        for name in ("AverageMeter", "Watch")
    ),
]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that may hold tensors, numbers, text, NumPy arrays and a PCA of scikit-learn.

    Nothing else can be built or called: NumPy's and scikit-learn's own classes are not either.

    Args:
        path: the file, of either format of PyTorch.

    Returns:
        What it holds; arrays are NumPy arrays.

    Raises:
        WeightsError: it is missing, cut off, damaged, no checkpoint, or asks for anything else.
    """
    try:
        with torch.serialization.safe_globals(_ADMITTED):  # type: ignore[arg-type]
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        # PyTorch wraps the reason in advice, among others to run what is in the file.
        cause = error.__context__ or error
        reason = re.split(r"\. |\n", str(cause))[0].rstrip(".") or type(cause).__name__
        raise WeightsError(
            f"cannot read {path}: {reason}. Download it again if it is cut off; it may hold tensors, NumPy "
            "arrays and a PCA of scikit-learn"
        ) from error
    if not isinstance(checkpoint, dict):
        raise WeightsError(f"{path} is no checkpoint, but a {type(checkpoint).__name__}")
    plain: dict[str, Any] = _plain(checkpoint)
    return plain


def _plain(value: Any) -> Any:
    """The value with NumPy arrays where stand-ins were."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(inner) for inner in value)
    if type(value) is Opaque:
        value.__dict__.update(_plain(dict(value.__dict__)))
    return value
