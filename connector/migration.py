"""Bringing a collection of an older schema version up to date, in place.

Each step leaves the version for the end, so that one that was cut short is done again. No image is lost, and
none is extracted anew. Nothing else may write to the collection meanwhile.

Version 1 kept what was learnt from all images among their features; since version 2 it has a collection of
its own, so that it stays when images are forgotten after a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from connector import filters, opening, schema
from connector.client import Client
from connector.errors import CollectionMissingError, RefusedError
from connector.rows import Rows

if TYPE_CHECKING:
    from pymilvus import MilvusClient


def migrate(
    uri: str | os.PathLike[str],
    name: str = "landbridge",
    *,
    token: str = "",
    db_name: str = "",
    timeout: float = 30.0,
    client: MilvusClient | None = None,
) -> list[str]:
    """Bring a collection to the version of the schema that this Landbridge reads.

    Args:
        uri: path of a Milvus Lite folder, or http(s)://host:port.
        name: the collection, or an alias of it.
        token: `token` or `user:password`.
        db_name: database on the server.
        timeout: seconds for every call.
        client: a MilvusClient to use instead of connecting; it stays open at the end.

    Returns:
        The versions that it was brought to, one after the other; none when it was up to date.

    Raises:
        CollectionMissingError: there is none of this name.
        SchemaMismatchError: it is not Landbridge's, or of a later version.
        UnreachableError, AccessDeniedError, RefusedError: see `Client`.
    """
    with Client(
        uri, token=token, db_name=db_name, timeout=timeout, client=client, must_exist=True
    ) as connection:
        described = opening.describe(connection, name)
        if described is None:
            raise CollectionMissingError(f"{connection.uri} has no collection {name!r}")
        steps = []
        version = schema.version_of(described)
        while version in _STEPS:
            version, step = _STEPS[version]
            step(connection, described)
            steps.append(version)
        schema.check_owner(_described(connection, described["collection_name"]))
    return steps


def _separate_blobs(client: Client, described: Mapping[str, Any]) -> None:
    """Version 1 to 2."""
    name, said = described["collection_name"], described["properties"]
    features, blobs = schema.features(name), schema.blobs(name)
    own = {name: said[name] for name in (schema.EXTRACTOR_PROPERTY, schema.INDEX_PROPERTY)}
    own |= {schema.VERSION_PROPERTY: "2", schema.CONSISTENCY_PROPERTY: "Session"}
    if opening.describe(client, blobs.name) is None:
        opening.make(client, blobs, own)
    opening.load(client, [features, blobs])
    source, target = Rows(client, features), Rows(client, blobs)
    for bounds in source.ranges():
        for first in source.query(f'{bounds} and chunk == 0 and record == ""', ["owner"]):
            _move(first["owner"], source, target)
    for part in (features.name, name):
        client.call("alter_collection_properties", collection_name=part, properties=own)


def _move(owner: str, source: Rows, target: Rows) -> None:
    """Move the rows of a payload; the first is deleted last, for it is what tells that there are any."""
    fields = [field.name for field in source.layout.fields]
    rows = [dict(row) for row in source.query(filters.equals("owner", owner), fields)]
    target.write(rows, [len(row["payload"]) + 256 for row in rows])
    keys = sorted((row["pk"] for row in rows), key=lambda key: int(key.partition(":")[2]), reverse=True)
    if target.read(keys, ["pk"]).keys() != set(keys):
        raise RefusedError(
            f"collection {target.layout.name!r} does not show what was written to it: try again"
        )
    source.delete(keys[:-1])
    source.delete(keys[-1:])


def _described(client: Client, name: str) -> Mapping[str, Any]:
    described: Mapping[str, Any] = client.call("describe_collection", collection_name=name)
    return described


_STEPS: Mapping[str | None, tuple[str, Callable[[Client, Mapping[str, Any]], None]]] = {
    "1": ("2", _separate_blobs)
}
