"""Aliases of collections: a new index is made beside the old one, and readers change over in one step.

Whoever opens or searches the alias, with Landbridge or with any client, reads the collection behind it.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from connector import opening, schema
from connector.client import Client
from connector.errors import CollectionMissingError, InvalidInputError, SchemaMismatchError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_BEFORE = "landbridge.before."
"""Property of the collection behind an alias: what was behind it before."""

_NEXT = "landbridge.next."
"""Property of the collection behind an alias: what is being made to follow it."""


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

    def names(self) -> set[str]:
        """All names that are taken in the database, by collections and by aliases."""
        return {*self._client.call("list_collections"), *self.list()}

    def list(self) -> dict[str, str]:
        """The collection behind each alias."""
        behind: dict[str, str] = {}
        if self._client.lite:
            for alias in self._client.call("list_aliases")["aliases"]:
                described = self._client.call("describe_alias", alias=alias)
                behind[alias] = str(described["collection_name"])
        else:  # Milvus 2.3 lists those of the default database, whichever is asked
            for collection in self._client.call("list_collections"):
                described = self._client.call("describe_collection", collection_name=collection)
                behind |= dict.fromkeys(described["aliases"], collection)
        return dict(sorted(behind.items()))

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
        if before != collection:
            self._note(collection, alias, before)
            operation = "create_alias" if before is None else "alter_alias"
            self._client.call(operation, collection_name=collection, alias=alias)
        return before

    def before(self, alias: str) -> str:
        """The collection that was behind an alias before the last `switch`.

        Raises:
            CollectionMissingError: there is no such alias.
            InvalidInputError: the alias was never switched.
        """
        current = self._current(alias)
        if current is None:
            aliases = ", ".join(self.list()) or "none at all"
            raise CollectionMissingError(f"{self._client.uri} has no alias {alias!r}; it has {aliases}")
        before = self._properties(current).get(_BEFORE + alias)
        if not before:
            raise InvalidInputError(
                f"{alias!r} was not switched to {current!r} from another collection: name one, with switch"
            )
        return before

    def roll_back(self, alias: str) -> str:
        """Put the collection behind an alias that was there before the last `switch`.

        Returns:
            That collection.

        Raises:
            CollectionMissingError: there is no such alias, or the collection is gone.
            InvalidInputError: the alias was never switched, or the collection is not loaded.
        """
        before = self.before(alias)
        self._check_target(before)
        self._note(before, alias, None)
        self._client.call("alter_alias", collection_name=before, alias=alias)
        return before

    def load(self, collection: str) -> None:
        """Load a Landbridge collection, and wait until all that was written to it can be searched.

        Raises:
            CollectionMissingError: there is no such collection.
            SchemaMismatchError: it is not Landbridge's.
            UnreachableError: it does not serve in time.
        """
        opening.load(self._client, opening.layouts(self._landbridges(collection)))

    def take_name(self, collection: str, name: str, aside: str) -> None:
        """Put a collection behind the name of another of Landbridge's, which is renamed for that.

        This is not one step: for some moments neither is there under the name. Cut short, the same call goes
        on.

        Args:
            collection: it must be loaded.
            name: the other collection, which no alias leads to; an alias afterwards.
            aside: what the other is called then.

        Raises:
            CollectionMissingError, InvalidInputError: as for `switch`, or `aside` is taken.
        """
        schema.check_name(aside)
        self._check_target(collection)
        if name in self._client.call("list_collections"):
            self.check_unused(name)
            if opening.describe(self._client, aside) is not None:
                raise InvalidInputError(f"there is a collection {aside!r} already: give another name")
            self._set(collection, {_BEFORE + name: aside})
            self._client.call("rename_collection", old_name=name, new_name=aside)
        for part, renamed in zip(schema.companions(name), schema.companions(aside), strict=True):
            if opening.describe(self._client, part) is not None:
                self._client.call("rename_collection", old_name=part, new_name=renamed)
        if self._current(name) is None:
            self._client.call("create_alias", collection_name=collection, alias=name)

    def appoint(self, name: str, collection: str) -> None:
        """Note which collection is being made to follow what is behind a name, now or when it is an alias."""
        self._set(self.collection(name), {_NEXT + name: collection})

    def appointed(self, name: str) -> str | None:
        """The collection that `appoint` noted, until the name leads to another one."""
        return self._properties(self.collection(name)).get(_NEXT + name) or None

    def put_aside(self, name: str) -> tuple[str, str] | None:
        """What `take_name` was cut short with, when it had renamed the collection of this name already.

        Returns:
            The collection that is to be behind the name, and the new name of the one that was.
        """
        names = self.names()
        for other in sorted(names) if name not in names else ():
            if following := self._properties(other).get(_NEXT + name):
                return following, other
        return None

    def collection(self, name: str) -> str:
        """The collection behind an alias, or of this name.

        Raises:
            CollectionMissingError: there is neither.
        """
        described = opening.describe(self._client, name)
        if described is None:
            raise CollectionMissingError(
                f"{self._client.uri} has neither an alias nor a collection {name!r}: see `landbridge alias`"
            )
        return str(described["collection_name"])

    def check_unused(self, collection: str) -> None:
        """Whether a collection is Landbridge's and no alias leads to it.

        Raises:
            CollectionMissingError: there is no such collection.
            InvalidInputError: it is an alias, or an alias leads to it.
            SchemaMismatchError: it is not Landbridge's, or only a part of a collection.
        """
        self._landbridges(collection)
        leading = [alias for alias, behind in self.list().items() if behind == collection]
        if leading:
            raise InvalidInputError(
                f"{', '.join(leading)} leads to collection {collection!r}: switch that to another one first"
            )

    def drop_collection(self, collection: str) -> None:
        """Drop a Landbridge collection with all its parts, which no alias leads to.

        Milvus itself drops what an alias leads to. Cut short, the same call goes on.

        Raises:
            ConnectorError: see `check_unused`.
        """
        self.check_unused(collection)
        for part in (*schema.companions(collection), collection):
            if opening.describe(self._client, part) is not None:
                self._client.call("drop_collection", collection_name=part)

    def drop(self, alias: str) -> None:
        """Remove an alias; the collection behind it stays. An alias that is not there is no error."""
        self._client.call("drop_alias", alias=alias)

    def _note(self, collection: str, alias: str, before: str | None) -> None:
        """Note on a collection that it comes behind an alias, after which nothing is to follow it yet."""
        said = self._properties(collection)
        noted = {} if before is None else {_BEFORE + alias: before}
        if said.get(_NEXT + alias):
            noted[_NEXT + alias] = ""
        if noted:
            self._set(collection, noted)

    def _set(self, collection: str, properties: dict[str, str]) -> None:
        self._client.call("alter_collection_properties", collection_name=collection, properties=properties)

    def _properties(self, collection: str) -> dict[str, str]:
        return dict((opening.describe(self._client, collection) or {}).get("properties", {}))

    def _real(self, collection: str) -> dict[str, Any]:
        """What Milvus says of a collection, which must be there and no alias."""
        described = opening.describe(self._client, collection)
        if described is None:
            raise CollectionMissingError(f"{self._client.uri} has no collection {collection!r}")
        if described["collection_name"] != collection:
            raise InvalidInputError(
                f"{collection!r} is an alias of {described['collection_name']!r}: name the collection itself"
            )
        return described

    def _landbridges(self, collection: str) -> dict[str, Any]:
        """The same of a collection that must be Landbridge's, too."""
        described = self._real(collection)
        if schema.version_of(described) is None or not schema.dimension_of(described):
            raise SchemaMismatchError(
                f"collection {collection!r} is not one of Landbridge's, or a part of one: it is left alone"
            )
        return described

    def _current(self, alias: str) -> str | None:
        """The collection behind an alias; None when there is no such alias."""
        described = opening.describe(self._client, alias)
        if described is None:
            return None
        if described["collection_name"] == alias:
            raise InvalidInputError(f"{alias!r} is a collection: give the alias another name")
        return str(described["collection_name"])

    def _check_target(self, collection: str) -> None:
        self._real(collection)
        state = self._client.call("get_load_state", collection_name=collection)["state"]
        if str(state) != "Loaded":
            raise InvalidInputError(
                f"collection {collection!r} is not loaded ({state}), and searches of the alias would fail: "
                "load it first"
            )
