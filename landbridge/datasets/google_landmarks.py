"""Google Landmarks v2 style: `index/` or `train/`, `test/` or `queries/`, and a solution CSV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from landbridge.datasets.challenge_csv import read_challenge_csv, read_header
from landbridge.datasets.dataset import Dataset, DatasetError, some
from landbridge.datasets.photos import locate_photos, photos_by_stem
from ranking.metrics import Truth

_RETRIEVAL = ["id", "images", "usage"]
_RECOGNITION = ["id", "landmarks", "usage"]
_LABELS = ["id", "landmark_id"]


def read_google_landmarks(folder: Path, min_positives: int) -> Dataset:
    """Read a data set in the layout of the Google Landmark Retrieval or Recognition challenges.

    Photos lie flat or as `a/b/c/<id>.jpg`. The index is what `index.csv` lists or, without one, every photo
    in `index/` or `train/`. The queries are those of the solution, whatever `test.csv` lists: Public and
    Private ones together, while Ignored ones are left out and kept as `unjudged`.

    A recognition solution gives the landmarks of the queries; a query without one shows none. The landmarks
    of the index photos are in the CSV files with the columns `id,landmark_id` (such as `train.csv`), and the
    photos of a query's landmarks are what retrieval should find.

    Args:
        folder: the data set, with `index/` or `train/`, with `test/` or `queries/`, and with the solution:
            the one CSV that has the columns `id,images,Usage` or `id,landmarks,Usage`.
        min_positives: see `Dataset`.

    Returns:
        The data set, with the protocol `all` and the metric `challenge`.

    Raises:
        DatasetError: there is no folder of queries, there is not one solution, it is malformed, photos
            that it names are missing, or index photos have no landmark in a recognition data set.
    """
    queries = next((folder / name for name in ("test", "queries") if (folder / name).is_dir()), None)
    photos = next(
        (folder / name for name in ("index", "train") if (folder / name).is_dir()), folder / "index"
    )
    if queries is None:
        raise DatasetError(
            f"{folder} has {photos.name}/ but neither test/ nor queries/: put the query photos there"
        )
    try:
        solution, kind = _solution(folder)
        judged, ignored = _read_solution(solution, kind)
        listing = folder / "index.csv"
        listed = [row["id"] for row in read_challenge_csv(listing, ["id"])] if listing.is_file() else None
        if listed is None:
            index = photos_by_stem(photos)
        else:
            index = locate_photos(listed, photos, f"photos of {listing.name}")
        labels = read_labels(_csv_files(folder, _LABELS), index) if kind == _RECOGNITION else {}
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(str(error)) from error

    if kind == _RECOGNITION:
        members: dict[str, set[str]] = {}
        for item, label in labels.items():
            members.setdefault(label, set()).add(item)
        truths = {
            query: Truth(frozenset().union(*(members.get(label, ()) for label in right)))
            for query, right in judged.items()
        }
    else:
        truths = {query: Truth(images) for query, images in judged.items()}
        named = sorted(frozenset().union(*judged.values()))
        missing = [item for item in named if item not in index]
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(named)} photos in {solution} are not in the index: {some(missing)}; "
                f"add them to {photos}{'' if listed is None else f' and {listing}'}"
            )
    return Dataset(
        name=folder.resolve().name,
        index=index,
        queries=locate_photos(truths, queries, "query photos"),
        protocols={"all": truths},
        metric="challenge",
        min_positives=min_positives,
        unjudged=frozenset(ignored),
        labels=labels,
        landmarks=judged if kind == _RECOGNITION else {},
    )


def has_solution(folder: Path) -> bool:
    """Whether there is a CSV with the columns of a solution."""
    return any(_csv_files(folder, columns) for columns in (_RETRIEVAL, _RECOGNITION))


def read_labels(files: Iterable[Path], ids: Iterable[str]) -> dict[str, str]:
    """Read the landmarks of index photos.

    Args:
        files: CSV files with the columns `id` and `landmark_id`; an empty landmark is none.
        ids: the index photos; other rows are passed over.

    Returns:
        Id -> landmark, for the photos that show one, in the order of `ids`.

    Raises:
        ValueError: a file is malformed, a photo is not in any, or two differ about it.
    """
    ids, files = list(ids), list(files)
    wanted, found = set(ids), dict[str, str]()
    for path in files:
        for row in read_challenge_csv(path, _LABELS):
            if row["id"] in wanted and found.setdefault(row["id"], row["landmark_id"]) != row["landmark_id"]:
                raise ValueError(
                    f"{path}: the landmark of {row['id']} is {row['landmark_id']}, but "
                    f"{found[row['id']]} in another file: keep one of them"
                )
    missing = [item for item in ids if item not in found]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} index photos have no row in "
            + (f"{some(files)}" if files else "a CSV with the columns id,landmark_id")
            + f": {some(missing)}; add them, with an empty landmark_id where there is no landmark"
        )
    return {item: found[item] for item in ids if found[item]}


def _read_solution(path: Path, columns: list[str]) -> tuple[dict[str, frozenset[str]], set[str]]:
    """The right answers of each judged query, and the queries that are ignored."""
    judged: dict[str, frozenset[str]] = {}
    ignored: set[str] = set()
    for row in read_challenge_csv(path, columns):
        if row["usage"].lower() == "ignored":
            ignored.add(row["id"])
        elif row["usage"].lower() in ("public", "private"):
            judged[row["id"]] = frozenset(row[columns[1]].split()) - {"None"}
        else:
            raise ValueError(
                f"{path}: {row['id']} has the usage {row['usage']!r}: it must be Public, Private or Ignored"
            )
    return judged, ignored


def _solution(folder: Path) -> tuple[Path, list[str]]:
    found = [
        (path, columns) for columns in (_RETRIEVAL, _RECOGNITION) for path in _csv_files(folder, columns)
    ]
    if len(found) > 1:
        raise DatasetError(
            f"{folder} needs one solution: it has several: {some([path for path, _ in found])}; keep one"
        )
    if not found:
        headers = [
            f"{path.name} has {','.join(read_header(path)) or 'none'}"
            for path in sorted(folder.glob("*.csv"))
        ]
        raise DatasetError(
            f"{folder} needs one solution, a CSV with the columns id,images,Usage or id,landmarks,Usage, or "
            "else coordinates, a CSV with id,x,y or id,lat,lon: it has none "
            f"({some(headers) or 'there is no CSV'})"
        )
    return found[0]


def _csv_files(folder: Path, columns: list[str]) -> list[Path]:
    try:
        return [path for path in sorted(folder.glob("*.csv")) if set(columns) <= set(read_header(path))]
    except ValueError as error:
        raise DatasetError(f"{folder}: a CSV is not text in UTF-8: {error}") from error
