"""All rows of any collection, page by page, in the order of their primary keys.

Does what pymilvus' query iterator does, which writes the last key of a page unescaped into the filter of the
next one: a key with a quote would end or alter it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector import filters
from connector.client import Client, DataType
from connector.errors import CollectionMissingError, InvalidInputError, NotLoadedError, RefusedError

_VECTORS = frozenset({DataType.FLOAT_VECTOR, DataType.FLOAT16_VECTOR, DataType.BFLOAT16_VECTOR})
_ROWS_PER_PAGE = 10_000
"""Milvus gives 16,384 at most."""


@dataclass(frozen=True)
class Table:
    """A collection whose rows are read: Landbridge's own, or anybody's.

    Attributes:
        name: the collection, or an alias of it.
        key: field of the primary key.
        text_keys: whether the keys are text; otherwise they are 64-bit integers.
        fields: the description of every field, by name.
        dynamic: whether rows may have fields besides.
    """

    name: str
    key: str
    text_keys: bool
    fields: Mapping[str, Mapping[str, Any]]
    dynamic: bool

    @classmethod
    def of(cls, client: Client, name: str) -> Table:
        """Look a collection up.

        Raises:
            CollectionMissingError: there is none of this name.
        """
        if not client.call("has_collection", collection_name=name):
            names = ", ".join(sorted(client.call("list_collections"))) or "none at all"
            raise CollectionMissingError(f"{client.uri} has no collection {name!r}; it has {names}")
        described = client.call("describe_collection", collection_name=name)
        fields = {field["name"]: field for field in described["fields"]}
        key = next(field for field in described["fields"] if field.get("is_primary"))
        return cls(
            name=name,
            key=key["name"],
            text_keys=key["type"] == DataType.VARCHAR,
            fields=fields,
            dynamic=bool(described.get("enable_dynamic_field")),
        )

    def field(self, name: str) -> Mapping[str, Any]:
        """The description of a field.

        Raises:
            InvalidInputError: there is none of this name.
        """
        if name not in self.fields:
            raise InvalidInputError(
                f"collection {self.name!r} has no field {name!r}; it has {', '.join(self.fields)}"
            )
        return self.fields[name]

    @property
    def scalar_fields(self) -> list[str]:
        """The fields that hold no vectors."""
        return [name for name, described in self.fields.items() if described["type"] < DataType.BINARY_VECTOR]

    def vector_field(self, name: str = "") -> Mapping[str, Any]:
        """The field of float vectors of this name, or the only one.

        Raises:
            InvalidInputError: there is no such field, it holds no float vectors, or there are several.
        """
        found = [field for field, described in self.fields.items() if described["type"] in _VECTORS]
        if name and self.field(name)["type"] not in _VECTORS:
            raise InvalidInputError(
                f"field {name!r} of {self.name!r} holds no float vectors; {', '.join(found) or 'none'} does"
            )
        if not name and len(found) != 1:
            raise InvalidInputError(
                f"collection {self.name!r} has {len(found)} fields of float vectors"
                f" ({', '.join(found)}): name one"
                if found
                else f"collection {self.name!r} has no field of float vectors"
            )
        return self.fields[name or found[0]]

    def check_loaded(self, client: Client) -> None:
        """Whether it can be read and searched; Milvus Lite loads it now, for this process alone.

        Raises:
            NotLoadedError: a server has not loaded it; others may have released it for a reason.
        """
        if client.lite:
            client.call("load_collection", collection_name=self.name)
        elif str(client.call("get_load_state", collection_name=self.name)["state"]) != "Loaded":
            raise NotLoadedError(f"collection {self.name!r} is not loaded: load it first")

    def pages(
        self,
        client: Client,
        fields: Sequence[str] = (),
        *,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
        after: str | int | None = None,
        rows: int = _ROWS_PER_PAGE,
    ) -> Iterator[list[dict[str, Any]]]:
        """Read the rows in ascending order of their keys; text is ordered by its UTF-8 bytes.

        Rows that others write meanwhile are read, or not.

        Args:
            client: the connection.
            fields: what to read besides the key.
            filter: a Milvus expression that the rows fulfil.
            partitions: names of those that the rows are in; None reads all.
            after: the key behind which to begin.
            rows: of one page, at most; never more than 10,000.

        Raises:
            RefusedError: Milvus does not accept the filter, or does not keep the order.
        """
        while True:
            cursor = "" if after is None else filters.greater(self.key, after)
            page = client.call(
                "query",
                collection_name=self.name,
                filter=filters.all_of(cursor, filter),
                partition_names=list(partitions) if partitions is not None else None,
                output_fields=[self.key, *fields],
                limit=min(rows, _ROWS_PER_PAGE),
                iterator="True",
                reduce_stop_for_best="True",
            )
            if not page:
                return
            for row in page:
                if after is not None and row[self.key] <= after:
                    raise RefusedError(
                        f"Milvus at {client.uri} gave key {row[self.key]!r} of {self.name!r} after "
                        f"{after!r}: it does not read in the order of the keys"
                    )
                after = row[self.key]
            yield page

    def count(
        self,
        client: Client,
        *,
        filter: str = "",  # noqa: A002
        partitions: Sequence[str] | None = None,
    ) -> int:
        """Number of rows, everything written so far by anyone included; see `pages`."""
        answer = client.call(
            "query",
            collection_name=self.name,
            filter=filter,
            partition_names=list(partitions) if partitions is not None else None,
            output_fields=["count(*)"],
            consistency_level="Strong",
        )
        return int(answer[0]["count(*)"])
