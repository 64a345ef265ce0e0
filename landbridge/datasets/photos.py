"""Photos of a data set and the ids they go by. Data sets are often made of links, so links are followed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from extractor.photo import SUFFIXES, find_photos
from landbridge.datasets.dataset import DatasetError, some


def without_suffix(name: str) -> str:
    """A photo's name without .jpg and the like; other dots stay."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def photos_by_stem(folder: Path) -> dict[str, Path]:
    """Photos by bare file name without suffix, wherever they lie below the folder.

    Raises:
        DatasetError: two photos have the same name.
    """
    return _unique(find_photos(folder, links=True), lambda photo: without_suffix(photo.name))


def photos_by_path(folder: Path) -> dict[str, Path]:
    """Photos by path relative to the folder, POSIX style and without suffix.

    Raises:
        DatasetError: two photos differ in their suffix alone.
    """
    return _unique(find_photos(folder, links=True), _below(folder))


def locate_photos(ids: Iterable[str], folder: Path, what: str) -> dict[str, Path]:
    """Find the photos that a ground truth names.

    An id is the path of a photo relative to the folder, without suffix, or its bare name where it lies
    deeper.

    Args:
        ids: ids without suffix.
        folder: where to look, folders below included.
        what: what the photos are, for the message.

    Returns:
        Id -> photo, in the order of the ids.

    Raises:
        DatasetError: photos are missing (some are named, and how many there are), or an id fits several.
    """
    photos = find_photos(folder, links=True) if folder.is_dir() else []
    by_path = _unique(photos, _below(folder))
    by_stem: dict[str, list[Path]] = {}
    for photo in photos:
        by_stem.setdefault(without_suffix(photo.name), []).append(photo)
    located = {}
    missing = []
    for item in ids:
        candidates = [by_path[item]] if item in by_path else by_stem.get(item, [])
        if len(candidates) > 1:
            raise DatasetError(f"{item} fits several photos: {some(candidates)}; rename all but one")
        if candidates:
            located[item] = candidates[0]
        else:
            missing.append(item)
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(missing) + len(located)} {what} are not in {folder}: {some(missing)}; "
            "add the photos, or take them out of the ground truth"
        )
    return located


def _below(folder: Path) -> Callable[[Path], str]:
    return lambda photo: without_suffix(photo.relative_to(folder).as_posix())


def _unique(photos: list[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for photo in photos:
        other = named.setdefault(name(photo), photo)
        if other is not photo:
            raise DatasetError(f"{other} and {photo} would both be called {name(photo)}; rename one of them")
    return named
