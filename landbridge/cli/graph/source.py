"""Options of the commands that make graphs of a collection in Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

VectorField = Annotated[
    str,
    typer.Option(help="Field of the vectors; by default the only one.", show_default=False),
]
IdField = Annotated[
    str,
    typer.Option(
        help="Field that names an image of your own collection; by default the primary key.",
        show_default=False,
    ),
]
Filter = Annotated[
    str,
    typer.Option("--filter", help="A Milvus expression: only the images that fulfil it.", show_default=False),
]
Companion = Annotated[
    str,
    typer.Option(
        help="Collection of the local features of your own collection's images.",
        show_default="COLLECTION_landbridge",
    ),
]
Neighbours = Annotated[int, typer.Option("--k", min=1, max=16_383, help="Nearest neighbours of an image.")]
Rounds = Annotated[
    int, typer.Option(min=1, max=2, help="2: again with the neighbours of expanded descriptors.")
]
GraphFolder = Annotated[
    Path, typer.Option("--out", help="Folder for the match graph; see `graph rank`.", file_okay=False)
]
