"""`landbridge migrate`: a collection of an earlier release, brought up to date in place."""

from __future__ import annotations

from rich.markup import escape

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.options import AsJson, CollectionName, Database, Token, Uri


def migrate(
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Bring a collection that an earlier release made to the schema of this one.

    No photo is extracted anew and none is lost; stopped, the same command goes on. Let nothing else
    write to the collection meanwhile.
    """
    from connector import migration

    with errors():
        versions = migration.migrate(uri, collection, token=token, db_name=db)
    if as_json:
        print_json({"collection": collection, "versions": versions})
    elif versions:
        out.print(f"{escape(collection)} in {escape(uri)} is now of schema version {versions[-1]}.")
    else:
        out.print(f"{escape(collection)} in {escape(uri)} is up to date.")
