"""Feature files of any kind, read photo by photo."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from extractor.files import delf
from extractor.files.extraction import Entry, Extraction
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

    def close(self) -> None: ...


class _OnePhoto(NamedTuple):
    path: Path
    reader: Callable[[Path], Arrays]
    many: bool = False

    def names(self) -> Iterator[str]:
        yield self.path.stem

    def read(self, name: str) -> Arrays:
        return self.reader(self.path)

    def close(self) -> None:
        """It is never open."""


class _Size(NamedTuple):
    """The size of a photo whose files do not hold it."""

    path: Path
    size: tuple[int, int]
    many: bool = False

    def names(self) -> Iterator[str]:
        yield self.path.stem

    def read(self, name: str) -> Arrays:
        return {"size": np.array(self.size)}

    def close(self) -> None:
        """It is never open."""


KINDS: dict[str, Callable[[Path], _Source]] = {
    ".delf": lambda path: _OnePhoto(path, delf.read_local),
    ".delg_local": lambda path: _OnePhoto(path, delf.read_local),
    ".delg_global": lambda path: _OnePhoto(path, delf.read_global),
    ".h5": HlocFile,
    ".hdf5": HlocFile,
    ".npz": NpzFile,
}
"""What reads the files with a suffix."""


_OPEN_FILES = 16
"""A million photos lie in thousands of files; each that is open takes a handle, or maps."""

_PARTS = {
    "local": "local features are",
    "global_descriptor": "the global descriptor is",
    "size": "the size is",
}


class FeatureFiles(Mapping[str, StoredFeatures]):
    """The features of photos by their names, read from their files when asked for, and not kept.

    Iterating over `items()` takes the memory of one photo at a time; `files[name]` reads one, in several
    threads if you like. Names come in their own order, whatever that of the files.
    """

    def __init__(self, parts: Mapping[str, list[tuple[_Source, str]]]) -> None:
        self._parts = dict(sorted(parts.items()))
        self._open: OrderedDict[Path, _Source] = OrderedDict()
        self._lock = Lock()

    def __getitem__(self, image_id: str) -> StoredFeatures:
        """The features of a photo, from all files that hold any.

        Raises:
            KeyError: no file holds the photo.
            FeatureFileError: a file is damaged or holds what cannot be used, or two hold the same of a photo.
        """
        found: dict[str, Any] = {}
        origin: dict[str, Path] = {}
        for source, name in self._parts[image_id]:
            part = StoredFeatures.of(image_id, self._read(source, name), source.path)
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

    def _read(self, source: _Source, name: str) -> Arrays:
        """Read a photo from a file, of which only the last few stay open."""
        with self._lock:
            self._open[source.path] = source
            self._open.move_to_end(source.path)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            return source.read(name)

    def paths(self, image_id: str) -> list[Path]:
        """The files that hold features of a photo.

        Raises:
            KeyError: none does.
        """
        return [source.path for source, _ in self._parts[image_id]]

    def origin(self, image_id: str) -> Path:
        """Where features of a photo are: their first file and, where that holds many photos, the name in it.

        Raises:
            KeyError: no file holds the photo.
        """
        source, name = self._parts[image_id][0]
        return source.path / name if source.many else source.path

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
        paths: files, folders of files with their subfolders, and what `landbridge extract` wrote.

    Returns:
        Name -> features.

    Raises:
        FeatureFileError: a path is no feature file, holds no photos, cannot be read, or calls two photos by
            the same name.
    """
    parts: dict[str, list[tuple[_Source, str]]] = {}
    for path in map(Path, paths):
        if Extraction.is_at(path):
            extraction = Extraction.open(path)
            for image_id, sources in _extracted(extraction, extraction):
                parts.setdefault(image_id, []).extend((source, image_id) for source in sources)
            continue
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
            source.close()
            if not called:
                raise FeatureFileError(file, "it holds no features of any photo")
    return FeatureFiles(parts)


def read_shard(extraction: Extraction, shard: int) -> FeatureFiles:
    """The features of the photos of one shard of an extraction."""
    entries = ((shard, entry) for entry in extraction.entries(shard))
    return FeatureFiles(
        {i: [(source, i) for source in sources] for i, sources in _extracted(extraction, entries)}
    )


def _extracted(
    extraction: Extraction, entries: Iterable[tuple[int, Entry]]
) -> Iterator[tuple[str, list[_Source]]]:
    """Photos of an extraction that have features, each with the files that hold them, and its size."""
    shared: _Source | None = None
    for shard, entry in entries:
        if entry.size is None:
            continue
        files = extraction.files(shard, entry.image_id)
        if not extraction.is_sharded:
            parts = [KINDS[file.suffix](file) for file in files]
            yield entry.image_id, [*parts, _Size(files[0], entry.size)]
            continue
        if shared is None or shared.path != files[0]:
            shared = KINDS[files[0].suffix](files[0])
        yield entry.image_id, [shared]


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
