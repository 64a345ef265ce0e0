"""The demonstration: a rendered world, or the user's photos, from pixels to a report."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from landbridge.datasets import Dataset, DatasetError, load_dataset
from landbridge.datasets.dataset import some
from landbridge.evaluation import Evaluation, evaluate
from landbridge.index import Index
from landbridge.results import Ranking
from landbridge.retrieval import METHODS, Progress, silent
from landbridge.sample_world import SampleWorld

_SHOWN = 16
_LIST = 24
_DATE = re.compile(r"(19|20)\d\d([-_. ]?[01]\d([-_. ]?[0-3]\d)?)?")


@dataclass(frozen=True)
class Demo:
    """What the demonstration made.

    Attributes:
        report: the page to look at.
        photos: photos in the index.
        bridged: results that were reached over bridging photos alone.
        failed: photos that could not be read, and why.
        evaluation: the figures, where the truth is known.
        subfolders: what the subfolders of the photos were taken for, in a sentence; empty without them.
    """

    report: Path
    photos: int
    bridged: int
    failed: dict[Path, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    subfolders: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The result in values that JSON can hold."""
        figures = self.evaluation.as_dict() if self.evaluation else {}
        return figures | {
            "report": str(self.report),
            "photos": self.photos,
            "bridged": self.bridged,
            "failed": {str(path): reason for path, reason in self.failed.items()},
            "subfolders": self.subfolders,
        }


def run_demo(
    photos: Path | None, folder: Path, seed: int = 0, progress: Progress = silent, **world: Any
) -> Demo:
    """Index photos on Milvus Lite, search, verify, expand, bridge; write `report.html`.

    Args:
        photos: a data set that `load_dataset` knows, or any folder of photos; None renders a world.
            Subfolders are taken for landmarks, but not where all are named by dates.
        folder: where the world, the index and the report go.
        seed: of the world.
        progress: told about the long steps.
        world: other arguments of `SampleWorld`.

    Raises:
        ValueError: the folder holds no photos that can be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = folder / "report.html"
    more: dict[str, Any] = {}
    if photos is None:
        photos = _rendered(folder, seed, progress, **world)
        more = {"title": "Landbridge on the sample world"}
    try:
        dataset: Dataset | None = load_dataset(photos)
    except DatasetError:
        dataset = None
    subfolders = ""
    if dataset is not None and dataset.leave_one_out and dataset.labels:
        landmarks = sorted(set(dataset.labels.values()))
        subfolders = f"Subfolders taken for one landmark each: {some(landmarks)}."
        if all(map(_DATE.fullmatch, landmarks)):
            dataset = None
            subfolders = f"Subfolders are dates, and not taken for landmarks: {some(landmarks)}."
    place = hashlib.sha256(str(photos.resolve()).encode()).hexdigest()[:12]
    with Index(folder / f"{photos.resolve().name}-{place}.db", "demo") as index:
        if dataset is None:
            return replace(_unlabelled(index, photos, report, progress), subfolders=subfolders)
        figures = evaluate(dataset, index, METHODS, progress=progress)
        figures.write_report(report, dataset, index, **more)
        bridged = _bridged(list(figures.rankings[METHODS[-1]].values()))
        return Demo(report, len(index), bridged, figures.failed, figures, subfolders)


def _rendered(folder: Path, seed: int, progress: Progress, **world: Any) -> Path:
    """The world of a seed, rendered unless it is there already."""
    parameters = json.dumps({"seed": seed, **world}, sort_keys=True)
    place, done = folder / f"world-{seed}", folder / f"world-{seed}" / "parameters.json"
    if not (done.exists() and done.read_text() == parameters):
        SampleWorld(seed, **world).write(place, progress=lambda n, total: progress("render", n, total))
        done.write_text(parameters)
    return place


def _unlabelled(index: Index, photos: Path, report: Path, progress: Progress) -> Demo:
    """Every photo searches for the others; the report shows those that gained most from bridges."""
    added = index.add(photos, progress)
    if not len(index):
        raise ValueError(f"{photos} holds no photos that can be read")
    retrieval = index.retrieval(index.members(index.library.ids), progress=progress)
    rankings = retrieval.rank(METHODS[-1], _LIST)
    rankings.sort(key=lambda ranking: -sum(hit.how != "similar" for hit in ranking.hits))
    rankings.sort(key=lambda ranking: -_bridged([ranking]))
    index.write_report(
        report,
        retrieval,
        rankings[:_SHOWN],
        {},
        title=f"Landbridge on {photos.resolve().name}",
        facts={"photos": len(index), "shown": "photos that gained most from bridges"},
    )
    return Demo(report, len(index), _bridged(rankings), added.failed)


def _bridged(rankings: list[Ranking]) -> int:
    return sum(hit.how == "bridged" for ranking in rankings for hit in ranking.hits)
