"""Expanded descriptors in a companion collection behind an alias, for plain searches by any Milvus client."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connector import filters
from connector.alias import Aliases
from connector.client import Client, DataType, MilvusClient
from connector.errors import ImagesMissingError, InvalidInputError, RefusedError
from connector.key_column import Key, KeyColumn
from connector.scan import Table

PROPERTY = "landbridge.expanded"
"""Property of a companion: a hash of all that it is made of."""

_NAME_DIGITS = 12
_NUMBERS_PER_WRITE = 2**20
_ROWS_PER_WRITE = 1000
_ABOUT_AN_INDEX = frozenset(
    {
        *("index_type", "metric_type", "params", "field_name", "index_name", "state"),
        *("total_rows", "indexed_rows", "pending_index_rows", "index_state_fail_reason"),
        *("min_index_version", "max_index_version"),
    }
)
"""What Milvus says of an index besides its parameters."""


def write_expanded(
    client: Client,
    source: str,
    name: str,
    alias: str,
    keys: Sequence[Key] | KeyColumn,
    vectors: NDArray[np.floating],
    *,
    fields: Sequence[str] = (),
    vector_field: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str | None:
    """Write the expanded vectors of a collection's rows into a new one, and lead an alias there.

    The companion has the primary keys and the vector field of the source, float32, and an index with the
    same type, metric and parameters (of which Milvus Lite tells none: there they are its own). It is loaded.
    The source is only read. When all rows have arrived, the alias is switched in one step; the collection to
    which it led before stays until it is dropped by its name, for `Aliases.roll_back`. What was cut short is
    completed by calling again.

    Args:
        client: the connection.
        source: the collection of which the rows are: Landbridge's or anybody's.
        name: the companion; a new name for every expansion.
        alias: what the searches of other clients name.
        keys: N primary keys of the source, distinct, for example those of a `KnnGraph`.
        vectors: [N, D], one for each key, as `ranking.id_qe.expand` or the file of `expand_file` gives them.
        fields: fields of the source to copy, dynamic ones as well.
        vector_field: field of the vectors; the only one when empty.
        progress: called with the number of rows written and of all.

    Returns:
        The collection to which the alias led before; None when it is new, or led here already.

    Raises:
        InvalidInputError: the vectors do not fit the source, the alias is a collection, or `name` is taken.
        ImagesMissingError: the source has no row with one of the keys.
        NotLoadedError: the source is not loaded.
        RefusedError: not all rows arrived; the alias stays where it was.
        UnreachableError, AccessDeniedError: see `Client`.
    """
    table = Table.of(client, source)
    table.check_loaded(client)
    vector = table.vector_field(vector_field)
    dimension = int(vector["params"]["dim"])
    if vectors.shape != (len(keys), dimension):
        raise InvalidInputError(
            f"vectors must be [{len(keys)}, {dimension}], one for each key and as long as those of "
            f"{source!r}, are {list(vectors.shape)}"
        )
    if alias in client.call("list_collections"):
        raise InvalidInputError(f"{alias!r} is a collection and cannot be an alias: give another name")
    _make(client, table, vector, name, fields, _digest(source, keys, vectors, fields))
    companion = Table.of(client, name)
    size = max(1, min(_ROWS_PER_WRITE, _NUMBERS_PER_WRITE // dimension))
    there = companion.count(client)
    # Batches come in order, so all before the one that the count falls into have arrived.
    first = there if there == len(keys) else there // size * size
    for start in range(first, len(keys), size):
        progress(start, len(keys))
        batch = [keys[row] for row in range(start, min(start + size, len(keys)))]
        rows = _copied(client, table, batch, fields)
        for row, numbers in zip(rows, vectors[start : start + size].astype(np.float32), strict=True):
            row[vector["name"]] = numbers
        client.call("upsert", collection_name=name, data=rows)
    arrived = companion.count(client)
    if arrived != len(keys):
        raise RefusedError(
            f"{arrived} rows of {name!r} arrived, not {len(keys)}: alias {alias!r} stays where it was; "
            f"check that the keys are distinct and that nobody else writes to {name!r}, drop it, write again"
        )
    progress(len(keys), len(keys))
    aliases = Aliases(client.uri, client=client._client, timeout=client.timeout)
    before = aliases.switch(alias, name)
    return None if before == name else before


def companion_name(
    alias: str,
    source: str,
    keys: Sequence[Key] | KeyColumn,
    vectors: NDArray[np.floating],
    fields: Sequence[str] = (),
) -> str:
    """A name for the companion that `write_expanded` makes of these: the alias, and a hash of all of them."""
    return f"{alias}_{_digest(source, keys, vectors, fields)[:_NAME_DIGITS]}"


def companions(client: Client, alias: str) -> list[str]:
    """The companions of an alias by the names that `companion_name` gives, finished or not."""
    usual = re.compile(rf"{re.escape(alias)}_[0-9a-f]{{{_NAME_DIGITS}}}")
    return [
        name
        for name in sorted(client.call("list_collections"))
        if usual.fullmatch(name)
        and PROPERTY in client.call("describe_collection", collection_name=name).get("properties", {})
    ]


def drop_expanded(client: Client, name: str) -> None:
    """Drop a companion that no alias leads to.

    Raises:
        CollectionMissingError: there is none of this name.
        InvalidInputError: the collection is no companion, or an alias leads to it.
    """
    Table.of(client, name)
    described = client.call("describe_collection", collection_name=name)
    if described["collection_name"] != name or PROPERTY not in described.get("properties", {}):
        raise InvalidInputError(f"{name!r} was not made by write_expanded: it is not dropped")
    aliases = client.call("list_aliases", collection_name=name)["aliases"]
    if aliases:
        raise InvalidInputError(
            f"alias {', '.join(map(repr, aliases))} leads to {name!r}: let it lead elsewhere first"
        )
    client.call("drop_collection", collection_name=name)


def _digest(
    source: str, keys: Sequence[Key] | KeyColumn, vectors: NDArray[np.floating], fields: Sequence[str]
) -> str:
    made = hashlib.blake2b(repr((source, list(fields), vectors.shape)).encode(), digest_size=16)
    for start in range(0, len(keys), _ROWS_PER_WRITE):
        stop = min(start + _ROWS_PER_WRITE, len(keys))
        made.update(repr([keys[row] for row in range(start, stop)]).encode())
        made.update(vectors[start:stop].astype(np.float32).tobytes())
    return made.hexdigest()


def _make(
    client: Client, table: Table, vector: Mapping[str, Any], name: str, fields: Sequence[str], digest: str
) -> None:
    """Make the companion, index it and load it, or complete what was cut short."""
    if client.call("has_collection", collection_name=name):
        properties = client.call("describe_collection", collection_name=name).get("properties", {})
        if properties.get(PROPERTY) != digest:
            raise InvalidInputError(
                f"collection {name!r} exists and holds something else: give the companion another name"
            )
    else:
        client.forget_unfinished(name)
        client.call(
            "create_collection",
            collection_name=name,
            schema=_schema(table, vector, fields),
            properties={PROPERTY: digest},
            consistency_level="Session",
        )
    if not client.call("list_indexes", collection_name=name, field_name=vector["name"]):
        client.call("create_index", collection_name=name, index_params=_index(client, table, vector["name"]))
    client.call("load_collection", collection_name=name)


def _schema(table: Table, vector: Mapping[str, Any], fields: Sequence[str]) -> Any:
    dynamic = [field for field in fields if field not in table.fields]
    if dynamic and not table.dynamic:
        table.field(dynamic[0])
    made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=bool(dynamic))
    for field in dict.fromkeys([table.key, *fields, vector["name"]]):
        if field in dynamic:
            continue
        described = table.fields[field]
        options = {name: described[name] for name in ("element_type", "nullable") if described.get(name)}
        made.add_field(
            field,
            DataType.FLOAT_VECTOR if field == vector["name"] else described["type"],
            is_primary=field == table.key,
            **described["params"],
            **options,
        )
    return made


def _index(client: Client, table: Table, field: str) -> Any:
    names = client.call("list_indexes", collection_name=table.name, field_name=field)
    if not names:
        raise InvalidInputError(f"field {field!r} of collection {table.name!r} has no index: create one")
    theirs = client.call("describe_index", collection_name=table.name, index_name=names[0])
    told = theirs | theirs.get("params", {})
    parameters = {name: _number(value) for name, value in told.items() if name not in _ABOUT_AN_INDEX}
    made = MilvusClient.prepare_index_params()
    made.add_index(
        field, index_type=theirs["index_type"], metric_type=theirs["metric_type"], params=parameters
    )
    return made


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _copied(client: Client, table: Table, keys: list[Key], fields: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the companion, without vectors."""
    if not fields:
        return [{table.key: key} for key in keys]
    rows = client.call(
        "query",
        collection_name=table.name,
        filter=filters.is_in(table.key, keys),
        output_fields=[table.key, *fields],
        consistency_level="Session",
    )
    found = {
        row[table.key]: {name: row[name] for name in (table.key, *fields) if name in row} for row in rows
    }
    missing = [key for key in keys if key not in found]
    if missing:
        raise ImagesMissingError(
            f"collection {table.name!r} has no row with key {missing[0]!r} and {len(missing) - 1} more: "
            "write the vectors of rows that are there"
        )
    return [found[key] for key in keys]
