"""Feature files of any kind, read photo by photo."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from extractor.files import delf
from extractor.files.hloc import HlocFile
from extractor.files.npz import NpzFile
from extractor.files.stored_features import Arrays, FeatureFileError, StoredFeatures
from extractor.photo import SUFFIXES


class _Source(Protocol):
    """A feature file."""

    @property
    def path(self) -> Path: ...

    @property
    def many(self) -> bool:
        """Whether it names its photos; if not, it is one photo and has its name."""
        ...

    def names(self) -> Iterator[str]: ...

    def read(self, name: str) -> Arrays: ...


class _OnePhoto(NamedTuple):
    path: Path
    reader: Callable[[Path], Arrays]
    many: bool = False

    def names(self) -> Iterator[str]:
        yield self.path.stem

    def read(self, name: str) -> Arrays:
        return self.reader(self.path)


KINDS: dict[str, Callable[[Path], _Source]] = {
    ".delf": lambda path: _OnePhoto(path, delf.read_local),
    ".delg_local": lambda path: _OnePhoto(path, delf.read_local),
    ".delg_global": lambda path: _OnePhoto(path, delf.read_global),
    ".h5": HlocFile,
    ".hdf5": HlocFile,
    ".npz": NpzFile,
}
"""What reads the files with a suffix."""


_PARTS = {
    "local": "local features are",
    "global_descriptor": "the global descriptor is",
    "size": "the size is",
}


class FeatureFiles(Mapping[str, StoredFeatures]):
    """The features of photos by their names, read from their files when asked for, and not kept.

    Iterating over `items()` takes the memory of one photo at a time; `files[name]` reads one. Names come in
    their own order, whatever that of the files.
    """

    def __init__(self, parts: Mapping[str, list[tuple[_Source, str]]]) -> None:
        self._parts = dict(sorted(parts.items()))

    def __getitem__(self, image_id: str) -> StoredFeatures:
        """The features of a photo, from all files that hold any.

        Raises:
            KeyError: no file holds the photo.
            FeatureFileError: a file is damaged or holds what cannot be used, or two hold the same of a photo.
        """
        found: dict[str, Any] = {}
        origin: dict[str, Path] = {}
        for source, name in self._parts[image_id]:
            part = StoredFeatures.of(image_id, source.read(name), source.path)
            for what in _PARTS:
                value = getattr(part, what)
                if value is not None and what in found and what != "size":
                    raise FeatureFileError(
                        source.path, f"{_PARTS[what]} in {origin[what]} too; give one of the two", image_id
                    )
                if value is not None:
                    found.setdefault(what, value)
                    origin.setdefault(what, source.path)
        return StoredFeatures(image_id, **found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._parts


def read_features(*paths: Path | str) -> FeatureFiles:
    """Find the photos in feature files; their features are read one by one.

    The kind of a file is told by its suffix (`KINDS`). A photo is called by its name in the file or, where a
    file is one photo, by the file's, with the folders below the one given; suffixes such as .jpg are left
    off, so that files of one photo join up: `a.delg_local` with `a.delg_global`, or the group `a.jpg` of two
    `.h5` files.

    Args:
        paths: files, and folders of files, with their subfolders.

    Returns:
        Name -> features.

    Raises:
        FeatureFileError: a path is no feature file, holds no photos, cannot be read, or calls two photos by
            the same name.
    """
    parts: dict[str, list[tuple[_Source, str]]] = {}
    for path in map(Path, paths):
        for file in _files(path):
            source = KINDS[file.suffix.lower()](file)
            folder = file.parent.relative_to(path) if path.is_dir() else Path()
            called: dict[str, str] = {}
            for name in source.names():
                image_id = _without_suffix(name if source.many else (folder / name).as_posix())
                if called.setdefault(image_id, name) != name:
                    raise FeatureFileError(
                        file, f"{called[image_id]} and {name} would both be called {image_id}; rename one"
                    )
                parts.setdefault(image_id, []).append((source, name))
            if not called:
                raise FeatureFileError(file, "it holds no features of any photo")
    return FeatureFiles(parts)


def _files(path: Path) -> list[Path]:
    kinds = ", ".join(KINDS)
    if not path.is_dir():
        if not path.exists():
            raise FeatureFileError(path, "there is no such file or folder")
        if path.suffix.lower() not in KINDS:
            raise FeatureFileError(path, f"its suffix is none of {kinds}")
        return [path]
    found = []
    for parent, folders, files in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in sorted(files)
            if not name.startswith(".") and Path(name).suffix.lower() in KINDS
        ]
    if not found:
        raise FeatureFileError(path, f"the folder holds no feature files ({kinds})")
    return found


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name
