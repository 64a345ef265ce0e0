"""Feature files in numpy's `.npz`: one photo in a file, or many, one after the other in the same arrays.

| array | one photo | many photos |
|---|---|---|
| `keypoints` | [N, 2], x and y in pixels | [sum of counts, 2] |
| `descriptors` | [N, d] | [sum of counts, d] |
| `scales`, `scores` | [N], may be missing | [sum of counts] |
| `size` | [2], width and height, may be missing | [n, 2] |
| `global_descriptor` | [D], may be missing | [n, D] |
| `images` | | text [n], the photos' names |
| `counts` | | int [n], local features of each, where there are any |
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from extractor.files.stored_features import LOCAL, WHOLE, Arrays, FeatureFileError, StoredFeatures

IMAGES = "images"
COUNTS = "counts"
_LOCAL_HEADER = 30
_COPIED = 1 << 20


class NpzFile:
    """An `.npz` for reading; of many photos, what is not compressed is mapped and not read before its use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def many(self) -> bool:
        """Whether it holds many photos."""
        with self._opened() as file:
            return IMAGES in file.files

    def _opened(self) -> np.lib.npyio.NpzFile:
        try:
            file = np.load(self.path, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise FeatureFileError(self.path, f"it cannot be read as .npz ({error})") from None
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise FeatureFileError(self.path, "it is a single array, not an .npz")
        return file

    def close(self) -> None:
        """Let go of what is mapped; reading maps it again."""
        for kept in ("_rows", "_bounds", "_columns"):
            self.__dict__.pop(kept, None)

    def names(self) -> Iterator[str]:
        """The photos' names; the file's own, without suffix, where it holds one photo.

        Raises:
            FeatureFileError: it is no .npz, damaged, or its arrays do not fit together.
        """
        yield from self._rows if self.many else [self.path.stem]

    def read(self, name: str) -> Arrays:
        """What the file holds of a photo.

        Raises:
            FeatureFileError: it is damaged.
        """
        if self.many:
            row = self._rows[name]
            bounds = slice(self._bounds[row], self._bounds[row + 1])
            return {
                name: np.array(array[bounds] if name in LOCAL else array[row])
                for name, array in self._columns.items()
            }
        with self._opened() as file:
            return {name: self._array(file, name) for name in (*LOCAL, *WHOLE) if name in file.files}

    def _array(self, file: np.lib.npyio.NpzFile, name: str) -> NDArray:
        try:
            return np.asarray(file[name])
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise FeatureFileError(self.path, f"{name} cannot be read ({error})") from None

    @cached_property
    def _rows(self) -> dict[str, int]:
        with self._opened() as file:
            images = self._array(file, IMAGES)
        if images.ndim != 1 or images.dtype.kind != "U":
            raise FeatureFileError(
                self.path, f"{IMAGES} must be text [n], it is {images.dtype} {list(images.shape)}"
            )
        rows: dict[str, int] = {}
        for row, image in enumerate(images.tolist()):
            if rows.setdefault(image, row) != row:
                raise FeatureFileError(self.path, f"{IMAGES} names {image!r} twice")
        return rows

    @cached_property
    def _bounds(self) -> NDArray[np.int64]:
        """Where the local features of each photo begin and end."""
        counts = np.zeros(len(self._rows), np.int64)
        with self._opened() as file:
            if COUNTS in file.files:
                counts = self._array(file, COUNTS)
        if counts.shape != (len(self._rows),) or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise FeatureFileError(
                self.path, f"{COUNTS} must be the numbers of local features of {len(self._rows)} images"
            )
        return np.append(0, np.cumsum(counts.astype(np.int64)))

    @cached_property
    def _columns(self) -> dict[str, NDArray]:
        columns = {}
        with self._opened() as file:
            for name in (*LOCAL, *WHOLE):
                if name in file.files:
                    mapped = self._mapped(file, name)
                    columns[name] = self._array(file, name) if mapped is None else mapped
        for name, array in columns.items():
            wanted = int(self._bounds[-1]) if name in LOCAL else len(self._rows)
            if array.ndim == 0 or len(array) != wanted:
                raise FeatureFileError(
                    self.path, f"{name} has shape {list(array.shape)}, and should have {wanted} rows"
                )
        return columns

    def _mapped(self, file: np.lib.npyio.NpzFile, name: str) -> NDArray | None:
        """The array, mapped; None where that cannot be done."""
        assert file.zip is not None, "it is open"
        entry = file.zip.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            return None
        with self.path.open("rb") as raw:
            raw.seek(entry.header_offset)
            header = raw.read(_LOCAL_HEADER)
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            start = entry.header_offset + _LOCAL_HEADER + lengths
            raw.seek(start)
            try:
                version = np.lib.format.read_magic(raw)
                reader = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, columns_first, dtype = reader(raw)
            except (ValueError, KeyError):
                return None
            offset = raw.tell()
            size = dtype.itemsize * int(np.prod(shape))
            if dtype.hasobject or not size or offset - start + size != entry.file_size:
                return None
        return np.memmap(self.path, dtype, "r", offset, shape, "F" if columns_first else "C")


def write_one(path: Path, features: StoredFeatures) -> None:
    """Write one photo to a file; int8 descriptors stay as they are."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **_arrays(features))


def write_many(path: Path, features: Iterable[StoredFeatures]) -> None:
    """Write many photos to one file; no more than one of them is in memory.

    Raises:
        ValueError: photos differ in what they have: local features, descriptors of some length and type,
            a global descriptor, a size.
    """
    images: list[str] = []
    counts: list[int] = []
    layout: dict[str, tuple[np.dtype, tuple[int, ...]]] | None = None
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.") as folder,
        ExitStack() as opened,
    ):
        spools: dict[str, BinaryIO] = {}
        for photo in features:
            arrays = {name: array if name in LOCAL else array[None] for name, array in _arrays(photo).items()}
            own = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
            if layout is None:
                layout = own
                spools = {name: opened.enter_context(Path(folder, name).open("w+b")) for name in own}
            elif own != layout:
                raise ValueError(
                    f"{photo.image_id} has {_text(own)}, but {images[0]} has {_text(layout)}: "
                    "photos in one .npz must have the same"
                )
            for name, array in arrays.items():
                spools[name].write(np.ascontiguousarray(array).data)
            images.append(photo.image_id)
            counts.append(0 if photo.local is None else len(photo.local))
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            _add(archive, IMAGES, np.array(images, np.str_))
            _add(archive, COUNTS, np.array(counts, np.int64))
            for name, (dtype, shape) in (layout or {}).items():
                rows = sum(counts) if name in LOCAL else len(images)
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": (rows, *shape),
                }
                spools[name].seek(0)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as target:
                    np.lib.format.write_array_header_1_0(target, header)
                    shutil.copyfileobj(spools[name], target, _COPIED)


def _arrays(features: StoredFeatures) -> dict[str, NDArray]:
    arrays: dict[str, NDArray] = {}
    if features.local is not None:
        arrays |= {name: getattr(features.local, name) for name in LOCAL}
    if features.size is not None:
        arrays["size"] = np.array(features.size, np.int64)
    if features.global_descriptor is not None:
        arrays["global_descriptor"] = features.global_descriptor
    return arrays


def _text(layout: dict[str, tuple[np.dtype, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, (dtype, shape) in layout.items()) or "nothing"


def _add(archive: zipfile.ZipFile, name: str, array: NDArray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as target:
        np.lib.format.write_array(target, array, allow_pickle=False)
