"""A folder with one subfolder per landmark, evaluated leave-one-out."""

from __future__ import annotations

from pathlib import Path

from landbridge.datasets.dataset import Dataset
from landbridge.datasets.photos import photos_by_path
from ranking.metrics import Truth


def read_landmark_folders(folder: Path, min_positives: int) -> Dataset:
    """Read photos that lie in one subfolder per landmark.

    The id of a photo is its path below the folder without suffix. Photos in deeper folders belong to the
    landmark of the first folder; photos that lie in no subfolder are in the index and belong to no landmark.
    Every photo of a landmark with at least two is a query for the others; it is junk to itself.

    Args:
        folder: the data set.
        min_positives: see `Dataset`.

    Returns:
        The data set, with the protocol `all`.

    Raises:
        DatasetError: no landmark has two photos, or two photos differ in their suffix alone.
    """
    index = photos_by_path(folder)
    landmarks: dict[str, set[str]] = {}
    for item in index:
        landmark, slash, _ = item.partition("/")
        if slash:
            landmarks.setdefault(landmark, set()).add(item)
    truths = {
        item: Truth(frozenset(members - {item}), frozenset({item}))
        for members in landmarks.values()
        if len(members) > 1
        for item in sorted(members)
    }
    return Dataset(
        name=folder.resolve().name,
        index=index,
        queries={item: index[item] for item in truths},
        protocols={"all": truths},
        metric="trapezoid",
        min_positives=min_positives,
        leave_one_out=True,
        labels={item: landmark for landmark, members in landmarks.items() for item in members},
        landmarks={item: frozenset({item.partition("/")[0]}) for item in truths},
    )
