"""Options that several commands share, and what is checked of them before anything is done."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from extractor.remote import RemoteExtractor
    from landbridge.index import Index

METHODS = ("global", "aqe", "verify", "id-qe", "mmst-c")

Uri = Annotated[
    str,
    typer.Option(
        envvar="MILVUS_URI",
        help="A path ending in .db for the embedded Milvus Lite, or http(s)://host:port of a server.",
    ),
]
CollectionName = Annotated[str, typer.Option("--collection", help="Name of the collection.")]
Token = Annotated[
    str,
    typer.Option(envvar="MILVUS_TOKEN", help="Token or user:password of the server.", show_default=False),
]
Database = Annotated[
    str, typer.Option("--db", envvar="MILVUS_DB", help="Database on the server.", show_default=False)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
]
Method = Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline/--online",
        help="Offline: query photos serve as bridges to one another. Online: each stands alone.",
    ),
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", help="Also write a report to look at (HTML).", dir_okay=False)
]
QueryFeatures = Annotated[
    Path | None,
    typer.Option(
        "--features",
        help="Feature files of the queries, for an index of imported features: they are taken from there, by "
        "the queries' names.",
        exists=True,
        show_default=False,
    ),
]
ExtractorUrl = Annotated[
    str | None,
    typer.Option(
        "--extractor-url",
        envvar="LANDBRIDGE_EXTRACTOR_URL",
        help="Extract photos by a service (`landbridge serve`) at this URL; its token, if it has one, in "
        "LANDBRIDGE_EXTRACTOR_TOKEN.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Access:
    """Where an index is, and what opens it."""

    uri: str
    collection: str
    token: str = field(repr=False)
    db: str

    def open(
        self,
        dimension: int | None = None,
        extractor: str | None = None,
        extractor_url: str | None = None,
    ) -> Index:
        """Open the index; dimension and extractor are those of a new collection."""
        from landbridge.index import Index

        return Index(
            self.uri,
            self.collection,
            extractor=_remote(extractor_url, extractor) if extractor_url else extractor,
            dimension=dimension,
            token=self.token,
            db_name=self.db,
        )


def _remote(url: str, name: str | None) -> RemoteExtractor:
    """The extractor of a service, which must be the one that was named, if one was."""
    from extractor.registry import registered
    from extractor.remote import TOKEN_VARIABLE, RemoteExtractor

    remote = RemoteExtractor(url, os.environ.get(TOKEN_VARIABLE, ""))
    if name is not None and registered(name) != remote.name:
        raise ValueError(f"the service at {url} extracts by {remote.name}, not by {registered(name)}")
    return remote


def check_folder(path: Path | None) -> Path | None:
    """A result is not computed to find that there is nowhere to write it."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    return path


def check_method(method: str, option: str = "--method") -> None:
    """Refuse a method that there is not."""
    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is none of {', '.join(METHODS)}", param_hint=option)
