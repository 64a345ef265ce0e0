"""`landbridge graph expand`: expanded descriptors beside a collection, for searches by any client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, out, print_json, progress
from landbridge.cli.graph.match import matched_facts, print_matched
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
    from landbridge.collection_expansion import Expanded

Alias = Annotated[str, typer.Option(help="What plain clients search.", show_default="COLLECTION_expanded")]


def expand(
    graph: GraphFolder = Path("graph"),
    alias: Alias = "",
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            help="Field to copy (may be repeated), dynamic ones too; by default all that the schema has.",
            show_default=False,
        ),
    ] = None,
    k: Neighbours = 100,
    rounds: Rounds = 2,
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
    """Write expanded descriptors beside a collection, so that plain searches by any client find more.

    Builds the match graph as `graph match` does, moves each descriptor towards those of the images it is
    verified with (ID-QE), writes them into a collection of its own, and leads an alias there in one step.
    Run it again after it was stopped, and it goes on; after photos were added, and the alias moves on.
    """
    from landbridge.collection_expansion import expand_collection
    from landbridge.collection_graph import match_collection
    from landbridge.collection_source import CollectionSource

    source = CollectionSource(uri, collection, vector_field, id_field, only, companion, tenant, token, db)
    with errors():
        with progress() as bars:
            matched = match_collection(source, graph, neighbours=k, rounds=rounds, progress=bars)
            made = expand_collection(source, matched, graph, alias, fields=fields, progress=bars)
        if as_json:
            print_json(matched_facts(matched) | made.as_dict())
            return
        print_matched(matched)
        _print_expanded(made, uri)


def drop_expanded(
    alias: Alias = "",
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Remove what `graph expand` wrote: the alias, and the collections that were made for it."""
    from landbridge.collection_expansion import drop_expansion
    from landbridge.collection_source import CollectionSource

    with errors():
        dropped = drop_expansion(CollectionSource(uri, collection, token=token, db_name=db), alias)
        if as_json:
            print_json({"dropped": dropped})
        else:
            out.print(f"Dropped {escape(', '.join(dropped))}.")


def _print_expanded(made: Expanded, uri: str) -> None:
    out.print(f"Moved {made.moved} of {made.images} descriptors.")
    out.print(f"{escape(made.alias)} leads to {escape(made.name)}.")
    if made.before is not None:
        back = f"landbridge alias {made.alias} {made.before} --uri {uri}"
        out.print(f"Before, it led to {escape(made.before)}. Back: {escape(back)}", soft_wrap=True)
    if made.dropped:
        out.print(f"Older ones were dropped: {escape(', '.join(made.dropped))}.")
    if "://" in uri:
        lines = [f'client = MilvusClient("{uri}", token="…")']
    else:
        lines = [f'client = MilvusClient("{uri}")', f'client.load_collection("{made.alias}")']
    lines.append(
        f'client.search("{made.alias}", [query], anns_field="{made.vector_field}", limit=100, '
        f"output_fields={made.fields[:2]})"
    )
    removal = f"landbridge graph drop-expanded --alias {made.alias} --uri {uri}"
    out.print("\nSearch it with any client, by the query's own descriptor:\n")
    for line in lines:
        out.print(f"    {escape(line)}", soft_wrap=True)
    out.print(f"\nRemove it: {escape(removal)}", soft_wrap=True)
