"""`landbridge attach`: verified ranking on top of a collection that is there, without touching it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import err, errors, out, print_json, progress
from landbridge.cli.options import (
    AsJson,
    Companion,
    Database,
    ExtractorUrl,
    IdField,
    Partitions,
    PhotoField,
    PhotoRoots,
    RowFilter,
    Token,
    Uri,
    VectorField,
    extractor_at,
)

if TYPE_CHECKING:
    from landbridge.attached import AttachedPhotos

Theirs = Annotated[str, typer.Option("--collection", help="Your collection, or an alias of it.")]
_SHOWN = 20


@dataclass(frozen=True)
class Attachment:
    """A collection to attach to, and what opens it."""

    uri: str
    collection: str
    vector_field: str
    id_field: str
    photo_field: str
    roots: Sequence[str] | None
    companion: str
    token: str = field(repr=False)
    db: str

    def open(self, extractor: str | None = None, extractor_url: str | None = None) -> AttachedPhotos:
        """Attach."""
        import landbridge

        return landbridge.attach(
            self.uri,
            self.collection,
            self.vector_field,
            self.id_field,
            photo_field=self.photo_field,
            roots=self.roots or (),
            extractor=extractor_at(extractor_url, extractor),
            companion=self.companion,
            token=self.token,
            db_name=self.db,
        )


def attach(
    collection: Theirs,
    vector_field: VectorField = "",
    id_field: IdField = "",
    photo_field: PhotoField = "",
    root: PhotoRoots = None,
    row_filter: RowFilter = "",
    partition: Partitions = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="What makes the local features, one of `landbridge extractors`; features that are there "
            "know their own.",
            show_default="xfeat-lite2",
        ),
    ] = None,
    extractor_url: ExtractorUrl = None,
    companion: Companion = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove local features and verified pairs again.")
    ] = False,
    uri: Uri = "landbridge.db",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Say what your collection holds and, given its photos, add local features beside it.

    Your rows, schema, index and load state stay as they are: local features go into a collection of their
    own, by your ids. With --photo-field and --root, the photos of all rows, or of those of --filter and
    --partition, are extracted and verified with their neighbours. A second run does only what is new, and a
    run that was stopped goes on where it ended. Photos that cannot be had are listed; the exit code is 1 only
    when none could.
    """
    if remove and photo_field:
        raise typer.BadParameter("adds, and --remove removes: give one of them", param_hint="--photo-field")
    at = Attachment(uri, collection, vector_field, id_field, photo_field, root, companion, token, db)
    with errors(), at.open(extractor, extractor_url) as photos:
        if remove:
            _remove(photos, as_json)
        elif photo_field:
            _add(photos, row_filter, partition, as_json)
        elif as_json:
            print_json(photos.info())
        else:
            _say(photos.info())


def _remove(photos: AttachedPhotos, as_json: bool) -> None:
    removed = photos.info()
    photos.remove()
    if as_json:
        print_json({"removed": removed["companion"], "local_features": removed["local_features"]})
    else:
        out.print(
            f"Removed {escape(removed['companion'])}: local features of {removed['local_features']} photos. "
            f"{escape(removed['collection'])} is as it was."
        )


def _add(photos: AttachedPhotos, row_filter: str, partitions: list[str] | None, as_json: bool) -> None:
    with progress() as report:
        added = photos.add(filter=row_filter, partitions=partitions, progress=report)
    facts = photos.info()
    if as_json:
        print_json(
            {
                **facts,
                "added": added.added,
                "unchanged": added.unchanged,
                "failed": {str(id_): reason for id_, reason in added.failed.items()},
                "verified_pairs": added.verified,
            }
        )
    else:
        _say(facts)
        out.print(
            f"Local features: {added.added} added, {added.unchanged} unchanged, {len(added.failed)} failed. "
            f"Pairs verified: {added.verified}."
        )
    if added.failed:
        print_unavailable(added.failed)
    if added.failed and not added.added and not added.unchanged:
        raise typer.Exit(1)


def _say(facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), "-" if value is None else escape(str(value)))
    out.print(table)


def print_unavailable(reasons: dict[Any, str]) -> None:
    """List rows whose photo cannot be had, with the reasons."""
    err.print(f"[yellow]photos of {len(reasons)} rows cannot be had:[/yellow]")
    for id_, reason in list(reasons.items())[:_SHOWN]:
        err.print(f"  {escape(repr(id_))}: {escape(reason)}", soft_wrap=True)
    if len(reasons) > _SHOWN:
        err.print(f"  and {len(reasons) - _SHOWN} more; --json names them all")
