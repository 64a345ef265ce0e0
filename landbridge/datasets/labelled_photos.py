"""Photos to train on: one subfolder per landmark, or the CSV files of Google Landmarks v2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extractor.photo import find_photos
from landbridge.datasets.challenge_csv import read_challenge_csv, read_header
from landbridge.datasets.dataset import DatasetError, some

_BY_LANDMARK = ["landmark_id", "images"]
_BY_PHOTO = ["id", "landmark_id"]
_CLEAN = "train_clean.csv"


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos with the landmark that each shows.

    Attributes:
        photos: file and landmark.
        missing: photos that the CSV names and that are not there.
        unlabelled: photos without a landmark.
    """

    photos: list[tuple[Path, str]]
    missing: int = 0
    unlabelled: int = 0


def labelled_photos(folder: Path, labels: Path | None = None) -> LabelledPhotos:
    """List the photos of a folder by landmark.

    With a CSV of the columns `landmark_id,images` (`train_clean.csv`) or `id,landmark_id` (`train.csv`) the
    photos are `a/b/c/<id>.jpg` or `<id>.jpg` in `train/`, or in the folder itself; not all of them need to be
    there. Without one every subfolder is a landmark.

    Args:
        folder: the photos.
        labels: the CSV; None takes `train_clean.csv` or else the one CSV with such columns in the folder.

    Raises:
        DatasetError: there is no such folder or CSV, there are several, one is malformed, or no photo of it
            is there.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    try:
        table = labels or _table(folder)
        return _by_folder(folder) if table is None else _by_table(folder, table)
    except DatasetError:
        raise
    except (ValueError, OSError) as error:
        raise DatasetError(str(error)) from error


def _table(folder: Path) -> Path | None:
    if (folder / _CLEAN).is_file():
        return folder / _CLEAN
    found = [path for path in sorted(folder.glob("*.csv")) if _columns(path)]
    if len(found) > 1:
        raise DatasetError(f"{folder} has several CSV files of landmarks: {some(found)}; say which one")
    return found[0] if found else None


def _columns(path: Path) -> list[str] | None:
    """Those of the two kinds of CSV that a file has."""
    header = set(read_header(path))
    return next((columns for columns in (_BY_LANDMARK, _BY_PHOTO) if header >= set(columns)), None)


def _by_table(folder: Path, table: Path) -> LabelledPhotos:
    columns = _columns(table)
    if columns is None:
        raise DatasetError(
            f"{table} has neither the columns {','.join(_BY_LANDMARK)} nor {','.join(_BY_PHOTO)}: "
            f"its first line reads {','.join(read_header(table))!r}"
        )
    root = folder / "train" if (folder / "train").is_dir() else folder
    photos: list[tuple[Path, str]] = []
    missing: list[str] = []
    unlabelled = 0
    for image_id, landmark in _rows(table, columns):
        if not landmark:
            unlabelled += 1
            continue
        sharded = root.joinpath(*image_id[:3], f"{image_id}.jpg")
        path = sharded if sharded.is_file() else root / f"{image_id}.jpg"
        if path.is_file():
            photos.append((path, landmark))
        else:
            missing.append(image_id)
    if not photos:
        raise DatasetError(
            f"none of the {len(missing)} photos of {table} is in {root}, as a/b/c/<id>.jpg or <id>.jpg: "
            f"{some(missing)}"
        )
    return LabelledPhotos(photos, len(missing), unlabelled)


def _rows(table: Path, columns: list[str]) -> Iterator[tuple[str, str]]:
    if columns == _BY_PHOTO:
        for row in read_challenge_csv(table, columns):
            yield row["id"], row["landmark_id"]
        return
    for row in read_challenge_csv(table, columns, key="landmark_id"):
        for image_id in row["images"].split():
            yield image_id, row["landmark_id"]


def _by_folder(folder: Path) -> LabelledPhotos:
    found = find_photos(folder, links=True)
    photos = [(path, path.relative_to(folder).parts[0]) for path in found if path.parent != folder]
    if not photos:
        raise DatasetError(
            f"{folder} holds neither subfolders with photos, one per landmark, nor a CSV with the columns "
            f"{','.join(_BY_LANDMARK)} or {','.join(_BY_PHOTO)}"
        )
    return LabelledPhotos(photos, unlabelled=len(found) - len(photos))
