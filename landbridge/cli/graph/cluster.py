"""`landbridge graph cluster`: the landmarks in a match graph."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.graph.folder import Confidence, Graph, open_graph
from landbridge.cli.options import AsJson, check_folder


def cluster(
    graph: Graph,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="CSV to write: id,cluster.", dir_okay=False, callback=check_folder),
    ] = None,
    confidence: Confidence = 0.5,
    as_json: AsJson = False,
) -> None:
    """Cut the maximum spanning forest of the index into landmarks; cluster 0 is the largest."""
    if out_file is None and not as_json:
        raise typer.BadParameter("give --out or --json, or nothing would be kept", param_hint="--out")
    with errors():
        clusters = open_graph(graph).clusters(confidence)
        if out_file is not None:
            rows = sorted((place, name) for name, place in clusters.items())
            part = out_file.with_name(f"{out_file.name}.part")
            with part.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["id", "cluster"])
                writer.writerows((name, place) for place, name in rows)
            part.replace(out_file)
        if as_json:
            print_json(clusters)
            return
        sizes = Counter(clusters.values())
        alone = sum(size == 1 for size in sizes.values())
        out.print(
            f"{len(sizes) - alone} clusters of two images or more, the largest of {sizes[0]}; "
            f"{alone} images are alone."
        )
        out.print(f"Wrote {escape(str(out_file))}.")
