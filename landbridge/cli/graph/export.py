"""`landbridge graph export`: a match graph for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, out
from landbridge.cli.graph.folder import Graph, open_graph
from landbridge.cli.options import check_folder


def export(
    graph: Graph,
    target: Annotated[Path, typer.Argument(help="File to write.", dir_okay=False, callback=check_folder)],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            help="graphml, egt (text with inliers) or npz; by default by the suffix of the file.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Write the graph for other programs; networkx reads the GraphML."""
    with errors():
        open_graph(graph).export(target, file_format or target.suffix.lstrip("."))
        out.print(f"Wrote {escape(str(target))}.")
