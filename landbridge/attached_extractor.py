"""Which extractor makes the local features beside somebody's collection."""

from __future__ import annotations

from connector.attached import AttachedCollection
from connector.errors import FingerprintMismatchError
from extractor.extractor import Extractor
from extractor.registry import maker, registered


def choose(collection: AttachedCollection, wanted: str | Extractor | None) -> str | Extractor:
    """The extractor of local features: a registered name, or one that is ready.

    Raises:
        FingerprintMismatchError: the features that are kept are of another.
        ValueError: no extractor has this name, or it must learn first.
    """
    if isinstance(wanted, Extractor):
        check(collection, wanted)
        return wanted
    kept = None if collection.extractor is None else maker(collection.extractor)
    name = registered(wanted) if wanted is not None else kept or registered("default")
    if kept not in (None, name):
        raise _mismatch(collection, name)
    return name


def check(collection: AttachedCollection, extractor: Extractor) -> None:
    """Refuse an extractor whose features cannot meet those that are kept.

    Raises:
        FingerprintMismatchError: these are of another.
        ValueError: it must learn first.
    """
    if extractor.learns:
        raise ValueError(
            f"{extractor.name} must learn from photos before it extracts: give an extractor that has learnt, "
            "or one that need not, such as the default"
        )
    if collection.extractor not in (None, extractor.fingerprint):
        raise _mismatch(collection, extractor.fingerprint)


def _mismatch(collection: AttachedCollection, ours: str) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"the local features in {collection.companion!r} are of {collection.extractor}, this is {ours}: they "
        "do not compare; use the extractor that made them, or name another companion"
    )
