"""Features to files of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from extractor.files import delf, hloc, npz
from extractor.files.atomic import write_atomically
from extractor.files.stored_features import StoredFeatures

ONE_FILE: dict[str, Callable[[Path, Iterable[StoredFeatures]], None]] = {
    ".h5": hloc.write,
    ".npz": npz.write_many,
}
"""What writes all photos into one file with a suffix."""

FOLDERS = ("delf", "delg", "npz")
"""What a folder can hold, one or two files for each photo."""


def write_features(path: Path | str, features: Iterable[StoredFeatures], kind: str | None = None) -> int:
    """Write features, to one file or to a folder with files for each photo.

    Every file appears whole or not at all; files of that name are replaced, others stay.

    Args:
        path: a file that ends in .h5 (hloc) or .npz (many photos in one), or a folder.
        features: the photos; no more than one is in memory. Slashes in their names become folders.
        kind: for a folder: `delf` (local features), `delg` (`.delg_local` and `.delg_global`, as far as a
            photo has them) or `npz`. DELF and DELG keep no sizes.

    Returns:
        How many photos were written.

    Raises:
        ValueError: the kind does not go with the path, a photo has nothing that its file could hold, a name
            leads out of the folder or, in one .npz, photos differ in what they have.
    """
    path = Path(path)
    if kind is None and path.suffix not in ONE_FILE:
        raise ValueError(
            f"{path} does not end in {' or '.join(ONE_FILE)}: for a folder say which kind of files"
        )
    if kind is not None and kind not in FOLDERS:
        raise ValueError(f"no kind {kind!r} of files in a folder; there are {', '.join(FOLDERS)}")
    count = 0

    def counted() -> Iterable[StoredFeatures]:
        nonlocal count
        for photo in features:
            yield photo
            count += 1

    if kind is None:
        write = ONE_FILE[path.suffix]
        write_atomically(path, lambda part: write(part, counted()))
    else:
        for photo in counted():
            for suffix, put in _files(photo, kind).items():
                target = path / f"{photo.image_id}{suffix}"
                if not target.resolve().is_relative_to(path.resolve()):
                    raise ValueError(f"{photo.image_id} leads out of {path}: rename it")
                write_atomically(target, put)
    return count


def _files(photo: StoredFeatures, kind: str) -> dict[str, Callable[[Path], None]]:
    """Suffix -> what writes the file."""
    local, descriptor = photo.local, photo.global_descriptor
    if kind == "npz":
        return {".npz": lambda part: npz.write_one(part, photo)}
    files: dict[str, Callable[[Path], None]] = {}
    if local is not None:
        files[".delf" if kind == "delf" else ".delg_local"] = lambda part: delf.write_local(part, local)
    if descriptor is not None and kind == "delg":
        files[".delg_global"] = lambda part: delf.write_global(part, descriptor)
    if not files:
        raise ValueError(f"{photo.image_id} has nothing to write to a file of kind {kind}")
    return files
