"""`landbridge reindex`: a new extractor behind the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from landbridge.cli.console import errors, out, print_failures, print_json, progress
from landbridge.cli.options import (
    AsJson,
    Database,
    ExtractorUrl,
    IndexParams,
    IndexType,
    Metric,
    Token,
    Uri,
    extractor_at,
    index_params,
)

if TYPE_CHECKING:
    from landbridge.reindexing import Reindexed


def reindex(
    name: Annotated[
        str, typer.Argument(help="An alias, or a collection.", metavar="NAME", show_default=False)
    ],
    extractor: Annotated[
        str | None,
        typer.Option(help="The new one, of `landbridge extractors`.", show_default=False),
    ] = None,
    extractor_url: ExtractorUrl = None,
    into: Annotated[
        str | None,
        typer.Option(help="Name of the new collection.", show_default="NAME_2, NAME_3 and so on"),
    ] = None,
    dimension: Annotated[
        int | None,
        typer.Option(
            min=1, help="To which global descriptors are PCA-whitened.", show_default="as in the old one"
        ),
    ] = None,
    index_type: IndexType = None,
    metric: Metric = None,
    index_parameters: IndexParams = None,
    no_switch: Annotated[
        bool, typer.Option("--no-switch", help="Make the new collection, and leave the name where it is.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Switch although photos are missing in the new one.")
    ] = False,
    rename: Annotated[
        bool,
        typer.Option(
            "--rename",
            help="Where NAME is a collection: rename that, so that its name can lead to the new one. For a "
            "moment there is neither.",
        ),
    ] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Only go back to the collection before the last switch.")
    ] = False,
    uri: Uri = "landbridge.db",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Index the photos behind a name by another extractor, then switch the name over in one step.

    The photos are read from the places that the collection knows. It is searched until the new one is whole,
    and kept. Photos that are not where they were are listed, and nothing is switched then. Stopped, by Ctrl-C
    or by force, the same command goes on. What is not given of the index is as in the old collection.
    """
    from landbridge import reindexing

    if roll_back:
        with errors():
            left, now = reindexing.roll_back(uri, name, token=token, db_name=db)
        if as_json:
            print_json({"name": name, "old": left, "behind": now})
        else:
            out.print(f"{escape(name)} leads to {now} again; {left} is kept.")
        return
    new = extractor_at(extractor_url, extractor)
    if new is None:
        raise typer.BadParameter("say which: a new one, or the same again", param_hint="--extractor")
    with errors(), progress() as report:
        done = reindexing.reindex(
            uri,
            name,
            new,
            into=into,
            dimension=dimension,
            index_params=index_params(index_type, metric, index_parameters),
            switch=not no_switch,
            allow_missing=allow_missing,
            rename=rename,
            token=token,
            db_name=db,
            progress=report,
        )
    if as_json:
        print_json(
            {
                "name": done.name,
                "old": done.old,
                "new": done.new,
                "behind": done.behind,
                "photos": done.photos,
                "added": done.added,
                "removed": done.removed,
                "verified_pairs": done.verified,
                "missing": {str(path): reason for path, reason in sorted(done.missing.items())},
            }
        )
    else:
        out.print(escape(_told(done, no_switch)))
    print_failures(done.missing, f"photos of {done.old} are missing in {done.new}")
    if done.missing and not done.switched:
        raise typer.Exit(1)


def _told(done: Reindexed, no_switch: bool) -> str:
    """How far it has come, and what can be done next."""
    if done.old == done.new:
        return f"{done.name} leads to {done.new}, which is as asked for: there was nothing to do."
    made = (
        f"{done.new}: {done.photos} photos, {done.added} of them added now. Pairs verified: {done.verified}."
    )
    if done.removed:
        made += f" {done.removed} photos that {done.old} no longer has were taken out."
    if done.switched:
        return (
            f"{made}\n{done.name} leads to it. {done.old} is kept: `landbridge reindex {done.name} "
            f"--roll-back` goes back to it, `landbridge drop {done.old}` gives it up."
        )
    if done.missing:
        way_on = (
            "Bring the missing photos back and run this again, or switch without them by --allow-missing."
        )
    elif no_switch:
        way_on = f"Try it by --collection {done.new}; this command without --no-switch switches."
    else:
        way_on = (
            f"{done.name} is a collection, so it cannot lead to another. Either search {done.new} by its own "
            "name, or run this again with --rename: the collection gets another name, and this name leads to "
            "the new one; for a moment readers find neither."
        )
    return f"{made}\n{done.name} still leads to {done.behind}. {way_on}"
