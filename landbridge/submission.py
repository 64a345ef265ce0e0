"""Submissions of the Google Landmark challenges: `id,images` of retrieval, `id,landmarks` of recognition."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from landbridge.datasets.challenge_csv import read_challenge_csv
from landbridge.recognition import Recognition

_UNFIT = re.compile(r'[\s,"]|^$')


def write_submission(path: Path | str, rankings: Mapping[str, Sequence[str]], limit: int = 100) -> None:
    """Write rankings as a submission; the file appears whole or not at all.

    Args:
        path: the CSV to write; one that is there is replaced.
        rankings: query id -> index ids, best first; one row per query, in this order, empty ones too.
        limit: ids per query; what follows is cut off.

    Raises:
        ValueError: an id is empty or holds a space, a comma or a quotation mark (the message names it), or
            `limit` is below 1.
        OSError: the file cannot be written.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    kept = {query: list(ranking[:limit]) for query, ranking in rankings.items()}
    _check("ids", (item for query, ranking in kept.items() for item in (query, *ranking)))
    _write(Path(path), "images", {query: " ".join(ranking) for query, ranking in kept.items()})


def read_submission(path: Path | str) -> dict[str, list[str]]:
    """Read a submission.

    Args:
        path: a CSV with the columns `id` and `images`.

    Returns:
        Query id -> index ids, best first, in the order of the file.

    Raises:
        ValueError: a column is missing, or a row is malformed or repeats a query.
        OSError: the file cannot be read.
    """
    return {row["id"]: row["images"].split() for row in read_challenge_csv(Path(path), ["id", "images"])}


def write_recognition(path: Path | str, recognised: Mapping[str, Recognition | None]) -> None:
    """Write the landmarks of queries as a submission; the file appears whole or not at all.

    Args:
        path: the CSV to write; one that is there is replaced.
        recognised: query id -> its landmark; one row per query, in this order, empty where it shows none.

    Raises:
        ValueError: an id or a landmark is empty or holds a space, a comma or a quotation mark (the message
            names it).
        OSError: the file cannot be written.
    """
    _check("ids", recognised)
    _check("landmarks", (found.label for found in recognised.values() if found is not None))
    rows = {
        query: "" if found is None else f"{found.label} {found.confidence!r}"
        for query, found in recognised.items()
    }
    _write(Path(path), "landmarks", rows)


def read_recognition(path: Path | str) -> dict[str, Recognition | None]:
    """Read a recognition submission.

    Args:
        path: a CSV with the columns `id` and `landmarks`: a landmark and its score, or nothing.

    Returns:
        Query id -> its landmark, in the order of the file.

    Raises:
        ValueError: a column is missing, or a row is malformed or repeats a query.
        OSError: the file cannot be read.
    """
    path = Path(path)
    recognised: dict[str, Recognition | None] = {}
    for row in read_challenge_csv(path, ["id", "landmarks"]):
        words = row["landmarks"].split()
        try:
            recognised[row["id"]] = Recognition(words[0], _finite(*words[1:])) if words else None
        except (TypeError, ValueError):
            raise ValueError(
                f"{path}: the row of {row['id']} must hold a landmark and its score, or nothing; "
                f"it reads {row['landmarks']!r}"
            ) from None
    return recognised


def _finite(text: str) -> float:
    score = float(text)
    if not math.isfinite(score):
        raise ValueError(text)
    return score


def _check(what: str, items: Iterable[str]) -> None:
    unfit = [item for item in dict.fromkeys(items) if _UNFIT.search(item)]
    if unfit:
        raise ValueError(
            f"{len(unfit)} {what} cannot be written to a submission, because they are empty or hold a space, "
            f"a comma or a quotation mark: {', '.join(map(repr, unfit[:3]))}; rename these "
            f"{'photos' if what == 'ids' else what}"
        )


def _write(path: Path, column: str, rows: Mapping[str, str]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", column])
            writer.writerows(rows.items())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
