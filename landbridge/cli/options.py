"""Options that several commands share, and what is checked of them before anything is done."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
Tenant = Annotated[
    str,
    typer.Option(
        envvar="LANDBRIDGE_TENANT",
        help="Whose photos, in a collection that several share.",
        show_default=False,
    ),
]
IndexType = Annotated[
    str | None,
    typer.Option(
        help="Of a new collection: FLAT, HNSW, IVF_SQ8, DISKANN or another index that Milvus can build; by "
        "default chosen for the number of photos.",
        show_default=False,
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(help="Of a new collection, with --index-type: COSINE or IP.", show_default="COSINE"),
]
IndexParams = Annotated[
    str | None,
    typer.Option(
        "--index-params",
        help="Of a new collection, with --index-type: parameters as JSON, such as '{\"M\": 32}'; by default "
        "chosen for the index.",
        show_default=False,
    ),
]
SearchParams = Annotated[
    str | None,
    typer.Option(
        help="Of the collection's index, as JSON, such as '{\"ef\": 512}'; by default chosen for the limit.",
        show_default=False,
    ),
]
VectorField = Annotated[
    str, typer.Option(help="Field of your vectors; need not be given when there is one.", show_default=False)
]
IdField = Annotated[str, typer.Option(help="Your primary key; need not be given.", show_default=False)]
PhotoField = Annotated[
    str,
    typer.Option(
        help="Field that holds the path or URL of a row's photo; goes with --root.", show_default=False
    ),
]
PhotoRoots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        help="Folder that photos are read from, or beginning of the URLs that they are fetched from; may be "
        "given again. Nothing outside is touched.",
        show_default=False,
    ),
]
Companion = Annotated[
    str,
    typer.Option(
        help="Collection of Landbridge's for the local features.", show_default="COLLECTION_landbridge"
    ),
]
RowFilter = Annotated[
    str,
    typer.Option(
        "--filter", help="A Milvus expression that rows fulfil, as 'city == \"Köln\"'.", show_default=False
    ),
]
Partitions = Annotated[
    list[str] | None,
    typer.Option("--partition", help="Only rows of this partition; may be given again.", show_default=False),
]
LocalIndex = Annotated[
    bool | None,
    typer.Option(
        "--local-index/--drop-local-index",
        help="Also index local descriptors, a row each, so that searches find what global descriptors miss; "
        "from then on it is kept up to date. Or drop that index.",
        show_default=False,
    ),
]
NoLocalIndex = Annotated[
    bool,
    typer.Option("--no-local-index", help="Search without the local index, where the collection has one."),
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
    tenant: str = ""

    def open(
        self,
        dimension: int | None = None,
        extractor: str | None = None,
        extractor_url: str | None = None,
        **new: Any,
    ) -> Index:
        """Open the index; dimension, extractor and what else `Index` takes are those of a new collection."""
        from landbridge.index import Index

        return Index(
            self.uri,
            self.collection,
            extractor=extractor_at(extractor_url, extractor),
            dimension=dimension,
            token=self.token,
            db_name=self.db,
            tenant=self.tenant,
            **new,
        )


def extractor_at(url: str | None, name: str | None) -> RemoteExtractor | str | None:
    """The extractor of a service, which must be the one that was named, if one was; without one, the name."""
    if not url:
        return name
    from extractor.registry import registered
    from extractor.remote import TOKEN_VARIABLE, RemoteExtractor

    remote = RemoteExtractor(url, os.environ.get(TOKEN_VARIABLE, ""))
    if name is not None and registered(name) != remote.name:
        raise ValueError(f"the service at {url} extracts by {remote.name}, not by {registered(name)}")
    return remote


def index_params(kind: str | None, metric: str | None, params: str | None) -> dict[str, Any] | None:
    """What --index-type, --metric and --index-params ask for together; None when nothing."""
    for value, option in ((metric, "--metric"), (params, "--index-params")):
        if value and not kind:
            raise typer.BadParameter("goes with an --index-type: give that too", param_hint=option)
    if not kind:
        return None
    return {
        "index_type": kind.upper(),
        **({"metric_type": metric.upper()} if metric else {}),
        "params": json_object(params, "--index-params"),
    }


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """The JSON object that was given for an option; empty when none was."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"is no JSON: {error}", param_hint=option) from None
    if not isinstance(found, dict):
        raise typer.BadParameter("must be a JSON object, like '{\"M\": 32}'", param_hint=option)
    return found


def check_folder(path: Path | None) -> Path | None:
    """A result is not computed to find that there is nowhere to write it."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    return path


def check_method(method: str, option: str = "--method") -> None:
    """Refuse a method that there is not."""
    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is none of {', '.join(METHODS)}", param_hint=option)
