"""`landbridge search`: the photos that show what one photo shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.options import Access, AsJson, CollectionName, Database, Method, Token, Uri, check_method

if TYPE_CHECKING:
    from landbridge.results import Ranking


def search(
    photo: Annotated[Path, typer.Argument(help="The query photo.", exists=True, dir_okay=False)],
    limit: Annotated[int, typer.Option(min=1, help="Longest list.")] = 20,
    method: Method = "mmst-c",
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Find the photos that show what one photo shows.

    For each photo found, the table says how: verified against the query (with the number of inliers),
    bridged over other photos, or similar, by its descriptor alone.
    """
    check_method(method)
    with errors(), Access(uri, collection, token, db).open() as opened:
        ranking = opened.search(photo, limit, method)
        if as_json:
            print_json(ranking.as_dict())
        else:
            out.print(_ranking_table(ranking))


def _ranking_table(ranking: Ranking) -> Table:
    table = Table(title=f"Photos like {escape(ranking.query_id)}", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("photo", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("found", overflow="fold")
    for place, hit in enumerate(ranking.hits, 1):
        if hit.how == "verified":
            found = f"verified, {hit.chain[0].inliers} inliers"
        elif hit.how == "bridged":
            found = "bridged over " + " → ".join(hit.bridges)
        else:
            found = "similar"
        table.add_row(str(place), escape(hit.image_id), f"{hit.score:.3f}", escape(found))
    return table
