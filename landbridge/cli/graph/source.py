"""Options of the commands that make graphs of a collection in Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

IdField = Annotated[
    str,
    typer.Option(
        help="Field that names an image of your own collection; by default the primary key.",
        show_default=False,
    ),
]
Neighbours = Annotated[int, typer.Option("--k", min=1, max=16_383, help="Nearest neighbours of an image.")]
Rounds = Annotated[
    int, typer.Option(min=1, max=2, help="2: again with the neighbours of expanded descriptors.")
]
GraphFolder = Annotated[
    Path, typer.Option("--out", help="Folder for the match graph; see `graph rank`.", file_okay=False)
]
