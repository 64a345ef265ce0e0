"""The folder of a match graph, and files of names of its images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landbridge.cli.console import fail

if TYPE_CHECKING:
    from landbridge.experiments import NamedGraph

Graph = Annotated[
    Path,
    typer.Argument(
        help="Folder that `graph build` or `graph match` made.",
        exists=True,
        file_okay=False,
        show_default=False,
    ),
]
Confidence = Annotated[float, typer.Option(min=0, max=1, help="Edges of less confidence are cut.")]


def open_graph(folder: Path) -> NamedGraph:
    """The graph in a folder."""
    from landbridge.experiments import NamedGraph

    return NamedGraph.open(folder)


def names_in(path: Path) -> list[str]:
    """The first column of a file, without a header `id`."""
    if path.is_dir():
        fail(f"{path} is a folder: give a file of names")
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    return names[1:] if names[:1] == ["id"] else names
