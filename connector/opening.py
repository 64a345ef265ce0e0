"""Making and opening a Landbridge collection: its parts checked, completed where cut short, and loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from connector import schema, vector_index
from connector.client import Client
from connector.errors import (
    CollectionMissingError,
    DimensionMismatchError,
    FingerprintMismatchError,
    InvalidInputError,
    RefusedError,
    SchemaMismatchError,
    UnreachableError,
)
from connector.record import check_text
from connector.rows import Rows


@dataclass(frozen=True)
class Wanted:
    """A collection to be made; see `Collection.create`."""

    name: str
    dimension: int
    extractor: str
    index_params: Mapping[str, Any] | None = None
    images: int | None = None
    tenant: str = ""
    consistency_level: str = "Session"
    ttl_seconds: int | None = None

    def check(self) -> None:
        """Whether the arguments are such as Milvus has, where it does not itself say so.

        Raises:
            InvalidInputError: they are not.
        """
        schema.check_name(self.name)
        if self.consistency_level not in schema.CONSISTENCY_LEVELS:
            raise InvalidInputError(
                f"consistency_level is {self.consistency_level!r}: give one of "
                f"{', '.join(schema.CONSISTENCY_LEVELS)}"
            )
        if self.ttl_seconds is not None and self.ttl_seconds < 1:
            raise InvalidInputError(f"ttl_seconds is {self.ttl_seconds}: give 1 or more, or None")
        check_text("tenant", self.tenant, schema.TENANT_BYTES)

    def index(self, *, lite: bool) -> dict[str, Any]:
        """The index as given, or chosen for the number of images."""
        if self.index_params is not None:
            return vector_index.completed(self.index_params, self.images or 0, self.dimension)
        if self.images is not None:
            return vector_index.chosen(self.images, self.dimension, lite=lite)
        return dict(vector_index.EXACT)


@dataclass(frozen=True)
class Opened:
    """A collection whose parts are loaded.

    Attributes:
        images: the part with a row an image.
        features: the part with their packed features.
        blobs: the part with what was learnt.
        extractor: fingerprint of what made the features.
        index: `index_type`, `metric_type` and `params` of the embeddings, as Milvus has them.
        consistency_level: of searches.
    """

    images: schema.Layout
    features: schema.Layout
    blobs: schema.Layout
    extractor: str
    index: Mapping[str, Any]
    consistency_level: str


def create(client: Client, wanted: Wanted, *, drop_old: bool) -> Opened:
    """Make a collection, or what is missing of it, and open it; see `Collection.create`."""
    wanted.check()
    name, tenants = wanted.name, bool(wanted.tenant)
    described = describe(client, name)
    if described is not None and described["collection_name"] != name:
        if drop_old:
            raise InvalidInputError(
                f"{name!r} is an alias of collection {described['collection_name']!r}: drop that by its own "
                "name, or give another"
            )
        name = described["collection_name"]
    index, forgotten = wanted.index(lite=client.lite), _ttl(client, wanted.ttl_seconds)
    images = schema.images(name, wanted.dimension, index, tenants=tenants)
    blobs = schema.blobs(name, tenants=tenants)
    layouts = (schema.features(name, tenants=tenants), blobs, images)
    parts = {layout: describe(client, layout.name) for layout in layouts}
    local = describe(client, schema.local_name(name))
    if drop_old:
        for old in filter(None, [*parts.values(), local]):
            schema.check_owner(old)
    if described is None or drop_old:
        vector_index.probe(client, images)
    elif schema.version_of(described) != schema.VERSION:
        schema.check_owner(described)  # before a part is added to it
    if drop_old and local:
        client.call("drop_collection", collection_name=local["collection_name"])
    for layout, found in parts.items():
        if drop_old and found:
            client.call("drop_collection", collection_name=layout.name)
        if drop_old or not found:
            own = schema.properties(wanted.extractor, index, wanted.consistency_level)
            make(client, layout, own if layout is blobs else own | forgotten)
    opened = open(client, name, wanted.extractor, wanted.tenant)
    if opened.images.vector.size != wanted.dimension:
        raise DimensionMismatchError(
            f"collection {name!r} holds {opened.images.vector.size}-d embeddings, not {wanted.dimension}-d: "
            "index into another name, or drop the old collection"
        )
    if wanted.index_params is not None:
        _check_index(name, opened.index, index)
    return opened


def _check_index(name: str, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Whether an index is the one asked for; of AUTOINDEX, a server may tell what it made of it."""
    theirs, ours = ((index["index_type"], index["metric_type"]) for index in (made, asked))
    if theirs != ours and ours != ("AUTOINDEX", theirs[1]):
        raise SchemaMismatchError(
            f"collection {name!r} has the index {' '.join(theirs)}, not {' '.join(ours)}: leave index_params "
            "out, or index into another name"
        )


def _ttl(client: Client, seconds: int | None) -> dict[str, str]:
    """What makes Milvus forget rows, of images; not what was learnt from all of them."""
    if seconds is None:
        return {}
    if client.lite:
        raise RefusedError(
            f"ttl_seconds={seconds}: Milvus Lite notes it and forgets nothing; leave it out, or use a server"
        )
    return {schema.TTL_PROPERTY: str(seconds)}


def open(  # noqa: A001
    client: Client, name: str, extractor: str | None, tenant: str
) -> Opened:
    """Check the parts of a collection, load them, and wait until they serve; see `Collection.open`."""
    described = describe(client, name)
    if described is None:
        names = set(client.call("list_collections"))
        others = names - {part for other in names for part in schema.companions(other)}
        raise CollectionMissingError(
            f"{client.uri} has no collection {name!r}; it has {', '.join(sorted(others)) or 'none at all'}: "
            "give one of these, or index photos first"
        )
    schema.check_owner(described)
    if not schema.dimension_of(described):
        raise SchemaMismatchError(f"collection {name!r} is a part of another one: open that")
    _check_tenant(described, tenant)
    name, said = described["collection_name"], described["properties"]
    images, features, blobs = layouts(described)
    _check_extractor(name, said[schema.EXTRACTOR_PROPERTY], extractor)
    schema.check_fields(described, images)
    for layout in (features, blobs):
        companion = describe(client, layout.name)
        if companion is None:
            raise SchemaMismatchError(
                f"collection {name!r} has lost its companion {layout.name!r}: index the photos again"
            )
        schema.check_owner(companion)
        _check_extractor(
            name, said[schema.EXTRACTOR_PROPERTY], companion["properties"][schema.EXTRACTOR_PROPERTY]
        )
        schema.check_fields(companion, layout)
    load(client, [images, features, blobs])
    made = vector_index.described(client, images)
    if made is None or made["metric_type"] not in vector_index.METRICS:
        raise SchemaMismatchError(
            f"the index of collection {name!r} was altered: rebuild it with the metric COSINE or IP"
        )
    return Opened(
        images,
        features,
        blobs,
        extractor=said[schema.EXTRACTOR_PROPERTY],
        index=made,
        consistency_level=said.get(schema.CONSISTENCY_PROPERTY, "Session"),
    )


def layouts(described: Mapping[str, Any]) -> tuple[schema.Layout, schema.Layout, schema.Layout]:
    """The parts of a Landbridge collection, as it was described: images, features and blobs."""
    name, tenants = described["collection_name"], schema.is_shared(described)
    index = json.loads(described["properties"][schema.INDEX_PROPERTY])
    return (
        schema.images(name, schema.dimension_of(described), index, tenants=tenants),
        schema.features(name, tenants=tenants),
        schema.blobs(name, tenants=tenants),
    )


def load(client: Client, layouts: Sequence[schema.Layout]) -> None:
    """Complete indexes whose making was cut short, load collections, wait until they serve.

    Raises:
        UnreachableError: they do not serve in time.
    """
    for layout in layouts:
        if vector_index.described(client, layout) is None:
            try:
                client.call("create_index", collection_name=layout.name, index_params=layout.milvus_index())
            except RefusedError:  # as in `make`
                if vector_index.described(client, layout) is None:
                    raise
        if not _is_loaded(client, layout):
            client.call("load_collection", collection_name=layout.name, _async=True)
    deadline = time.monotonic() + client.timeout
    while not all(_is_loaded(client, layout) for layout in layouts):
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"{client.uri} did not load collection {layouts[0].name!r} within {client.timeout:g} s: "
                "check its memory and logs, or allow a longer timeout"
            )
        time.sleep(0.05)
    for layout in layouts:
        Rows(client, layout).settle()


def describe(client: Client, name: str) -> dict[str, Any] | None:
    """What Milvus says of a collection, or of the one behind an alias; None when there is none."""
    if not client.call("has_collection", collection_name=name):
        return None
    return client.call("describe_collection", collection_name=name)


def make(client: Client, layout: schema.Layout, properties: Mapping[str, str]) -> None:
    """Make a collection of a layout, without its index."""
    try:
        with client.creating:
            client.forget_unfinished(layout.name)
            client.call(
                "create_collection",
                collection_name=layout.name,
                schema=layout.milvus_schema(),
                properties=dict(properties),
                consistency_level=properties[schema.CONSISTENCY_PROPERTY],
            )
    except RefusedError:
        # Another writer was faster, or the call was repeated because its answer was lost.
        if not client.call("has_collection", collection_name=layout.name):
            raise


@contextmanager
def closed_on_error(client: Client) -> Iterator[None]:
    """Close a connection when what it was opened for fails."""
    try:
        yield
    except BaseException:
        client.close()
        raise


def other_extractor(name: str, own: str, other: str) -> str:
    """The message about features that do not belong."""
    return (
        f"collection {name!r} holds features of {own!r}, these are of {other!r}: use the extractor of the "
        "collection, or index into another name"
    )


def _check_extractor(name: str, own: str, wanted: str | None) -> None:
    if wanted is not None and wanted != own:
        raise FingerprintMismatchError(other_extractor(name, own, wanted))


def _check_tenant(described: Mapping[str, Any], tenant: str) -> None:
    shared = schema.is_shared(described)
    name = described["collection_name"]
    if shared and not tenant:
        raise SchemaMismatchError(f"collection {name!r} is shared by tenants: say whose photos, by tenant=")
    if tenant and not shared:
        raise SchemaMismatchError(
            f"collection {name!r} was not made for tenants, such as {tenant!r}: leave tenant out, or index "
            "into another name"
        )


def _is_loaded(client: Client, layout: schema.Layout) -> bool:
    state = client.call("get_load_state", collection_name=layout.name)
    return str(state["state"]) == "Loaded"
