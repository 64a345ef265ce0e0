"""`landbridge alias` and `landbridge drop`: what names lead to, and collections that are no longer needed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, fail, out, print_json
from landbridge.cli.options import AsJson, Database, Token, Uri


def alias(
    name: Annotated[
        str | None,
        typer.Argument(help="The alias to make or to switch.", metavar="NAME", show_default=False),
    ] = None,
    collection: Annotated[
        str | None, typer.Argument(help="What it is to lead to.", metavar="COLLECTION", show_default=False)
    ] = None,
    uri: Uri = "landbridge.db",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """List the aliases and their collections, or let one lead to a collection, in one step.

    An alias is a name for readers: `--collection NAME` opens what is behind it. `landbridge reindex` puts a
    collection of another extractor there.
    """
    from connector.alias import Aliases
    from landbridge import reindexing

    if name is not None and collection is None:
        raise typer.BadParameter("give the collection too, or neither", param_hint="COLLECTION")
    with errors():
        if name is not None and collection is not None:
            before = reindexing.switch(uri, name, collection, token=token, db_name=db)
            if as_json:
                print_json({"name": name, "old": before, "behind": collection})
            else:
                kept = f"; before, it led to {before}" if before not in (None, collection) else ""
                out.print(f"{escape(name)} leads to {escape(collection)}{kept}.")
            return
        with Aliases(uri, token=token, db_name=db) as aliases:
            found = aliases.list()
    if as_json:
        print_json(found)
        return
    for one, behind in found.items():
        out.print(f"{one} leads to {behind}")
    if not found:
        out.print("There are no aliases: `landbridge alias NAME COLLECTION` makes one.")


def drop(
    collection: Annotated[
        str, typer.Argument(help="A collection of Landbridge's.", metavar="COLLECTION", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    uri: Uri = "landbridge.db",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Drop a collection that no alias leads to, with its features and verified pairs.

    The photos themselves stay. With --json, --yes must be given too.
    """
    from landbridge import reindexing

    if not yes:
        if as_json:
            raise typer.BadParameter("give it too: nobody can be asked", param_hint="--yes")
        if not typer.confirm(f"Drop {collection} in {uri}, with all it holds?", err=True):
            fail(f"{collection} was not dropped")
    with errors():
        reindexing.drop(uri, collection, token=token, db_name=db)
    if as_json:
        print_json({"dropped": collection})
    else:
        out.print(f"{escape(collection)} in {escape(uri)} is dropped.")
