"""The Milvus collections behind a Landbridge collection: their fields, indexes and properties.

NAME holds one row an image, NAME_features the packed features, one row a chunk, NAME_blobs what was learnt
from all images, and NAME_local, where it was built, one row a
local descriptor. The same schema is accepted by Milvus Lite and by servers from 2.3.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connector.client import DataType, MilvusClient
from connector.errors import InvalidInputError, SchemaMismatchError

VERSION = "2"

TENANT = "tenant"
"""The partition key of a collection of many tenants."""

TENANT_BYTES = 256
IMAGE_ID_BYTES = 1024
PATH_BYTES = 4096
TEXT_BYTES = 65_535

VERSION_PROPERTY = "landbridge.schema"
EXTRACTOR_PROPERTY = "landbridge.extractor"
INDEX_PROPERTY = "landbridge.index"
CONSISTENCY_PROPERTY = "landbridge.consistency"
TTL_PROPERTY = "collection.ttl.seconds"

CONSISTENCY_LEVELS = ("Strong", "Session", "Bounded", "Eventually")

_PLACEHOLDER_INDEX: Mapping[str, Any] = {"index_type": "FLAT", "metric_type": "L2", "params": {}}


@dataclass(frozen=True)
class Field:
    """One field: `size` is the limit of a VARCHAR in bytes, or the dimension of a vector."""

    name: str
    type: int
    size: int = 0


@dataclass(frozen=True, eq=False)
class Layout:
    """One Milvus collection: its name, its fields (the first is the primary key) and its vector index."""

    name: str
    fields: Sequence[Field]
    index: Mapping[str, Any]

    @property
    def tenants(self) -> bool:
        """Whether each row belongs to a tenant."""
        return any(field.name == TENANT for field in self.fields)

    @property
    def vector(self) -> Field:
        """The vector field; it is the last."""
        return self.fields[-1]

    def milvus_schema(self) -> Any:
        """The fields as pymilvus wants them."""
        made = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        for field in self.fields:
            size = {DataType.VARCHAR: "max_length", DataType.FLOAT_VECTOR: "dim"}.get(field.type)
            made.add_field(
                field.name,
                field.type,
                is_primary=field is self.fields[0],
                is_partition_key=field.name == TENANT,
                **({size: field.size} if size else {}),
            )
        return made

    def milvus_index(self) -> Any:
        """The index as pymilvus wants it."""
        made = MilvusClient.prepare_index_params()
        made.add_index(self.vector.name, **self.index)
        return made


def images(name: str, dimension: int, index: Mapping[str, Any], *, tenants: bool = False) -> Layout:
    """One row an image."""
    fields = (
        Field("pk", DataType.VARCHAR, 32),
        *_tenant(tenants),
        Field("image_id", DataType.VARCHAR, IMAGE_ID_BYTES),
        Field("path", DataType.VARCHAR, PATH_BYTES),
        Field("width", DataType.INT64),
        Field("height", DataType.INT64),
        Field("keypoints", DataType.INT64),
        Field("file_bytes", DataType.INT64),
        Field("modified_ns", DataType.INT64),
        Field("digest", DataType.VARCHAR, 32),
        Field("embedding", DataType.FLOAT_VECTOR, dimension),
    )
    return Layout(name, fields, index)


def features(name: str, *, tenants: bool = False) -> Layout:
    """The features of the images of a collection."""
    return payloads(f"{name}_features", tenants=tenants)


def local(name: str, dimension: int, index: Mapping[str, Any], *, tenants: bool = False) -> Layout:
    """One row a local descriptor of a collection's images; `mark` is filled in an image's first alone."""
    fields = (
        Field("pk", DataType.VARCHAR, 48),
        *_tenant(tenants),
        Field("mark", DataType.VARCHAR, 48),
        Field("descriptor", DataType.FLOAT_VECTOR, dimension),
    )
    return Layout(local_name(name), fields, index)


def local_name(name: str) -> str:
    """What the local descriptors of a collection are called."""
    return f"{name}_local"


def blobs(name: str, *, tenants: bool = False) -> Layout:
    """What was learnt from all images of a collection."""
    return payloads(f"{name}_blobs", tenants=tenants)


def companions(name: str) -> list[str]:
    """The names of all that may be kept beside the rows of a collection."""
    return [f"{name}_{part}" for part in ("features", "blobs", "local")]


def payloads(name: str, *, tenants: bool = False) -> Layout:
    """One row a chunk; the vector is there because a collection must have one."""
    fields = (
        Field("pk", DataType.VARCHAR, 48),
        *_tenant(tenants),
        Field("owner", DataType.VARCHAR, 32),
        Field("chunk", DataType.INT64),
        Field("chunks", DataType.INT64),
        Field("digest", DataType.VARCHAR, 32),
        Field("record", DataType.VARCHAR, TEXT_BYTES),
        Field("payload", DataType.VARCHAR, TEXT_BYTES),
        Field("placeholder", DataType.FLOAT_VECTOR, 2),
    )
    return Layout(name, fields, _PLACEHOLDER_INDEX)


def _tenant(tenants: bool) -> tuple[Field, ...]:
    return (Field(TENANT, DataType.VARCHAR, TENANT_BYTES),) if tenants else ()


def image_key(image_id: str, tenant: str = "") -> str:
    """Primary key of an image: hex, so that no quote of an id ever meets a filter expression."""
    return _key(image_id, tenant, b"landbridge image")


def blob_key(name: str, tenant: str = "") -> str:
    """Key of a blob; differs from the key of an image of the same name."""
    return _key(name, tenant, b"landbridge blob")


def _key(name: str, tenant: str, kind: bytes) -> str:
    owner = hashlib.blake2b(tenant.encode(), digest_size=32).digest() if tenant else b""
    return hashlib.blake2b(name.encode(), digest_size=16, key=owner, person=kind).hexdigest()


def properties(
    extractor: str, index: Mapping[str, Any] | None = None, consistency_level: str = "Session"
) -> dict[str, str]:
    """What a collection says of itself."""
    said = {
        VERSION_PROPERTY: VERSION,
        EXTRACTOR_PROPERTY: extractor,
        CONSISTENCY_PROPERTY: consistency_level,
    }
    return said if index is None else {**said, INDEX_PROPERTY: json.dumps(index, sort_keys=True)}


def dimension_of(described: Mapping[str, Any], vectors: str = "embedding") -> int:
    """Dimension of the embeddings, or other vectors, of a described collection; 0 when it has none."""
    for field in described["fields"]:
        if field["name"] == vectors:
            return int(field["params"].get("dim", 0))
    return 0


def is_shared(described: Mapping[str, Any]) -> bool:
    """Whether a described collection was made for tenants."""
    return any(field["name"] == TENANT for field in described["fields"])


def version_of(described: Mapping[str, Any]) -> str | None:
    """Version of the schema of a described collection; None when it is not Landbridge's."""
    return described.get("properties", {}).get(VERSION_PROPERTY)


def check_owner(described: Mapping[str, Any]) -> None:
    """Whether a described collection is Landbridge's, of this version.

    Raises:
        SchemaMismatchError: it is not.
    """
    name, version = described["collection_name"], version_of(described)
    if version is None:
        raise SchemaMismatchError(
            f"collection {name!r} exists and was not made by Landbridge: choose another name, "
            "or attach to it (`landbridge attach`)"
        )
    if version != VERSION:
        way_out = (
            "bring it up to date (landbridge migrate, or connector.migration.migrate)"
            if version.isdecimal() and int(version) < int(VERSION)
            else "install the version that made it"
        )
        raise SchemaMismatchError(
            f"collection {name!r} has schema version {version}, this Landbridge reads {VERSION}: "
            f"{way_out}, or index into another name"
        )


def check_fields(described: Mapping[str, Any], layout: Layout) -> None:
    """Compare the fields that Milvus has with those that Landbridge made.

    Raises:
        SchemaMismatchError: they differ.
    """
    found = {field["name"]: _described_type(field) for field in described["fields"]}
    expected = {field.name: (int(field.type), field.size) for field in layout.fields}
    if found != expected:
        names = sorted(
            name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
        )
        raise SchemaMismatchError(
            f"collection {layout.name!r} was altered: its fields {', '.join(names)} are not those that "
            "Landbridge made: restore them, or index into another name"
        )


def _described_type(field: Mapping[str, Any]) -> tuple[int, int]:
    params = field.get("params", {})
    return int(field["type"]), int(params.get("max_length", params.get("dim", 0)))


def check_name(name: str) -> None:
    """Milvus's own rule for names, with room for the companion's suffix.

    Raises:
        InvalidInputError: the name breaks it.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
        raise InvalidInputError(
            f"{name!r} cannot name a collection: use up to 200 letters, digits, underscores, no digit first"
        )
