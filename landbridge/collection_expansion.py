"""The descriptors of a collection, expanded by ID-QE and written beside it, for searches by any client."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connector.alias import Aliases
from connector.client import Client
from connector.errors import InvalidInputError
from connector.expanded import companion_name, companions, drop_expanded, write_expanded
from connector.scan import Table
from landbridge.collection_graph import CollectionGraph
from landbridge.collection_source import CollectionSource
from landbridge.experiments.pairing import Progress, silent
from ranking.id_qe import expand_file

_ROWS = 1 << 14


@dataclass(frozen=True)
class Expanded:
    """Expanded descriptors in Milvus.

    Attributes:
        alias: what plain clients search.
        name: the collection to which it leads.
        before: the collection to which it led before, which is still there; None when there is none.
        dropped: older ones, which are not.
        vector_field: of the expanded descriptors.
        fields: what was copied besides, of each image.
        images: how many there are.
        moved: how many of them have moved: they are verified with others.
    """

    alias: str
    name: str
    before: str | None
    dropped: list[str]
    vector_field: str
    fields: list[str]
    images: int
    moved: int

    def as_dict(self) -> dict[str, Any]:
        """All of it in values that JSON can hold."""
        return asdict(self)


def expand_collection(
    source: CollectionSource,
    matched: CollectionGraph,
    folder: Path | str,
    alias: str = "",
    *,
    fields: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Expanded:
    """Expand the descriptors of a collection over its match graph, and lead an alias to them.

    Clients that know nothing of Landbridge search the alias with the query descriptors that they have, and
    find images by those that are verified with them. The expansion is out of core (`ranking.id_qe`), in half
    precision, and every vector has unit norm: whatever the metric, the cosine decides.

    The collection of the expanded descriptors is named after what it holds. So, stopped at any moment, the
    same call goes on; of an unchanged collection it writes nothing; and after images came or went it makes a
    new one and switches the alias in one step. The one before is kept, for `Aliases.roll_back`, older ones
    are dropped.

    Args:
        source: the collection, which is only read.
        matched: its match graph, of verified pairs.
        folder: for the descriptors on their way; needs four times their size in half precision.
        alias: COLLECTION_expanded when empty; of a tenant, one must be given.
        fields: fields to copy, so that filters and output fields work as in the source; None copies all that
            the schema declares, and dynamic ones are copied when they are named.
        progress: told about writing.

    Raises:
        InvalidInputError: nothing was verified, the alias is a collection, or a tenant lacks one.
        ImagesMissingError: images were deleted meanwhile.
        ConnectorError: Milvus failed; see `write_expanded`.
    """
    if matched.graph.measured is None:
        raise InvalidInputError("nothing was verified in this graph, so there is nothing to expand by")
    if source.tenant and not alias:
        raise InvalidInputError(
            f"the descriptors of {source.tenant!r} alone are expanded: give an alias that is theirs alone"
        )
    alias = alias or f"{source.collection}_expanded"
    vectors = _expanded(matched, Path(folder) / "expansion")
    with source.connect() as client:
        table = Table.of(client, source.collection)
        vector_field = str(table.vector_field(source.vector_field)["name"])
        chosen = table.scalar_fields if fields is None else list(dict.fromkeys(fields))
        chosen = [name for name in chosen if name != table.key]
        name = companion_name(alias, source.collection, matched.keys, vectors, chosen)
        write_expanded(
            client,
            source.collection,
            name,
            alias,
            matched.keys,
            vectors,
            fields=chosen,
            vector_field=vector_field,
            progress=partial(progress, "write expanded"),
        )
        before, dropped = _clean_up(client, alias, name)
    shutil.rmtree(Path(folder) / "expansion")
    moved = int((np.diff(matched.graph.graph.indptr) > 0).sum()) if matched.graph.graph is not None else 0
    return Expanded(alias, name, before, dropped, vector_field, chosen, len(vectors), moved)


def drop_expansion(source: CollectionSource, alias: str = "") -> list[str]:
    """Remove an alias of expanded descriptors and all collections that were made for it; the names of these.

    Raises:
        InvalidInputError: the alias leads to another collection, or there is nothing to remove.
    """
    alias = alias or f"{source.collection}_expanded"
    with source.connect() as client, Aliases(client.uri, client=client._client) as aliases:
        made, behind = companions(client, alias), aliases.list().get(alias)
        if behind is not None and behind not in made:
            raise InvalidInputError(
                f"alias {alias!r} leads to {behind!r}, which holds no expanded descriptors"
            )
        if not made:
            raise InvalidInputError(f"{client.uri} has no expanded descriptors under {alias!r}")
        if behind is not None:
            aliases.drop(alias)
        for name in made:
            drop_expanded(client, name)
    return made


def _expanded(matched: CollectionGraph, folder: Path) -> NDArray[np.float16]:
    """The expanded descriptors, mapped: float16 [N, D] of unit norm."""
    if folder.exists():
        shutil.rmtree(folder)  # of a run that was stopped
    folder.mkdir()
    descriptors, graph = matched.graph.descriptors, matched.graph.graph
    assert descriptors is not None
    assert graph is not None
    layout = np.lib.format.open_memmap(
        folder / "before.npy", mode="w+", dtype=np.float16, shape=descriptors.shape
    )
    for start in range(0, len(descriptors), _ROWS):
        layout[start : start + _ROWS] = descriptors[start : start + _ROWS]
    layout.flush()
    expand_file(folder / "before.npy", folder / "after.npy", graph)
    return np.asarray(np.load(folder / "after.npy", mmap_mode="r"))


def _clean_up(client: Client, alias: str, name: str) -> tuple[str | None, list[str]]:
    """Drop the companions of an alias but this one and the one before; the latter, and what was dropped."""
    before = None
    with suppress(InvalidInputError):
        before = Aliases(client.uri, client=client._client).before(alias)
    dropped = []
    for other in companions(client, alias):
        if other not in (name, before):
            with suppress(InvalidInputError):  # somebody gave it another alias
                drop_expanded(client, other)
                dropped.append(other)
    there = before is not None and client.call("has_collection", collection_name=before)
    return before if there else None, dropped
