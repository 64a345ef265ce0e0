"""`landbridge graph knn`: the nearest neighbours of every image of a collection in Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import err, errors, out, print_json, progress
from landbridge.cli.graph.source import IdField, Neighbours
from landbridge.cli.options import (
    AsJson,
    CollectionName,
    Database,
    RowFilter,
    Tenant,
    Token,
    Uri,
    VectorField,
)


def knn(
    graph: Annotated[Path, typer.Option("--out", help="Folder for the k-NN graph.", file_okay=False)] = Path(
        "knn"
    ),
    k: Neighbours = 100,
    vector_field: VectorField = "",
    id_field: IdField = "",
    only: RowFilter = "",
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    tenant: Tenant = "",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Search a collection, yours or Landbridge's, for the nearest neighbours of each of its images.

    A page of the collection is in memory at a time. Run it again after it was stopped, and it goes on; after
    images came or went, it begins anew. Python reads the folder with `connector.knn_graph.KnnGraph.open`, and
    `graph build --neighbours` takes it.
    """
    import numpy as np

    from connector.errors import CollectionChangedError
    from landbridge.collection_graph import neighbours_of
    from landbridge.collection_source import CollectionSource

    source = CollectionSource(
        uri, collection, vector_field, id_field, only, tenant=tenant, token=token, db_name=db
    )
    with errors(), progress() as bars:
        try:
            made = neighbours_of(source, graph, k, progress=bars)
        except CollectionChangedError as error:
            changed = str(error).partition(": delete")[0]
            err.print(f"[yellow]{escape(changed)}: it is built anew.[/yellow]", soft_wrap=True)
            made = neighbours_of(source, graph, k, anew=True, progress=bars)
    nearest, found = made.similarity[:, 0], (made.neighbours >= 0).sum()
    facts = {
        "collection": collection,
        "images": len(made),
        "k": k,
        "neighbours": int(found),
        "median_similarity": float(np.nanmedian(nearest)) if found else None,
        "folder": str(graph),
    }
    if as_json:
        print_json(facts)
        return
    out.print(f"{len(made)} images of {escape(collection)}, {found} neighbours in all.")
    if found:
        out.print(f"Median similarity of an image and its nearest: {facts['median_similarity']:.3f}.")
    out.print(f"Wrote {escape(str(graph))}.")
