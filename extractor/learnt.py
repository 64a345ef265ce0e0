"""What an extractor learnt from an index, as bytes that are stored with that index."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np

from extractor.whitening import Whitening

VERSION = 1
"""Of the format; bytes of another version are refused."""


def pack_learnt(extractor: str, projections: Mapping[str, Whitening]) -> bytes:
    """A NumPy `.npz` archive, the same bytes for the same content.

    Args:
        extractor: fingerprint that the extractor had before it learnt.
        projections: by the half of the extractor that they belong to.
    """
    arrays = {half: np.frombuffer(made.to_bytes(), np.uint8) for half, made in sorted(projections.items())}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, version=np.array(VERSION), extractor=np.array(extractor), **arrays)
    return buffer.getvalue()


def unpack_learnt(data: bytes, extractor: str) -> dict[str, Whitening]:
    """Read what `pack_learnt` wrote.

    Args:
        data: the bytes.
        extractor: fingerprint, before learning, of the extractor that is to use them.

    Raises:
        ValueError: they are damaged, of another version, or of another extractor.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
        version, owner = int(arrays.pop("version")), str(arrays.pop("extractor"))
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"not what an extractor learnt: {error}") from error
    if version != VERSION:
        raise ValueError(f"what the extractor learnt is of version {version}, this release reads {VERSION}")
    if owner != extractor:
        raise ValueError(f"what is stored was learnt by {owner}, this is {extractor}")
    return {half: Whitening.from_bytes(array.tobytes()) for half, array in arrays.items()}
