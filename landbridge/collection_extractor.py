"""Which extractor made a collection, and whether features may meet those in it."""

from __future__ import annotations

from connector.collection import Collection
from connector.errors import FingerprintMismatchError
from extractor.external import NAME as EXTERNAL
from extractor.external import External
from extractor.extractor import Extractor
from extractor.registry import create_extractor, maker, registered
from landbridge.ingest import LEARNT


def choose(collection: Collection | None, wanted: str | Extractor | None) -> str | Extractor:
    """The extractor for a collection, by its registered name or, if that is what is wanted, ready for use.

    Args:
        collection: None if it is still to be made.
        wanted: None for the one of the collection, or the default one for a new collection.

    Raises:
        FingerprintMismatchError: the collection was made by another.
        ValueError: no extractor has this name.
    """
    if isinstance(wanted, Extractor):
        if collection is not None and not wanted.learns:
            check(collection, wanted)
        return wanted
    name = registered(wanted or "default")
    if collection is None:
        return name
    made_by = maker(collection.extractor)
    if wanted is not None and name != made_by:
        raise _mismatch(collection, name)
    return made_by


def load(collection: Collection | None, chosen: str | Extractor) -> Extractor:
    """The extractor that `choose` gave, with what it learnt from the collection.

    Raises:
        FingerprintMismatchError: the collection was made by another, or by none that is here.
    """
    if collection is not None:
        check_takes_photos(collection)
    extractor = create_extractor(chosen) if isinstance(chosen, str) else chosen
    if collection is None:
        return extractor
    learnt = collection.get_blob(LEARNT) if extractor.learns else None
    if learnt is not None:
        try:
            extractor.restore(learnt)
        except ValueError as error:
            raise FingerprintMismatchError(f"collection {collection.name!r}: {error}") from error
    if not extractor.learns:
        check(collection, extractor)
    return extractor


def check_takes_photos(collection: Collection) -> None:
    """Refuse photos where there is nothing here that makes features like those of the collection.

    Raises:
        FingerprintMismatchError: others made them.
    """
    if maker(collection.extractor) == EXTERNAL:
        raise FingerprintMismatchError(
            f"collection {collection.name!r} holds features that others made, so photos alone cannot be "
            "added or searched with: give their features (`landbridge import`, `landbridge rank --features`)"
        )


def check(collection: Collection, extractor: Extractor) -> None:
    """Refuse features of another extractor than the one that made a collection.

    Raises:
        FingerprintMismatchError: the message names both.
    """
    if extractor.fingerprint != collection.extractor:
        contents = ""
        if isinstance(extractor, External) and not extractor.extractions:
            contents = f" ({extractor.contents})"
        raise _mismatch(collection, extractor.fingerprint + contents)


def _mismatch(collection: Collection, ours: str) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"collection {collection.name!r} was made by {collection.extractor}, this is {ours}: their features "
        "do not compare; use the extractor and the release that made it, or index into another name"
    )
