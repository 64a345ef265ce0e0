"""The batch job: photos are parted into shards, which workers extract; what is done is not done again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from extractor.batch import cluster, local
from extractor.batch.shard import waiting
from extractor.files.atomic import remove_parts, write_atomically
from extractor.files.extraction import SUFFIXES, Entry, Extraction
from extractor.registry import create_extractor, registered
from extractor.sampling import learn_from_sample

SHARD = 128
"""Photos of a shard: what a worker does at a time, and has to do again when it is killed."""

_LONGEST_NAME = 200

Progress = Callable[[str, int, int], None]
"""Told the name of a step, and how many of how many items it has done."""


@dataclass(frozen=True)
class Extracted:
    """What a batch job did.

    Attributes:
        extracted: how many photos have features that are new, or were made again since the file had changed.
        unchanged: how many had features.
        failed: photos without features, and why.
    """

    extracted: int = 0
    unchanged: int = 0
    failed: dict[Path, str] = field(default_factory=dict)


def extract_photos(
    photos: Mapping[str, Path],
    folder: Path | str,
    *,
    extractor: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    format: str | None = None,  # noqa: A002
    ray: str | None = None,
    left_out: Mapping[Path, str] | None = None,
    progress: Progress = lambda step, done, total: None,
) -> Extracted:
    """Extract the features of photos to a folder, which `read_features` reads.

    Stopped at any moment, by force too, the same again goes on where it ended and comes to the same files.
    Photos that are there, by id and by size and time of the file, are not done again; those that failed are
    tried again. Photos of earlier calls stay.

    Args:
        photos: photos by id.
        folder: where to; made, or continued.
        extractor: registered name; by default that of the folder, or the default one.
        device: `cpu`, `cuda` for all GPUs, `cuda:1` for one.
        dtype: in which networks calculate: see `Extractor.to`.
        format: a key of `extractor.files.extraction.SUFFIXES`; by default that of the folder, or `npz`.
        ray: address of a Ray cluster whose machines see the photos and the folder under the same paths, or
            `local` to start one on this machine; without it there is no Ray.
        left_out: photos that the caller could not name, and why: they are listed with those that failed.
        progress: told about the steps.

    Raises:
        ValueError: the folder holds features of another extractor or format; there is no such extractor,
            format or device; or the photos are too few to learn from.
        FeatureFileError: a file of the folder is damaged.
        OSError: the folder cannot be written, is in use, or a worker process died.
    """
    out = Path(folder)
    if format is not None and format not in SUFFIXES:
        raise ValueError(f"no format {format!r} of feature files: there are {', '.join(SUFFIXES)}")
    if not Extraction.is_at(out) and not photos:
        return Extracted(failed=dict(left_out or {}))
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            remove_parts(out)
            extraction = _opened(out, photos, extractor, format, progress)
            plan = _planned(extraction, photos)
            done = 0

            def advance(count: int = 1) -> None:
                nonlocal done
                done += count
                progress("extract", done, plan.photos)

            if plan.shards:
                advance(0)
                if ray is None:
                    local.extract(extraction, plan.shards, device, dtype, advance)
                else:
                    cluster.extract(extraction, plan.shards, device, dtype, ray, advance)
                    remove_parts(out)  # of workers that died
            return _ended(extraction, photos, plan, dict(left_out or {}))
    except Timeout:
        raise OSError(f"{out} is in use: wait for the other run to end, or give another folder") from None


@dataclass
class _Plan:
    """What is to be done.

    Attributes:
        shards: numbers of those that have photos to extract.
        photos: how many photos these are.
        unchanged: how many photos have features.
        refused: photos that cannot be taken, and why.
    """

    shards: list[int] = field(default_factory=list)
    photos: int = 0
    unchanged: int = 0
    refused: dict[Path, str] = field(default_factory=dict)


def _opened(
    out: Path, photos: Mapping[str, Path], extractor: str | None, wanted: str | None, progress: Progress
) -> Extraction:
    """The extraction of a folder, if it is what is asked for; a new one, whose extractor has learnt."""
    if Extraction.is_at(out):
        there = Extraction.open(out)
        if wanted not in (None, there.format):
            raise ValueError(f"{out} holds features as {there.format}, not {wanted}: give another folder")
        if extractor is not None and registered(extractor) != there.extractor:
            raise ValueError(
                f"{out} holds features of {there.fingerprint}, not of {registered(extractor)}: give another "
                "folder"
            )
        return there
    name = registered(extractor or "default")
    model = create_extractor(name)
    learn_from_sample(model, photos, progress)
    begun = Extraction(out, name, model.fingerprint, model.dimension, model.local_dimension, wanted or "npz")
    begun.save(model.learnt)
    return begun


def _planned(extraction: Extraction, photos: Mapping[str, Path]) -> _Plan:
    """Find what is to be done, and give each new photo its place in a shard."""
    plan, left, last = _Plan(), dict(photos), -1
    for last in extraction.shards():
        entries, asked, moved = extraction.entries(last), set[str](), False
        for number, entry in enumerate(entries):
            path = left.pop(entry.image_id, None)
            if path is None:
                continue
            place = str(path.resolve())
            if place != entry.path:
                if _differ(entry, path):
                    plan.refused[path] = (
                        f"goes by the same id as {entry.path} ({entry.image_id}): rename it, extract a "
                        "folder above both, or give another --out"
                    )
                    continue
                entries[number], moved = replace(entry, path=place), True
            asked.add(entry.image_id)
        if moved:
            extraction.write_entries(last, entries)
        new = waiting(extraction, last, entries)
        plan.unchanged += len(asked - new)
        if new & asked:
            plan.shards.append(last)
            plan.photos += len(new)
    for image_id, path in left.items():
        if problem := _unusable(image_id, extraction):
            plan.refused[path] = problem
    names = (image_id for image_id, path in left.items() if path not in plan.refused)
    while part := list(islice(names, SHARD)):
        last += 1
        extraction.write_entries(last, [Entry(image_id, str(left[image_id].resolve())) for image_id in part])
        plan.shards.append(last)
        plan.photos += len(part)
    return plan


def _differ(entry: Entry, path: Path) -> bool:
    """Whether an entry's file is still there, and another than the one at `path`."""
    try:
        there = Path(entry.path).stat()
        here = path.stat()
    except OSError:
        return False
    return (there.st_size, there.st_mtime_ns) != (here.st_size, here.st_mtime_ns)


def _unusable(image_id: str, extraction: Extraction) -> str:
    """Why a photo cannot be stored under its id; empty where it can."""
    try:
        name = image_id.encode()
    except UnicodeEncodeError:
        return f"its name is not valid text ({image_id!r}): rename it"
    if not extraction.is_sharded and len(name.rpartition(b"/")[2]) > _LONGEST_NAME:
        return f"its name is too long for a file of its own (over {_LONGEST_NAME} bytes): rename it"
    if not image_id or ".." in image_id.split("/") or image_id.startswith("/"):
        return f"it cannot go by {image_id!r}: rename it"
    return ""


def _ended(
    extraction: Extraction, photos: Mapping[str, Path], plan: _Plan, left_out: dict[Path, str]
) -> Extracted:
    """Count, and list the photos that have no features."""
    asked = left_out | plan.refused
    rows = [("", str(path), reason) for path, reason in asked.items()]
    done, missed = set(plan.shards), 0
    for shard, entry in extraction:
        if entry.failed:
            rows.append((entry.image_id, entry.path, entry.failed))
            missed += shard in done
            if entry.image_id in photos:
                asked[Path(entry.path)] = entry.failed

    def write(part: Path) -> None:
        with part.open("w", newline="", errors="surrogateescape") as file:
            csv.writer(file).writerows([("id", "path", "reason"), *rows])

    if rows:
        write_atomically(extraction.failed, write)
    else:
        extraction.failed.unlink(missing_ok=True)
    return Extracted(plan.photos - missed, plan.unchanged, asked)
