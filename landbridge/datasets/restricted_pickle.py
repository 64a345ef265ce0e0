"""Reading ground truth pickles without running what is in them."""

from __future__ import annotations

import math
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from landbridge.datasets.dataset import DatasetError

_PLAIN_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU]\d+|O8?")


def load_restricted_pickle(path: Path) -> Any:
    """Read a pickle that may hold numbers, text, bytes, lists, tuples, dicts, sets and numpy arrays only.

    Nothing else can be built, imported or called. numpy's own functions are not called either, because a
    forged dtype makes them read memory: arrays are rebuilt here, from their bytes. Pickles written by
    Python 2 are read as Latin-1.

    Args:
        path: the pickle; only its first object is read.

    Returns:
        The object.

    Raises:
        DatasetError: the pickle asks for anything else (the message names it), or is damaged.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        try:
            return _RestrictedUnpickler(file, encoding="latin1").load()
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise DatasetError(
                f"{path} was refused: {error}. A ground truth pickle may hold numpy arrays and built-in "
                "types only; if you trust it, convert it to gnd.json"
            ) from error


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Bound methods, because a pickle can set the attributes of a plain function.
        admitted = {
            "builtins.set": set,
            "builtins.frozenset": frozenset,
            "builtins.bytes": self._no_bytes,
            "_codecs.encode": self._encode,
            "numpy.ndarray": None,
            "numpy.dtype": _Dtype,
            "numpy._core.multiarray._reconstruct": self._reconstruct,
            "numpy._core.multiarray.scalar": self._scalar,
            "numpy._core.numeric._frombuffer": self._frombuffer,
        }
        # As Python 2 and numpy 1 called them.
        modern = {"__builtin__": "builtins"}.get(module, module).replace("numpy.core.", "numpy._core.")
        if f"{modern}.{name}" not in admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return admitted[f"{modern}.{name}"]

    def _no_bytes(self) -> bytes:
        """Protocols 0 to 2 write empty bytes as a call of `bytes`."""
        return b""

    def _encode(self, text: str, encoding: str) -> bytes:
        """Protocols 0 to 2 write other bytes as text to encode in Latin-1."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
        return text.encode("latin1")

    def _reconstruct(self, *_: object) -> _Array:
        return _Array(0, np.int8)

    def _scalar(self, dtype: _Dtype, data: bytes | str) -> Any:
        return np.frombuffer(dtype.checked(data), dtype.plain)[0]

    def _frombuffer(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> Any:
        return np.frombuffer(dtype.checked(data), dtype.plain).reshape(shape, order=order)


class _Dtype:
    """A dtype without fields, shape, metadata or flags."""

    def __init__(self, code: str, *_: object) -> None:
        if not _PLAIN_DTYPE.fullmatch(code):
            raise pickle.UnpicklingError(f"it asks for an array of {code!r}")
        self.plain: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("it asks for an array with fields")
        self.plain = self.plain.newbyteorder(state[1])

    def checked(self, data: bytes | str) -> bytes:
        """The data, where it may be read as this dtype."""
        if self.plain.hasobject:
            raise pickle.UnpicklingError("it asks for an array of objects made of raw bytes")
        raw = data.encode("latin1") if isinstance(data, str) else memoryview(data).tobytes()
        if self.plain.kind == "U":
            letters = np.frombuffer(raw, np.dtype(np.uint32).newbyteorder(self.plain.byteorder))
            if letters.max(initial=0) > sys.maxunicode:
                raise pickle.UnpicklingError("it asks for text with letters that do not exist")
        return raw


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array that is filled from checked parts."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, data = state
        if min(shape, default=0) < 0:
            raise pickle.UnpicklingError(f"it asks for an array of shape {shape}")
        checked: Any
        if dtype.plain.hasobject:
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise pickle.UnpicklingError(f"it asks for an array of {shape} objects made of {data!r:.40}")
            checked = (version, shape, np.dtype(object), fortran, data)
        else:
            checked = (version, shape, dtype.plain, fortran, dtype.checked(data))
        super().__setstate__(checked)
