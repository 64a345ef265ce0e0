"""Aliases of collections: a new index is made beside the old one, and readers change over in one step.

Whoever opens or searches the alias, with Landbridge or with any client, reads the collection behind it.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from connector import opening, schema
from connector.client import Client
from connector.errors import CollectionMissingError, InvalidInputError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_BEFORE = "landbridge.before."
"""Property of the collection behind an alias: what was behind it before."""


class Aliases:
    """The aliases of a database; a context manager."""

    def __init__(
        self,
        uri: str | os.PathLike[str],
        *,
        token: str = "",
        db_name: str = "",
        timeout: float = 30.0,
        client: MilvusClient | None = None,
    ) -> None:
        """Connect.

        Args:
            uri: path of a Milvus Lite folder, or http(s)://host:port.
            token: `token` or `user:password`.
            db_name: database on the server.
            timeout: seconds for every call.
            client: a MilvusClient to use instead of connecting; it stays open at the end.

        Raises:
            UnreachableError, AccessDeniedError: see `Client`.
        """
        self._client = Client(
            uri, token=token, db_name=db_name, timeout=timeout, client=client, must_exist=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def list(self) -> dict[str, str]:
        """The collection behind each alias."""
        names = self._client.call("list_aliases")["aliases"]
        return {alias: self._behind(alias) for alias in sorted(names)}

    def switch(self, alias: str, collection: str) -> str | None:
        """Put a collection behind an alias, which is made when it is not there.

        A search sees the old collection or the new one, whole. The old one stays as it is, for `roll_back`.

        Args:
            alias: the name that readers use.
            collection: made by Landbridge or by anyone, and loaded.

        Returns:
            The collection that was behind the alias before; None when the alias is new.

        Raises:
            CollectionMissingError: there is no such collection.
            InvalidInputError: it is not loaded, or is itself an alias, or `alias` is a collection.
        """
        schema.check_name(alias)
        self._check_target(collection)
        before = self._current(alias)
        if before is None:
            self._client.call("create_alias", collection_name=collection, alias=alias)
        elif before != collection:
            self._client.call(
                "alter_collection_properties",
                collection_name=collection,
                properties={_BEFORE + alias: before},
            )
            self._client.call("alter_alias", collection_name=collection, alias=alias)
        return before

    def roll_back(self, alias: str) -> str:
        """Put the collection behind an alias that was there before the last `switch`.

        Returns:
            That collection.

        Raises:
            CollectionMissingError: there is no such alias, or the collection is gone.
            InvalidInputError: the alias was never switched, or the collection is not loaded.
        """
        current = self._current(alias)
        if current is None:
            aliases = ", ".join(self.list()) or "none at all"
            raise CollectionMissingError(f"{self._client.uri} has no alias {alias!r}; it has {aliases}")
        described = opening.describe(self._client, current) or {}
        before = described.get("properties", {}).get(_BEFORE + alias)
        if before is None:
            raise InvalidInputError(
                f"{alias!r} was not switched to {current!r} from another collection: name one, with switch"
            )
        self._check_target(before)
        self._client.call("alter_alias", collection_name=before, alias=alias)
        return str(before)

    def drop(self, alias: str) -> None:
        """Remove an alias; the collection behind it stays. An alias that is not there is no error."""
        self._client.call("drop_alias", alias=alias)

    def _behind(self, alias: str) -> str:
        return str(self._client.call("describe_alias", alias=alias)["collection_name"])

    def _current(self, alias: str) -> str | None:
        """The collection behind an alias; None when there is no such alias."""
        described = opening.describe(self._client, alias)
        if described is None:
            return None
        if described["collection_name"] == alias:
            raise InvalidInputError(f"{alias!r} is a collection: give the alias another name")
        return str(described["collection_name"])

    def _check_target(self, collection: str) -> None:
        described = opening.describe(self._client, collection)
        if described is None:
            raise CollectionMissingError(f"{self._client.uri} has no collection {collection!r}")
        if described["collection_name"] != collection:
            raise InvalidInputError(
                f"{collection!r} is an alias of {described['collection_name']!r}: name the collection itself"
            )
        state = self._client.call("get_load_state", collection_name=collection)["state"]
        if str(state) != "Loaded":
            raise InvalidInputError(
                f"collection {collection!r} is not loaded ({state}), and searches of the alias would fail: "
                "load it first"
            )
