"""`landbridge index`: photos into Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, fail, out, print_failures, print_json, progress
from landbridge.cli.options import (
    Access,
    AsJson,
    CollectionName,
    Database,
    ExtractorUrl,
    IndexParams,
    IndexType,
    LocalIndex,
    Metric,
    Tenant,
    Token,
    Uri,
    index_params,
)

if TYPE_CHECKING:
    from landbridge.index import Index
    from landbridge.ingest import Added


def index(
    photos: Annotated[
        Path, typer.Argument(help="A folder (searched with its subfolders) or one photo.", exists=True)
    ],
    dimension: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a new collection: PCA-whiten global descriptors to so many components; "
            "by default they are only centred.",
            show_default=False,
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="Of a new collection: what makes the features, one of `landbridge extractors`. "
            "An existing one knows its own.",
            show_default="xfeat-lite2",
        ),
    ] = None,
    extractor_url: ExtractorUrl = None,
    index_type: IndexType = None,
    metric: Metric = None,
    index_parameters: IndexParams = None,
    consistency: Annotated[
        str | None,
        typer.Option(
            help="Of a new collection: Strong, Session, Bounded or Eventually.", show_default="Session"
        ),
    ] = None,
    ttl: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a new collection: seconds after which a server forgets photos.",
            show_default=False,
        ),
    ] = None,
    local_index: LocalIndex = None,
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    tenant: Tenant = "",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Add photos: extract descriptors, store them in Milvus, verify neighbours.

    A second run does only what is new or changed, and a run that was stopped, by Ctrl-C or by force, goes
    on where it ended. Photos that cannot be read are listed and skipped; the exit code is 1 only when none
    could be added. A photo's id is its path below the folder, without suffix.
    """
    new = {
        "index_params": index_params(index_type, metric, index_parameters),
        "consistency_level": consistency,
        "ttl_seconds": ttl,
    }
    access = Access(uri, collection, token, db, tenant)
    with errors(), access.open(dimension, extractor, extractor_url, **new) as opened:
        with progress() as report:
            if local_index is False and len(opened):
                opened.drop_local_index()
            added = opened.add(photos, report)
            if local_index and len(opened):
                opened.build_local_index(report)
        print_added(added, opened, as_json)
        if not (added.added or added.unchanged):
            fail(f"{photos} holds no photos (JPEG, PNG, WebP, TIFF, BMP, GIF)")


def print_added(added: Added, index: Index, as_json: bool) -> None:
    """Say what was added to an index, and what could not be; the command ends here when that was all."""
    local = index.local_index if len(index) else None
    if as_json:
        print_json(
            {
                "added": len(added.added),
                "unchanged": added.unchanged,
                "failed": {str(path): reason for path, reason in added.failed.items()},
                "verified_pairs": added.verified,
                "photos": len(index),
                **({"local_index": local} if local else {}),
            }
        )
    else:
        out.print(
            f"Photos: {len(added.added)} added, {added.unchanged} unchanged, {len(added.failed)} failed, "
            f"{len(index)} in {escape(index.uri)} ({escape(index.name)}). Pairs verified: {added.verified}."
        )
        if local:
            out.print(f"Local index: {local['rows']} descriptors under {local['index']}.")
    print_failures(added.failed, "photos could not be added")
    if added.failed and not added.added and not added.unchanged:
        raise typer.Exit(1)
