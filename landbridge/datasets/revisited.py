"""Revisited Oxford and Paris: `jpg/`, `queries_cropped/`, and `gnd.json` or `gnd_*.pkl`."""

from __future__ import annotations

import json
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from landbridge.datasets.dataset import Box, Dataset, DatasetError, some
from landbridge.datasets.photos import locate_photos, without_suffix
from landbridge.datasets.restricted_pickle import load_restricted_pickle
from ranking.metrics import Truth

_REVISITED = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_CLASSIC = {"all": (("ok",), ("junk",))}


class QueryTruth(BaseModel):
    """Positions in `imlist`: easy and hard positives (revisited) or ok (classic), junk; the query's box."""

    model_config = ConfigDict(strict=True)

    easy: list[int] | None = None
    hard: list[int] | None = None
    ok: list[int] | None = None
    junk: list[int] = []
    bbx: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None

    @model_validator(mode="after")
    def _has_one_schema(self) -> QueryTruth:
        revisited = self.easy is not None and self.hard is not None
        if revisited == (self.ok is not None):
            raise ValueError("needs either easy and hard (revisited) or ok (classic)")
        return self


class GroundTruth(BaseModel):
    """A `gnd` file: names of the index photos and the query photos, and one truth per query."""

    model_config = ConfigDict(strict=True)

    imlist: list[str]
    qimlist: list[str]
    gnd: list[QueryTruth]

    @model_validator(mode="after")
    def _is_consistent(self) -> GroundTruth:
        if len(self.qimlist) != len(self.gnd):
            raise ValueError(f"qimlist names {len(self.qimlist)} queries and gnd has {len(self.gnd)}")
        for label, names in (("imlist", self.index_ids), ("qimlist", self.query_ids)):
            if len(set(names)) < len(names):
                repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
                raise ValueError(f"{label} repeats {some(repeated)}")
        for query, truth in zip(self.qimlist, self.gnd, strict=True):
            positions = chain(truth.easy or (), truth.hard or (), truth.ok or (), truth.junk)
            outside = [position for position in positions if not 0 <= position < len(self.imlist)]
            if outside:
                raise ValueError(f"{query}: imlist has no positions {some(outside)}")
        if len({truth.ok is None for truth in self.gnd}) > 1:
            raise ValueError("some queries have easy and hard, others ok")
        return self

    @cached_property
    def index_ids(self) -> list[str]:
        """Ids of the index photos: their names without suffix."""
        return [without_suffix(name) for name in self.imlist]

    @cached_property
    def query_ids(self) -> list[str]:
        """Ids of the query photos: their names without suffix."""
        return [without_suffix(name) for name in self.qimlist]

    def protocols(self) -> dict[str, dict[str, Truth[str]]]:
        """Protocol -> query id -> truth: easy, medium and hard, or `all` of a classic ground truth.

        Easy: the easy positives, hard ones are junk. Medium: both. Hard: the hard ones, easy ones are junk.
        """
        index_ids = self.index_ids

        def named(truth: QueryTruth, labels: tuple[str, ...]) -> frozenset[str]:
            return frozenset(index_ids[position] for label in labels for position in getattr(truth, label))

        classic = bool(self.gnd) and self.gnd[0].ok is not None
        return {
            protocol: {
                query: Truth(named(truth, positives), named(truth, junk))
                for query, truth in zip(self.query_ids, self.gnd, strict=True)
            }
            for protocol, (positives, junk) in (_CLASSIC if classic else _REVISITED).items()
        }


def ground_truth_file(folder: Path) -> Path | None:
    """The folder's `gnd.json` or, failing that, its `gnd_*.pkl`; None where there is neither.

    Raises:
        DatasetError: there is more than one pickle and no `gnd.json`.
    """
    if (folder / "gnd.json").is_file():
        return folder / "gnd.json"
    pickles = sorted(folder.glob("gnd_*.pkl"))
    if len(pickles) > 1:
        raise DatasetError(f"{folder} has several ground truths: {some(pickles)}; keep one")
    return pickles[0] if pickles else None


def read_ground_truth(path: Path) -> GroundTruth:
    """Read a `gnd` file, JSON or pickle.

    Args:
        path: the file; what ends in `.json` is JSON.

    Returns:
        The ground truth, checked: positions exist, names are unique, every query has its labels.

    Raises:
        DatasetError: the file is damaged, refused, or not of the schema; the message says where.
    """
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} is not JSON: {error}") from error
    else:
        try:
            content = _without_numpy(load_restricted_pickle(path))
        except RecursionError as error:
            raise DatasetError(f"{path} was refused: it holds something that holds itself") from error
    try:
        return GroundTruth.model_validate(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'as a whole'}: {fault['msg']}" for fault in error.errors()
        ]
        raise DatasetError(f"{path} is not a revisited ground truth: {some(faults)}") from error


def read_revisited(folder: Path, ground_truth: Path, min_positives: int) -> Dataset:
    """Read a data set in the revisited layout.

    Index photos are `jpg/<name>.jpg`. Query photos are `queries_cropped/<name>.jpg`; where there is no such
    folder they are `jpg/<name>.jpg` with the box of the ground truth. For recognition, `truth.json` names
    the landmark of every photo, as that of the sample world does.

    Args:
        folder: the data set.
        ground_truth: its `gnd` file.
        min_positives: see `Dataset`.

    Returns:
        The data set, with protocols easy, medium and hard, or `all` of a classic ground truth.

    Raises:
        DatasetError: the ground truth is wrong, or photos that it names are missing.
    """
    truth = read_ground_truth(ground_truth)
    cropped = folder / "queries_cropped"
    boxes = {}
    if not cropped.is_dir():
        for query, query_truth in zip(truth.query_ids, truth.gnd, strict=True):
            if query_truth.bbx is not None:
                boxes[query] = Box(*query_truth.bbx)
                if not (boxes[query].x1 < boxes[query].x2 and boxes[query].y1 < boxes[query].y2):
                    raise DatasetError(f"{ground_truth}: the box of {query} is empty: {query_truth.bbx}")
    landmarks = _landmarks(folder / "truth.json", [*truth.index_ids, *truth.query_ids])
    return Dataset(
        name=folder.resolve().name,
        index=locate_photos(truth.index_ids, folder / "jpg", "index photos"),
        queries=locate_photos(
            truth.query_ids, cropped if cropped.is_dir() else folder / "jpg", "query photos"
        ),
        protocols=truth.protocols(),
        metric="trapezoid",
        min_positives=min_positives,
        boxes=boxes,
        labels={item: label for item in truth.index_ids if (label := landmarks.get(item))},
        landmarks={
            query: frozenset({label} if (label := landmarks[query]) else ())
            for query in truth.query_ids
            if landmarks
        },
    )


def _landmarks(path: Path, ids: list[str]) -> dict[str, str | None]:
    """The landmark of each photo, None where it shows none; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {item: content[item]["landmark"] for item in ids}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatasetError(
            f"{path} does not name the landmark of every photo ({type(error).__name__}: {error}): mend it or "
            "take it away"
        ) from error


def _without_numpy(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return _without_numpy(value.tolist()) if value.dtype == object else value.tolist()
    if isinstance(value, dict):
        return {key: _without_numpy(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_numpy(item) for item in value]
    return value
