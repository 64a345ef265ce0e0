"""Nearest neighbours of query vectors, in batches that neither Milvus nor Milvus Lite chokes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from connector import vector_index
from connector.client import Client
from connector.errors import InvalidInputError
from connector.rows import batches

MAX_LIMIT = 16_384
"""Most results that Milvus gives to one query."""

_HITS_PER_SEARCH = 100_000
_QUERIES_PER_SEARCH = 128
_LITE_BYTES = 2**28


def answers(
    client: Client,
    collection: str,
    field: str,
    index: Mapping[str, Any],
    queries: Sequence[Any],
    limit: int,
    *,
    search_params: Mapping[str, Any] | None = None,
    rows: int = 0,
    **options: Any,
) -> Iterator[Any]:
    """Search one vector field.

    Args:
        client: the connection.
        collection: its name, or an alias.
        field: the vectors.
        index: `index_type`, `metric_type` and `params` of the field.
        queries: vectors of the type of the field.
        limit: most hits for each query.
        search_params: `params` of the index; those that are not given are chosen for the limit.
        rows: of the collection, needed for several queries alone: Milvus Lite makes a table of all queries
            and rows, for L2 of all their components too.
        options: further arguments of `MilvusClient.search`.

    Yields:
        Milvus's answer to each query, best first.

    Raises:
        InvalidInputError: the limit is none that Milvus has.
        RefusedError: Milvus does not accept the search.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInputError(
            f"limit must be 1 to {MAX_LIMIT}, is {limit}: Milvus gives no more to one query"
        )
    params = vector_index.search_params(index, limit) | dict(search_params or {})
    size = min(_QUERIES_PER_SEARCH, _HITS_PER_SEARCH // limit)
    if client.lite and rows:
        numbers = rows * (len(queries[0]) if index["metric_type"] == "L2" and len(queries) else 1)
        size = min(size, _LITE_BYTES // (4 * numbers))
    for block in batches(queries, max(size, 1)):
        yield from client.call(
            "search",
            collection_name=collection,
            data=list(block),
            anns_field=field,
            limit=limit,
            search_params={"metric_type": index["metric_type"], "params": params},
            **options,
        )
