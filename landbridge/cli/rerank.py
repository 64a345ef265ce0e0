"""`landbridge rerank`: what your own vector search finds, in the order of verified ranking."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from landbridge.cli.attach import Attachment, Theirs, print_unavailable
from landbridge.cli.console import errors, out, print_json, progress
from landbridge.cli.options import (
    AsJson,
    Companion,
    Database,
    ExtractorUrl,
    IdField,
    Method,
    Partitions,
    PhotoField,
    PhotoRoots,
    RowFilter,
    Token,
    Uri,
    VectorField,
    check_method,
)

if TYPE_CHECKING:
    from landbridge.attached import AttachedPhotos
    from landbridge.results import AttachedRanking

Id = int | str


def rerank(
    collection: Theirs,
    photo: Annotated[
        Path | None,
        typer.Argument(help="The query photo.", exists=True, dir_okay=False, show_default=False),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="In place of a photo: the id of one of your rows.", show_default=False),
    ] = None,
    id_: Annotated[
        list[str] | None,
        typer.Option("--id", help="A candidate; best first, may be given again.", show_default=False),
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            "--ids",
            help="File of candidates, best first: an id a line, or a JSON list; - for standard input.",
            show_default=False,
        ),
    ] = None,
    vector: Annotated[
        Path | None,
        typer.Option(
            help="The query's vector, of your model (.npy): your collection is searched with it, unless "
            "candidates are given.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Longest list.")] = 20,
    method: Method = "mmst-c",
    row_filter: RowFilter = "",
    partition: Partitions = None,
    output_field: Annotated[
        list[str] | None,
        typer.Option("--output-field", help="Field to show; may be given again.", show_default=False),
    ] = None,
    vector_field: VectorField = "",
    id_field: IdField = "",
    photo_field: PhotoField = "",
    root: PhotoRoots = None,
    extractor_url: ExtractorUrl = None,
    companion: Companion = "",
    uri: Uri = "landbridge.db",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Rank candidates of your collection by what is verified in their photos.

    Candidates are the ids that your own search gave (--ids, --id), or your collection is searched: by the
    query's --vector, or by that of --image. Their local features are those that `landbridge attach` added, or
    are extracted now, with --photo-field and --root, and kept. No candidate is left out: those whose photo
    cannot be had are ranked by their vector, and named.
    """
    check_method(method)
    if (photo is None) == (image is None):
        raise typer.BadParameter("give the query: a photo, or the --image id of one of your rows")
    given = id_ is not None or ids is not None
    if given and (row_filter or partition):
        raise typer.BadParameter(
            "chooses among what a search finds, not among --id or --ids", param_hint="--filter"
        )
    if not given and image is None and vector is None:
        raise typer.BadParameter("give candidates (--ids, --id), or the query's --vector to search with")
    at = Attachment(uri, collection, vector_field, id_field, photo_field, root, companion, token, db)
    with errors(), at.open(extractor_url=extractor_url) as photos:
        wanted = [*(id_ or []), *(_listed(ids) if ids is not None else [])]
        query: dict[str, Any] = {
            "photo": photo,
            "image": None if image is None else _typed(photos, [image])[0],
            "vector": None if vector is None else _vector(vector),
            "limit": limit,
            "output_fields": output_field or [],
            "method": method,
        }
        with progress() as report:
            if given:
                ranking = photos.rerank(ids=_typed(photos, wanted), progress=report, **query)
            else:
                ranking = photos.search(filter=row_filter, partitions=partition, progress=report, **query)
        if as_json:
            print_json(ranking.as_dict())
        else:
            out.print(_table(ranking, output_field or []))
        if ranking.unavailable:
            print_unavailable(dict(ranking.unavailable))


def _listed(file: str) -> list[str]:
    """The ids in a file."""
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    try:
        listed = json.loads(text)
    except ValueError:
        listed = None
    if isinstance(listed, list):
        return listed
    return [line for line in text.split("\n") if line]


def _typed(photos: AttachedPhotos, ids: list[str]) -> list[Id]:
    """Ids as their collection has them."""
    if photos.collection.text_ids:
        return [str(one) for one in ids]
    try:
        return [int(one) for one in ids]
    except ValueError as error:
        raise ValueError(f"ids of {photos.collection.name!r} are integers: {error}") from None


def _vector(file: Path) -> object:
    import numpy as np

    vector = np.load(file, allow_pickle=False)
    return vector[0] if vector.ndim == 2 and len(vector) == 1 else vector


def _table(ranking: AttachedRanking, output_fields: list[str]) -> Table:
    table = Table(title=f"Photos like {escape(ranking.query_id)}", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("id", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("found", overflow="fold")
    for name in output_fields:
        table.add_column(escape(name), overflow="fold")
    for place, hit in enumerate(ranking.hits, 1):
        shown = (escape(str(hit.fields[name])) for name in output_fields)
        table.add_row(str(place), escape(hit.image_id), f"{hit.score:.3f}", escape(hit.reason), *shown)
    return table
