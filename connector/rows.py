"""The rows of one Milvus collection that Landbridge made: loaded, counted, read, written, by hex keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar

from connector import filters
from connector.client import Client
from connector.errors import RefusedError
from connector.schema import TENANT, Layout

T = TypeVar("T")

KEYS_PER_READ = 400
"""Most keys that one query asks for."""

_WRITE_BYTES = 16 * 2**20
_ROWS_PER_SCAN = 2000
_SAFE_UPSERT = (2, 4)
"""Before this version, a server puts upserted rows into the partition of another key than theirs."""
_REPLACEMENTS = 5


class _Text(str):
    """Text that pymilvus writes as fast as it can.

    pymilvus 3.0 goes over the characters of each value one by one to check them as if they were values, which
    takes longer than all the rest of a write. These characters are but one.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        yield self


class Rows:
    """One collection of a layout, or what it holds of one tenant.

    Attributes:
        layout: its name and fields.
    """

    def __init__(self, client: Client, layout: Layout, tenant: str = "") -> None:
        """Read and write these rows.

        Args:
            client: the connection.
            layout: the collection, which must exist.
            tenant: whose rows, where the layout has tenants; every read then names it.
        """
        self.layout = layout
        self._client = client
        self._tenant = {TENANT: _Text(tenant)} if tenant else {}
        self._own = filters.equals(TENANT, tenant) if tenant else ""
        self._replaces = bool(tenant) and not client.lite and client.version() < _SAFE_UPSERT

    def __len__(self) -> int:
        return self._count("Session")

    def settle(self) -> None:
        """Wait until everything written so far, by anyone, is visible.

        Session consistency covers the upserts of this process alone, and on Milvus 2.3 not even its deletes.
        """
        self._count("Strong")

    def own(self, expression: str) -> str:
        """An expression that names the tenant too."""
        return filters.all_of(self._own, expression) if self._own else expression

    def query(
        self, expression: str, fields: Sequence[str], *, consistency_level: str = "Session"
    ) -> list[dict[str, Any]]:
        """The rows that fulfil an expression."""
        return self._client.call(
            "query",
            collection_name=self.layout.name,
            filter=self.own(expression),
            output_fields=list(fields),
            consistency_level=self._client.at_level(consistency_level, self.layout.name),
        )

    def read(
        self, keys: Iterable[str], fields: Sequence[str], *, consistency_level: str = "Session"
    ) -> dict[str, dict[str, Any]]:
        """Rows by primary key; those that are not there are left out. `fields` must name `pk`."""
        rows = (
            self.query(filters.is_in("pk", batch), fields, consistency_level=consistency_level)
            for batch in batches(list(keys), KEYS_PER_READ)
        )
        return {row["pk"]: row for row in chain.from_iterable(rows)}

    def ranges(self) -> Iterator[str]:
        """Filters that part the keys, which are evenly spread hashes, into ranges of some 2000 rows."""
        parts = 1 + len(self) // _ROWS_PER_SCAN
        edges = [f"{part * 2**32 // parts:08x}" for part in range(parts)] + ["g"]
        for low, high in pairwise(edges):
            yield f"{filters.at_least('pk', low)} and {filters.less('pk', high)}"

    def write(self, rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> None:
        """Write rows, or replace those of the same keys, in batches below Milvus's limit of one message.

        Args:
            rows: the fields of each, less the tenant.
            sizes: about how many bytes each has.
        """
        filled, start = 0, 0
        for end, size in enumerate([*sizes, _WRITE_BYTES]):
            if end > start and filled + size > _WRITE_BYTES:
                self._upsert([{**_quick(row), **self._tenant} for row in rows[start:end]])
                filled, start = 0, end
            filled += size

    def delete(self, keys: Sequence[str]) -> None:
        """Delete rows by primary key; unknown keys are no error."""
        for batch in batches(keys, 16 * KEYS_PER_READ):
            self._client.call("delete", collection_name=self.layout.name, filter=filters.is_in("pk", batch))

    def _upsert(self, rows: list[dict[str, Any]]) -> None:
        if not self._replaces:
            self._client.call("upsert", collection_name=self.layout.name, data=rows)
            return
        keys = [row["pk"] for row in rows]
        for _ in range(_REPLACEMENTS):
            self.delete(keys)
            self._client.call("insert", collection_name=self.layout.name, data=rows)
            # An insertion is repeated when its answer is lost, and of rows that are there twice, queries find
            # some only.
            if self._copies(keys) == len(keys):
                return
        raise RefusedError(
            f"rows of {self.layout.name!r} come twice, or went while they were written: does another program "
            "write the same images? Let one of them write, and do it again"
        )

    def _copies(self, keys: Sequence[str]) -> int:
        parts = (
            self.query(filters.is_in("pk", batch), ["count(*)"])
            for batch in batches(keys, 16 * KEYS_PER_READ)
        )
        return sum(int(part[0]["count(*)"]) for part in parts)

    def _count(self, consistency_level: str) -> int:
        rows = self._client.call(
            "query",
            collection_name=self.layout.name,
            filter=self._own,
            output_fields=["count(*)"],
            consistency_level=self._client.at_level(consistency_level, self.layout.name),
        )
        return int(rows[0]["count(*)"])


def _quick(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _Text(value) if type(value) is str else value for name, value in row.items()}


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in turn, so many at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))
