"""The folder that `landbridge extract` fills: features of many photos, and of which photos they are.

    extraction.json     the extractor, and the kind of files
    extractor.learnt    what the extractor learnt from the photos, where it learns
    features/           feature files: one for each shard of photos (.npz, .h5), or some for each photo
    photos/000000.jsonl the photos of a shard: file, size, or why there are no features
    failed.csv          the photos that could not be read

A shard is done when its list of photos says so, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extractor.files.atomic import write_atomically
from extractor.files.stored_features import FeatureFileError

VERSION = 1
"""Of the layout; folders of another version are refused."""

SUFFIXES: dict[str, tuple[str, ...]] = {
    "npz": (),
    "h5": (),
    "delf": (".delf",),
    "delg": (".delg_local", ".delg_global"),
}
"""The formats: which files a photo has to itself; none where all photos of a shard share one."""

_HEADER = "extraction.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A photo of an extraction.

    Attributes:
        image_id: its name.
        path: its file.
        file_bytes: size of the file that the features were made of; None where it was not looked at yet.
        modified_ns: time of modification of that file, in nanoseconds.
        size: (width, height) in pixels of the photo, where it has features.
        failed: why it has none.
    """

    image_id: str
    path: str
    file_bytes: int | None = None
    modified_ns: int | None = None
    size: tuple[int, int] | None = None
    failed: str = ""

    @property
    def done(self) -> bool:
        """Whether there are features of it."""
        return self.size is not None

    @property
    def file(self) -> tuple[int, int]:
        """Size and time of modification of the file that the features were made of."""
        assert self.file_bytes is not None and self.modified_ns is not None, "it is done"  # noqa: PT018
        return self.file_bytes, self.modified_ns


@dataclass(frozen=True)
class Extraction:
    """A folder of features, all by one extractor.

    Attributes:
        folder: where it is.
        extractor: registered name of what made the features.
        fingerprint: of what made the features.
        dimension: components of the global descriptors.
        local_dimension: components of the local descriptors.
        format: one of `SUFFIXES`.
    """

    folder: Path
    extractor: str
    fingerprint: str
    dimension: int
    local_dimension: int
    format: str

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Whether a folder is one."""
        return (folder / _HEADER).is_file()

    @classmethod
    def open(cls, folder: Path | str) -> Extraction:
        """Open a folder.

        Raises:
            FeatureFileError: it is no extraction, of another version, or damaged.
        """
        path = Path(folder) / _HEADER
        try:
            header = json.loads(path.read_text())
            version = header.pop("version")
            if version != VERSION:
                raise FeatureFileError(path, f"it is of version {version}, this release reads {VERSION}")
            return cls(Path(folder), **header)
        except FileNotFoundError:
            raise FeatureFileError(path.parent, "the folder was not made by landbridge extract") from None
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise FeatureFileError(path, f"it is damaged ({error})") from None

    def save(self, learnt: bytes | None) -> None:
        """Write the header of a new extraction, after what its extractor learnt."""
        if learnt is not None:
            write_atomically(self._learnt, lambda part: part.write_bytes(learnt))
        header: dict[str, Any] = {"version": VERSION} | asdict(self)
        del header["folder"]
        write_atomically(
            self.folder / _HEADER, lambda part: part.write_text(json.dumps(header, indent=2) + "\n")
        )

    @property
    def _learnt(self) -> Path:
        return self.folder / "extractor.learnt"

    @property
    def learnt(self) -> bytes | None:
        """What the extractor learnt; None where it had nothing to learn."""
        return self._learnt.read_bytes() if self._learnt.exists() else None

    @property
    def features(self) -> Path:
        """Folder of the feature files."""
        return self.folder / "features"

    @property
    def photos(self) -> Path:
        """Folder of the lists of photos."""
        return self.folder / "photos"

    @property
    def failed(self) -> Path:
        """The list of photos that could not be read; there is none where all could."""
        return self.folder / "failed.csv"

    @property
    def is_sharded(self) -> bool:
        """Whether the photos of a shard are in one file."""
        return not SUFFIXES[self.format]

    def shards(self) -> list[int]:
        """Numbers of the shards, in order."""
        return sorted(int(path.stem) for path in self.photos.glob("[0-9]*.jsonl"))

    def entries(self, shard: int) -> list[Entry]:
        """The photos of a shard.

        Raises:
            FeatureFileError: the list is damaged.
        """
        path = self._list(shard)
        try:
            return [_entry(json.loads(line)) for line in path.read_text().splitlines()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FeatureFileError(path, f"it is damaged ({error})") from None

    def write_entries(self, shard: int, entries: Sequence[Entry]) -> None:
        """Write the list of a shard's photos."""
        text = "".join(json.dumps(_fields(entry)) + "\n" for entry in entries)
        write_atomically(self._list(shard), lambda part: part.write_text(text))

    def __iter__(self) -> Iterator[tuple[int, Entry]]:
        """All photos, each with the number of its shard; one shard at a time is in memory."""
        for shard in self.shards():
            for entry in self.entries(shard):
                yield shard, entry

    def files(self, shard: int, image_id: str) -> list[Path]:
        """The feature files of a photo; those of its shard, which others share, in formats that have such."""
        if self.is_sharded:
            return [self.features / f"{shard:06d}.{self.format}"]
        return [self.features / f"{image_id}{suffix}" for suffix in SUFFIXES[self.format]]

    def _list(self, shard: int) -> Path:
        return self.photos / f"{shard:06d}.jsonl"


def _fields(entry: Entry) -> dict[str, Any]:
    """What there is to say of a photo."""
    return {name: value for name, value in asdict(entry).items() if value not in (None, "")}


def _entry(fields: dict[str, Any]) -> Entry:
    size = fields.pop("size", None)
    return Entry(**fields, size=None if size is None else (int(size[0]), int(size[1])))
