"""`landbridge import`: features that are in files already into Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from landbridge.cli.console import errors, fail, progress
from landbridge.cli.index import print_added
from landbridge.cli.options import Access, AsJson, CollectionName, Database, LocalIndex, Tenant, Token, Uri


def import_features(
    features: Annotated[
        list[Path],
        typer.Argument(
            help="Feature files (.h5, .npz, .delf, .delg_local, .delg_global), folders of them, or what "
            "`landbridge extract` wrote.",
            exists=True,
            show_default=False,
        ),
    ],
    photos: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the photos, from which the names in the files start: for reports, and for "
            "global descriptors where the files have none.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Of a new collection: what others' features are called. Features of two labels do not meet.",
            show_default="features",
        ),
    ] = None,
    dimension: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a new collection: PCA-whiten global descriptors to so many components; "
            "by default they are only centred.",
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
    """Add photos whose features are in files: store them in Milvus, verify neighbours.

    A second run does only what is new or changed, and a run that was stopped, by Ctrl-C or by force, goes on
    where it ended. What `landbridge extract` wrote makes the collection that `landbridge index` makes of the
    photos. Others' features make one that is searched with their features: `landbridge rank --features`.
    Photos whose features cannot be used are listed and skipped; the exit code is 1 only when none could be
    added.
    """
    with errors(), Access(uri, collection, token, db, tenant).open(dimension) as opened:
        with progress() as report:
            if local_index is False and len(opened):
                opened.drop_local_index()
            added = opened.add_features(features, photos, label=label, progress=report)
            if local_index and len(opened):
                opened.build_local_index(report)
        print_added(added, opened, as_json)
        if not (added.added or added.unchanged):
            fail(f"{', '.join(map(str, features))} holds no features")
