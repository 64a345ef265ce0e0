"""What a collection was made with: its index, its consistency, when it forgets; and for whom."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from connector import opening, schema, vector_index
from connector.client import Client
from connector.errors import CollectionMissingError, SchemaMismatchError
from connector.rows import Rows


@dataclass(frozen=True)
class Choices:
    """What was chosen when a collection was made.

    Attributes:
        name: the collection; not an alias of it.
        dimension: of the embeddings.
        index_params: `index_type`, `metric_type` and `params` of the embeddings.
        consistency_level: of searches.
        ttl_seconds: after which Milvus forgets images; None keeps them.
    """

    name: str
    dimension: int
    index_params: Mapping[str, Any]
    consistency_level: str
    ttl_seconds: int | None

    @classmethod
    def of(
        cls,
        uri: str | os.PathLike[str],
        name: str,
        *,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
    ) -> Self:
        """What a Landbridge collection was made with.

        Args:
            uri: path of a Milvus Lite folder, or http(s)://host:port.
            name: the collection, or an alias of it.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.

        Raises:
            CollectionMissingError: there is none of this name.
            SchemaMismatchError: it is not a Landbridge collection of this version.
            UnreachableError, AccessDeniedError: see `Client`.
        """
        with Client(uri, token=token, db_name=db_name, timeout=timeout, must_exist=True) as client:
            layout, said = _described(client, name)
            index, made = layout.index, vector_index.described(client, layout)
            if made is not None and index["index_type"] not in ("AUTOINDEX", made["index_type"]):
                index = made  # somebody built another since
        ttl = said.get(schema.TTL_PROPERTY)
        return cls(
            layout.name,
            layout.vector.size,
            index,
            said.get(schema.CONSISTENCY_PROPERTY, "Session"),
            None if ttl is None else int(ttl),
        )

    def check(
        self,
        index_params: Mapping[str, Any] | None = None,
        consistency_level: str | None = None,
        ttl_seconds: int | None = None,
    ) -> None:
        """Whether the collection is as somebody wants it; None wants nothing.

        Raises:
            SchemaMismatchError: it is not; the message names both.
        """
        asked = _flat(index_params or {})
        made = _flat(self.index_params)
        for what, own, other in [
            *((name, made.get(name), value) for name, value in asked.items()),
            ("consistency level", self.consistency_level, consistency_level or self.consistency_level),
            ("time to live", self.ttl_seconds, ttl_seconds or self.ttl_seconds),
        ]:
            if own != other:
                raise SchemaMismatchError(
                    f"collection {self.name!r} was made with {what} {own}, not {other}: leave that out, or "
                    "index into another name"
                )


def tenants(
    uri: str | os.PathLike[str],
    name: str,
    *,
    token: str = "",
    db_name: str = "",
    timeout: float = 30.0,
) -> list[str]:
    """Whose photos are in a collection: the empty text alone where it is not shared.

    Reads the tenant of every row. Arguments and errors are those of `Choices.of`.
    """
    with Client(uri, token=token, db_name=db_name, timeout=timeout, must_exist=True) as client:
        layout, _ = _described(client, name)
        if not layout.tenants:
            return [""]
        opening.load(client, [layout])
        rows = Rows(client, layout)
        found = (
            row[schema.TENANT] for bounds in rows.ranges() for row in rows.query(bounds, [schema.TENANT])
        )
        return sorted(set(found))


def _flat(index: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an index, by the words that messages use."""
    named = {"index_type": "index type", "metric_type": "metric"}
    whole = {named[part]: index[part] for part in named if part in index}
    return whole | {f"index parameter {name}": value for name, value in index.get("params", {}).items()}


def _described(client: Client, name: str) -> tuple[schema.Layout, Mapping[str, str]]:
    described = opening.describe(client, name)
    if described is None:
        raise CollectionMissingError(f"{client.uri} has no collection {name!r}: index photos first")
    schema.check_owner(described)
    return opening.layouts(described)[0], described["properties"]
