"""`landbridge search`: the photos that show what one photo shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import errors, fail, out, print_json
from landbridge.cli.options import (
    Access,
    AsJson,
    CollectionName,
    Database,
    ExtractorUrl,
    Method,
    NoLocalIndex,
    QueryFeatures,
    SearchParams,
    Tenant,
    Token,
    Uri,
    check_method,
    json_object,
)

if TYPE_CHECKING:
    from landbridge.index import Index
    from landbridge.results import Ranking
    from landbridge.retrieval import Query


def search(
    photo: Annotated[
        Path | None,
        typer.Argument(help="The query photo.", exists=True, dir_okay=False, show_default=False),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Search with a photo of the index, by its id.", show_default=False)
    ] = None,
    features: QueryFeatures = None,
    limit: Annotated[int, typer.Option(min=1, help="Longest list.")] = 20,
    method: Method = "mmst-c",
    extractor_url: ExtractorUrl = None,
    search_params: SearchParams = None,
    no_local_index: NoLocalIndex = False,
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    tenant: Tenant = "",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Find the photos that show what one photo shows.

    For each photo found, the table says how: verified against the query (with the number of inliers),
    bridged over other photos, or similar, by its descriptor alone.
    """
    check_method(method)
    if (image is None) == (photo is None and features is None):
        raise typer.BadParameter("give a photo, --features of one, or the --image id of a photo of the index")
    params = json_object(search_params, "--search-params")
    access = Access(uri, collection, token, db, tenant)
    with (
        errors(),
        access.open(
            extractor_url=extractor_url, search_params=params, local_index=not no_local_index
        ) as opened,
    ):
        query = _query(opened, photo, image, features)
        ranking = opened.retrieval([query]).rank(method, limit)[0]
        if as_json:
            print_json(ranking.as_dict())
        else:
            out.print(_ranking_table(ranking))


def _query(index: Index, photo: Path | None, image: str | None, features: Path | None) -> Query:
    """The one query that was asked for."""
    if image is not None:
        if image not in index.library.number:
            fail(f"{index.name!r} in {index.uri} holds no photo {image!r}")
        return index.members([image])[0]
    named = None if photo is None else {photo.stem: photo}
    if features is not None:
        queries, failed = index.stored_queries(features, named)
    else:
        assert named is not None, "one of them was given"
        queries, failed = index.queries(named)
    for problem, reason in failed.items():
        fail(f"{problem}: {reason}")
    if len(queries) != 1:
        fail(f"{features} holds {len(queries)} photos: name one by its photo, or rank all of them")
    return queries[0]


def _ranking_table(ranking: Ranking) -> Table:
    table = Table(title=f"Photos like {escape(ranking.query_id)}", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("photo", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("found", overflow="fold")
    for place, hit in enumerate(ranking.hits, 1):
        table.add_row(str(place), escape(hit.image_id), f"{hit.score:.3f}", escape(hit.reason))
    return table
