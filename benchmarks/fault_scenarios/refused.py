"""What does not fit: a wrong token, another dimension, an altered schema, a released collection.

Each is to end in an error that says what to do, and to leave every row as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from connector import opening, schema
from connector.client import Client, DataType
from connector.collection import Collection
from connector.errors import (
    AccessDeniedError,
    CollectionMissingError,
    DimensionMismatchError,
    FingerprintMismatchError,
    RefusedError,
    SchemaMismatchError,
    UnreachableError,
)

from . import Backend, Fault, Place, SurpriseError, Worker, refusal

DIMENSION, FINGERPRINT = 16, "xfeat@1"
PASSWORD = "hunter2"
PHOTOS = list(range(4))


@dataclass(frozen=True)
class Case:
    """A whole collection, and the worker that made it."""

    backend: Backend
    worker: Worker
    place: Place

    @classmethod
    def made(cls, backend: Backend, worker: Worker) -> Case:
        place = backend.place("refused")
        worker.complete("ingest", place, numbers=PHOTOS)
        return cls(backend, worker, place)

    def open(self, **arguments: object) -> Collection:
        return Collection.open(
            **{"uri": self.place.uri, "name": self.place.name, "token": self.place.token, **arguments}
        )

    def create(self, **arguments: object) -> Collection:
        wanted = {"dimension": DIMENSION, "extractor": FINGERPRINT, **arguments}
        return Collection.create(self.place.uri, self.place.name, token=self.place.token, **wanted)


Attempt = tuple[type[Exception], str, Callable[[Case], object]]


def everything(backend: Backend, worker: Worker) -> Iterator[Fault]:
    """All of this module, each with what the user was told."""
    case = Case.made(backend, worker)
    expected = worker.content(case.place)
    kinds = {"wrong database": DATABASE, "wrong dimension": DIMENSIONS, "wrong extractor": EXTRACTORS}
    if not backend.lite:
        kinds = {"wrong token": TOKENS, **kinds}
    for name, attempts in kinds.items():
        told = [_told(case, attempt) for attempt in attempts]
        found = worker.content(case.place)
        yield Fault(name, str(backend), len(told), found.lost(expected), found.duplicated(expected), told)
    for name, drifts in {"released or dropped while open": GONE, "schema drift": DRIFTS}.items():
        told = []
        lost = duplicated = 0
        for drift in drifts:
            told += drift(case)
            worker.complete("ingest", case.place, numbers=PHOTOS)
            found = worker.content(case.place)
            lost += found.lost(expected)
            duplicated += found.duplicated(expected)
        yield Fault(name, str(backend), len(drifts), lost, duplicated, told)


def _told(case: Case, attempt: Attempt) -> str:
    kind, message, what = attempt
    with refusal(kind, message) as told:
        what(case)
    if PASSWORD in told[0]:
        raise SurpriseError(f"a password was shown: {told[0]}")
    return told[0]


CHECK = "check token, user and database"
TOKENS: list[Attempt] = [
    (AccessDeniedError, CHECK, lambda case: case.open(token=f"root:{PASSWORD}")),
    (AccessDeniedError, CHECK, lambda case: case.open(token="")),
    (
        AccessDeniedError,
        CHECK,
        lambda case: case.open(uri=case.place.uri.replace("//", f"//root:{PASSWORD}@"), token=""),
    ),
]
DATABASE: list[Attempt] = [
    (RefusedError, "give another db_name, or create it", lambda case: case.open(db_name="nowhere"))
]
EXTRACTORS: list[Attempt] = [
    (
        FingerprintMismatchError,
        "use the extractor of the collection, or index into another name",
        lambda case: case.open(extractor="delf@1"),
    ),
]


def _search(case: Case, dimension: int = DIMENSION) -> None:
    with case.open() as collection:
        collection.search(np.eye(1, dimension, dtype=np.float32), 3)


def _publish(case: Case, dimension: int) -> None:
    with case.open() as collection:
        collection.publish(list(collection.published())[:1], np.eye(1, dimension, dtype=np.float32))


DIMENSIONS: list[Attempt] = [
    (DimensionMismatchError, "index into another name", lambda case: case.create(dimension=8)),
    (DimensionMismatchError, "use the extractor and projection", lambda case: _search(case, 8)),
    (DimensionMismatchError, "use the extractor and projection", lambda case: _publish(case, 32)),
]


def _released(case: Case) -> list[str]:
    with case.open() as collection, _stranger(case) as stranger:
        collection._client.timeout = 2
        stranger.call("release_collection", collection_name=case.place.name)
        with refusal(UnreachableError, "the collection was released; .* open it again") as told:
            collection.search(np.eye(1, DIMENSION, dtype=np.float32), 3)
    _search(case)
    return told


def _dropped(case: Case) -> list[str]:
    with case.open() as collection, _stranger(case) as stranger:
        stranger.call("drop_collection", collection_name=case.place.name)
        with refusal(CollectionMissingError, "was it dropped") as told:
            collection.search(np.eye(1, DIMENSION, dtype=np.float32), 3)
    return told


def _lost_companion(case: Case) -> list[str]:
    with _stranger(case) as stranger:
        stranger.call("drop_collection", collection_name=f"{case.place.name}_features")
    with refusal(SchemaMismatchError, "has lost its companion .* index the photos again") as told:
        case.open()
    return told


def _altered(
    fields: Callable[[tuple[schema.Field, ...]], tuple[schema.Field, ...]],
) -> Callable[[Case], list[str]]:
    """Somebody makes the collection anew, with other fields."""

    def drift(case: Case) -> list[str]:
        images = schema.images(case.place.name, DIMENSION, {"index_type": "FLAT", "metric_type": "COSINE"})
        layout = replace(images, fields=fields(tuple(images.fields)))
        with case.open() as collection, _stranger(case) as stranger:
            records = list(collection.published())[:1]
            stranger.call("drop_collection", collection_name=layout.name)
            opening.make(stranger, layout, schema.properties(FINGERPRINT, images.index))
            opening.load(stranger, [layout])
            with refusal(SchemaMismatchError, "was altered while it was open .* open it again") as told:
                collection.publish(records, np.eye(1, DIMENSION, dtype=np.float32))
            with refusal(SchemaMismatchError, "was altered: .* restore them, or index into another") as more:
                case.open()
            stranger.call("drop_collection", collection_name=layout.name)
        return told + more

    return drift


def _without_properties(case: Case) -> list[str]:
    with _stranger(case) as stranger:
        images = schema.images(case.place.name, DIMENSION, {"index_type": "FLAT", "metric_type": "COSINE"})
        stranger.call("drop_collection", collection_name=images.name)
        stranger.call("create_collection", collection_name=images.name, schema=images.milvus_schema())
        with refusal(SchemaMismatchError, "was not made by Landbridge: choose another name") as told:
            case.open()
        stranger.call("drop_collection", collection_name=images.name)
    return told


@contextmanager
def _stranger(case: Case) -> Iterator[Client]:
    with Client(case.place.uri, token=case.place.token) as client:
        yield client


GONE = [_released, _dropped, _lost_companion]
DRIFTS = [
    _altered(lambda fields: (*fields[:-1], schema.Field("added", DataType.INT64), fields[-1])),
    _altered(lambda fields: tuple(field for field in fields if field.name != "digest")),
    _altered(
        lambda fields: tuple(
            replace(field, type=DataType.VARCHAR, size=20) if field.name == "width" else field
            for field in fields
        )
    ),
    _without_properties,
]
