"""The log of a stage: a CSV file, one row at a time."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


class CsvLog:
    """Appends rows; a stage that goes on from a checkpoint first drops the rows after it.

    Args:
        path: the file.
        columns: its header; `step` comes first.
        step: rows of later steps are dropped.
    """

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        self._path = path
        self._columns = list(columns)
        kept: list[dict[str, str]] = []
        if step and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [
                    row for row in csv.DictReader(file) if row["step"].isdigit() and int(row["step"]) <= step
                ]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)

    def append(self, row: dict[str, float | int | None]) -> None:
        """Add a row; None is an empty cell."""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(
                {
                    name: f"{value:.6g}" if isinstance(value, float) else value
                    for name, value in row.items()
                    if value is not None
                }
            )
