"""`landbridge demo`: everything once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, out, print_failures, print_json, progress
from landbridge.cli.figures import precision_table
from landbridge.cli.options import AsJson


def demo(
    photos: Annotated[
        Path | None,
        typer.Option(
            help="Your own photos, labelled as for evaluate or not; by default a rendered world.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder for the index and the report.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the rendered world.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run everything once, on a rendered world or on your own photos, and write a report.

    Index, search, verification, ID-QE and MMST-C on the embedded Milvus Lite; the table of methods where
    the truth is known; report.html with every bridge drawn.
    """
    from landbridge.demo import run_demo

    with errors():
        with progress() as bars:
            result = run_demo(photos, folder, seed, bars)
        if as_json:
            print_json(result.as_dict())
            return
        if result.evaluation is not None:
            out.print(precision_table(result.evaluation))
        if result.subfolders:
            out.print(escape(result.subfolders))
        out.print(
            f"{result.photos} photos, {result.bridged} results reached over bridging photos alone. "
            f"Open {escape(str(result.report))} in a browser to see every bridge."
        )
        print_failures(result.failed, "photos could not be read")
