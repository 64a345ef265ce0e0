"""Submissions of the Google Landmark Retrieval challenges: `id,images`, ids of photos separated by spaces."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from landbridge.datasets.challenge_csv import read_challenge_csv

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
    path = Path(path)
    kept = {query: list(ranking[:limit]) for query, ranking in rankings.items()}
    used = dict.fromkeys(item for query, ranking in kept.items() for item in (query, *ranking))
    unfit = [item for item in used if _UNFIT.search(item)]
    if unfit:
        raise ValueError(
            f"{len(unfit)} ids cannot be written to a submission, because they are empty or hold a space, a "
            f"comma or a quotation mark: {', '.join(map(repr, unfit[:3]))}; rename these photos"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["id", "images"])
            rows.writerows((query, " ".join(ranking)) for query, ranking in kept.items())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
