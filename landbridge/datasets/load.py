"""Loading a data set from a folder, whatever its layout."""

from __future__ import annotations

from pathlib import Path

from landbridge.datasets.classic import query_files, read_classic
from landbridge.datasets.dataset import Dataset, DatasetError
from landbridge.datasets.google_landmarks import read_google_landmarks
from landbridge.datasets.landmark_folders import read_landmark_folders
from landbridge.datasets.photos import find_photos
from landbridge.datasets.revisited import ground_truth_file, read_revisited

_LAYOUTS = """a data set is one of
  jpg/, queries_cropped/ and gnd.json or gnd_*.pkl (revisited Oxford and Paris)
  photos and *_query.txt, *_good.txt, *_ok.txt, *_junk.txt (classic Oxford and Paris)
  index/, test/ and a CSV with the columns id,images,Usage (Google Landmarks v2)
  one subfolder per landmark, at least one of them with two photos"""


def load_dataset(folder: Path | str, min_positives: int = 1) -> Dataset:
    """Load a data set; what it is follows from what is in the folder.

    Looked for in this order: a `gnd` file (revisited), `*_query.txt` files (classic), `index/` (Google
    Landmarks v2), subfolders with photos (one landmark each).

    Args:
        folder: the data set.
        min_positives: queries with fewer positives in a protocol are left out of its means.

    Returns:
        The data set. Photos are located, not opened.

    Raises:
        DatasetError: the folder is not there or has none of the layouts, its ground truth is wrong, photos
            that the ground truth names are missing, or no query has enough positives.
        ValueError: `min_positives` is below 1.
    """
    folder = Path(folder)
    if min_positives < 1:
        raise ValueError(f"min_positives must be at least 1, got {min_positives}")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: {_LAYOUTS}")
    if ground_truth := ground_truth_file(folder):
        return read_revisited(folder, ground_truth, min_positives)
    if queries := query_files(folder):
        return read_classic(folder, queries, min_positives)
    if (folder / "index").is_dir():
        return read_google_landmarks(folder, min_positives)
    if (folder / "jpg").is_dir():
        raise DatasetError(f"{folder} has jpg/ but no ground truth: {_LAYOUTS}")
    if not any(len(find_photos(part)) > 1 for part in folder.glob("[!.]*/")):
        raise DatasetError(f"{folder} has no ground truth, and no subfolder with two photos: {_LAYOUTS}")
    return read_landmark_folders(folder, min_positives)
