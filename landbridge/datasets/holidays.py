"""INRIA Holidays: photos with six-digit numbers, the first of each hundred the query for the others."""

from __future__ import annotations

import re
from pathlib import Path

from extractor.photo import find_photos
from landbridge.datasets.dataset import Dataset, DatasetError, some
from landbridge.datasets.photos import photos_by_stem
from ranking.metrics import Truth

_NUMBER = re.compile(r"[1-9]\d{5}")


def numbered_photos(folder: Path) -> Path | None:
    """`jpg/` or the folder itself, where most photos lie flat and are named by six-digit numbers."""
    place = folder / "jpg" if (folder / "jpg").is_dir() else folder
    photos = find_photos(place, links=True)
    numbered = [photo for photo in photos if photo.parent == place and _NUMBER.fullmatch(photo.stem)]
    return place if 2 * len(numbered) > len(photos) else None


def read_holidays(folder: Path, photos: Path, min_positives: int) -> Dataset:
    """Read a data set in the layout of INRIA Holidays.

    Photos are named `<number>.jpg` with six digits. number // 100 is the group of a photo; the photo whose
    number ends in 00 is the query of its group, and the others are its positives. All photos are in the
    index; a query does not find itself, and the queries of other groups are wrong answers.

    Source: Jégou et al., Hamming embedding and weak geometric consistency for large scale image search,
    ECCV 2008; the average precision is trapezoidal, as in the evaluation published with it.

    Args:
        folder: the data set.
        photos: where its photos are.
        min_positives: see `Dataset`.

    Returns:
        The data set, with the protocol `all`.

    Raises:
        DatasetError: a photo is not named by a six-digit number, two have the same, or a group has no query.
    """
    index = photos_by_stem(photos)
    strays = [index[item].name for item in index if not _NUMBER.fullmatch(item)]
    if strays:
        raise DatasetError(
            f"{len(strays)} of {len(index)} photos in {photos} are not named by a six-digit number as those "
            f"of Holidays are: {some(strays)}; take them out"
        )
    groups: dict[str, list[str]] = {}
    for item in index:
        groups.setdefault(item[:4], []).append(item)
    headless = [index[members[0]].name for group, members in groups.items() if f"{group}00" not in index]
    if headless:
        raise DatasetError(
            f"{len(headless)} of {len(groups)} groups in {photos} have no query, the photo whose number ends "
            f"in 00: those of {some(headless)}; add the queries or take these groups out"
        )
    truths = {
        f"{group}00": Truth(frozenset(members) - {f"{group}00"}, frozenset({f"{group}00"}))
        for group, members in groups.items()
    }
    return Dataset(
        name=folder.resolve().name,
        index=index,
        queries={query: index[query] for query in truths},
        protocols={"all": truths},
        metric="trapezoid",
        min_positives=min_positives,
        leave_one_out=True,
    )
