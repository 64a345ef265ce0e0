"""Place recognition: `index/` or `database/`, `queries/` or `test/`, and a CSV with coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from landbridge.datasets.challenge_csv import read_challenge_csv, read_header
from landbridge.datasets.dataset import Dataset, DatasetError, some
from landbridge.datasets.photos import photos_by_path, without_suffix
from ranking.metrics import Truth

RADIUS = 25.0
"""Metres within which a photo shows the same place, as is usual in place recognition."""

EARTH_RADIUS = 6_371_008.8
"""Mean radius of the Earth in metres."""

_PLANE = ("x", "y")
_SPHERE = ("lat", "lon")
_LIMITS = {"lat": 90.0, "lon": 180.0}


def coordinates_file(folder: Path) -> Path | None:
    """The CSV of a folder that has the columns `id` and x, y or lat, lon; None where there is none.

    Raises:
        DatasetError: there are several.
    """
    found = [path for path in sorted(folder.glob("*.csv")) if _system(path)]
    if len(found) > 1:
        raise DatasetError(f"{folder} has several CSV files with coordinates: {some(found)}; keep one")
    return found[0] if found else None


def read_places(folder: Path, coordinates: Path, radius: float, min_positives: int) -> Dataset:
    """Read photos whose places are known; what lies within a distance of a query is right.

    The id of a photo is its path below `index/` or `queries/`, without suffix. The CSV names photos by these
    ids, or, where an index photo and a query have the same one, by `index/<id>` and `queries/<id>`.

    Source: Arandjelović et al., NetVLAD, CVPR 2016.

    Args:
        folder: the data set.
        coordinates: the CSV: `id`, and x, y in metres (UTM, say; read first) or lat, lon in degrees.
        radius: metres, by great circle for lat, lon; a photo just as far is right.
        min_positives: see `Dataset`.

    Returns:
        The data set, with one protocol that names the radius, such as `within 25 m`.

    Raises:
        DatasetError: a folder is missing, photos have no coordinates, or coordinates are no finite numbers or
            are outside the globe.
        ValueError: `radius` is not a positive number.
    """
    if not (radius > 0 and np.isfinite(radius)):
        raise ValueError(f"the radius must be a positive number of metres, got {radius}")
    parts = [_part(folder, "index", "database"), _part(folder, "queries", "test")]
    columns = _system(coordinates)
    places = _read_coordinates(coordinates, columns)
    index, queries = (photos_by_path(part) for part in parts)
    index_places, query_places = (
        _located(places, coordinates, part, photos, other)
        for part, photos, other in zip(parts, (index, queries), (queries, index), strict=True)
    )
    ids = list(index)
    near = within(index_places, query_places, radius, spherical=columns == _SPHERE)
    truths = {
        query: Truth(frozenset(ids[number] for number in numbers))
        for query, numbers in zip(queries, near, strict=True)
    }
    return Dataset(
        name=folder.resolve().name,
        index=index,
        queries=queries,
        protocols={f"within {radius:g} m": truths},
        metric="trapezoid",
        min_positives=min_positives,
    )


def within(
    index: NDArray[np.float64], queries: NDArray[np.float64], radius: float, *, spherical: bool
) -> list[list[int]]:
    """Find the index photos within a distance of each query.

    Args:
        index: float64 [N, 2], x and y in metres, or latitude and longitude in degrees.
        queries: float64 [Q, 2], the same.
        radius: metres, inclusive.
        spherical: positions are latitudes and longitudes, and distances great circles on a sphere of
            `EARTH_RADIUS` (what the haversine formula gives).

    Returns:
        For each query the numbers of the index photos, rising.
    """
    if spherical:
        # On a sphere, the chord through it orders points as the great circle does.
        index, queries = _on_sphere(index), _on_sphere(queries)
        radius = 2 * EARTH_RADIUS * np.sin(min(radius / (2 * EARTH_RADIUS), np.pi / 2))
    found = KDTree(index).query_ball_point(queries, radius, return_sorted=True)
    return [list(map(int, numbers)) for numbers in found]


def _on_sphere(places: NDArray[np.float64]) -> NDArray[np.float64]:
    latitude, longitude = np.radians(places).T
    around = np.cos(latitude)
    return EARTH_RADIUS * np.stack(
        [around * np.cos(longitude), around * np.sin(longitude), np.sin(latitude)], axis=1
    )


def _part(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise DatasetError(f"{folder} has coordinates but no folder {' or '.join(names)}: put the photos there")


def _system(path: Path) -> tuple[str, str] | None:
    try:
        header = read_header(path)
    except ValueError as error:
        raise DatasetError(f"{path} is not text in UTF-8: {error}") from error
    return next((axes for axes in (_PLANE, _SPHERE) if {"id", *axes} <= set(header)), None)


def _read_coordinates(path: Path, columns: tuple[str, str] | None) -> dict[str, tuple[float, float]]:
    """The place of every photo that the CSV names."""
    if columns is None:
        raise DatasetError(f"{path} needs the columns id and x, y or lat, lon")
    places = {}
    try:
        for row in read_challenge_csv(path, ["id", *columns]):
            first, second = (_number(path, row, column) for column in columns)
            places[without_suffix(row["id"])] = first, second
    except ValueError as error:
        raise DatasetError(str(error)) from error
    return places


def _number(path: Path, row: Mapping[str, str], column: str) -> float:
    limit = _LIMITS.get(column, np.inf)
    try:
        value = float(row[column])
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and abs(value) <= limit):
        wanted = "a finite number" if limit == np.inf else f"a number from {-limit:g} to {limit:g}"
        raise DatasetError(f"{path}: the {column} of {row['id']} is {row[column]!r}: it must be {wanted}")
    return value


def _located(
    places: Mapping[str, tuple[float, float]],
    path: Path,
    part: Path,
    photos: Mapping[str, Path],
    other: Mapping[str, Path],
) -> NDArray[np.float64]:
    """The places [n, 2] of the photos of one folder."""
    whole = {item: f"{part.name}/{item}" for item in photos}
    names = [name if name in places else item for item, name in whole.items()]
    missing = [name for name in names if name not in places]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(names)} photos in {part} have no coordinates in {path}: "
            f"{some(missing)}; add them, or take the photos out"
        )
    doubtful = [name for name in names if name in photos and name in other]
    if doubtful:
        raise DatasetError(
            f"{path}: {some(doubtful)} may be an index photo or a query; write {part.name}/{doubtful[0]}"
        )
    return np.array([places[name] for name in names], dtype=np.float64).reshape(-1, 2)
