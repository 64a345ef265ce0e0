"""Classic Oxford and Paris: photos and `*_query.txt`, `*_good.txt`, `*_ok.txt`, `*_junk.txt`."""

from __future__ import annotations

from pathlib import Path

from landbridge.datasets.dataset import Box, Dataset, DatasetError, some
from landbridge.datasets.photos import locate_photos, photos_by_stem
from ranking.metrics import Truth

_PREFIX = "oxc1_"


def query_files(folder: Path) -> list[Path]:
    """The `*_query.txt` files in the folder or in one folder below it, sorted.

    Raises:
        DatasetError: several folders hold such files.
    """
    found = sorted([*folder.glob("*_query.txt"), *folder.glob("*/*_query.txt")])
    parents = sorted({path.parent for path in found})
    if len(parents) > 1:
        raise DatasetError(f"{folder} has several ground truths: {some(parents)}; keep one")
    return found


def read_classic(folder: Path, queries: list[Path], min_positives: int) -> Dataset:
    """Read a data set in the layout of the first Oxford and Paris releases.

    Every photo of `jpg/` (of the whole folder where there is no `jpg/`) is in the index under its bare name.
    Positives are the good and the ok ones. Query photos are in the index and, as in the original evaluation,
    count as their own positives where the files say so.

    Args:
        folder: the data set.
        queries: its `*_query.txt` files: the photo's name, which may be preceded by `oxc1_`, and x1 y1 x2 y2.
        min_positives: see `Dataset`.

    Returns:
        The data set, with the protocol `all`; a query's id is the name of its photo.

    Raises:
        DatasetError: a file is missing or malformed, or photos that the files name are missing.
    """
    truths: dict[str, Truth[str]] = {}
    boxes: dict[str, Box] = {}
    for path in queries:
        query, box = _query(path)
        if query in truths:
            raise DatasetError(f"{path}: another query uses the photo {query} already")
        good, ok, junk = (_names(path, kind) for kind in ("good", "ok", "junk"))
        truths[query] = Truth(good | ok, junk)
        boxes[query] = box
    photos = folder / "jpg" if (folder / "jpg").is_dir() else folder
    named = set(truths).union(*(truth.positives | truth.junk for truth in truths.values()))
    locate_photos(sorted(named), photos, "photos of the ground truth")
    index = photos_by_stem(photos)
    return Dataset(
        name=folder.resolve().name,
        index=index,
        queries={query: index[query] for query in truths},
        protocols={"all": truths},
        metric="trapezoid",
        min_positives=min_positives,
        boxes=boxes,
    )


def _query(path: Path) -> tuple[str, Box]:
    words = path.read_text(encoding="utf-8").split()
    try:
        name, *corners = words
        box = Box(*map(float, corners))
    except (TypeError, ValueError):
        raise DatasetError(f"{path} must read: photo x1 y1 x2 y2; it reads: {' '.join(words)[:80]}") from None
    if not (box.x1 < box.x2 and box.y1 < box.y2):
        raise DatasetError(f"{path}: the box is empty: {' '.join(corners)}")
    return name.removeprefix(_PREFIX), box


def _names(query_file: Path, kind: str) -> frozenset[str]:
    path = query_file.with_name(f"{query_file.name.removesuffix('query.txt')}{kind}.txt")
    if not path.is_file():
        raise DatasetError(f"{path} is missing: every query needs its good, ok and junk file")
    return frozenset(path.read_text(encoding="utf-8").split())
