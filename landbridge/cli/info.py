"""`landbridge info`: what an index holds."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import errors, out, print_json
from landbridge.cli.options import Access, AsJson, CollectionName, Database, Tenant, Token, Uri


def info(
    uri: Uri = "landbridge.db",
    collection: CollectionName = "landbridge",
    tenant: Tenant = "",
    token: Token = "",
    db: Database = "",
    as_json: AsJson = False,
) -> None:
    """Say what an index holds: photos, descriptors, extractor, verified pairs."""
    with errors(), Access(uri, collection, token, db, tenant).open() as opened:
        facts = opened.info()
        if as_json:
            print_json(facts)
            return
        table = Table(show_header=False, box=None)
        for name, value in facts.items():
            table.add_row(name.replace("_", " "), escape(str(value)))
        out.print(table)
