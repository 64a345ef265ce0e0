"""The CSV files of the Google Landmark challenges, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

LARGEST_FIELD = 2**31 - 1
"""Characters in one field: ten thousand ids of 16 letters pass the csv module's own limit of 131072."""


def read_header(path: Path) -> list[str]:
    """The column names of a CSV, in lower case; none for an empty file.

    Raises:
        ValueError: the file is not text in UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [name.strip().lower() for name in next(csv.reader(file), [])]


def read_challenge_csv(path: Path, columns: list[str], key: str = "id") -> Iterator[dict[str, str]]:
    """Read rows that have an id.

    Args:
        path: the CSV; the first line names its columns, in any order, further columns are passed over.
        columns: the columns to read, in lower case, the key among them.
        key: the column of the id, which no two rows share.

    Yields:
        Column -> text, without surrounding spaces. Empty lines are passed over.

    Raises:
        ValueError: a column is missing, a row has too few or too many fields, or an id is empty or repeated.
    """
    csv.field_size_limit(LARGEST_FIELD)
    header = read_header(path)
    absent = [column for column in columns if column not in header]
    if absent:
        raise ValueError(
            f"{path} has no column {', '.join(absent)}: its first line reads {','.join(header)!r}"
        )
    seen: set[str] = set()
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields for {len(header)} columns"
                )
            row = dict(zip(header, (field.strip() for field in fields), strict=True))
            if not row[key] or row[key] in seen:
                raise ValueError(
                    f"{path}, line {reader.line_num}: "
                    + (f"the {key} {row[key]} is there already" if row[key] else f"the {key} is empty")
                )
            seen.add(row[key])
            yield {column: row[column] for column in columns}
