"""Options that several commands share, and what is checked of them before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class Access:
    """Where an index is, and what opens it."""

    uri: str
    collection: str
    token: str
    db: str

    def open(self, dimension: int | None = None, extractor: str | None = None) -> Index:
        """Open the index; dimension and extractor are those of a new collection."""
        from landbridge.index import Index

        return Index(
            self.uri,
            self.collection,
            extractor=extractor,
            dimension=dimension,
            token=self.token,
            db_name=self.db,
        )


def check_folder(path: Path | None) -> Path | None:
    """A result is not computed to find that there is nowhere to write it."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    return path


def check_method(method: str, option: str = "--method") -> None:
    """Refuse a method that there is not."""
    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is none of {', '.join(METHODS)}", param_hint=option)
