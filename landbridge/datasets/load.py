"""Loading a data set from a folder, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from extractor.photo import find_photos
from landbridge.datasets.classic import query_files, read_classic
from landbridge.datasets.dataset import Dataset, DatasetError
from landbridge.datasets.google_landmarks import has_solution, read_google_landmarks
from landbridge.datasets.holidays import numbered_photos, read_holidays
from landbridge.datasets.landmark_folders import read_landmark_folders
from landbridge.datasets.places import RADIUS, coordinates_file, read_places
from landbridge.datasets.revisited import ground_truth_file, read_revisited

_LAYOUTS = """a data set is one of
  jpg/, queries_cropped/ and gnd.json or gnd_*.pkl (revisited Oxford and Paris)
  photos and *_query.txt, *_good.txt, *_ok.txt, *_junk.txt (classic Oxford and Paris)
  index/, test/ and a CSV with the columns id,images,Usage (Google Landmarks v2)
  index/, test/, a CSV with id,landmarks,Usage and one with id,landmark_id (its recognition)
  index/, queries/ and a CSV with the columns id,x,y or id,lat,lon (place recognition)
  jpg/ with six-digit names, those that end in 00 the queries (Holidays)
  one subfolder per landmark, at least one of them with two photos"""


def load_dataset(folder: Path | str, min_positives: int = 1, radius: float | None = None) -> Dataset:
    """Load a data set; what it is follows from what is in the folder.

    Looked for in this order: a `gnd` file (revisited), `*_query.txt` files (classic), a solution CSV beside
    `index/` or `train/` (Google Landmarks v2), a CSV with coordinates (place recognition), photos named by
    six-digit numbers (Holidays), subfolders with photos (one landmark each).

    Args:
        folder: the data set.
        min_positives: queries with fewer positives in a protocol are left out of its means.
        radius: take the coordinates for the truth, and metres within which a photo shows the same place. By
            default, coordinates are the truth where there is no other, with 25 metres.

    Returns:
        The data set. Photos are located, not opened.

    Raises:
        DatasetError: the folder is not there or has none of the layouts, its ground truth is wrong, photos
            that the ground truth names are missing, or no query has enough positives.
        ValueError: `min_positives` is below 1, or there is a `radius` without coordinates.
    """
    folder = Path(folder)
    if min_positives < 1:
        raise ValueError(f"min_positives must be at least 1, got {min_positives}")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: {_LAYOUTS}")
    if radius is not None:
        if not (coordinates := coordinates_file(folder)):
            raise ValueError(
                f"{folder} has no CSV with the columns id and x, y or lat, lon: leave out the radius"
            )
        return read_places(folder, coordinates, radius, min_positives)
    if ground_truth := ground_truth_file(folder):
        return read_revisited(folder, ground_truth, min_positives)
    if queries := query_files(folder):
        return read_classic(folder, queries, min_positives)
    parts = [name for name in ("index", "train", "database") if (folder / name).is_dir()]
    if parts and not has_solution(folder) and (coordinates := coordinates_file(folder)):
        return read_places(folder, coordinates, RADIUS, min_positives)
    if "index" in parts or (parts and has_solution(folder)):
        return read_google_landmarks(folder, min_positives)
    if photos := numbered_photos(folder):
        return read_holidays(folder, photos, min_positives)
    if (folder / "jpg").is_dir():
        raise DatasetError(f"{folder} has jpg/ but no ground truth: {_LAYOUTS}")
    if not any(len(find_photos(part, links=True)) > 1 for part in folder.glob("[!.]*/")):
        raise DatasetError(f"{folder} has no ground truth, and no subfolder with two photos: {_LAYOUTS}")
    return read_landmark_folders(folder, min_positives)
