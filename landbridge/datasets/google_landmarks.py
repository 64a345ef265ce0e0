"""Google Landmarks v2 style: `index/`, `test/` or `queries/`, and a solution CSV."""

from __future__ import annotations

from pathlib import Path

from landbridge.datasets.challenge_csv import read_challenge_csv, read_header
from landbridge.datasets.dataset import Dataset, DatasetError, some
from landbridge.datasets.photos import locate_photos, photos_by_stem
from ranking.metrics import Truth

_SOLUTION = ["id", "images", "usage"]


def read_google_landmarks(folder: Path, min_positives: int) -> Dataset:
    """Read a data set in the layout of the Google Landmark Retrieval challenges.

    Photos lie flat or as `a/b/c/<id>.jpg`. The index is what `index.csv` lists or, without one, every photo
    in `index/`. The queries are those of the solution, whatever `test.csv` lists: Public and Private ones
    together, while Ignored ones are left out and kept as `unjudged`.

    Args:
        folder: the data set, with `index/`, with `test/` or `queries/`, and with the solution: the one CSV
            that has the columns `id,images,Usage`.
        min_positives: see `Dataset`.

    Returns:
        The data set, with the protocol `all` and the metric `challenge`.

    Raises:
        DatasetError: there is no folder of queries, there is not one solution, it is malformed, or photos
            that it names are missing.
    """
    queries = next((folder / name for name in ("test", "queries") if (folder / name).is_dir()), None)
    if queries is None:
        raise DatasetError(f"{folder} has index/ but neither test/ nor queries/: put the query photos there")
    solution = _solution_file(folder)
    listing = folder / "index.csv"
    truths: dict[str, Truth[str]] = {}
    ignored: set[str] = set()
    try:
        for row in read_challenge_csv(solution, _SOLUTION):
            if row["usage"].lower() == "ignored":
                ignored.add(row["id"])
            elif row["usage"].lower() in ("public", "private"):
                truths[row["id"]] = Truth(frozenset(row["images"].split()) - {"None"})
            else:
                raise ValueError(
                    f"{solution}: {row['id']} has the usage {row['usage']!r}: "
                    "it must be Public, Private or Ignored"
                )
        listed = [row["id"] for row in read_challenge_csv(listing, ["id"])] if listing.is_file() else None
    except ValueError as error:
        raise DatasetError(str(error)) from error

    if listed is None:
        index = photos_by_stem(folder / "index")
    else:
        index = locate_photos(listed, folder / "index", f"photos of {listing.name}")
    named = sorted(frozenset().union(*(truth.positives for truth in truths.values())))
    missing = [item for item in named if item not in index]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(named)} photos in {solution} are not in the index: {some(missing)}; "
            f"add them to {folder / 'index'}{'' if listed is None else f' and {listing}'}"
        )
    return Dataset(
        name=folder.resolve().name,
        index=index,
        queries=locate_photos(truths, queries, "query photos"),
        protocols={"all": truths},
        metric="challenge",
        min_positives=min_positives,
        unjudged=frozenset(ignored),
    )


def _solution_file(folder: Path) -> Path:
    try:
        found = [path for path in sorted(folder.glob("*.csv")) if set(_SOLUTION) <= set(read_header(path))]
    except ValueError as error:
        raise DatasetError(f"{folder}: a CSV is not text in UTF-8: {error}") from error
    if len(found) != 1:
        raise DatasetError(
            f"{folder} needs one solution, a CSV with the columns id,images,Usage: "
            + (f"it has several: {some(found)}" if found else "it has none")
        )
    return found[0]
