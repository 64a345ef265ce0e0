"""`landbridge graph match`: the match graph of a collection in Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from landbridge.cli.console import err, errors, out, print_json, progress
from landbridge.cli.graph.source import GraphFolder, IdField, Neighbours, Rounds
from landbridge.cli.options import (
    AsJson,
    CollectionName,
    Companion,
    Database,
    RowFilter,
    Tenant,
    Token,
    Uri,
    VectorField,
)

if TYPE_CHECKING:
    from landbridge.collection_graph import CollectionGraph

_LISTED = 20


def match(
    graph: GraphFolder = Path("graph"),
    k: Neighbours = 100,
    rounds: Rounds = 2,
    similarity: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Do not verify: join images that are among each other's neighbours with this cosine or "
            "more, for a collection without local features.",
            show_default=False,
        ),
    ] = None,
    vector_field: VectorField = "",
    id_field: IdField = "",
    companion: Companion = "",
    only: RowFilter = "",
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    tenant: Tenant = "",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Verify the nearest neighbours in a collection, yours or Landbridge's, and build its match graph.

    Local features are fetched from Milvus as they are needed. Pairs that `index`, `attach` or a search has
    verified are not verified again. Run it again after it was stopped, and it goes on; run it with more
    photos, and it verifies what is new. `graph rank`, `cluster`, `export` and `stats` take the folder.
    """
    from landbridge.collection_graph import match_collection
    from landbridge.collection_source import CollectionSource

    source = CollectionSource(uri, collection, vector_field, id_field, only, companion, tenant, token, db)
    with errors():
        with progress() as bars:
            matched = match_collection(
                source, graph, neighbours=k, rounds=rounds, similarity=similarity, progress=bars
            )
        if as_json:
            print_json(matched_facts(matched))
        else:
            print_matched(matched)
            out.print(f"Wrote {escape(str(graph))}.")


def matched_facts(matched: CollectionGraph) -> dict[str, Any]:
    """What was made, in values that JSON can hold."""
    return {
        "pairs": matched.pairs,
        "verified": matched.verified,
        "without_local_features": matched.without,
        "graph": matched.graph.stats(),
    }


def print_matched(matched: CollectionGraph) -> None:
    """Say what was made, and which images are joined to nothing for want of local features."""
    graph = matched.graph.graph
    out.print(f"{len(matched.graph)} images, {graph.edges if graph is not None else 0} edges.")
    out.print(f"{matched.pairs} pairs, of which {matched.verified} were verified now.")
    if matched.without:
        err.print(f"[yellow]{len(matched.without)} images have no local features:[/yellow]")
        for name in matched.without[:_LISTED]:
            err.print(f"  {escape(name)}", soft_wrap=True)
        if len(matched.without) > _LISTED:
            err.print(f"  and {len(matched.without) - _LISTED} more")
